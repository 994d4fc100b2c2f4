"""What the original models answer, computed without the exporter.

Keras models run under a GradientTape; frozen graphs run in a session of TensorFlow 1. For guided
backpropagation (Springenberg et al. 2014, section 3.4) the activations of the original are given another
gradient: a rectifier passes what is positive where its input is positive, and below its upper bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple
from uuid import uuid4

import keras
import numpy as np
import tensorflow as tf


class Answer(NamedTuple):
    """What an original answers of one example.

    Attributes:
        score: of the explained class.
        gradients: ∂score/∂x, shape of an example.
        guided: the guided signal, of the same shape.
    """

    score: float
    gradients: np.ndarray
    guided: np.ndarray


def of_keras(model: keras.Model, x: np.ndarray, score: Callable[[tf.Tensor], tf.Tensor]) -> Answer:
    """Answers of a Keras model.

    Args:
        model: anything whose activations are Keras's own relu, ReLU, PReLU or gelu, or no rectifiers.
        x: model input of one example, [1, …].
        score: the model's output to one number; takes it before the last softmax or sigmoid.
    """

    def gradient() -> tuple[tf.Tensor, np.ndarray]:
        # In a graph, gradients of weights are left out. Eagerly they are computed as well, and oneDNN's way
        # writes past its memory for a 1×1 filter with strides (TensorFlow 2.20).
        @tf.function(autograph=False)
        def run(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(x)
                value = score(model(x, training=False))
            return value, tape.gradient(value, x)

        value, gradients = run(tf.constant(x))
        return value, gradients.numpy()[0]

    value, plain = gradient()
    with _guided(_layers(model)):
        _, guided = gradient()
    return Answer(float(value), plain, guided)


def _layers(model: keras.Layer) -> list[keras.Layer]:
    return [layer for layer in model._flatten_layers() if not isinstance(layer, keras.Model)]


@contextmanager
def _guided(layers: Sequence[keras.Layer]) -> Iterator[None]:
    """Other gradients in place; the same values."""
    changed: list[tuple[keras.Layer, str, object]] = []

    def change(layer: keras.Layer, attribute: str, function: Callable) -> None:
        changed.append((layer, attribute, getattr(layer, attribute)))
        setattr(layer, attribute, function)

    for layer in layers:
        if isinstance(layer, keras.layers.PReLU):
            change(layer, "call", partial(_rectify, slope=layer.alpha.numpy()))
        elif isinstance(layer, keras.layers.ReLU):
            assert (layer.max_value, layer.negative_slope, layer.threshold) == (None, 0, 0)
            change(layer, "call", partial(_rectify, slope=0.0))
        elif getattr(layer, "activation", None) is keras.activations.relu:
            change(layer, "activation", partial(_rectify, slope=0.0))
        elif getattr(layer, "activation", None) is keras.activations.gelu:
            change(layer, "activation", _gelu)
    try:
        yield
    finally:
        for layer, attribute, before in changed:
            setattr(layer, attribute, before)


def _rectify(x: tf.Tensor, *, slope: np.ndarray | float) -> tf.Tensor:
    @tf.custom_gradient
    def rectified(x: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        value = tf.where(x > 0, x, slope * x)
        return value, lambda signal: tf.where((x > 0) & (signal > 0), signal, 0.0)

    return rectified(x)


@tf.custom_gradient
def _gelu(x: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    """x·Φ(x); on the way back, what is positive where x is, by the derivative Φ(x) + x·φ(x)."""
    below = 0.5 * tf.math.erfc(-x / math.sqrt(2))
    slope = below + x * tf.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return x * below, lambda signal: tf.where((x > 0) & (signal > 0), slope * signal, 0.0)


def of_frozen_graph(
    graph: tf.compat.v1.GraphDef,
    feed: Mapping[str, np.ndarray],
    score: Callable[[tf.Graph], tf.Tensor],
    *,
    exact: bool = False,
) -> Answer:
    """Answers of a frozen graph in a session of TensorFlow 1.

    Args:
        graph: in which every weight is a constant; its rectifiers are Relu and Relu6.
        feed: the name of the input's tensor, and one example [1, …].
        score: the imported graph to one number.
        exact: compute in float64, so that rounding decides at no rectifier.
    """
    ((name, x),) = feed.items()
    if exact:
        graph, x = _in_float64(graph), x.astype(np.float64)

    def gradient(graph: tf.compat.v1.GraphDef) -> tuple[float, np.ndarray]:
        with tf.Graph().as_default() as imported:
            tf.compat.v1.import_graph_def(graph, name="")
            value = score(imported)
            (slope,) = tf.compat.v1.gradients(value, imported.get_tensor_by_name(name))
            with tf.compat.v1.Session() as session:
                return session.run((value, slope), {name: x})

    value, plain = gradient(graph)
    _, guided = gradient(_with_guided_rectifiers(graph))
    return Answer(float(value), plain[0], guided[0])


def _with_guided_rectifiers(graph: tf.compat.v1.GraphDef) -> tf.compat.v1.GraphDef:
    key = uuid4().hex

    def register(kind: str, upper: float) -> bytes:
        @tf.RegisterGradient(f"{kind}{key}")
        def _gradient(op: tf.Operation, signal: tf.Tensor) -> tf.Tensor:
            (x,) = op.inputs
            passes = (x > 0) & (x < upper) & (signal > 0)
            return tf.where(passes, signal, tf.zeros_like(signal))

        return f"{kind}{key}".encode()

    kinds = {"Relu": register("Relu", np.inf), "Relu6": register("Relu6", 6.0)}
    changed = tf.compat.v1.GraphDef()
    changed.CopyFrom(graph)
    for node in changed.node:
        if node.op in kinds:
            node.attr["_gradient_op_type"].s = kinds[node.op]
    return changed


def _in_float64(graph: tf.compat.v1.GraphDef) -> tf.compat.v1.GraphDef:
    changed = tf.compat.v1.GraphDef()
    changed.CopyFrom(graph)
    for node in changed.node:
        for attribute in node.attr.values():
            if attribute.type == tf.float32.as_datatype_enum:
                attribute.type = tf.float64.as_datatype_enum
            if attribute.tensor.dtype == tf.float32.as_datatype_enum:
                array = tf.make_ndarray(attribute.tensor)
                attribute.tensor.CopyFrom(tf.make_tensor_proto(array.astype(np.float64)))
    return changed


def frozen(function: tf.types.experimental.ConcreteFunction) -> tf.compat.v1.GraphDef:
    """A function of a SavedModel as one graph without variables and functions."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(function).graph.as_graph_def()
