"""Measures of other libraries for one image of a softmax-linear model: an .npz in, a line of JSON out.

Runs in an environment of its own (requirements.txt beside this file). Quantus draws from NumPy's global
generator; it is given the draws of the file in place of its own.
"""

from __future__ import annotations

import json
import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np


class Linear:
    """What Quantus asks of a model; it gives the scores."""

    def __init__(self, weights: np.ndarray) -> None:
        self.weights = weights

    def shape_input(self, x: np.ndarray, shape: tuple[int, ...], **options: object) -> np.ndarray:
        return x.reshape(shape)

    def predict(self, x: np.ndarray, **options: object) -> np.ndarray:
        return x.reshape(len(x), -1) @ self.weights.T


def main() -> None:
    given = dict(np.load(sys.argv[1]))
    print(json.dumps({**quantus_measures(given), **xplique_measures(given)}))


def quantus_measures(given: dict[str, np.ndarray]) -> dict[str, float]:
    """Of scores, [1, 1, H, W] images and maps."""
    import quantus

    model, class_index = Linear(given["weights"]), np.array([int(given["class_index"])])
    image, map_ = given["image"][None, ..., 0][None], given["map"][None, None]
    subsets, noise = iter(given["subsets"]), iter(given["noise"])
    np.random.choice = lambda *arguments, **options: next(subsets)
    quiet = {"disable_warnings": True, "display_progressbar": False}
    # Its "black" is the image's own smallest value; ours is 0.
    faithful = quantus.FaithfulnessCorrelation(
        nr_runs=len(given["subsets"]),
        subset_size=given["subsets"].shape[1],
        perturb_baseline=0.0,
        **quiet,
    )
    sparse = quantus.Sparseness(**quiet)
    stable = quantus.MaxSensitivity(nr_samples=len(given["noise"]), **quiet)
    # The map of an image is the image times the weights, in absolute values.
    weights = given["weights"][class_index[0]].reshape(image.shape[1:])
    stable.explain_batch = lambda model, x, y: np.abs(x * weights)
    own = np.abs(image * weights)
    faithfulness = float(faithful.evaluate_batch(model, image, class_index, map_)[0])
    # Quantus' faithfulness draws a number from it as well, which it does not use.
    np.random.uniform = lambda *arguments, size, **options: next(noise).reshape(size)
    return {
        "faithfulness_correlation": faithfulness,
        "sparseness": float(sparse.evaluate_batch(x_batch=image, a_batch=np.abs(map_))[0]),
        "max_sensitivity": float(stable.evaluate_batch(model, image, class_index, own)[0]),
    }


def xplique_measures(given: dict[str, np.ndarray]) -> dict[str, float]:
    """Of probabilities, with xplique's own steps and a black substrate."""
    import keras
    from xplique.metrics import Deletion, Insertion

    classes = len(given["weights"])
    layers = [keras.Input(given["image"].shape), keras.layers.Flatten()]
    dense = keras.layers.Dense(classes, "softmax", use_bias=False)
    model = keras.Sequential([*layers, dense])
    dense.set_weights([given["weights"].T.astype(np.float32)])
    images = given["image"][None].astype(np.float32)
    targets = np.eye(classes, dtype=np.float32)[[int(given["class_index"])]]
    return {
        measure.__name__.lower(): float(
            measure(model, images, targets, batch_size=16, baseline_mode=0.0, steps=10).evaluate(
                given["map"][None].astype(np.float32)
            )
        )
        for measure in (Deletion, Insertion)
    }


if __name__ == "__main__":
    main()
