"""Scores that are random, or that a server cannot compute, are refused by the names of their layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import keras
import pytest
import tensorflow as tf
from callables import source_of

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.trace import trace
from saliency_exporter.graph.unservable import refuse_unservable
from saliency_exporter.sources.load import load_source

SHAPE = (8, 8, 3)
layers = keras.layers


def mean(x: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(x, [1, 2])


def in_a_loop(x: tf.Tensor) -> tf.Tensor:
    def step(i, y):
        return i + 1, y + tf.random.uniform([3])

    return tf.while_loop(lambda i, y: i < 3, step, [0, mean(x)])[1]


def in_a_branch(x: tf.Tensor) -> tf.Tensor:
    noisy = tf.cond(tf.reduce_max(x) > -1e9, lambda: x + tf.random.normal([3]), lambda: x)
    return mean(noisy)


RANDOM = {
    "dropout": lambda x: mean(tf.nn.dropout(x, 0.5)),
    "categorical": lambda x: mean(x) + tf.cast(tf.random.categorical(tf.zeros([1, 3]), 3), tf.float32),
    "loop": in_a_loop,
    "branch": in_a_branch,
    "seeded by the image": lambda x: (
        mean(x) + tf.random.stateless_normal([3], tf.cast([tf.reduce_sum(x), 1.0], tf.int32))
    ),
    "shaped by the batch": lambda x: mean(x + tf.random.stateless_uniform(tf.shape(x), [1, 2])),
}


@pytest.mark.parametrize("kind", RANDOM)
def test_random_scores_are_refused(kind: str) -> None:
    with pytest.raises(ExportError, match="the class scores of model are random: they depend on") as error:
        trace(source_of(RANDOM[kind], SHAPE), score="output")
    assert ".keras file" in error.value.hint


def test_scores_of_a_generator_with_a_state_are_refused() -> None:
    generator = tf.random.Generator.from_seed(1)
    with pytest.raises(ExportError, match="are random"):
        trace(source_of(lambda x: mean(x) + generator.normal([3]), SHAPE), score="output")


@pytest.mark.parametrize(
    "call",
    [
        lambda x: mean(tf.where(tf.random.uniform([3]) >= 0.0, x, 0.0)),  # a dropout whose rate is held at 0
        lambda x: mean(x + tf.random.stateless_uniform([3], [1, 2])),
        lambda x: mean(x) + 0.0 * tf.random.normal([3]),
    ],
    ids=["rate 0", "constant seed", "times 0"],
)
def test_scores_that_repeat_are_not_random(call) -> None:
    trace(source_of(call, SHAPE), score="output")


def test_a_model_exported_with_augmentation_names_the_layers(tmp_path: Path) -> None:
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.RandomFlip(name="flip"),
            layers.Conv2D(4, 3),
            layers.GlobalMaxPooling2D(),
            layers.Dropout(0.5),
            layers.Dense(3),
        ],
        name="net",
    )
    model.export(tmp_path / "net", verbose=False)
    with pytest.raises(ExportError, match="net are random: they depend on net_1/flip") as error:
        trace(load_source(str(tmp_path / "net")))
    assert "export the .keras file" in error.value.hint
    model.save(tmp_path / "net.keras")  # the step that the hint names
    trace(load_source(str(tmp_path / "net.keras")))


def test_a_model_saved_as_it_trains_names_the_layers(tmp_path: Path) -> None:
    tf_keras = pytest.importorskip("tf_keras")
    model = tf_keras.Sequential(
        [
            tf_keras.layers.InputLayer(SHAPE),
            tf_keras.layers.Flatten(),
            tf_keras.layers.Dropout(0.5, name="drop"),
            tf_keras.layers.Dense(3),
        ],
        name="net",
    )

    @tf.function(input_signature=[tf.TensorSpec([None, *SHAPE], name="x")])
    def serve(x):
        return {"scores": model(x, training=True)}

    tf.saved_model.save(model, tmp_path / "net", serve)
    with pytest.raises(ExportError, match="are random: they depend on net/drop"):
        trace(load_source(str(tmp_path / "net")))


@pytest.mark.parametrize("wrap", [tf.py_function, tf.numpy_function])
def test_a_python_function_in_a_layer_is_named(wrap) -> None:
    class Doubled(layers.Layer):
        def call(self, x):
            return tf.ensure_shape(wrap(lambda v: v * 2, [x], tf.float32), x.shape)

    model = keras.Sequential(
        [keras.Input(SHAPE), Doubled(name="doubled"), layers.GlobalMaxPooling2D()], name="net"
    )
    with pytest.raises(ExportError, match=r"need a Python function \(net[_0-9]*/doubled") as error:
        trace(source_of(model, SHAPE))
    assert "TensorFlow operations" in error.value.hint


def test_a_program_of_jax_is_refused() -> None:
    graph = trace(source_of(lambda x: mean(tf.nn.relu(x)), SHAPE))
    nodes = []
    for node in graph.nodes:
        copy = type(node)()
        copy.CopyFrom(node)
        copy.op = "XlaCallModule" if node.op == "Relu" else node.op
        nodes.append(copy)
    with pytest.raises(ExportError, match="compiled program, as JAX exports it") as error:
        refuse_unservable(replace(graph, nodes=tuple(nodes)), "model", ())
    assert ".keras" in error.value.hint
