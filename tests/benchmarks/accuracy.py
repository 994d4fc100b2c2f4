"""The reported relative error of SmoothGrad against the true one, on a trained model and three photos.

    .venv/bin/python tests/benchmarks/accuracy.py            (`make bench-accuracy`)

For each photo and noise level it computes a pool of sample maps, gradients of EfficientNet-Lite0 at noisy
copies. The pool's first part gives the truth, in NumPy: its mean, whose own remaining error is taken out of
every distance to it, since the expectation of ‖mean − pool mean‖² is ‖mean − true mean‖² + that. The rest is
what runs draw from: 200 random subsets, without replacement, for each number of samples. A single run is as
good as one of fresh samples; runs with many samples share some of them, so the medians of these are of fewer
than 200 independent runs. The error that a run reports is the library's own function of the run's mean and
variance. Medians over runs, and a plot, go into results/.

Distances and norms, which are all that is asked for, do not change when maps are turned: so maps of 150,528
values are turned, exactly, into the space that the pool spans, of as many coordinates as it has maps.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import skimage.data
import tensorflow as tf
from measuring import kernels_text, machine, versions
from PIL import Image, ImageDraw, ImageFont

from saliency_exporter.contract.build import on_its_own
from saliency_exporter.contract.settings import Settings
from saliency_exporter.graph.folding import fold
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace
from saliency_exporter.methods.accuracy import relative_error, squared_error_of_pairs, total
from saliency_exporter.methods.model import gradient_function
from saliency_exporter.methods.noise import opposite_pairs, standard_normal
from saliency_exporter.methods.smooth import input_range
from saliency_exporter.runtime.kernels import running_kernels
from saliency_exporter.sources.load import load_source

RESULTS = Path(__file__).parent / "results"
MODEL = "efficientnet-lite0"
PHOTOS = ("chelsea", "coffee", "astronaut")
"""A cat, a cup and a person, of scikit-image."""
LEVELS = (0.05, 0.15, 0.3)
COUNTS = (10, 20, 50, 100, 200, 500, 1000)
TARGETS = (0.5, 0.3)
BATCH = 10
SLICE = 8192
"""So many values of all maps are in one product."""
CHECKED = 20
"""Of so many samples whole maps are held against turned ones."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--truth", type=int, default=400, help="maps that the truth is the mean of")
    parser.add_argument("--pool", type=int, default=1050, help="maps that runs draw from")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--output", type=Path, default=Path("bench-output/accuracy"))
    parser.add_argument("--page", metavar="DATE", help="write results/DATE-accuracy.md and its plot")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    cells = []
    for photo, level in ((photo, level) for photo in PHOTOS for level in LEVELS):
        kept = arguments.output / f"{photo}-{level}.json"
        if not kept.exists():
            print(f"{photo}, noise level {level} …", flush=True)
            maps = sample_maps(photo, level, arguments.truth + arguments.pool)
            cell = {"photo": photo, "level": level, **measured(maps, arguments.truth, arguments.runs)}
            kept.write_text(json.dumps(cell))
        cells.append(json.loads(kept.read_text()))
    print(table(cells))
    if arguments.page:
        picture = RESULTS / f"{arguments.page}-accuracy.png"
        plot(cells).save(picture, optimize=True)
        text = page(cells, arguments.truth, arguments.pool, arguments.runs, picture.name)
        (RESULTS / f"{arguments.page}-accuracy.md").write_text(text)


def photo_input(name: str, size: Sequence[int], preprocessing: Any) -> tf.Tensor:
    """The model input of a photo's middle square, float32 [1, H, W, 3]."""
    photo = Image.fromarray(getattr(skimage.data, name)())
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    photo = photo.crop((left, top, left + side, top + side)).resize((size[1], size[0]), Image.BICUBIC)
    return preprocessing(tf.constant(np.asarray(photo)[np.newaxis], tf.float32))


@functools.cache
def model() -> tuple[Any, Any, Any, tuple[int, ...]]:
    """Scores and gradient of the model, as an export computes them uncompiled, preprocessing and shape."""
    source = load_source(MODEL)
    graph = fold(trace(source))
    forward = Forward(graph)
    rules = Settings(compile="none", target="cpu").rules(compiled=False)

    def scores(x: tf.Tensor) -> tf.Tensor:
        return forward.scores(x, rules=rules, replacements=(), compiled=False)

    specs = [tf.TensorSpec((None, *graph.input_shape), tf.float32), tf.TensorSpec((None,), tf.int32)]
    gradient = on_its_own(gradient_function(scores), specs)
    return on_its_own(scores, specs[:1]), gradient, source.preprocessing.function, tuple(graph.input_shape)


def sample_maps(photo: str, level: float, count: int) -> np.ndarray:
    """Samples 0 to `count` − 1 of seed 0, as `explain_smooth` takes them, float32 [count, values]."""
    scores, gradient, preprocessing, shape = model()
    x = photo_input(photo, shape, preprocessing)
    chosen = tf.argmax(scores(x), axis=-1, output_type=tf.int32)
    sigma = tf.reshape(level * input_range(x), [1] * 4)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.int32)])
    def maps_of(samples: tf.Tensor) -> tf.Tensor:
        draw, sign = opposite_pairs(samples)
        signs = tf.reshape(sign, [-1, *(1 for _ in shape)])
        noisy = x + sigma * signs * standard_normal(tf.zeros_like(samples), draw, shape)
        return gradient(noisy, tf.repeat(chosen, tf.size(samples)))

    maps = np.empty((count, int(np.prod(shape))), np.float32)
    for start in range(0, count, BATCH):
        samples = tf.range(start, min(start + BATCH, count))
        maps[start : start + BATCH] = maps_of(samples).numpy().reshape(len(samples), -1)
    return maps


def turned(maps: np.ndarray) -> np.ndarray:
    """The maps' coordinates in an orthonormal basis of what they span, float64 [maps, maps]."""
    gram = np.zeros((len(maps), len(maps)))
    for start in range(0, maps.shape[1], SLICE):
        part = maps[:, start : start + SLICE]
        gram += part @ part.T
    values, vectors = np.linalg.eigh(gram)
    return vectors * np.sqrt(np.maximum(values, 0))


def measured(maps: np.ndarray, truth: int, runs: int) -> dict[str, Any]:
    """Medians over runs by number of samples, and of runs that stop at a target.

    Args:
        maps: float32 [maps, values], the first of them for the truth.
        truth: how many these are.
        runs: how many.
    """
    coordinates = turned(maps)
    of_truth, pool = coordinates[:truth], coordinates[truth:]
    centre = of_truth.mean(axis=0)
    remaining = of_truth.reshape(truth // 2, 2, -1).mean(axis=1).var(axis=0, ddof=1).sum() / (truth // 2)
    norm = np.sqrt((centre**2).sum() - remaining)
    rng = np.random.default_rng(0)
    # Pair by pair, as samples come.
    orders = [(2 * rng.permutation(len(pool) // 2)[:, None] + [0, 1]).ravel() for _ in range(runs)]
    whole = [maps[truth:][order[:CHECKED]] for order in orders[:3]]
    looks = range(10, max(COUNTS) + 1, 10)
    true, reported = (np.empty((runs, len(looks))) for _ in range(2))
    for run, order in enumerate(orders):
        drawn = pool[order[: max(COUNTS)]]
        counts = np.array(looks)
        means = np.cumsum(drawn, axis=0)[counts - 1] / counts[:, None]
        squares = np.cumsum(drawn**2, axis=0)[counts - 1] - counts[:, None] * means**2
        differences = np.cumsum(((drawn[0::2] - drawn[1::2]) ** 2).sum(axis=1))[counts // 2 - 1]
        distances = ((means - centre) ** 2).sum(axis=1) - remaining
        true[run] = np.sqrt(np.maximum(distances, 0)) / norm
        reported[run] = error_of(means, squares, differences, counts)
    apart = [
        abs(
            error_of(
                part.mean(0, keepdims=True),
                CHECKED * part.var(0, keepdims=True),
                ((part[0::2] - part[1::2]) ** 2).sum()[np.newaxis],
                [CHECKED],
            )[0]
            / told
            - 1
        )
        for part, told in zip(whole, reported[:, CHECKED // 10 - 1], strict=False)
        if np.isfinite(told)
    ]
    return {
        "norm": float(norm),
        "turning": float(max(apart, default=0.0)),
        "counts": [counted(n, true[:, n // 10 - 1], reported[:, n // 10 - 1]) for n in COUNTS],
        "stops": [stopped(target, looks, true, reported) for target in TARGETS],
    }


def error_of(
    mean: np.ndarray, sum_of_squares: np.ndarray, differences: np.ndarray, n: Sequence[int] | np.ndarray
) -> np.ndarray:
    """The library's error of means and sums of squares [R, values], and squared differences of pairs, [R]."""
    means, squares, apart = (
        tf.constant(values, tf.float32) for values in (mean, sum_of_squares, differences)
    )
    counts = tf.constant(n, tf.int32)
    return relative_error(means, squared_error_of_pairs(total(squares), apart, counts), counts).numpy()


def counted(n: int, true: np.ndarray, reported: np.ndarray) -> dict[str, Any]:
    ratio = reported / true
    # What ‖se‖ / ‖mean‖ would have said, the noise left in the norm.
    uncorrected = 1 / np.sqrt(1 + 1 / reported**2)
    return {
        "n": n,
        "true": float(np.median(true)),
        "reported": float(np.median(reported)),
        "ratio": [float(np.quantile(ratio, q)) for q in (0.05, 0.5, 0.95)],
        "uncorrected": float(np.median(uncorrected)),
    }


def stopped(target: float, looks: Sequence[int], true: np.ndarray, reported: np.ndarray) -> dict[str, Any]:
    """What runs that stop at the first multiple of ten with a reported error of at most `target` come to."""
    reached = reported <= target
    runs = np.flatnonzero(reached.any(axis=1))
    first = reached[runs].argmax(axis=1)
    at = true[runs, first]
    # The fixed number of samples whose true error is the target: what a peer has to know beforehand.
    enough = np.flatnonzero(np.median(true, axis=0) <= target)
    return {
        "target": target,
        "reached": len(runs) / len(true),
        "samples": float(np.median(np.array(looks)[first])) if len(runs) else None,
        "enough": int(looks[enough[0]]) if len(enough) else None,
        "above": float((at > target).mean()) if len(runs) else None,
        "true": float(np.median(at)) if len(runs) else None,
    }


def table(cells: list[dict[str, Any]]) -> str:
    rows = [
        "| photo | noise level | samples | true error | reported | reported / true (5 %, 95 %) | "
        "‖se‖ / ‖mean‖ |",
        "|---|---|---|---|---|---|---|",
    ]
    for cell in cells:
        for count in cell["counts"]:
            low, middle, high = (number(q) for q in count["ratio"])
            rows.append(
                f"| {cell['photo']} | {cell['level']} | {count['n']} | {number(count['true'])} | "
                f"{number(count['reported'])} | {middle} ({low}, {high}) | {number(count['uncorrected'])} |"
            )
    rows += [
        "",
        "| photo | noise level | target | runs that reach it by 1000 | samples used | a fixed number that ",
    ]
    rows[-1] += "suffices | true error at the stop | runs whose true error is above the target |"
    rows.append("|---|---|---|---|---|---|---|---|")
    for cell in cells:
        for stop in cell["stops"]:
            rows.append(
                f"| {cell['photo']} | {cell['level']} | {stop['target']} | {stop['reached']:.0%} | "
                f"{number(stop['samples'], 0)} | {number(stop['enough'], 0)} | {number(stop['true'], 3)} | "
                f"{'–' if stop['above'] is None else format(stop['above'], '.0%')} |"
            )
    return "\n".join(rows)


def number(value: float | None, digits: int = 2) -> str:
    if value is None:
        return "–"
    return "∞" if np.isinf(value) else f"{value:.{digits}f}"


def below_one(cells: list[dict[str, Any]]) -> list[float]:
    """The medians of reported / true where the true error is below 1."""
    return [count["ratio"][1] for cell in cells for count in cell["counts"] if count["true"] < 1]


def page(cells: list[dict[str, Any]], truth: int, pool: int, runs: int, picture: str) -> str:
    ratios = below_one(cells)
    turning = max(cell["turning"] for cell in cells)
    return f"""# The reported relative error against the true one

`make bench-accuracy`; {machine()}, {kernels_text(running_kernels())};
{versions(["tensorflow", "numpy"])}.

SmoothGrad of EfficientNet-Lite0 (trained) for three photos and three noise levels. The truth is the mean of
{truth} sample maps, whose own remaining error is taken out of every distance. {runs} runs for each number of
samples draw from {pool} other maps, without replacement. A single run is as good as one of fresh samples; but
runs of 500 and 1000 samples share most of them, so that their medians are of a few independent runs, or of
one, and the range of their quantiles is too narrow. Errors are medians over the runs.

**Where the true error is below 1 ({len(ratios)} rows), the median of reported / true is
{min(ratios):.2f} to {max(ratios):.2f}.**

![Reported against true error, on logarithmic axes]({picture})

*A point for each row of the table: the color is the photo; the line is where both are equal. The small gray
points are what ‖standard error‖ / ‖mean‖ says, which never exceeds 1.*

Maps are turned into the space that they span (see the script), which changes no norm: the reported error of
{CHECKED} whole maps differs by at most {turning:.0e} of itself.

A run that stops at the first multiple of ten samples whose reported error is at most the target may stop too
soon, since it waits for an error that is low by chance as well. The second table says how often the true
error is then above the target, and what it is in the median.

{table(cells)}
"""


COLORS = {"chelsea": "#0072b2", "coffee": "#d55e00", "astronaut": "#009e73"}
LOWEST, HIGHEST = 0.04, 10.0
SIDE, MARGIN, SCALE = 520, 64, 2


def plot(cells: list[dict[str, Any]]) -> Image.Image:
    """Reported against true error, on logarithmic axes; what is beyond an end is drawn on it."""
    picture = Image.new("RGB", ((SIDE + MARGIN + 24) * SCALE, (SIDE + MARGIN + 24) * SCALE), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(13 * SCALE)

    def at(true: float, reported: float) -> tuple[float, float]:
        logs = np.log(np.clip([true, reported], LOWEST, HIGHEST) / LOWEST) / np.log(HIGHEST / LOWEST)
        return (MARGIN + logs[0] * SIDE) * SCALE, (12 + (1 - logs[1]) * SIDE) * SCALE

    for tick in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10):
        draw.line([at(tick, LOWEST), at(tick, HIGHEST)], "#e0e0e0", SCALE)
        draw.line([at(LOWEST, tick), at(HIGHEST, tick)], "#e0e0e0", SCALE)
        x, y = at(tick, LOWEST)
        draw.text((x, y + 6 * SCALE), f"{tick:g}", "black", font, "ma")
        x, y = at(LOWEST, tick)
        draw.text((x - 6 * SCALE, y), f"{tick:g}", "black", font, "rm")
    draw.line([at(LOWEST, LOWEST), at(HIGHEST, HIGHEST)], "#808080", SCALE)
    x, y = at(0.63, LOWEST)
    draw.text((x, y + 28 * SCALE), "true relative error", "black", font, "ma")
    label = Image.new("RGB", (220 * SCALE, 20 * SCALE), "white")
    ImageDraw.Draw(label).text((110 * SCALE, 10 * SCALE), "reported relative error", "black", font, "mm")
    picture.paste(label.rotate(90, expand=True), (2 * SCALE, (12 + SIDE // 2 - 110) * SCALE))

    def dot(true: float, reported: float, color: str, radius: float) -> None:
        x, y = at(true, reported)
        r = radius * SCALE
        draw.ellipse((x - r, y - r, x + r, y + r), fill=color)

    for cell in cells:
        for count in cell["counts"]:
            dot(count["true"], count["uncorrected"], "#b0b0b0", 2)
    for cell in cells:
        for count in cell["counts"]:
            dot(count["true"], count["reported"], COLORS[cell["photo"]], 4)
    for line, (photo, color) in enumerate([*COLORS.items(), ("|se| / |mean|", "#b0b0b0")]):
        x, y = at(0.05, 8)
        y += line * 20 * SCALE
        draw.ellipse((x - 4 * SCALE, y - 4 * SCALE, x + 4 * SCALE, y + 4 * SCALE), fill=color)
        draw.text((x + 12 * SCALE, y), photo, "black", font, "lm")
    return picture.resize((picture.width // SCALE, picture.height // SCALE), Image.LANCZOS)


if __name__ == "__main__":
    main()
