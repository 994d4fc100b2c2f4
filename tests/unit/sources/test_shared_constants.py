"""The weights of a frozen SavedModel are stored once, and its own signatures answer what they did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from saliency_exporter.graph.trace import trace
from saliency_exporter.sources.load import load_source

v1 = tf.compat.v1
_RANDOM = np.random.default_rng(17)
WIDE = _RANDOM.normal(size=(192, 2000)).astype(np.float32)
DENSE = _RANDOM.normal(size=(2000, 4)).astype(np.float32)
BYTES = WIDE.nbytes + DENSE.nbytes


def network(x: tf.Tensor) -> tf.Tensor:
    return tf.nn.softmax(tf.matmul(tf.nn.relu(tf.matmul(tf.reshape(x, [-1, 192]), WIDE)), DENSE) / 50.0)


def save_1(directory: Path) -> None:
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 8, 8, 3], "x")
        v1.saved_model.simple_save(session, str(directory), {"photo": x}, {"scores": network(x)})


def save_2(directory: Path) -> None:
    class Net(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], name="photo")])
        def scores(self, photo):
            return {"scores": network(photo)}

        @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], name="photo")])
        def ranked(self, photo):
            return {"best": tf.argmax(self.scores(photo)["scores"], 1)}

    net = Net()
    tf.saved_model.save(net, directory, {"serving_default": net.scores, "ranked": net.ranked})


def save_captured(directory: Path) -> None:
    class Net(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = [tf.constant(WIDE), tf.constant(DENSE)]

        @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], name="photo")])
        def scores(self, photo):
            hidden = tf.nn.relu(tf.matmul(tf.reshape(photo, [-1, 192]), self.weights[0]))
            return {"scores": tf.nn.softmax(tf.matmul(hidden, self.weights[1]) / 50.0)}

    net = Net()
    tf.saved_model.save(net, directory, net.scores)


@pytest.mark.parametrize("save", [save_1, save_2, save_captured], ids=lambda save: save.__name__)
def test_the_weights_are_stored_once(save, images, tmp_path: Path) -> None:
    save(tmp_path / "net")
    source = load_source(str(tmp_path / "net"))
    np.testing.assert_allclose(source.call(tf.constant(images)), network(images), rtol=1e-5, atol=1e-6)
    graph = trace(source)
    # What explains reads the variables that the kept signatures read.
    shared = {id(variable) for variable in source.variables}
    assert {weight.shape for weight in graph.weights.values()} >= {WIDE.shape, DENSE.shape}
    assert {id(v) for v in graph.variables.values()} == shared
    module = tf.Module()
    module.kept = source.kept.owner
    tf.saved_model.save(module, tmp_path / "new", signatures=dict(source.kept.signatures))
    size = sum(file.stat().st_size for file in (tmp_path / "new").rglob("*") if file.is_file())
    assert size < 1.1 * BYTES
    with tf.Graph().as_default(), v1.Session() as session:
        meta_graph = v1.saved_model.loader.load(session, ["serve"], str(tmp_path / "new"))
        served = {}
        for key, signature in meta_graph.signature_def.items():
            if signature.inputs:
                (output,) = signature.outputs.values()
                served[key] = session.run(output.name, {signature.inputs["photo"].name: images})
    np.testing.assert_allclose(served["serving_default"], network(images), rtol=1e-5, atol=1e-6)
    if save is save_2:
        np.testing.assert_array_equal(served["ranked"], np.argmax(network(images), 1))


def test_signatures_with_few_constants_stay_the_very_same_functions(images, tmp_path: Path) -> None:
    class Net(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = tf.Variable(WIDE)

        @tf.function(input_signature=[tf.TensorSpec([None, 192], name="x")])
        def scores(self, x):
            return {"scores": tf.matmul(x, self.weight)}

    net = Net()
    tf.saved_model.save(net, tmp_path / "net", net.scores)
    source = load_source(str(tmp_path / "net"))
    (variable,) = source.variables
    assert source.kept.owner == [variable]
