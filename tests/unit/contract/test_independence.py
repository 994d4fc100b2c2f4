"""A result depends on its own example and parameters alone, to float32 rounding, at every place in a batch.

The network has smooth activations, so rounding moves its gradients by rounding and no unit switches. It runs
in process, compiled and not; tests of the exported classifier and of the local server hold the rest of the
way to the same bound.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf
from rounding import ROUNDING, assert_equal_to_rounding, ulps_of_norm

SHAPE = (12, 10, 3)
EXAMPLES = 9
PARAMETERS = {
    "class_index": np.array([-1, -1, 3, 2, -1, 0, 4, -1, 1], np.int32),
    "num_samples": np.array([12, 3, 7, 2, 5, 11, 4, 1, 20], np.int32),
    "noise_level": np.array([0.1, 0.3, 0.2, 1.0, 0.15, 0.05, 0.4, 0.5, 0.25], np.float32),
    "seed": np.array([5, 6, 7, 8, -9, 10, 2**31 - 1, 12, 13], np.int32),
    "first_sample": np.array([0, 1, 0, 30, 2**30, 0, 3, 10, 7], np.int32),
    "num_steps": np.array([12, 40, 7, 2, 5, 11, 4, 1, 20], np.int32),
    "target_error": np.array([0.0, 0.2, 0.0, 0.5, 0.1, 0.0, 0.0, 1.0, 0.4], np.float32),
    "baseline": np.array([0.0, 0.5, -1.0, 0.25, 2.0, -0.5, 0.1, 1.0, -2.0], np.float32),
}
TAKEN = {
    "serving_default": (),
    "explain_gradients": ("class_index",),
    "explain_guided": ("class_index",),
    "explain_smooth": ("class_index", "num_samples", "noise_level", "seed", "first_sample"),
    "explain_integrated_gradients": ("class_index", "num_steps", "baseline", "target_error"),
}
BATCHES = {
    "padded": [2, 7, 0],
    "a pair": [1, 0],
    "one": [6],
    "full": [0, 1, 2, 3],
    "in another order": [3, 2, 1, 0],
    "beside others": [6, 3, 5, 1],
    "beside itself": [4, 4, 4, 8],
    "in slices": [8, 7, 6, 5, 4, 3, 2, 1, 0],
}


def network(x: tf.Tensor) -> tf.Tensor:
    rng = np.random.default_rng(4)

    def weights(*shape: int) -> tf.Tensor:
        return tf.constant(2 * rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1])), tf.float32)

    x = tf.nn.swish(tf.nn.conv2d(x, weights(3, 3, 3, 8), 1, "SAME"))
    x = tf.nn.swish(tf.nn.conv2d(x, weights(3, 3, 8, 8), 2, "SAME"))
    return tf.nn.softmax(tf.reshape(x, (-1, 240)) @ weights(240, 5))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(2).normal(size=(EXAMPLES, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def networks(signatures_of):
    methods = [signature.removeprefix("explain_") for signature in TAKEN if signature.startswith("explain_")]
    return {
        how: signatures_of(network, SHAPE, compile=how, methods=methods, whole=True)
        for how in ("xla", "none")
    }


def answer(built, signature: str, images: np.ndarray, rows: list[int], **others: np.ndarray):
    """What a signature says to rows of the images, with those of the parameters or of others."""
    parameters = {name: {**PARAMETERS, **others}[name][rows] for name in TAKEN[signature]}
    return built(signature, images[rows], **parameters)


@pytest.fixture(scope="module")
def alone(networks, images):
    """Every example on its own, at the compiled batch size 1, uncompiled."""
    answers = {}
    for signature in TAKEN:
        rows = [answer(networks["none"], signature, images, [row]) for row in range(EXAMPLES)]
        answers[signature] = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    return answers


# Compiled, integrated gradients loop over steps as smooth does over samples: that one is quick.
SLOW = {("explain_integrated_gradients", "xla")}


@pytest.mark.parametrize(
    ("signature", "batch", "how"),
    [
        pytest.param(*case, marks=pytest.mark.slow if (case[0], case[2]) in SLOW else [])
        for case in itertools.product(TAKEN, BATCHES, ("xla", "none"))
    ],
)
def test_an_answer_is_what_it_is_alone(networks, images, alone, signature, batch, how):
    rows = BATCHES[batch]
    for name, got in in_units_of_the_score(answer(networks[how], signature, images, rows)).items():
        want = in_units_of_the_score(alone[signature])[name][rows]
        assert_equal_to_rounding(got, want, name=f"{signature}'s {name}")


def in_units_of_the_score(answer):
    """The answer, with the completeness error before it is divided by the gain, which may be almost 0.

    It is |Σ − gain| / |gain|, and a difference of sums of shares rounds as scores do, whatever the gain is.
    """
    if "completeness_error" not in answer:
        return answer
    gain = np.abs(answer["score"] - answer["baseline_score"])
    return {**answer, "completeness_error": answer["completeness_error"] * gain}


def test_the_examples_differ_in_what_could_be_mixed_up(alone):
    predicted = alone["serving_default"]["logits"].argmax(1)
    assert len(set(predicted[PARAMETERS["class_index"] < 0])) > 1
    assert (np.diff(PARAMETERS["num_samples"]) != 0).all()
    assert PARAMETERS["num_samples"].max() > 10  # more than one step of the loop for an image alone


def test_any_fault_is_ten_times_the_bound_and_more(networks, alone, images):
    """What a neighbour's leak, another seed or class, a sample more or less changes, the least of each."""

    def changed(pictures: np.ndarray, **others: np.ndarray) -> np.ndarray:
        rows = list(range(EXAMPLES))
        return answer(networks["none"], "explain_smooth", pictures, rows, **others)["gradients"]

    maps = alone["explain_smooth"]["gradients"]
    chosen = alone["explain_smooth"]["class_index"]
    pixel, picture = maps.copy(), images.copy()
    pixel[:, 3, 4] = np.roll(maps, 1, axis=0)[:, 3, 4]
    picture[:, 3, 4] = np.roll(images, 1, axis=0)[:, 3, 4]
    faults = {
        "another's map": np.roll(maps, 1, axis=0),
        "a thousandth of another's map": maps + 1e-3 * np.roll(maps, 1, axis=0),
        "one pixel of another's map": pixel,
        "one pixel of another's picture": changed(picture),
        "another class": changed(images, class_index=(chosen + 1) % 5),
    }
    for name in TAKEN["explain_smooth"][1:]:
        faults[f"another's {name}"] = changed(images, **{name: np.roll(PARAMETERS[name], 1)})
    least = {name: ulps_of_norm(fault, maps).min() for name, fault in faults.items()}
    assert min(least.values()) > 10 * ROUNDING, least
