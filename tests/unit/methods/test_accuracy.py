"""The error of a mean, against known truths, and the loop that stops by it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf
from covering import covering
from mean_error import contrast, relative_error, relative_error_of_pairs
from rounding import assert_equal_to_rounding

from saliency_exporter.methods import accuracy
from saliency_exporter.methods.model import SAMPLES_OF_A_STEP, samples_of_a_step
from saliency_exporter.methods.sampling import CONSIDERED_AT, samples_at_once

SHAPE = (6, 5, 2)
WEIGHTS = np.random.default_rng(1).normal(size=(60, 3)).astype(np.float32)


def moments(samples: np.ndarray) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Mean, squared error of it, and number of independent samples [R, n, …], as the library has them."""
    samples = np.asarray(samples, np.float64)
    mean = samples.mean(axis=1)
    squares = ((samples - mean[:, None]) ** 2).reshape(len(samples), -1).sum(axis=1)
    n = tf.fill([len(samples)], samples.shape[1])
    error = accuracy.squared_error(tf.constant(squares, tf.float32), n)
    return tf.constant(mean, tf.float32), error, n


def moments_of_pairs(samples: np.ndarray) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The same of samples that are independent pair by pair."""
    mean, _, n = moments(samples)
    squares = ((samples - samples.mean(axis=1, keepdims=True)) ** 2).reshape(len(samples), -1).sum(axis=1)
    even = samples.shape[1] // 2 * 2
    differences = accuracy.squared_differences(
        tf.constant(samples[:, :even], tf.float32), tf.ones((len(samples), even), tf.bool)
    )
    return mean, accuracy.squared_error_of_pairs(tf.constant(squares, tf.float32), differences, n), n


@pytest.mark.parametrize(("n", "size"), covering([10, 40, 160], [0.1, 0.4]))
def test_what_is_reported_is_the_distance_to_a_known_mean(n, size):
    """100 means of n samples about a map whose values are `size` of their standard deviation of 1."""
    rng = np.random.default_rng(n)
    truth = size * rng.choice([-1.0, 1.0], 2000)
    reported, true = [], []
    for _ in range(100):
        samples = rng.normal(truth, 1.0, (1, n, 2000))
        reported.append(float(accuracy.relative_error(*moments(samples))[0]))
        true.append(np.linalg.norm(samples[0].mean(axis=0) - truth) / np.linalg.norm(truth))
    # 1/√n of a standard deviation over `size`: from 0.2 to 3.2.
    assert np.median(true) == pytest.approx(1 / (size * np.sqrt(n)), rel=0.03)
    assert np.median(reported) == pytest.approx(np.median(true), rel=0.1)
    # The norm of the mean itself would say √(t² / (1 + t²)): 0.95 where 3.2 is true.
    without = [t / np.sqrt(1 + t**2) for t in reported]
    assert np.median(true) < 0.5 or np.median(without) < 0.9 * np.median(true)


def test_smooth_reports_the_distance_to_a_mean_gradient_that_is_known(signatures_of):
    """Of Σx³ it is 3x² + 3σ²; medians over 60 seeds, at true errors of 0.36 and 0.62.

    What is odd in the noise cancels in a pair, whose mean is 3x² + 3ε², of variance 18σ⁴.
    """

    def cube(x: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(x**3, axis=1, keepdims=True) * tf.ones((1, 2))

    built = signatures_of(cube, (300,), methods=("smooth",), batch_sizes=(20,), score="output")
    image = np.random.default_rng(0).uniform(0.05, 0.15, (1, 300)).astype(np.float32)
    image[0, 0] = 1
    for n, level in ((30, 0.3), (10, 0.35)):
        sigma = level * np.ptp(image)
        expected = 3 * image**2 + 3 * sigma**2
        parameters = {"class_index": 0, "num_samples": n, "noise_level": level, "seed": np.arange(60)}
        got = built("explain_smooth", np.repeat(image, 60, axis=0), **parameters)
        true = np.linalg.norm(got["gradients"] - expected, axis=1) / np.linalg.norm(expected)
        error = np.sqrt(300 * 18 * sigma**4 / (n / 2)) / np.linalg.norm(expected)
        assert np.median(true) == pytest.approx(error, rel=0.05)
        assert 0.9 < np.median(got["relative_error"] / true) < 1.1


def test_rise_reports_the_distance_to_a_contrast_that_is_known(signatures_of):
    """Of a linear model, whose map of infinitely many masks is known; 100 seeds of 200 masks.

    16 cells are few, so that a single map is off by more or less than its standard error: the root of the
    mean square is what it estimates.
    """
    shape, keep, n = (8, 8, 1), 0.4, 200
    weights = np.random.default_rng(0).uniform(0, 0.04, (64, 2)).astype(np.float32)
    weights[32:] *= -1

    def linear(x: tf.Tensor) -> tf.Tensor:
        return 0.2 + tf.reshape(x, (-1, 64)) @ weights

    built = signatures_of(linear, shape, methods=("rise(grid=4)",), batch_sizes=(20,), score="output")
    image = np.random.default_rng(1).uniform(0, 1, (1, *shape)).astype(np.float32)
    pictures = np.repeat(image, 100, axis=0)
    got = built("explain_rise", pictures, class_index=0, num_masks=n, keep=keep, seed=np.arange(100))
    # f(x ⊙ M) M / keep with E[M_i M_j] = keep² + keep (1 − keep) · what two pixels share of their cells.
    along = shared_cells(8, 4)
    shared = np.einsum("ab,cd->acbd", along, along).reshape(64, 64)
    parts = (weights[:, 0] * image.ravel()).astype(np.float64)
    expected = contrast((0.2 + (keep**2 + keep * (1 - keep) * shared) @ parts / keep)[np.newaxis])
    maps = got["saliency"].reshape(100, 64).astype(np.float64)
    true = np.linalg.norm(contrast(maps) - expected, axis=1) / np.linalg.norm(expected)
    assert np.median(got["relative_error"]) == pytest.approx(np.sqrt(np.mean(true**2)), rel=0.1)
    # With the level of about 0.2 in both norms, the same maps would look settled.
    spread = got["standard_error"]
    assert np.median(spread / np.linalg.norm(maps, axis=1)) < 0.5 * np.median(true)


def shared_cells(size: int, cells: int) -> np.ndarray:
    """What two pixels of an axis take of the same cells, the mean over shifts, [size, size]."""
    cell = size // cells
    whole = (cells + 1) * cell
    centres = (np.arange(whole) + 0.5) * cells / whole - 0.5
    weights = np.stack([np.interp(centres, np.arange(cells), one) for one in np.eye(cells)], axis=1)
    return np.mean([(w := weights[shift : shift + size]) @ w.T for shift in range(cell)], axis=0)


def test_the_ends_infinity_nan_and_zero():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(1, 10, 500))
    # With opposite signs the mean is 0 and all of it is noise.
    assert accuracy.relative_error(*moments(np.concatenate([noise, -noise], axis=1))) == np.inf
    assert np.isnan(accuracy.relative_error(*moments(noise[:, :1])))
    assert np.isnan(accuracy.variance_of(tf.zeros((1, 500)), tf.constant([1]))).all()
    same = np.repeat(noise[:, :1], 10, axis=1)
    for samples in (same, 0 * same, same * (1 + 2.0**-22 * noise[:, :, :1])):
        assert accuracy.relative_error(*moments(samples)) == 0
    little = accuracy.relative_error(*moments(same + 1e-4 * noise))
    assert float(little[0]) == pytest.approx(1e-4 / 10**0.5, rel=0.1)


def test_where_almost_all_is_noise_the_difference_of_the_norms_keeps_its_digits():
    """A map 30 times below the noise in its mean: 0.1 % of the mean's square is left, of 300 000 values."""
    rng = np.random.default_rng(0)
    n, size = 10, 300_000
    deviations = rng.normal(size=(1, n, size))
    deviations -= deviations.mean(axis=1, keepdims=True)
    signs = rng.choice([-1.0, 1.0], size)
    error = np.sqrt((deviations.var(axis=1, ddof=1) / n).mean())
    samples = deviations + signs * error * np.sqrt(1 + 1 / 30**2)
    for compiled in (False, True):
        reported = tf.function(accuracy.relative_error, jit_compile=compiled)(*moments(samples))
        assert float(reported[0]) == pytest.approx(relative_error(samples[0]), rel=1e-2)
        assert float(reported[0]) == pytest.approx(30, rel=1e-2)


def test_a_level_that_all_places_share_is_no_part_of_the_error_of_contrast():
    rng = np.random.default_rng(0)
    samples = 0.3 * rng.normal(size=(1, 40, 8, 7)) + 0.2 * rng.normal(size=(1, 1, 8, 7))
    level = 10 + rng.normal(size=(1, 40, 1, 1))
    mean, _, n = moments(samples + level)
    _, of_contrast, _ = moments(samples - samples.mean(axis=(2, 3), keepdims=True))
    got = accuracy.relative_error(mean, of_contrast, n, accuracy.contrast(mean))
    assert float(got[0]) == pytest.approx(relative_error(contrast(samples[0])), rel=1e-3)
    # With the level in the norm it would say that the map is settled.
    assert accuracy.relative_error(mean, of_contrast, n) < 0.1 * got


@pytest.mark.parametrize("n", [3, 4, 9, 40])
def test_of_pairs_the_error_is_one_of_their_means(n):
    rng = np.random.default_rng(n)
    noise = rng.normal(size=(1, (n + 1) // 2, 200))
    opposite = np.stack([noise, -noise], axis=2).reshape(1, -1, 200)[:, :n]
    samples = 0.5 + opposite + 0.8 * rng.normal(size=(1, n, 200))
    got = accuracy.relative_error(*moments_of_pairs(samples))
    assert float(got[0]) == pytest.approx(relative_error_of_pairs(samples[0]), rel=1e-3)
    for too_few in (1, 2):
        assert np.isnan(accuracy.relative_error(*moments_of_pairs(samples[:, :too_few])))


def test_pairs_of_opposite_noise_are_told_to_be_as_sure_as_they_are():
    """Of an odd and an even part, the odd one cancels; independent samples would say twice the error."""
    rng = np.random.default_rng(0)
    truth, reported, true = rng.normal(size=1000), [], []
    for _ in range(100):
        noise = rng.normal(size=(1, 10, 1000))
        noise = np.stack([noise, -noise], axis=2).reshape(1, 20, 1000)
        samples = truth + 2 * noise + (noise**2 - 1)
        reported.append(float(accuracy.relative_error(*moments_of_pairs(samples))[0]))
        true.append(np.linalg.norm(samples[0].mean(axis=0) - truth) / np.linalg.norm(truth))
    # Var of a pair's mean: 2, of noise² − 1 alone; ten pairs.
    assert np.median(true) == pytest.approx(np.sqrt(2 / 10), rel=0.05)
    assert np.median(reported) == pytest.approx(np.median(true), rel=0.05)
    assert float(accuracy.relative_error(*moments(samples))[0]) > 1.2 * np.median(true)


def test_the_steps_of_a_loop_meet_every_multiple_of_ten():
    for batch, least in itertools.product(range(1, 40), (1, 2)):
        for images_at_once in (1, 2, 3, 10, 20):
            samples = samples_of_a_step(batch, images_at_once, least)
            assert CONSIDERED_AT % samples == 0
            assert samples % least == 0, "no step parts a pair"
            assert samples_at_once(tf.constant(batch), images_at_once, least) == samples
            assert samples == least or samples * batch <= images_at_once
    assert CONSIDERED_AT == 10
    assert [samples_of_a_step(batch) for batch in (1, 2, 4, 8, 16)] == [10, 2, 2, 1, 1]
    assert SAMPLES_OF_A_STEP[-1] == CONSIDERED_AT


def network(x: tf.Tensor) -> tf.Tensor:
    """Scores whose gradient depends on the place, and a probability that does."""
    flat = tf.reshape(x, (-1, 60))
    return tf.nn.softmax(tf.tanh(flat**3 @ WEIGHTS + flat @ WEIGHTS[::-1]))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (7, *SHAPE)).astype(np.float32)


METHODS = {
    "explain_smooth": ("gradients", "num_samples", {"noise_level": 0.1}),
    "explain_rise": ("saliency", "num_masks", {"keep": 0.7}),
}
TARGETS = {
    "explain_smooth": [0.15, 0.5, 1.0, 0.0, 0.6, 1e-4, 0.5],
    "explain_rise": [1.0, 0.9, 1.5, 0.0, 0.9, 1e-4, 0.5],
}


@pytest.fixture(scope="module")
def built(signatures_of):
    settings = {"methods": ("smooth", "rise(grid=3)"), "batch_sizes": (1, 2, 4), "max_samples": 1000}
    return {how: signatures_of(network, SHAPE, compile=how, **settings) for how in ("none", "xla")}


def asked(signature: str) -> dict[str, np.ndarray]:
    """Of seven examples: four that stop, at once or later, one that may not, and two that cannot."""
    return {
        METHODS[signature][1]: np.array([400, 400, 400, 60, 400, 25, 1]),
        "target_error": np.array(TARGETS[signature]),
        "seed": np.arange(7),
    }


@pytest.mark.parametrize(("signature", "how"), covering(list(METHODS), ["none", "xla"]))
def test_an_example_that_is_done_is_bit_for_bit_what_as_many_samples_give(built, images, signature, how):
    own_map, count, others = METHODS[signature]
    parameters = asked(signature)
    got = built[how](signature, images, **parameters, **others)
    used = got["samples_used"]
    # Different numbers of tens, so that some are done while their neighbors go on.
    assert len(set(used[:5])) > 2
    assert used[3:7].tolist() == [60, used[4], 25, 1]
    assert (used[:3] % 10 == 0).all()
    assert (used < 400).all()
    stopped = [0, 1, 2, 4]
    assert (got["relative_error"][stopped] <= parameters["target_error"][stopped]).all()
    asked_for = built[how](signature, images, **{count: used, "seed": parameters["seed"]}, **others)
    for name in (own_map, "saliency", "relative_error", "standard_error", "samples_used"):
        np.testing.assert_array_equal(got[name], asked_for[name], err_msg=name)
    # Ten fewer were not enough.
    late = [row for row in stopped if used[row] > 10]
    before = np.where(np.isin(range(7), late), used - 10, used)
    sooner = built[how](signature, images, **{count: before, "seed": parameters["seed"]}, **others)
    assert late
    assert not (sooner["relative_error"][late] <= parameters["target_error"][late]).any()


@pytest.mark.parametrize("signature", METHODS)
def test_when_an_example_stops_does_not_depend_on_its_neighbors_or_the_batch_size(built, images, signature):
    own_map, _, others = METHODS[signature]
    parameters = asked(signature)
    together = built["none"](signature, images, **parameters, **others)
    for how, rows in (("none", [4]), ("none", [2, 0, 4]), ("xla", [1]), ("xla", [6, 5, 1, 0, 0, 3])):
        part = {name: values[rows] for name, values in parameters.items()}
        got = built[how](signature, images[rows], **part, **others)
        for name in (own_map, "samples_used"):
            assert_equal_to_rounding(got[name], together[name][rows], name=f"{how} {rows} {name}")
        np.testing.assert_allclose(got["standard_error"], together["standard_error"][rows], rtol=1e-4)
        # A difference below a root: its rounding is the larger the less is left.
        want = together["relative_error"][rows].astype(np.float64)
        np.testing.assert_allclose(got["relative_error"], want, rtol=1e-4)


def test_rows_of_padding_stop_with_the_example_that_they_repeat(built, images):
    """Three in a batch of four: the loop ends with the last of them, as its ten steps of two samples show."""
    got = built["none"]("explain_smooth", images[:3], num_samples=400, noise_level=0.1, target_error=50.0)
    assert got["samples_used"].tolist() == [10, 10, 10]


@pytest.mark.parametrize("signature", METHODS)
def test_slices_by_first_sample_are_the_whole(built, images, signature):
    """Means and errors of 0 to 9 and of 10 to 29 make those of 0 to 29 (Chan et al. 1979)."""
    own_map, count, others = METHODS[signature]
    whole, first, second = (
        built["none"](signature, images[:2], **{count: n}, first_sample=start, seed=3, **others)
        for n, start in ((30, 0), (10, 0), (20, 10))
    )
    mean = (first[own_map] + 2.0 * second[own_map]) / 3
    np.testing.assert_allclose(whole[own_map], mean, rtol=1e-5, atol=1e-6)
    # Of independent units: masks, or pairs.
    n = 1 if signature == "explain_rise" else 1 / 2
    difference = second[own_map].astype(np.float64) - first[own_map]
    if signature == "explain_rise":
        difference = contrast(difference)
    between = n * 10 * 20 / 30 * (difference**2).reshape(2, -1).sum(axis=1)
    squares = [
        answer["standard_error"].astype(np.float64) ** 2 * n * count * (n * count - 1)
        for answer, count in ((first, 10), (second, 20))
    ]
    expected = np.sqrt((sum(squares) + between) / (n * 30 * (n * 30 - 1)))
    np.testing.assert_allclose(whole["standard_error"], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("signature", "name", "value", "message"),
    [
        (
            "explain_smooth",
            "target_error",
            -0.1,
            "target_error is -0.1; it must be a finite number, at least 0",
        ),
        (
            "explain_smooth",
            "target_error",
            np.inf,
            "target_error is inf; it must be a finite number, at least",
        ),
        ("explain_rise", "target_error", np.nan, "target_error is nan; it must be a finite number, at least"),
        ("explain_rise", "first_sample", -1, r"first_sample is -1; it must be in \[0, 1073741824\]"),
        (
            "explain_smooth",
            "first_sample",
            2**31 - 1,
            r"first_sample is 2147483647; it must be in \[0, 10737",
        ),
    ],
)
def test_what_is_out_of_bounds_is_refused(whole, images, signature, name, value, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        whole(signature, images[:1], **{name: value})


@pytest.fixture(scope="module")
def whole(signatures_of):
    return signatures_of(network, SHAPE, methods=("smooth", "rise"), whole=True)
