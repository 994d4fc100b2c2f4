from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from saliency_exporter.contract.examples import EXAMPLES, parameter_examples
from saliency_exporter.methods.registry import find_methods
from saliency_exporter.version.reference import started_reference

SPEC = tf.TensorSpec((None, 6, 6, 3), tf.float32, name="images")
SIZES = (1, 2)


def signature(function):
    return tf.function(function, input_signature=[SPEC], autograph=False)


def numbers(function, images):
    """What a function of nothing gives, for each image."""
    return tf.fill(tf.shape(images)[:1], tf.ensure_shape(tf.numpy_function(function, [], tf.float32), []))


def test_the_reference_is_what_the_signatures_answer_to_its_inputs() -> None:
    total = signature(lambda images: {"logits": tf.reduce_sum(images, axis=[1, 2]), "other": images})
    mean = signature(lambda images: {"score": tf.reduce_mean(images, axis=[1, 2, 3])})
    with started_reference({"total": total, "mean": mean}, SIZES, SPEC, 5, ()) as finished:
        arrays = finished()
    images = arrays["input/images"]
    assert images.shape == (EXAMPLES, 6, 6, 3)
    np.testing.assert_allclose(arrays["total/logits"], images.sum(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(arrays["mean/score"], images.mean(axis=(1, 2, 3)), rtol=1e-5)
    assert {name for name in arrays if not name.startswith("input/")} == {"total/logits", "mean/score"}


@pytest.mark.parametrize("name", ["integrated_gradients", "occlusion"])
def test_gray_levels_are_among_the_images_values(name: str) -> None:
    """Far beyond them a network may be shut, and its map zero."""
    (method,) = find_methods((name,))
    pixels = tf.TensorSpec((None, 6, 6, 3), tf.uint8, name="images")
    of_pixels = parameter_examples(method, pixels)["baseline"]
    of_floats = parameter_examples(method, SPEC)["baseline"]
    assert of_pixels.tolist() == [4, 16]
    # As pixels become -1..1: 0 is -1 and 255 is 1.
    np.testing.assert_allclose(of_floats, [-1 + 8 / 255, -1 + 32 / 255], rtol=1e-6)


def test_the_signatures_run_beside_the_block() -> None:
    """The run waits for the block: were it finished before the block begins, it would have waited in vain."""
    reached = threading.Event()

    def wait() -> np.float32:
        return np.float32(reached.wait(30))

    waiting = signature(lambda images: {"score": numbers(wait, images)})
    with started_reference({"waiting": waiting}, SIZES, SPEC, 5, ()) as finished:
        reached.set()
        assert (finished()["waiting/score"] == 1).all()


def test_an_error_of_a_run_is_raised_where_the_reference_is_asked_for() -> None:
    def refuse() -> np.float32:
        raise ValueError("no answer")

    refusing = signature(lambda images: {"score": numbers(refuse, images)})
    refused = pytest.raises(tf.errors.InvalidArgumentError, match="no answer")
    with started_reference({"refusing": refusing}, SIZES, SPEC, 5, ()) as finished, refused:
        finished()


def test_after_an_error_in_the_block_nothing_more_begins() -> None:
    begun = []

    def note() -> np.float32:
        begun.append(time.monotonic())
        time.sleep(0.2)
        return np.float32(0)

    noting = {str(i): signature(lambda images: {"score": numbers(note, images)}) for i in range(9)}
    with pytest.raises(KeyboardInterrupt), started_reference(noting, SIZES, SPEC, 5, ()):
        raise KeyboardInterrupt
    assert len(begun) < 9
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reference")]
