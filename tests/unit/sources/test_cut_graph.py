"""SavedModels that take encoded pictures, or bytes: the network behind the decoding is explained."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.trace import trace
from saliency_exporter.sources.load import load_source

v1 = tf.compat.v1
_RANDOM = np.random.default_rng(13)
KERNEL = _RANDOM.normal(size=(3, 3, 3, 6)).astype(np.float32)
DENSE = _RANDOM.normal(size=(6, 4)).astype(np.float32)
IMAGES = _RANDOM.uniform(0, 1, (3, 8, 8, 3)).astype(np.float32)


def network(x: tf.Tensor, dense: tf.Tensor | tf.Variable = DENSE) -> tf.Tensor:
    hidden = tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(x, KERNEL, 1, "SAME")), [1, 2])
    return tf.nn.softmax(tf.matmul(hidden, dense))


def decoded(encoded: tf.Tensor) -> tf.Tensor:
    picture = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    picture.set_shape([None, None, 3])
    return tf.image.resize(tf.cast(picture, tf.float32), [8, 8]) / 255.0


class Net(tf.Module):
    """What exporters of TensorFlow 2 write: decoding, batches of bytes, a key that is passed through."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = tf.Variable(DENSE)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, "image_bytes"),
            tf.TensorSpec([None], tf.string, "key"),
        ]
    )
    def encoded(self, image_bytes, key):
        x = tf.map_fn(decoded, image_bytes, fn_output_signature=tf.TensorSpec([8, 8, 3], tf.float32))
        return {"scores": network(x, self.dense), "key": key}

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.uint8, "pixels")])
    def pixels(self, pixels):
        return {"scores": network(tf.cast(pixels, tf.float32) / 255.0, self.dense)}


def save(directory: Path) -> str:
    net = Net()
    signatures = {"serving_default": net.encoded, "pixels": net.pixels}
    tf.saved_model.save(net, directory, signatures=signatures)
    return str(directory)


def save_as_tensorflow_1(directory: Path, *, old_loops: bool) -> str:
    """What AutoML wrote: `image_bytes` and `key`, decoded in a loop."""
    (v1.disable_control_flow_v2 if old_loops else v1.enable_control_flow_v2)()
    try:
        with tf.Graph().as_default(), v1.Session() as session:
            encoded, key = (v1.placeholder(tf.string, [None], name) for name in ("encoded", "key"))
            x = v1.map_fn(decoded, encoded, dtype=tf.float32, name="decoded")
            scores = network(x, v1.get_variable("dense", initializer=DENSE, use_resource=True))
            session.run(v1.global_variables_initializer())
            inputs = {"image_bytes": encoded, "key": key}
            v1.saved_model.simple_save(session, str(directory), inputs, {"scores": scores, "key": key})
    finally:
        v1.enable_control_flow_v2()
    return str(directory)


@pytest.mark.parametrize("kind", ["TensorFlow 2", "TensorFlow 1", "TensorFlow 1, old loops"])
def test_the_hint_of_the_refusal_names_the_images_behind_the_decoding(tmp_path: Path, kind: str) -> None:
    if kind == "TensorFlow 2":
        path = save(tmp_path / "net")
    else:
        path = save_as_tensorflow_1(tmp_path / "net", old_loops="old" in kind)
    with pytest.raises(ExportError, match="takes strings, which have no gradient") as error:
        load_source(path)
    (tensor,) = re.findall(r"--input (\S+);", error.value.hint)
    size = (8, 8) if "any shape" in error.value.hint else None
    source = load_source(path, input_name=tensor, image_size=size)
    assert source.input_shape == (8, 8, 3)
    np.testing.assert_allclose(source.call(tf.constant(IMAGES)), network(IMAGES), rtol=1e-5, atol=1e-6)
    # The weights are those of the model's own signatures, which stay.
    (variable,) = source.variables
    assert [id(v) for v in trace(source).variables.values()] == [id(variable)]
    assert "serving_default" in source.kept.signatures


def test_bytes_of_pixels_are_explained_behind_their_cast(tmp_path: Path) -> None:
    source = load_source(save(tmp_path / "net"), signature="pixels")
    pixels = np.round(IMAGES * 255)
    np.testing.assert_allclose(source.call(tf.constant(pixels)), network(pixels / 255), rtol=1e-5, atol=1e-6)
    x = tf.constant(pixels)
    with tf.GradientTape() as tape:
        tape.watch(x)
        score = source.call(x)[:, 0]
    with tf.GradientTape() as want:
        want.watch(x)
        expected = network(x / 255)[:, 0]
    np.testing.assert_allclose(tape.gradient(score, x), want.gradient(expected, x), rtol=1e-4, atol=1e-9)


def test_a_tensor_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="has no input or tensor 'image:0'"):
        load_source(save(tmp_path / "net"), input_name="image:0")
