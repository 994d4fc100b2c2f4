"""Integrated gradients against integrals that are known, and against a loop over the original model."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from callables import source_of
from rounding import assert_equal_to_rounding

from saliency_exporter.contract.build import build_signatures
from saliency_exporter.contract.settings import Settings
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace
from saliency_exporter.methods.model import IMAGES_AT_ONCE
from saliency_exporter.methods.registry import find_methods
from saliency_exporter.sources.preprocessing import builtin

SHAPE = (6, 5, 2)
NAME = "explain_integrated_gradients"
LEVELS = np.array([0.0, -0.5, 0.25, 2.0], np.float32)


def powers(x: tf.Tensor) -> tf.Tensor:
    """Scores Σx, Σx³ and Σx⁷, whose gradients are polynomials of degree 0, 2 and 6 on any straight way."""
    flat = tf.reshape(x, (-1, 60))
    return tf.stack([tf.reduce_sum(flat**power, axis=1) for power in (1, 3, 7)], axis=1)


def share(x: np.ndarray, level: float, power: int) -> np.ndarray:
    """What a value gives to a sum of powers, exactly: x^power − x′^power."""
    return x.astype(np.float64) ** power - np.float64(level) ** power


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (4, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module", params=["none", "xla"])
def built(request, signatures_of):
    signatures = signatures_of(
        powers, SHAPE, compile=request.param, methods=("gradients", "integrated_gradients"), max_samples=2000
    )
    return lambda images, **parameters: signatures(NAME, images, **parameters)


@pytest.mark.parametrize("steps", [1, 2, IMAGES_AT_ONCE, 37, 1000])
def test_a_linear_score_is_exact_at_any_number_of_steps(built, images, steps):
    got = built(images, class_index=0, num_steps=steps, baseline=LEVELS)
    for b, level in enumerate(LEVELS):
        np.testing.assert_allclose(got["attributions"][b], share(images[b], level, 1), rtol=2e-6, atol=1e-6)
    assert (got["completeness_error"] < 1e-5).all()


@pytest.mark.parametrize(("class_index", "power", "enough"), [(1, 3, 2), (2, 7, 4)])
def test_a_power_is_exact_from_the_number_of_nodes_on_that_a_gauss_rule_needs(
    built, images, class_index, power, enough
):
    for steps in (enough, enough + 1, 50):
        got = built(images, class_index=class_index, num_steps=steps, baseline=LEVELS)
        for b, level in enumerate(LEVELS):
            expected = share(images[b], level, power)
            bound = 4e-6 * np.abs(expected).max()
            np.testing.assert_allclose(got["attributions"][b], expected, rtol=4e-6, atol=bound)
            np.testing.assert_allclose(got["baseline_score"][b], 60 * level**power, rtol=1e-5, atol=1e-6)
        assert (got["completeness_error"] < 1e-4).all()
    fewer = built(images, class_index=class_index, num_steps=enough - 1, baseline=LEVELS)
    assert (fewer["completeness_error"] > 1e-4).all()


def test_one_step_is_the_gradient_half_way_times_the_way(built, images):
    got = built(images, class_index=1, num_steps=1, baseline=0.5)
    x = images.astype(np.float64)
    expected = (x - 0.5) * 3 * ((x + 0.5) / 2) ** 2
    np.testing.assert_allclose(got["attributions"], expected, rtol=2e-6, atol=1e-6)


def test_completeness_error_is_what_the_other_outputs_say(built, images):
    got = built(images, class_index=2, num_steps=[1, 2, 3, 1], baseline=LEVELS)
    gain = got["score"].astype(np.float64) - got["baseline_score"]
    total = got["attributions"].reshape(4, -1).sum(axis=1, dtype=np.float64)
    np.testing.assert_allclose(got["completeness_error"], np.abs(total - gain) / np.abs(gain), rtol=1e-3)
    assert (got["completeness_error"] > 1e-4).all()


def test_an_image_that_is_the_baseline_has_nothing_to_share(built):
    grey = np.full((1, *SHAPE), 0.75, np.float32)
    got = built(grey, class_index=1, num_steps=3, baseline=0.75)
    np.testing.assert_array_equal(got["attributions"], 0)
    np.testing.assert_array_equal(got["completeness_error"], 0)
    assert_equal_to_rounding(got["baseline_score"], got["score"])


def test_examples_of_one_batch_have_steps_and_baselines_of_their_own(built, images):
    parameters = {"class_index": [2, 1, 2, 0], "num_steps": [1, 23, 2, 64], "baseline": LEVELS}
    together = built(images, **parameters)
    for b in range(4):
        alone = built(images[[b]], **{name: [values[b]] for name, values in parameters.items()})
        for name in ("attributions", "saliency", "score", "baseline_score", "class_index"):
            assert_equal_to_rounding(together[name][[b]], alone[name], name=name)


def test_a_step_beyond_those_asked_for_leaves_no_nan_behind(signatures_of):
    """√(x − 0.1) has no gradient below: nodes nearer to 0, as those of longer rules, bring that in."""

    @tf.function
    def roots(x):
        return tf.reduce_sum(tf.sqrt(x - 0.1), axis=[1, 2, 3])[:, tf.newaxis] * tf.ones((1, 2))

    built = signatures_of(roots, SHAPE, methods=("integrated_gradients",))
    images = np.ones((2, *SHAPE), np.float32)
    got = built(NAME, images, class_index=0, num_steps=[2, 12])
    assert np.isfinite(got["attributions"][0]).all()
    assert not np.isfinite(got["attributions"][1]).any()


def test_the_class_of_all_the_way_is_that_of_the_image(signatures_of, images):
    """Far from the origin the second of two classes wins, near to it the first."""

    @tf.function
    def two(x):
        squares = tf.reduce_sum(x**2, axis=[1, 2, 3])
        return tf.stack([tf.fill(tf.shape(squares), 5.0), squares], axis=1)

    built = signatures_of(two, SHAPE, methods=("integrated_gradients",))
    got = built(NAME, images, num_steps=4)
    assert got["class_index"].tolist() == [1] * 4
    np.testing.assert_allclose(got["attributions"], images.astype(np.float64) ** 2, rtol=1e-5, atol=1e-6)


def model() -> keras.Model:
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((12, 10, 3)),
            keras.layers.Conv2D(8, 3, strides=2, activation="swish"),
            keras.layers.Conv2D(8, 3, activation="gelu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(4, activation="softmax", kernel_initializer="glorot_normal"),
        ]
    )


def written_out(
    logits: keras.Model, x: np.ndarray, start: np.ndarray, class_index: int, steps: int
) -> np.ndarray:
    """Equation 1 on the original model in float64, with NumPy's nodes and weights."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    way = tf.constant(start + (1 + nodes[:, None, None, None]) / 2 * (x - start))
    with tf.GradientTape() as tape:
        tape.watch(way)
        score = tf.reduce_sum(logits(way)[:, class_index])
    return (x - start) * np.tensordot(weights / 2, tape.gradient(score, way).numpy(), axes=1)


def in_float64(model: keras.Model) -> keras.Model:
    """The logits of a model, computed in float64 with the same weights."""
    keras.backend.set_floatx("float64")
    try:
        twin = keras.Sequential.from_config(
            {
                **model.get_config(),
                "layers": [
                    {**layer, "config": {**layer["config"], "dtype": "float64"}}
                    for layer in model.get_config()["layers"]
                ],
            }
        )
        twin.set_weights(model.get_weights())
        twin.layers[-1].activation = keras.activations.linear
        return twin
    finally:
        keras.backend.set_floatx("float32")


@pytest.fixture(scope="module")
def original():
    """A model, and its logits in float64."""
    made = model()
    return made, in_float64(made)


@pytest.mark.parametrize("compile", ["none", "xla"])
def test_it_is_a_loop_over_the_original_model_and_the_baseline_is_in_pixels(original, compile):
    """Images are uint8 here, and the model's input is in [−1, 1]: grey level 0 is −1, and 255 is 1."""
    made, logits = original
    settings = Settings(
        methods=find_methods(["integrated_gradients"]), batch_sizes=(4,), compile=compile, target="cpu"
    )
    graph = trace(source_of(made, (12, 10, 3)), score="auto")
    signature = build_signatures(Forward(graph), builtin("tf"), settings, "model")[NAME]
    images = np.random.default_rng(1).integers(0, 256, (4, 12, 10, 3), np.uint8)
    classes, steps, levels = [3, 0, 1, 2], [1, 4, 11, 50], [0.0, 255.0, 127.5, 10.0]
    got = signature(
        tf.constant(images),
        class_index=tf.constant(classes),
        num_steps=tf.constant(steps),
        baseline=tf.constant(levels),
    )
    for b, image in enumerate(images):
        x, start = (pixels / 127.5 - 1 for pixels in (image.astype(float), np.full(image.shape, levels[b])))
        expected = written_out(logits, x, start, classes[b], steps[b])
        distance = np.linalg.norm(got["attributions"][b] - expected) / np.linalg.norm(expected)
        assert distance < 1e-5
        score, start_score = logits(np.stack([x, start])).numpy()[:, classes[b]]
        np.testing.assert_allclose(got["baseline_score"][b], start_score, rtol=1e-4, atol=1e-5)
        error = abs(expected.sum() - (score - start_score)) / abs(score - start_score)
        np.testing.assert_allclose(got["completeness_error"][b], error, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        ("num_steps", 0, r"num_steps is 0; it must be in \[1, 2000\]"),
        ("num_steps", 2001, r"num_steps is 2001; it must be in \[1, 2000\]"),
        ("baseline", float("nan"), "baseline is nan; it must be a finite number"),
        ("baseline", float("-inf"), "baseline is -inf; it must be a finite number"),
    ],
)
def test_a_value_out_of_bounds_is_refused(whole, images, parameter, value, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        whole(NAME, images, **{parameter: value})


@pytest.fixture(scope="module")
def whole(signatures_of):
    return signatures_of(powers, SHAPE, methods=("integrated_gradients",), max_samples=2000, whole=True)
