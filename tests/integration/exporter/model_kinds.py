"""Kinds of models that people bring, each with a score that is written down a second time.

A kind is made by a function without arguments: the Keras model, and a function that computes the class scores
of the same layers by itself. The exporter sees the model alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

Score = Callable[[tf.Tensor], tf.Tensor]


@dataclass(frozen=True)
class Kind:
    """A model, its class scores computed independently, and what the exporter must be told of it.

    Attributes:
        model: the Keras model.
        score: model input [B, *shape] to the class scores [B, classes].
        shape: shape of one example.
        choices: keyword arguments of load_source.
        score_option: the option --score.
        tolerance: relative bound of differences: float32 rounding, or that of a lower precision.
    """

    model: keras.Model
    score: Score
    shape: tuple[int, ...]
    choices: Mapping[str, Any] = field(default_factory=dict)
    score_option: str = "auto"
    tolerance: float = 1e-5


def _stack(*parts: Callable[[Any], Any]) -> Score:
    def run(x: tf.Tensor) -> tf.Tensor:
        for part in parts:
            x = part(x, training=False) if isinstance(part, keras.Model) else part(x)
        return x

    return run


def _settle(norm: layers.BatchNormalization) -> layers.BatchNormalization:
    """Statistics that inference uses and training would not."""
    rng = np.random.default_rng(5)
    size = norm.gamma.shape[0]
    norm.set_weights(
        [rng.uniform(0.5, 2, size), rng.normal(size=size), rng.normal(size=size), rng.uniform(1, 3, size)]
    )
    return norm


def _body() -> list[layers.Layer]:
    return [
        layers.Conv2D(4, 3),
        layers.ReLU(max_value=6.0),
        layers.SeparableConv2D(5, 3, activation="relu"),
        layers.GlobalAveragePooling2D(),
    ]


def sequential() -> Kind:
    """Dropout and BatchNormalization must be in inference mode."""
    norm, dropout = layers.BatchNormalization(), layers.Dropout(0.9)
    parts = [
        layers.Conv2D(4, 3),
        norm,
        layers.ReLU(),
        layers.GlobalAveragePooling2D(),
        dropout,
        layers.Dense(3),
    ]
    model = keras.Sequential([keras.Input((8, 8, 3)), *parts, layers.Softmax()])
    _settle(norm)

    def normalized(x: tf.Tensor) -> tf.Tensor:
        gamma, beta, mean, variance = (tf.constant(w) for w in norm.get_weights())
        return gamma * (x - mean) / tf.sqrt(variance + norm.epsilon) + beta

    return Kind(model, _stack(parts[0], normalized, tf.nn.relu, parts[3], parts[5]), (8, 8, 3))


def functional() -> Kind:
    """A residual block and a concatenation."""
    first, second, last = layers.Conv2D(3, 3, padding="same"), layers.Conv2D(2, 1), layers.Dense(4)
    x = keras.Input((8, 8, 3))
    y = layers.Add()([x, first(layers.Activation("relu")(x))])
    y = layers.Concatenate()([y, second(y)])
    model = keras.Model(x, layers.Softmax()(last(layers.Flatten()(y))))

    def score(x: tf.Tensor) -> tf.Tensor:
        y = x + first(tf.nn.relu(x))
        y = tf.concat([y, second(y)], -1)
        return last(tf.reshape(y, [tf.shape(y)[0], -1]))

    return Kind(model, score, (8, 8, 3))


@keras.saving.register_keras_serializable("kinds")
class Subclassed(keras.Model):
    """A model whose graph is its Python code; it behaves differently in training."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.conv, self.out, self.dropout = layers.Conv2D(4, 3), layers.Dense(3), layers.Dropout(0.9)

    def scores(self, x: tf.Tensor) -> tf.Tensor:
        return self.out(tf.reduce_mean(tf.nn.relu(self.conv(x)), [1, 2]))

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        if training:
            return tf.zeros([tf.shape(x)[0], 3])
        return tf.nn.softmax(self.scores(self.dropout(x, training=training)))


def subclassed() -> Kind:
    """No symbolic graph at all."""
    model = Subclassed()
    model(np.zeros((1, 8, 8, 3), np.float32))
    return Kind(model, model.scores, (8, 8, 3))


def nested() -> Kind:
    """A model in a model in a model, and one of them used twice."""
    block = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(3, 3, padding="same", activation="relu6")]
    )
    x = keras.Input((8, 8, 3))
    inner = keras.Model(x, block(block(x)))
    out = layers.Dense(3)
    y = keras.Input((8, 8, 3))
    model = keras.Model(y, layers.Softmax()(out(layers.GlobalMaxPooling2D()(inner(y)))))
    conv = block.layers[0]
    return Kind(model, lambda x: out(tf.reduce_max(conv(conv(x)), [1, 2])), (8, 8, 3))


def several_inputs() -> Kind:
    """The photo is explained, a mask is held."""
    photo, mask = keras.Input((8, 8, 3), name="photo"), keras.Input((8, 8, 1), name="mask")
    conv, out = layers.Conv2D(4, 3, activation="relu"), layers.Dense(3)
    y = out(layers.GlobalAveragePooling2D()(conv(layers.Multiply()([photo, mask]))))
    held = np.random.default_rng(6).uniform(size=(8, 8, 1)).astype(np.float32)
    return Kind(
        keras.Model([photo, mask], layers.Softmax()(y)),
        lambda x: out(tf.reduce_mean(conv(x * held), [1, 2])),
        (8, 8, 3),
        {"input_name": "photo", "held": {"mask": held}},
    )


def several_outputs() -> Kind:
    """One of two heads is explained."""
    x = keras.Input((8, 8, 3))
    conv, species, age = layers.Conv2D(4, 3, activation="relu"), layers.Dense(3), layers.Dense(1)
    y = layers.GlobalAveragePooling2D()(conv(x))
    outputs = {"species": layers.Softmax(name="species")(species(y)), "age": age(y)}
    score = _stack(conv, lambda y: species(tf.reduce_mean(y, [1, 2])))
    return Kind(keras.Model(x, outputs), score, (8, 8, 3), {"output_name": "species"})


def any_size() -> Kind:
    """Height and width are left open by the model."""
    parts = _body()
    out = layers.Dense(3)
    model = keras.Sequential([keras.Input((None, None, 3)), *parts, out, layers.Softmax()])
    return Kind(model, _stack(*parts, out), (12, 10, 3), {"image_size": (12, 10)})


def _image(shape: tuple[int, ...]) -> Kind:
    parts, out = _body(), layers.Dense(3)
    return Kind(
        keras.Sequential([keras.Input(shape), *parts, out, layers.Softmax()]), _stack(*parts, out), shape
    )


def one_channel() -> Kind:
    """Gray images."""
    return _image((9, 9, 1))


def four_channels() -> Kind:
    """RGB and infrared."""
    return _image((9, 9, 4))


def not_square() -> Kind:
    """Height and width differ."""
    return _image((7, 13, 3))


def features() -> Kind:
    """Rank 2."""
    hidden, out = layers.Dense(6, activation="relu"), layers.Dense(3)
    return Kind(
        keras.Sequential([keras.Input((10,)), hidden, out, layers.Softmax()]), _stack(hidden, out), (10,)
    )


def series() -> Kind:
    """Rank 3: time and channels."""
    conv, out = layers.Conv1D(5, 3, dilation_rate=2, activation="relu"), layers.Dense(3)
    parts = [conv, layers.GlobalAveragePooling1D(), out]
    return Kind(keras.Sequential([keras.Input((20, 2)), *parts, layers.Softmax()]), _stack(*parts), (20, 2))


def spectrogram() -> Kind:
    """Rank 3 without a channel axis, given one inside the model."""
    conv, out = layers.Conv2D(4, 3, activation="relu"), layers.Dense(3)
    model = keras.Sequential(
        [
            keras.Input((16, 12)),
            layers.Reshape((16, 12, 1)),
            conv,
            layers.GlobalMaxPooling2D(),
            out,
            layers.Softmax(),
        ]
    )
    return Kind(model, lambda x: out(tf.reduce_max(conv(x[..., None]), [1, 2])), (16, 12))


def volume() -> Kind:
    """Rank 5."""
    parts = [layers.Conv3D(4, 3, activation="relu"), layers.GlobalAveragePooling3D(), layers.Dense(3)]
    return Kind(
        keras.Sequential([keras.Input((5, 6, 7, 2)), *parts, layers.Softmax()]), _stack(*parts), (5, 6, 7, 2)
    )


def _head(units: int, head: Callable[[Any], Any], **options: Any) -> Kind:
    parts, out = _body(), layers.Dense(units)
    x = keras.Input((8, 8, 3))
    return Kind(keras.Model(x, head(out(_stack(*parts)(x)))), _stack(*parts, out), (8, 8, 3), **options)


def single_sigmoid() -> Kind:
    """One logit for two classes."""
    return _head(1, layers.Activation("sigmoid"))


def multi_label() -> Kind:
    """A sigmoid for each label."""
    return _head(4, layers.Activation("sigmoid"))


def regression() -> Kind:
    """No classes: the output itself is explained."""
    return _head(2, layers.Activation("linear"), score_option="output")


def softmax_activation() -> Kind:
    """The softmax is an argument of the last layer."""
    parts, out = _body(), layers.Dense(3, activation="softmax")
    model = keras.Sequential([keras.Input((8, 8, 3)), *parts, out])
    return Kind(model, _stack(*parts, lambda x: x @ out.kernel + out.bias), (8, 8, 3))


@keras.saving.register_keras_serializable("kinds")
class Temperature(layers.Layer):
    """tf.nn.softmax(logits / 2)."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(x / 2.0)


def temperature() -> Kind:
    """A softmax by tf.nn, of logits that are divided: the divided ones are the scores."""
    kind = _head(3, Temperature())
    return Kind(kind.model, lambda x: kind.score(x) / 2.0, kind.shape)


# One rounding to p bits is 2**-(p + 1) of a value; a value and its gradient go through some ten ops each.
_ROUNDINGS = 20


def _mixed(policy: str, tolerance: float) -> Kind:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        parts, out = _body(), layers.Dense(3)
        model = keras.Sequential(
            [keras.Input((8, 8, 3)), *parts, out, layers.Activation("softmax", dtype="float32")]
        )
    finally:
        keras.config.set_dtype_policy(before)
    return Kind(model, lambda x: tf.cast(_stack(*parts, out)(x), tf.float32), (8, 8, 3), tolerance=tolerance)


def mixed_float16() -> Kind:
    """Ten bits of mantissa inside, float32 outside."""
    return _mixed("mixed_float16", _ROUNDINGS * 2.0**-11)


def mixed_bfloat16() -> Kind:
    """Seven bits of mantissa inside, float32 outside."""
    return _mixed("mixed_bfloat16", _ROUNDINGS * 2.0**-8)


KINDS: dict[str, Callable[[], Kind]] = {
    make.__name__: make
    for make in (
        sequential,
        functional,
        subclassed,
        nested,
        several_inputs,
        several_outputs,
        any_size,
        one_channel,
        four_channels,
        not_square,
        features,
        series,
        spectrogram,
        volume,
        single_sigmoid,
        multi_label,
        regression,
        softmax_activation,
        temperature,
        mixed_float16,
        mixed_bfloat16,
    )
}
