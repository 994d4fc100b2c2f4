"""Guided backpropagation equals the tape on the original model whose rectifiers have the guided gradient."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from callables import source_of
from covering import covering
from rounding import assert_equal_to_rounding

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.activations.find import find_activations
from saliency_exporter.graph.trace import trace
from saliency_exporter.methods import guided

layers = keras.layers


@tf.custom_gradient
def guided_relu(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """ReLU with the gradient of Springenberg et al. 2014: what is positive, where the input is."""
    return tf.nn.relu(x), lambda dy: tf.where((x > 0) & (dy > 0), dy, tf.zeros_like(dy))


def guided_map_of(make: Callable[[Callable], keras.Model], x: np.ndarray) -> np.ndarray:
    """Of class 0, by the tape through the model itself, built with the patched activation."""
    keras.utils.set_random_seed(4)
    model = make(guided_relu)
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        score = tf.reduce_sum(tf.cast(model(x, training=False)[:, 0], tf.float32))
    return tape.gradient(score, x).numpy()


def in_order(*parts: layers.Layer, shape: tuple[int, ...]) -> keras.Model:
    return keras.Sequential([keras.Input(shape), *parts])


def masked(relu: Callable) -> keras.Model:
    recurrent = layers.GRU(4, recurrent_activation="hard_sigmoid")
    return in_order(layers.Masking(-1.0), recurrent, layers.Dense(5, relu), layers.Dense(3), shape=(5, 4))


def masked_and_unrolled(relu: Callable) -> keras.Model:
    recurrent = layers.LSTM(4, unroll=True)
    return in_order(layers.Masking(-1.0), recurrent, layers.Dense(5, relu), layers.Dense(3), shape=(3, 4))


class ArcFace(layers.Layer):
    """Cosines to the classes' weights, bounded to where the arc cosine has a slope (arXiv 1801.07698)."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], 3), initializer="glorot_uniform")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        kernel = tf.nn.l2_normalize(self.kernel, axis=0)
        cosine = tf.clip_by_value(tf.nn.l2_normalize(x, axis=-1) @ kernel, -1 + 1e-7, 1 - 1e-7)
        return 8.0 * tf.cos(tf.acos(cosine) + 0.1)


def arc_face(relu: Callable) -> keras.Model:
    return in_order(layers.Dense(6, relu), ArcFace(), shape=(8,))


def normalized(relu: Callable) -> keras.Model:
    parts = (layers.Dense(6, relu), layers.UnitNormalization(), layers.Dense(4), layers.LayerNormalization())
    return in_order(*parts, layers.Dense(5, relu), layers.Dense(3), shape=(8,))


class LogPower(layers.Layer):
    """The logarithm of a power, of which a small one is raised to where it is finite."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.math.log(tf.maximum(x * x, 1e-3))


def of_a_spectrum(relu: Callable) -> keras.Model:
    return in_order(LogPower(), layers.Dense(6, relu), layers.Dense(3), shape=(8,))


@pytest.mark.parametrize("make", [masked, masked_and_unrolled, arc_face, normalized, of_a_spectrum])
def test_what_bounds_a_number_or_selects_by_a_mask_is_no_rectifier(signatures_of, make):
    keras.utils.set_random_seed(4)
    model = make(tf.nn.relu)
    shape = model.input_shape[1:]
    x = np.random.default_rng(2).normal(size=(3, *shape)).astype(np.float32)
    if len(shape) == 2:
        x[1, 2:] = -1.0
    count = find_activations(trace(source_of(model, shape))).count()
    assert {kind for kind in count if kind != "hard_sigmoid"} == {"relu"}
    built = signatures_of(lambda v: model(v, training=False), shape, methods=("guided",), score="output")
    got = built("explain_guided", x, class_index=0)["gradients"]
    assert np.abs(got).max() > 0
    assert_equal_to_rounding(got, guided_map_of(make, x))


@pytest.mark.parametrize(
    "rectify",
    [
        lambda x: tf.where(x > 0.5, x, 0.1 * x + 2.0),
        lambda x: tf.clip_by_value(x, -1.0, 1.0),
        lambda x: tf.minimum(x, 2.0),
        lambda x: tf.maximum(tf.reduce_mean(x, axis=1, keepdims=True) + x, -0.5),
    ],
)
def test_what_bounds_features_is_still_one_and_refused_where_there_is_no_rule(rectify):
    model = in_order(layers.Dense(6), layers.Lambda(rectify, name="bent"), layers.Dense(3), shape=(8,))
    with pytest.raises(ExportError, match="bent"):
        guided.replacements(trace(source_of(model, (8,))), "net")


def test_a_rectifier_inside_a_loop_is_refused_by_its_layer():
    model = in_order(layers.SimpleRNN(4, activation="relu", name="recurrence"), layers.Dense(3), shape=(5, 4))
    with pytest.raises(ExportError, match=r"recurrence.* \(its Relu inside While\)") as refusal:
        guided.replacements(trace(source_of(model, (5, 4))), "net")
    assert "unroll=True" in str(refusal.value.hint)


def mixed(relu: Callable) -> keras.Model:
    """Each rectifier between ops of two dtypes: a normalization in float32, a convolution in the policy's."""
    policy = keras.mixed_precision.dtype_policy()
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, use_bias=False)(x)
    x = layers.Activation(relu)(layers.BatchNormalization(dtype="float32")(x))
    x = layers.Activation(relu, dtype="float32")(layers.Conv2D(6, 3, dtype=policy)(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Activation("linear", dtype="float32")(layers.Dense(3)(x)))


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_activations_of_any_float_have_the_guided_rule(signatures_of, dtype):
    x = np.random.default_rng(2).normal(size=(2, 8, 8, 3)).astype(np.float32)
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy(dtype)
    try:
        keras.utils.set_random_seed(4)
        model = mixed(tf.nn.relu)
        expected = guided_map_of(mixed, x)
        built = signatures_of(
            lambda v: model(v, training=False), (8, 8, 3), methods=("guided",), score="output"
        )
    finally:
        keras.mixed_precision.set_dtype_policy(before)
    got = built("explain_guided", x, class_index=0)["gradients"]
    # The same kernels in the same order, uncompiled: what a batch normalization is folded to aside.
    assert np.abs(got).max() > 0
    assert np.linalg.norm(got - expected) <= {
        "mixed_float16": 2**-9,
        "mixed_bfloat16": 2**-6,
        "float64": 1e-6,
    }[dtype] * np.linalg.norm(expected)


ACTIVATIONS = {
    "silu": "swish",
    "gelu": "gelu",
    "hard_silu": "hard_swish",
    "hard_sigmoid": "hard_sigmoid",
    "leaky_relu": "relu(negative_slope=0.2)",
    "elu": "elu",
    "relu6": "relu6",
}


@pytest.mark.parametrize(
    ("activation", "dtype"), covering(list(ACTIVATIONS), ["float16", "bfloat16", "float64"])
)
def test_an_activation_is_recognized_in_any_float(activation, dtype):
    model = in_order(layers.Dense(4, dtype=dtype), layers.Activation(activation, dtype=dtype), shape=(8,))
    graph = trace(source_of(lambda x: tf.cast(model(x), tf.float32), (8,)), score="output")
    coverage = find_activations(graph)
    assert (coverage.count(), coverage.uncovered) == ({ACTIVATIONS[activation]: 1}, ())
