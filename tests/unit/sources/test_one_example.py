"""Models of one example without a batch: scores and gradients of several are those of each."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.trace import trace
from saliency_exporter.sources.load import load_source
from saliency_exporter.sources.python_object import import_module

NET = """
import numpy as np
import tensorflow as tf

class Net(tf.Module):
    def __init__(self):
        super().__init__()
        self.kernel = tf.Variable(np.random.default_rng(1).normal(size=(3, 3, 3, 4)).astype(np.float32))

    def probabilities(self, x):
        return tf.nn.softmax(tf.reduce_mean(tf.tanh(tf.nn.conv2d(x, self.kernel, 1, "VALID")), [1, 2]))

    @tf.function(input_signature=[tf.TensorSpec([8, 8, 3], name="photo")])
    def with_a_row(self, photo):
        return {"scores": self.probabilities(photo[tf.newaxis])}

    @tf.function(input_signature=[tf.TensorSpec([8, 8, 3], name="photo")])
    def without_a_row(self, photo):
        return {"scores": self.probabilities(photo[tf.newaxis])[0], "best": tf.constant(1)}

    @tf.function(input_signature=[tf.TensorSpec([1, 8, 8, 3], name="photo")])
    def squeezed(self, photo):
        return {"scores": tf.squeeze(self.probabilities(photo))}

    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], name="photo")])
    def of_any_size(self, photo):
        return {"scores": self.probabilities(photo[tf.newaxis])}

    @tf.function(input_signature=[tf.TensorSpec([8, 4, 3], name="rows")])
    def a_batch_of_eight(self, rows):
        return {"scores": tf.reduce_sum(rows, 1) @ self.kernel[0, 0]}

net = Net()
with_a_row, without_a_row = net.with_a_row, net.without_a_row
squeezed, of_any_size = net.squeezed, net.of_any_size
a_batch_of_eight = net.a_batch_of_eight
"""


@pytest.fixture
def name(module) -> str:
    return module(NET)


@pytest.mark.parametrize("kind", ["function", "SavedModel"])
@pytest.mark.parametrize("form", ["with_a_row", "without_a_row", "squeezed", "of_any_size"])
def test_scores_and_gradients_are_those_of_each_example(name, images, tmp_path, form: str, kind: str) -> None:
    net = import_module(name).net
    where = f"{name}:{form}"
    if kind == "SavedModel":
        where = str(tmp_path / "net")
        tf.saved_model.save(net, where, signatures=getattr(net, form))
    source = load_source(where, image_size=(8, 8) if form == "of_any_size" else None)
    assert source.input_shape == (8, 8, 3)
    x = tf.constant(images)
    with tf.GradientTape() as own:
        own.watch(x)
        scores = net.probabilities(x)
    with tf.GradientTape() as given:
        given.watch(x)
        got = source.call(x)
    np.testing.assert_allclose(got, scores, rtol=1e-5)
    seeds = tf.constant(np.random.default_rng(2).normal(size=scores.shape).astype(np.float32))
    np.testing.assert_allclose(
        given.gradient(got, x, seeds), own.gradient(scores, x, seeds), rtol=1e-4, atol=1e-7
    )
    assert trace(source).head == "softmax"


def test_an_input_whose_first_axis_the_scores_have_is_a_batch(name) -> None:
    source = load_source(f"{name}:a_batch_of_eight")
    assert source.input_shape == (4, 3)


def test_a_tensor_without_a_batch_behind_the_decoding_is_refused(module, tmp_path) -> None:
    name = module(
        """
        import tensorflow as tf

        class Net(tf.Module):
            @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="encoded")])
            def serve(self, encoded):
                photo = tf.reshape(tf.io.decode_raw(encoded, tf.float32), [8, 8, 3], name="photo")
                return {"scores": tf.reduce_mean(tf.tanh(photo)[tf.newaxis], [1, 2])}

        net = Net()
        """
    )
    net = import_module(name).net
    tf.saved_model.save(net, tmp_path / "net", signatures=net.serve)
    with pytest.raises(ExportError) as strings:
        load_source(str(tmp_path / "net"))
    assert "PartitionedCall/strided_slice:0, float32 [1, 8, 8, 3]" in str(strings.value.hint)
    assert load_source(str(tmp_path / "net"), input_name="PartitionedCall/strided_slice:0").input_shape == (
        8,
        8,
        3,
    )
    with pytest.raises(ExportError, match=r"returns \[1, 3\]: its first axis is no batch") as error:
        load_source(str(tmp_path / "net"), input_name="PartitionedCall/photo:0")
    assert "tf.map_fn" in str(error.value.hint)
