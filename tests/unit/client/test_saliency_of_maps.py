"""What is made of a map by the name of its output, against TensorFlow's own functions and plain sums."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from saliency_client._saliency import own_map, saliency_of

VALUES = np.random.default_rng(3).normal(size=(2, 5, 7, 3)).astype(np.float32)


def test_the_largest_channel_of_gradients_and_the_sum_of_shares() -> None:
    of_gradients = saliency_of("gradients", VALUES, (5, 7))
    np.testing.assert_array_equal(of_gradients, np.maximum(VALUES, -VALUES).max(axis=3))
    shares = VALUES[..., 0] + VALUES[..., 1] + VALUES[..., 2]
    np.testing.assert_allclose(saliency_of("attributions", VALUES, (5, 7)), np.abs(shares), rtol=1e-5)
    flat = saliency_of("attributions", VALUES[..., 0], (5, 7), channels=False)
    np.testing.assert_array_equal(flat, np.abs(VALUES[..., 0]))


@pytest.mark.parametrize(("cells", "size"), [((5, 7), (32, 20)), ((1, 3), (8, 9)), ((4, 4), (4, 4))])
def test_a_cam_is_rectified_and_then_enlarged_as_tensorflow_enlarges(
    cells: tuple[int, int], size: tuple[int, int]
) -> None:
    cam = np.random.default_rng(1).normal(size=(2, *cells)).astype(np.float32)
    expected = tf.image.resize(tf.nn.relu(cam)[..., None], size, "bilinear")[..., 0]
    found = saliency_of("cam", cam, size)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert found.dtype == np.float32


def test_a_map_by_masks_is_what_it_is_also_below_zero() -> None:
    np.testing.assert_array_equal(saliency_of("saliency", VALUES[..., 0], (5, 7)), VALUES[..., 0])


def test_the_own_map_is_the_one_that_saliency_is_made_of() -> None:
    assert own_map(["saliency", "cam", "score"]) == "cam"
    assert own_map(["saliency", "cam", "gradients"]) == "gradients"
    assert own_map(["saliency"]) == "saliency"
    assert own_map(["score"]) is None
