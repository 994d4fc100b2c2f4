"""Integrated gradients against integrals that are known, and against a loop over the original model."""

from __future__ import annotations

import itertools

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
from saliency_exporter.methods import integrated_gradients
from saliency_exporter.methods.model import IMAGES_AT_ONCE, Model
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


# Quick: around the steps that a loop takes at once, and few and many.
@pytest.mark.parametrize(
    "steps",
    [pytest.param(n, marks=[] if n in (1, 2, 3, 9, 10, 11, 20) else pytest.mark.slow) for n in range(1, 21)]
    + [50],
)
def test_a_cube_is_off_by_what_the_midpoint_rule_misses(built, images, steps):
    """The gradient is 3 (x′ + α (x − x′))², of which a cell of width h misses (x − x′)² h³ / 4.

    The widths are (2 i + 1) / n², and the sum of (2 i + 1)³ over i < n is n² (2 n² − 1).
    """
    got = built(images, class_index=1, num_steps=steps, baseline=LEVELS)
    missed = (2 * steps**2 - 1) / (4 * steps**4)
    for b, level in enumerate(LEVELS):
        exact = share(images[b], level, 3)
        expected = exact - (images[b].astype(np.float64) - level) ** 3 * missed
        bound = 4e-6 * np.abs(exact).max()
        np.testing.assert_allclose(got["attributions"][b], expected, rtol=4e-6, atol=bound)
        np.testing.assert_allclose(got["baseline_score"][b], 60 * level**3, rtol=1e-5, atol=1e-6)
    assert got["steps_used"].tolist() == [steps] * 4
    assert got["steps_used"].dtype == np.int32


@pytest.mark.parametrize("steps", [10, 40])
def test_a_seventh_power_is_off_by_one_over_the_square_of_the_steps(built, images, steps):
    got = built(images, class_index=2, num_steps=steps, baseline=LEVELS)
    for b, level in enumerate(LEVELS):
        # Σ h³ / 24 · max |g″|, with the widths of above and g the gradient along the way.
        way = np.abs(images[b].astype(np.float64) - level)
        bend = way**3 * 7 * 6 * 5 * np.maximum(np.abs(images[b]), abs(level)) ** 4
        bound = (2 * steps**2 - 1) / (24 * steps**4) * bend + 4e-6 * 2**7
        assert (np.abs(got["attributions"][b] - share(images[b], level, 7)) <= bound).all()


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
    gray = np.full((1, *SHAPE), 0.75, np.float32)
    got = built(gray, class_index=1, num_steps=3, baseline=0.75)
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


def grown(x: np.ndarray, level: float, cells: int, doublings: int) -> np.ndarray:
    """The share of Σx³ by the rule after some doublings: the trapezoid rule of every cell in 2^k parts.

    Of α² that has h³ / (6 · 4^k) too much, and in place of the value at 0, of weight 1 / (2 n² 2^k), it has
    what those at 1/n² and 4/n² point to, which is 4 / n⁴ too little.
    """
    much = (2 * cells**2 - 1) / (6 * cells**4 * 4**doublings) - 2 / (cells**6 * 2**doublings)
    return share(x, level, 3) + 3 * (x.astype(np.float64) - level) ** 3 * much


@pytest.mark.parametrize(
    ("target", "used"),
    [(0.5, 20), (0.0045, 20), (0.004, 40), (0.0012, 40), (0.001, 80), (1e-20, 160)],
)
def test_a_target_is_reached_at_the_level_that_theory_says(built, images, target, used):
    """From 0, every value of Σx³ is off by the same fraction of it, and so is their sum."""
    errors = [-199 / 40_000, *(199 / (20_000 * 4**k) - 6 / (10**6 * 2**k) for k in range(1, 5))]
    estimates = [abs(now - last) / 3**0.5 / (1 + now) for last, now in itertools.pairwise(errors)]
    reached = [k for k in range(1, 5) if abs(errors[k]) <= target and estimates[k - 1] <= target]
    doublings = reached[0] if reached else 4
    assert used == 10 * 2**doublings
    got = built(images, class_index=1, num_steps=160, target_error=target)
    assert got["steps_used"].tolist() == [used] * 4
    for b in range(4):
        expected = grown(images[b], 0, 10, doublings)
        np.testing.assert_allclose(got["attributions"][b], expected, rtol=4e-6, atol=4e-6)
        np.testing.assert_allclose(expected, share(images[b], 0, 3) * (1 + errors[doublings]), rtol=1e-9)


def test_a_linear_score_is_done_at_the_second_level_and_exact(built, images):
    got = built(images, class_index=0, num_steps=1000, target_error=1e-4, baseline=LEVELS)
    assert got["steps_used"].tolist() == [30] * 4
    for b, level in enumerate(LEVELS):
        np.testing.assert_allclose(got["attributions"][b], share(images[b], level, 1), rtol=2e-6, atol=1e-6)


def test_a_level_that_ends_within_a_step_of_the_loop_is_a_level_for_all_that(built, images):
    """Alone, an example has ten nodes a step: the levels of 100 steps end at 12 and 24 of them."""
    got = built(images[:1], class_index=1, num_steps=100, target_error=0.0045)
    assert got["steps_used"].tolist() == [24]
    np.testing.assert_allclose(got["attributions"][0], grown(images[0], 0, 12, 1), rtol=4e-6, atol=4e-6)


@pytest.mark.parametrize(
    ("steps", "used"), [(1, 1), (10, 10), (19, 19), (20, 20), (39, 38), (50, 48), (999, 960)]
)
def test_a_target_that_is_not_reached_uses_nine_tenths_of_the_steps_or_more(built, images, steps, used):
    got = built(images[:1], class_index=1, num_steps=steps, target_error=1e-20)
    assert got["steps_used"].tolist() == [used]
    assert 0.9 * steps <= used <= steps


def test_examples_that_are_done_stay_as_they_are_beside_others_that_go_on(built, images):
    parameters = {"class_index": [1, 0, 2, 1], "num_steps": [160, 320, 1000, 333]}
    parameters |= {"baseline": [0.0, 0.5, -0.25, 0.0], "target_error": [0.004, 0.1, 1e-20, 0.0]}
    together = built(images, **parameters)
    assert together["steps_used"].tolist() == [40, 20, 960, 333]
    for b in range(4):
        alone = built(images[[b]], **{name: [values[b]] for name, values in parameters.items()})
        assert alone["steps_used"][0] == together["steps_used"][b]
        for name in ("attributions", "saliency", "score"):
            assert_equal_to_rounding(together[name][[b]], alone[name], name=name)
    padded = built(images[:3], **{name: values[:3] for name, values in parameters.items()})
    np.testing.assert_array_equal(padded["steps_used"], together["steps_used"][:3])
    assert_equal_to_rounding(padded["attributions"], together["attributions"][:3], name="padded")


def test_kinks_at_known_places_are_found_to_a_cell(signatures_of):
    """max(x − t, 0) from 0 to 1 gives 1 − t; a rule is off by no more than half of the cell with the kink."""
    places = np.linspace(0.02, 0.98, 60, dtype=np.float32).reshape(SHAPE)

    @tf.function
    def rectified(x):
        return tf.reduce_sum(tf.nn.relu(x - places), axis=[1, 2, 3])[:, tf.newaxis] * tf.ones((1, 2))

    built = signatures_of(rectified, SHAPE, methods=("integrated_gradients",), max_samples=2000)
    image, exact = np.ones((1, *SHAPE), np.float32), (1 - places).astype(np.float64)
    got = built(NAME, image, class_index=0, num_steps=64)
    width = (2 * np.floor(64 * np.sqrt(places)) + 1) / 64**2
    assert (np.abs(got["attributions"][0] - exact) <= width / 2 + 1e-6).all()
    got = built(NAME, image, class_index=0, num_steps=2000, target_error=0.01)
    assert got["steps_used"][0] < 500
    assert got["completeness_error"][0] <= 0.01
    assert np.linalg.norm(got["attributions"][0] - exact) <= 0.01 * np.linalg.norm(exact)


def test_a_sum_that_is_right_by_accident_does_not_end_the_way(signatures_of):
    """Opposite scores: sum and gain are those of one value, which is exact, and others' errors cancel."""
    places = np.linspace(0.02, 0.98, 29, dtype=np.float32)

    @tf.function
    def opposite(x):
        flat = tf.reshape(x, (-1, 60))
        one, other = (tf.nn.relu(part - places) for part in (flat[:, 2:31], flat[:, 31:]))
        score = flat[:, 0] + tf.reduce_sum(one - other, axis=1)
        return tf.stack([score, score], axis=1)

    built = signatures_of(opposite, SHAPE, methods=("integrated_gradients",), max_samples=2000)
    exact = np.concatenate([[1.0, 0.0], 1 - places, places - 1])
    got = built(NAME, np.ones((1, *SHAPE), np.float32), class_index=0, num_steps=2000, target_error=0.01)
    assert np.linalg.norm(got["attributions"].ravel() - exact) <= 0.01 * np.linalg.norm(exact)
    assert got["steps_used"][0] > 20


def test_what_two_levels_both_miss_is_found_by_the_sum(signatures_of):
    """A jump of the score by 1 between nodes of both levels: their maps are those of Σx, and agree."""

    @tf.function
    def jump(x):
        flat = tf.reshape(x, (-1, 60))
        narrow = tf.nn.relu(flat[:, 0] - 0.9501) - tf.nn.relu(flat[:, 0] - 0.9502)
        score = tf.reduce_sum(flat, axis=1) + 60 * narrow / 1e-4
        return tf.stack([score, score], axis=1)

    built = signatures_of(jump, SHAPE, methods=("integrated_gradients",), max_samples=2000)
    got = built(NAME, np.ones((1, *SHAPE), np.float32), class_index=0, num_steps=80, target_error=0.1)
    assert got["steps_used"].tolist() == [80]
    np.testing.assert_allclose(got["completeness_error"], 0.5, rtol=1e-2)


@pytest.mark.parametrize(
    ("steps", "target", "used", "taken"),
    [(1, 0, 1, 10), (50, 0, 50, 50), (160, 0.004, 40, 40), (100, 0.0045, 24, 30), (100, 1e-20, 96, 100)],
)
def test_gradients_are_taken_ten_at_once_and_none_after_the_end(steps, target, used, taken):
    """Counted where the method asks the model for them; what is left of the last ten is for nothing."""
    rows: list[int] = []

    def counted(x: np.ndarray) -> np.ndarray:
        rows.append(len(x))
        return 3 * x**2

    def gradient(x: tf.Tensor, class_index: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(counted, [x], tf.float32), x.shape)

    model = Model(
        scores=lambda x: tf.reduce_sum(x**3, axis=1, keepdims=True),
        gradients=lambda x, class_index: pytest.fail("not asked for"),
        gradient=gradient,
        gray=lambda level: level[:, tf.newaxis] * tf.ones((1, 4)),
    )

    @tf.function(input_signature=[tf.TensorSpec((None, 4))])
    def explained(x: tf.Tensor) -> tf.Tensor:
        values = {
            "class_index": [0],
            "num_steps": [steps],
            "baseline": [0.0],
            "target_error": [float(target)],
        }
        parameters = {name: tf.constant(value) for name, value in values.items()}
        return integrated_gradients.explain(model, x, parameters).outputs["steps_used"]

    assert explained(tf.constant([[1.0, 2.0, -1.0, 0.5]])).numpy().tolist() == [used]
    assert sum(rows) == taken


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
    """Equation 1 on the original model, with the middles of cells that end at squares."""
    ends = (np.arange(steps + 1) / steps) ** 2
    return rule(logits, x, start, class_index, (ends[1:] + ends[:-1]) / 2, np.diff(ends))


def rule(
    logits: keras.Model,
    x: np.ndarray,
    start: np.ndarray,
    class_index: int,
    nodes: np.ndarray,
    weights: np.ndarray,
) -> np.ndarray:
    """The way times a weighted sum of gradients on it, in float64, by a tape through the original model."""
    way = tf.constant(start + nodes[:, None, None, None] * (x - start))
    with tf.GradientTape() as tape:
        tape.watch(way)
        score = tf.reduce_sum(logits(way)[:, class_index])
    return (x - start) * np.tensordot(weights, tape.gradient(score, way).numpy(), axes=1)


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
    """Images are uint8 here, and the model's input is in [−1, 1]: gray level 0 is −1, and 255 is 1."""
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


def test_a_target_holds_for_the_integral_of_the_original_model(original, signatures_of):
    """Against 400 Gauss–Legendre nodes on the original in float64, which are exact for a smooth model."""
    made, logits = original
    built = signatures_of(made, (12, 10, 3), methods=("integrated_gradients",))
    images = 3 * np.random.default_rng(1).normal(size=(3, 12, 10, 3)).astype(np.float32)
    used = {}
    for target in (0.05, 2e-4):
        got = built(NAME, images, class_index=[0, 1, 2], num_steps=1000, target_error=target)
        used[target] = got["steps_used"]
        nodes, weights = np.polynomial.legendre.leggauss(400)
        for b, image in enumerate(images.astype(np.float64)):
            start = np.zeros_like(image)
            expected = rule(logits, image, start, b, (1 + nodes) / 2, weights / 2)
            distance = np.linalg.norm(got["attributions"][b] - expected) / np.linalg.norm(expected)
            assert distance <= target
            score, start_score = logits(np.stack([image, start])).numpy()[:, b]
            off = abs(got["attributions"][b].sum(dtype=np.float64) - (score - start_score))
            assert off <= (target + 1e-4) * abs(score - start_score)
    assert (used[0.05] < used[2e-4]).all()


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        ("num_steps", 0, r"num_steps is 0; it must be in \[1, 2000\]"),
        ("num_steps", 2001, r"num_steps is 2001; it must be in \[1, 2000\]"),
        ("target_error", -0.5, r"target_error is -0.5; it must be"),
        ("target_error", float("nan"), r"target_error is nan; it must be"),
        ("baseline", float("nan"), "baseline is nan; it must be a finite number"),
        ("baseline", float("-inf"), "baseline is -inf; it must be a finite number"),
    ],
)
def test_a_value_out_of_bounds_is_refused(whole, images, parameter, value, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        whole(NAME, images, **{parameter: value})


@pytest.mark.parametrize("level", ["-1", "255.5"])
def test_a_baseline_that_no_pixel_can_have_is_refused(signatures_of, level):
    pixels = np.zeros([1, *SHAPE], np.uint8)
    whole = signatures_of(
        powers, SHAPE, methods=("integrated_gradients",), preprocessing="pixels", whole=True
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"baseline is {level}; .*\[0, 255\]"):
        whole(NAME, pixels, baseline=float(level))


@pytest.fixture(scope="module")
def whole(signatures_of):
    return signatures_of(powers, SHAPE, methods=("integrated_gradients",), max_samples=2000, whole=True)
