from __future__ import annotations

import numpy as np
import pytest
import saliency.core as pair
import tensorflow as tf
from antithetic import antithetic_normal
from mean_error import relative_error_of_pairs
from rounding import ULP, assert_equal_to_rounding

from saliency_exporter.methods.accuracy import merged
from saliency_exporter.methods.model import IMAGES_AT_ONCE
from saliency_exporter.methods.noise import normal_of, opposite_pairs, random_bits, standard_normal
from saliency_exporter.methods.smooth import input_range

SHAPE = (6, 5, 2)


def cubic(x: tf.Tensor) -> tf.Tensor:
    """Scores Σx³ and Σx, whose SmoothGrad is known: 3x² + 3σ² and 1."""
    flat = tf.reshape(x, (-1, 60))
    return tf.stack([tf.reduce_sum(flat**3, axis=1), tf.reduce_sum(flat, axis=1)], axis=1)


@pytest.fixture(scope="module")
def smooth(signatures_of):
    built = signatures_of(cubic, SHAPE, compile="xla", methods=("gradients", "smooth"), max_samples=5000)
    return lambda images, **parameters: built("explain_smooth", images, **parameters)


@pytest.fixture(scope="module")
def gradients(signatures_of):
    built = signatures_of(cubic, SHAPE, compile="xla", methods=("gradients",))
    return lambda images, **parameters: built("explain_gradients", images, **parameters)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (4, *SHAPE)).astype(np.float32)


def noise(seed: int, sample: int) -> np.ndarray:
    return antithetic_normal(tf.constant([seed]), tf.constant(sample), SHAPE).numpy()[0].astype(np.float64)


def sigma_of(image: np.ndarray, noise_level: float) -> float:
    return float(noise_level * (image.max() - image.min()))


def test_a_cubic_score_has_the_mean_gradient_3x2_plus_3sigma2(smooth, images):
    n, level = 5000, 0.25
    got = smooth(images, class_index=0, num_samples=n, noise_level=level)
    x = images.astype(np.float64)
    sigma = np.array([sigma_of(image, level) for image in x]).reshape(-1, 1, 1, 1)
    expected = 3 * x**2 + 3 * sigma**2
    # Var[3(x + e)²] = 9 (4x²σ² + 2σ⁴); 240 numbers stay within 5 standard errors of their mean.
    standard_error = np.sqrt(9 * (4 * x**2 * sigma**2 + 2 * sigma**4) / n)
    assert np.all(np.abs(got["gradients"] - expected) < 5 * standard_error)
    # Without the 3σ² this would not hold: it is many standard errors.
    assert np.median(3 * sigma**2 / standard_error) > 15


def test_the_variance_of_a_cubic_score_is_9_times_4x2sigma2_plus_2sigma4(smooth, images):
    got = smooth(images, class_index=0, num_samples=5000, noise_level=0.25)
    x = images.astype(np.float64)
    sigma = np.array([sigma_of(image, 0.25) for image in x]).reshape(-1, 1, 1, 1)
    expected = 9 * (4 * x**2 * sigma**2 + 2 * sigma**4)
    # A sample variance of n = 5000 has a relative standard error of about √((κ−1)/n), κ ≤ 15 here.
    assert np.all(np.abs(got["variance"] / expected - 1) < 6 * np.sqrt(14 / 5000))


def test_mean_variance_and_error_equal_those_of_the_samples_taken_one_by_one(smooth, images):
    n, level = 7, 0.3
    seeds = [5, 6, 2**31 - 1, -4]
    got = smooth(images, class_index=0, num_samples=n, noise_level=level, seed=seeds)
    for b, seed in enumerate(seeds):
        sigma = np.float64(sigma_of(images[b], level))
        samples = np.stack([3 * (images[b] + sigma * noise(seed, i)) ** 2 for i in range(n)])
        mean, variance = samples.mean(axis=0), samples.var(axis=0, ddof=1)
        np.testing.assert_allclose(got["gradients"][b], mean, rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(got["variance"][b], variance, rtol=2e-4, atol=1e-6)
        np.testing.assert_allclose(got["relative_error"][b], relative_error_of_pairs(samples), rtol=1e-4)


@pytest.mark.parametrize("shape", [(7,), (5, 3), (3, 2, 2, 2)], ids=["features", "series", "volume"])
def test_inputs_of_any_rank_have_noise_of_their_own(signatures_of, shape):
    """Σx³ over any axes, with one sample and two: each example by its own seed and range."""
    x = np.random.default_rng(4).uniform(-1, 1, (2, *shape)).astype(np.float32)
    axes, level, seeds, counts = list(range(1, x.ndim)), 0.3, (5, 6), (1, 2)

    def scores(v: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(v**3, axes)[:, tf.newaxis] * tf.ones((1, 2))

    built = signatures_of(scores, shape, methods=("smooth",), batch_sizes=(2,), score="output")
    got = built("explain_smooth", x, class_index=0, num_samples=counts, noise_level=level, seed=seeds)
    for b, (seed, n) in enumerate(zip(seeds, counts, strict=True)):
        drawn = [antithetic_normal(tf.constant([seed]), tf.constant(i), shape).numpy()[0] for i in range(n)]
        noisy = x[b] + sigma_of(x[b], level) * np.stack(drawn).astype(np.float64)
        np.testing.assert_allclose(got["gradients"][b], (3 * noisy**2).mean(0), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("n", [2, IMAGES_AT_ONCE, IMAGES_AT_ONCE + 2])
def test_an_image_alone_takes_several_samples_in_a_step_but_only_those_asked_for(smooth, images, n):
    got = smooth(images[:1], class_index=0, num_samples=n, noise_level=0.3, seed=5)
    sigma = np.float64(sigma_of(images[0], 0.3))
    samples = np.stack([3 * (images[0] + sigma * noise(5, i)) ** 2 for i in range(n)])
    np.testing.assert_allclose(got["gradients"][0], samples.mean(axis=0), rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(got["variance"][0], samples.var(axis=0, ddof=1), rtol=2e-4, atol=1e-6)


def test_samples_are_merged_a_few_at_a_time_and_what_is_not_asked_for_does_not_count():
    samples = np.random.default_rng(0).normal(3, 1, (2, 9, 4)).astype(np.float32)
    wanted = np.array([7, 4])
    mean = sum_of_squares = tf.zeros((2, 4))
    for first in range(0, 9, 3):
        active = np.arange(first, first + 3) < wanted[:, None]
        part = np.where(active[..., None], samples[:, first : first + 3], 1e6)
        mean, sum_of_squares = merged(
            tf.constant(first), mean, sum_of_squares, tf.constant(part, tf.float32), tf.constant(active)
        )
    for b, n in enumerate(wanted):
        exact = samples[b, :n].astype(np.float64)
        np.testing.assert_allclose(mean[b], exact.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(sum_of_squares[b], exact.var(axis=0) * n, rtol=1e-5)


def test_samples_beyond_those_asked_for_leave_no_nan_behind(signatures_of, images):
    """√x has no gradient below 0: what a step draws beyond the last sample must not bring that in."""

    @tf.function
    def roots(x):
        return tf.reduce_sum(tf.sqrt(x), axis=[1, 2, 3])[:, tf.newaxis] * tf.ones((1, 2))

    smooth = signatures_of(roots, SHAPE, methods=("smooth",))
    image, level = 1.0 + images[:1] / np.ptp(images[0]), 0.25

    def first_below(seed: int) -> int:
        lowest = [float((image[0] + level * noise(seed, i)).min()) for i in range(IMAGES_AT_ONCE)]
        return next((i for i, value in enumerate(lowest) if value < 0), IMAGES_AT_ONCE)

    seed, n = next((seed, n) for seed in range(50) if 1 < (n := first_below(seed)) < IMAGES_AT_ONCE)
    assert 1 < n < IMAGES_AT_ONCE  # of the first step, some samples are below 0 and the first ones are not
    for count, is_finite in ((n, True), (n + 1, False)):
        got = smooth("explain_smooth", image, class_index=0, num_samples=count, noise_level=level, seed=seed)
        assert np.isfinite(got["gradients"]).all() == is_finite
        assert np.isfinite(got["variance"]).all() == is_finite


def test_a_linear_score_gives_its_weights_whatever_the_noise(smooth, images):
    for level in (0.0, 0.15, 1.0):
        got = smooth(images, class_index=1, num_samples=20, noise_level=level)
        np.testing.assert_allclose(got["gradients"], np.ones_like(images), rtol=1e-6)
        np.testing.assert_allclose(got["relative_error"], 0, atol=1e-6)


def test_noise_level_0_is_the_plain_gradient(smooth, gradients, images):
    got = smooth(images, class_index=0, num_samples=9, noise_level=0.0)
    assert_equal_to_rounding(got["gradients"], gradients(images, class_index=0)["gradients"])
    assert_equal_to_rounding(got["relative_error"], np.zeros(4, np.float32))


def test_a_constant_image_has_no_range_and_so_no_noise(smooth, gradients):
    flat = np.full((1, *SHAPE), 0.3, np.float32)
    got = smooth(flat, class_index=0, num_samples=5, noise_level=0.5)
    assert_equal_to_rounding(got["gradients"], gradients(flat, class_index=0)["gradients"])


def test_the_error_falls_as_one_over_the_square_root_of_n(smooth, images):
    few = smooth(images, class_index=0, num_samples=50, noise_level=0.3)
    many = smooth(images, class_index=0, num_samples=50 * 64, noise_level=0.3)
    np.testing.assert_allclose(few["relative_error"] / many["relative_error"], 8, rtol=0.1)
    # What is reported is what is there: the distance to the known mean.
    x = images.astype(np.float64)
    sigma = np.array([sigma_of(image, 0.3) for image in x]).reshape(-1, 1, 1, 1)
    exact = 3 * x**2 + 3 * sigma**2
    distance = np.linalg.norm((few["gradients"] - exact).reshape(4, -1), axis=1)
    actual = distance / np.linalg.norm(exact.reshape(4, -1), axis=1)
    np.testing.assert_allclose(few["relative_error"], actual, rtol=0.4)


def test_one_sample_has_no_spread_to_tell_of(smooth, images):
    got = smooth(images, class_index=0, num_samples=1)
    assert np.isfinite(got["gradients"]).all()
    assert np.isnan(got["variance"]).all()
    assert np.isnan(got["relative_error"]).all()


def test_smoothgrad_squared_follows_from_mean_and_variance(smooth, images):
    n, level = 6, 0.3
    got = smooth(images, class_index=0, num_samples=n, noise_level=level, seed=3)
    squared = got["variance"] * (n - 1) / n + got["gradients"] ** 2
    sigma = sigma_of(images[0], level)
    samples = np.stack([3 * (images[0] + sigma * noise(3, i)) ** 2 for i in range(n)])
    np.testing.assert_allclose(squared[0], (samples**2).mean(axis=0), rtol=1e-4, atol=1e-5)


def test_examples_of_one_batch_have_parameters_of_their_own(smooth, images):
    parameters = {"num_samples": [3, 9, 1, 6], "noise_level": [0.1, 0.5, 0.3, 0.2], "seed": [1, 2, 3, 4]}
    parameters["class_index"] = [0, 1, 0, 0]
    together = smooth(images, **parameters)
    for b in range(4):
        alone = smooth(images[[b] * 4], **{name: [values[b]] * 4 for name, values in parameters.items()})
        for name in ("gradients", "saliency", "variance", "relative_error", "score", "class_index"):
            assert_equal_to_rounding(together[name][[b]], alone[name][:1], name=name)


def test_seeds_reproduce_and_differ(smooth, images):
    first, again = (smooth(images, class_index=0, num_samples=4, seed=8) for _ in range(2))
    assert_equal_to_rounding(first["gradients"], again["gradients"])
    other = smooth(images, class_index=0, num_samples=4, seed=9)
    assert np.abs(first["gradients"] - other["gradients"]).max() > 1e-3


def test_compiled_and_uncompiled_draw_the_same_noise(signatures_of, smooth, images):
    plain = signatures_of(cubic, SHAPE, compile="none", methods=("smooth",))
    parameters = {"class_index": 0, "num_samples": 4, "noise_level": 0.3, "seed": 21}
    got = plain("explain_smooth", images, **parameters)
    assert_equal_to_rounding(got["gradients"], smooth(images, **parameters)["gradients"])


def philox(counter: np.ndarray, key: list[int]) -> np.ndarray:
    """Philox4x32 with ten rounds, uint32 [..., 4] of uint32 [..., 4]: Salmon et al. 2011, section 3.3."""
    low, half = np.uint64(2**32 - 1), np.uint64(32)
    a, b, c, d = (counter[..., word].astype(np.uint64) for word in range(4))
    left, right = (np.uint64(word) for word in key)
    for _ in range(10):
        first, second = np.uint64(0xD2511F53) * a, np.uint64(0xCD9E8D57) * c
        a, b = (second >> half) ^ b ^ left, second & low
        c, d = (first >> half) ^ d ^ right, first & low
        left, right = (left + np.uint64(0x9E3779B9)) & low, (right + np.uint64(0xBB67AE85)) & low
    return np.stack([a, b, c, d], axis=-1).astype(np.uint32)


def written_out_bits(seed: int, sample: int, count: int) -> np.ndarray:
    """The stream of (seed, sample) as TensorFlow documents it for its stateless generators, int32 [count]."""
    words = [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF, sample & 0xFFFFFFFF, sample >> 32 & 0xFFFFFFFF]
    mixed = philox(np.array(words, np.uint32), [0x3EC8F720, 0x02461E29])
    blocks = np.zeros((-(-count // 4), 4), np.uint32)
    blocks[:, 0], blocks[:, 2:] = np.arange(len(blocks)), mixed[2:]
    return philox(blocks, mixed[:2].tolist()).ravel()[:count].view(np.int32)


def test_philox_written_out_gives_the_known_answers_of_its_authors():
    # Random123's kat_vectors, philox4x32, 10 rounds.
    zeros = philox(np.zeros(4, np.uint32), [0, 0])
    assert zeros.tolist() == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    pi = np.array([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], np.uint32)
    assert philox(pi, [0xA4093822, 0x299F31D0]).tolist() == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


@pytest.mark.parametrize("compiled", [True, False])
def test_the_bits_of_the_noise_are_those_of_seed_and_sample_at_every_place_in_every_batch(compiled):
    pairs = 33 * 7 // 2 + 1
    drawn = tf.function(lambda seed, sample: random_bits(seed, sample, pairs), jit_compile=compiled)
    keys = [(5, 0), (0, 5), (5, 7), (-4, 7), (2**31 - 1, 999), (-(2**31), 0), (0, 0)]
    expected = np.stack([written_out_bits(*key, 2 * pairs).reshape(2, pairs) for key in keys])
    assert len({bits.tobytes() for bits in expected}) == len(keys)
    for rows in ([0], [3], [4, 1], list(range(7)), list(range(7))[::-1], [2, 2, 6, 2]):
        seeds, samples = (tf.constant([keys[row][part] for row in rows]) for part in (0, 1))
        np.testing.assert_array_equal(drawn(seeds, samples), expected[rows])
    # One number for the whole batch is the same as one for each.
    np.testing.assert_array_equal(drawn(tf.constant([5, -4]), tf.constant(7)), expected[[2, 3]])


def test_compiled_and_uncompiled_noise_agree_to_float32_rounding_also_with_the_theory():
    """Also at the ends of the interval, where 1 − u and so the logarithm is 6·10⁻⁸ and the radius small."""
    bits = np.random.default_rng(0).integers(-(2**31), 2**31, (2, 2, 5000)).astype(np.int32)
    ends = np.array([0, 1, 2**31 - 1, -(2**31), -1, -1024, 512, -513], np.int32)
    bits[:, 0, : len(ends)], bits[:, 1, -len(ends) :] = ends, ends
    u = ((bits.view(np.uint32) >> 9) + 0.5) / 2**23
    radius, theta = np.sqrt(-2 * np.log(u[:, 0])), np.pi / 4 * (2 * u[:, 1] - 1)
    quarter = bits[:, 1] & 3  # bit 0 swaps cosine and sine, bit 1 turns both around
    unit = np.where(quarter & 1, [np.sin(theta), np.cos(theta)], [np.cos(theta), np.sin(theta)])
    expected = (radius * unit * (1 - (quarter & 2))).swapaxes(0, 1).reshape(2, -1)
    for compiled in (True, False):
        got = tf.function(normal_of, jit_compile=compiled)(tf.constant(bits)).numpy()
        # Relative to the radius: a cosine near 0 is a difference of larger numbers.
        error = np.abs(got - expected) / np.tile(radius, (1, 2))
        assert error.max() < 4 * ULP


def test_the_noise_of_a_pair_is_opposite():
    draw, sign = opposite_pairs(tf.range(6))
    assert draw.numpy().tolist() == [0, 0, 1, 1, 2, 2]
    assert sign.numpy().tolist() == [1, -1, 1, -1, 1, -1]


def test_the_noise_is_standard_normal_and_independent():
    draws = standard_normal(tf.range(20), tf.constant(0), (5000,)).numpy().astype(np.float64)
    n = draws.size
    assert abs(draws.mean()) < 5 / np.sqrt(n)
    assert abs(draws.var() - 1) < 5 * np.sqrt(2 / n)
    assert abs((draws**3).mean()) < 5 * np.sqrt(15 / n)
    assert abs((draws**4).mean() - 3) < 5 * np.sqrt(96 / n)
    correlation = np.corrcoef(draws) - np.eye(20)
    assert np.abs(correlation).max() < 5 / np.sqrt(5000)
    halves = np.corrcoef(draws[:, :2500].ravel(), draws[:, 2500:].ravel())[0, 1]
    assert abs(halves) < 5 / np.sqrt(n / 2)
    other_sample = standard_normal(tf.range(20), tf.constant(1), (5000,)).numpy()
    assert abs(np.corrcoef(draws.ravel(), other_sample.ravel())[0, 1]) < 5 / np.sqrt(n)


def test_the_noise_comes_in_pairs_on_circles_of_uniform_angle():
    # Box and Muller 1958: the two halves are cosine and sine parts; their squared radius is exponential.
    draws = standard_normal(tf.range(8), tf.constant(3), (50_000,)).numpy().astype(np.float64)
    x, y = draws[:, :25_000].ravel(), draws[:, 25_000:].ravel()
    n, sectors = x.size, 48
    counts = np.histogram(np.arctan2(y, x), sectors, (-np.pi, np.pi))[0]
    expected = n / sectors
    # χ² with 47 degrees of freedom has mean 47 and standard deviation √94.
    assert np.sum((counts - expected) ** 2 / expected) < 47 + 5 * np.sqrt(94)
    half_squared_radius = (x**2 + y**2) / 2
    for quantile in (0.01, 0.1, 0.5, 0.9, 0.99):
        below = np.mean(half_squared_radius < -np.log1p(-quantile))
        assert abs(below - quantile) < 5 * np.sqrt(quantile * (1 - quantile) / n)


def test_sigma_is_a_fraction_of_the_range_of_each_example():
    x = tf.constant([[[[0.0, 2.0]], [[-1.0, 1.0]]], [[[5.0, 5.0]], [[5.5, 5.0]]]])
    np.testing.assert_allclose(input_range(x), [3.0, 0.5])


def test_smoothgrad_equals_that_of_pair_saliency_on_the_same_noise(smooth, images, monkeypatch):
    n, level, seed = 8, 0.2, 13
    sample = iter(range(n))

    def same_noise(mean: float, scale: float, shape: tuple[int, ...]) -> np.ndarray:
        assert mean == 0
        return scale * noise(seed, next(sample)).reshape(shape)

    monkeypatch.setattr(np.random, "normal", same_noise)

    class CubicGradient(pair.GradientSaliency):
        def GetMask(self, x_value, call_model_function=None, call_model_args=None):
            return 3 * x_value**2

    expected = CubicGradient().GetSmoothedMask(
        images[0].astype(np.float64), None, stdev_spread=level, nsamples=n, magnitude=False
    )
    got = smooth(images[:1], class_index=0, num_samples=n, noise_level=level, seed=seed)
    np.testing.assert_allclose(got["gradients"][0], expected, rtol=2e-5, atol=2e-6)
