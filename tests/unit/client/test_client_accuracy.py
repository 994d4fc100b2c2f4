"""How sure a sampled mean is: the error that is told is the one that there is, and what it takes."""

from __future__ import annotations

import numpy as np
import pytest

from saliency_client import Explanation, InputError, MissingOutput
from saliency_client._accuracy import contrast_of, merged_squares, relative_error, samples_needed


def squared_error(samples: np.ndarray) -> float:
    """‖se‖² of the mean of samples [n, …]."""
    return float(samples.var(axis=0, ddof=1).sum() / len(samples))


@pytest.mark.parametrize(("count", "noise"), [(10, 1.0), (50, 2.0), (200, 12.0)])
def test_the_error_of_a_mean_is_that_against_the_true_mean(count: int, noise: float) -> None:
    generator = np.random.default_rng(count)
    truth = generator.normal(size=400)
    told, true = [], []
    for _ in range(100):
        samples = truth + noise * generator.normal(size=(count, 400))
        mean = samples.mean(axis=0)
        told.append(relative_error(mean[None], [squared_error(samples)], [count])[0])
        true.append(np.linalg.norm(mean - truth) / np.linalg.norm(truth))
    assert np.median(np.array(told) / true) == pytest.approx(1, abs=0.05)


def test_of_maps_with_a_level_the_error_is_that_of_what_differs_between_places() -> None:
    generator = np.random.default_rng(0)
    truth = generator.normal(size=(20, 20)) + 30
    told, true = [], []
    for _ in range(100):
        samples = truth + 8 * generator.normal(size=(60, 20, 20)) + 10 * generator.normal(size=(60, 1, 1))
        mean = samples.mean(axis=0)
        told.append(relative_error(mean[None], [squared_error(contrast_of(samples))], [60], contrast=True)[0])
        contrast = truth - truth.mean()
        true.append(np.linalg.norm(mean - mean.mean() - contrast) / np.linalg.norm(contrast))
    assert np.median(np.array(told) / true) == pytest.approx(1, abs=0.05)


def test_where_no_signal_is_left_the_error_is_infinite_and_of_one_sample_nobody_knows() -> None:
    # Of a norm² of 2: nothing, a sixth, 5/3, and what is not known.
    found = relative_error(np.ones((4, 2)), [0, 1 / 3, 10 / 3, np.nan], [4, 4, 4, 1])
    np.testing.assert_allclose(found, [0, np.sqrt((1 / 3) / (2 - 1 / 3)), np.inf, np.nan])


def test_squares_of_parts_are_those_of_all_samples() -> None:
    samples = np.random.default_rng(5).normal(3, 2, (17, 2, 4, 3)).astype(np.float32)
    mean, squares, before = np.zeros((2, 4, 3)), np.zeros(2), np.zeros(2, int)
    for part in (samples[:1], samples[1:3], samples[3:16], samples[16:]):
        more = np.full(2, len(part))
        error = [np.sqrt(squared_error(part[:, b])) if len(part) > 1 else np.nan for b in range(2)]
        difference = part.mean(axis=0) - mean
        squares = merged_squares(before, squares, more, np.array(error), difference)
        before = before + more
        mean = mean + difference * (more / before).reshape(2, 1, 1)
    expected = [17 * 16 * squared_error(samples[:, b].astype(np.float64)) for b in range(2)]
    np.testing.assert_allclose(squares, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("error", "samples", "target", "needed"),
    [
        (1.11, 50, 0.5, 250),  # 246.4
        (0.6, 100, 0.3, 400),
        (0.3, 70, 0.3, 70),
        (0.2, 10, 0.5, 10),
        (1.3, 800, 0.1, 140_000),  # 135,200
        (np.inf, 50, 0.5, np.inf),
        (np.nan, 1, 0.5, np.nan),
        (0.4, 50, 0.0, np.inf),
    ],
)
def test_noise_over_signal_squared_falls_with_the_number_of_samples(
    error: float, samples: int, target: float, needed: float
) -> None:
    np.testing.assert_equal(samples_needed(error, samples, target), needed)


def explanation(**outputs: object) -> Explanation:
    return Explanation({name: np.asarray(one) for name, one in outputs.items()}, method="m", model="m")


def test_an_explanation_says_how_many_samples_an_error_takes() -> None:
    one = explanation(relative_error=np.float32([1.11, np.inf]), samples_used=np.int32([50, 20]))
    assert one.samples_needed().tolist() == [250, np.inf]
    assert one[0].samples_needed(0.3).tolist() == [690]
    with pytest.raises(InputError, match="target_error is 0; it is a number above 0"):
        one.samples_needed(0)
    with pytest.raises(MissingOutput, match="no samples_used"):
        explanation(relative_error=np.float32([1])).samples_needed()
