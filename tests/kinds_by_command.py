"""Models of kinds that once went wrong, as a user's module has them: `export kinds_by_command:NAME`."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers as L

S = (16, 16, 3)
V = tf.Variable(np.random.default_rng(0).normal(size=(48, 3)).astype(np.float32))


def net(*layers, shape=S):
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input(shape), *layers])


def head(*more):
    return L.GlobalAveragePooling2D(), L.Dense(4), *more


@tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 3], tf.float32)])
def cond(x):
    h = tf.reshape(x, [-1, 48]) / 255.0
    return tf.cond(tf.reduce_mean(x) > 100.0, lambda: tf.tanh(h), lambda: tf.sin(h)) @ V


@tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 3], tf.float32)])
def turns(x):
    h = tf.reshape(x, [-1, 48])

    def step(i, h):
        return i + 1, tf.tanh(h + tf.reduce_mean(h, 1, keepdims=True))

    return tf.while_loop(lambda i, h: i < 3, step, (0, h), maximum_iterations=3)[1] @ V


@tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 3], tf.float32)])
def each(x):
    return tf.map_fn(lambda e: tf.tanh(e) * tf.reduce_mean(e), tf.reshape(x, [-1, 48])) @ V


@tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 3], tf.float32)])
def gradient_penalty(x):
    """Its scores are made of a gradient."""
    h = tf.reshape(x, [-1, 48])
    s = tf.tanh(h @ V)
    return s + tf.reduce_sum(tf.gradients(s, h)[0] ** 2, 1, keepdims=True)


def lstm():
    return net(L.LSTM(6), L.Dense(3, activation="softmax"), shape=(12, 5))


def gru():
    return net(L.Dense(6, activation="relu"), L.GRU(5), L.Dense(4, activation="softmax"), shape=(8, 3))


def conv_lstm():
    return net(L.ConvLSTM2D(3, 3), *head(), shape=(4, 8, 8, 2))


def masking():
    return net(L.Masking(), L.GRU(4), L.Dense(5, activation="relu"), L.Dense(3), shape=(6, 3))


def mixed(policy):
    keras.config.set_dtype_policy(policy)
    try:
        parts = L.Conv2D(8, 3, use_bias=False), L.BatchNormalization(), L.ReLU(), L.MaxPooling2D()
        return net(*parts, *head(L.Activation("softmax", dtype="float32")))
    finally:
        keras.config.set_dtype_policy("float32")


def mixed_float16():
    return mixed("mixed_float16")


def mixed_bfloat16():
    return mixed("mixed_bfloat16")


def float64():
    exact = {"dtype": "float64"}
    return net(L.Conv2D(4, 3, **exact), L.GlobalAveragePooling2D(**exact), L.Dense(3, **exact))


def quantized(mode):
    model = net(L.Conv2D(4, 3, activation="relu"), L.GlobalAveragePooling2D(), L.Dense(8, "tanh"), L.Dense(4))
    model.quantize(mode)
    return model


def int8():
    return quantized("int8")


def int4():
    return quantized("int4")


def float8():
    return quantized("float8")


class OwnGradient(L.Layer):
    def call(self, x):
        @keras.ops.custom_gradient
        def f(x):
            def back(*signals, upstream=None):
                return -2.0 * (signals[0] if upstream is None else upstream)

            return keras.ops.sin(x), back

        return f(x)


def keras_gradient():
    return net(L.Conv2D(4, 3), OwnGradient(), *head())


def reshaped():
    return net(L.Conv2D(4, 16), L.Softmax(), L.Reshape((4,)))


def enlarged():
    return net(L.UpSampling2D(3, interpolation="bilinear"), L.Conv2D(6, 5, 3, activation="relu"), *head())


def pooled():
    return net(L.Conv2D(4, 16), L.Softmax(), L.GlobalMaxPooling2D())


def average():
    x = keras.Input(S)
    y = L.Flatten()(x)
    return keras.Model(x, L.Average()([L.Dense(3, activation="softmax")(y) for _ in range(2)]))


def batch_of_one():
    x = keras.Input(batch_shape=(1, 8, 8, 3))
    return keras.Model(x, L.Dense(4, activation="softmax")(L.Flatten()(L.Conv2D(5, 3, activation="relu")(x))))


def stateful():
    x = keras.Input(batch_shape=(1, 8, 3))
    return keras.Model(x, L.Dense(4, activation="softmax")(L.GRU(5, stateful=True, unroll=True)(x)))


class Counts(L.Layer):
    def build(self, shape):
        self.n = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.n.assign_add(1.0)
        return x


def counts():
    return net(Counts(), L.Conv2D(4, 3), *head())


def uint8():
    x = keras.Input(S, dtype="uint8")
    return keras.Model(x, L.Dense(3, "softmax")(L.Flatten()(L.Conv2D(4, 3)(L.Rescaling(1 / 255)(x)))))


def graph_only(x):
    g = tf.Graph()
    with g.as_default():
        i = tf.compat.v1.placeholder(tf.float32, [None, 8, 8, 3], "x")
        tf.nn.softmax(tf.reduce_mean(tf.nn.relu(i), [1, 2]), name="y")
    (y,) = tf.graph_util.import_graph_def(g.as_graph_def(), input_map={"x:0": x}, return_elements=["y:0"])
    return y


def pruned():
    g = tf.Graph()
    with g.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 8, 8, 3], "x")
        tf.nn.softmax(tf.reduce_mean(tf.nn.relu(x), [1, 2]), name="y")
    w = tf.compat.v1.wrap_function(lambda: tf.compat.v1.import_graph_def(g.as_graph_def(), name=""), [])
    return w.prune(w.graph.as_graph_element("x:0"), w.graph.as_graph_element("y:0"))


def spectrum():
    return net(L.Lambda(lambda x: tf.abs(tf.signal.stft(x, 64, 32))), L.Flatten(), L.Dense(3), shape=(512,))


def gray():
    return net(L.Reshape((28, 28, 1)), L.Conv2D(3, 3, activation="relu"), *head(), shape=(28, 28))


class ArcFace(L.Layer):
    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 4))

    def call(self, x):
        return 30.0 * tf.matmul(tf.math.l2_normalize(x, -1), tf.math.l2_normalize(self.w, 0))


def arcface():
    return net(L.Conv2D(4, 3, activation="relu"), L.GlobalAveragePooling2D(), ArcFace())


# What has to be refused.
def votes():
    return net(L.Conv2D(4, 3), *head(), L.Lambda(lambda x: tf.one_hot(tf.argmax(x, -1), 4)))


def contrast():
    return net(L.Lambda(lambda x: tf.image.adjust_contrast(x, 1.5)), L.Conv2D(4, 3), *head())


def saturation():
    return net(L.Lambda(lambda x: tf.image.adjust_saturation(x, 1.5)), L.Conv2D(4, 3), *head())


def hue():
    return net(L.Lambda(lambda x: tf.image.adjust_hue(x, 0.1)), L.Conv2D(4, 3), *head())


def first():
    return net(L.Permute((2, 3, 1)), L.Conv2D(4, 3), *head(), shape=(3, 16, 16))


def einsum():
    return net(L.Lambda(lambda x: tf.einsum("bchw->bhwc", x)), L.Conv2D(4, 3), *head(), shape=(3, 16, 16))


def series_first():
    return net(L.Conv1D(4, 3, data_format="channels_first"), L.Flatten(), L.Dense(3), shape=(5, 40))


def dropped(x):
    return tf.nn.dropout(tf.reduce_mean(x, [1, 2]), 0.5)


@tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 3], tf.float32)])
def as_it_trains(x):
    """Its normalization takes the mean and the variance of the batch."""
    mean, variance = tf.nn.moments(x, [0, 1, 2], name="of_the_batch")
    return tf.reshape((x - mean) / tf.sqrt(variance + 1e-3), [-1, 48]) @ V


@tf.function(input_signature=[tf.TensorSpec([8, 8, 3], tf.float32)])
def one_picture(x):
    """As people write it for one photo: no batch."""
    return tf.nn.softmax(tf.reshape(tf.tanh(x[:4, :4] * 3.0), [1, 48]) @ V)


def keras_error():
    return keras.Sequential([L.Input((8, 8, 3)), L.Reshape((5,))])


def frames():
    return net(L.LSTM(4, return_sequences=True), L.Dense(3, activation="softmax"), shape=(7, 2))


@tf.custom_gradient
def turned(x):
    return tf.identity(x), lambda dy: -dy


class InMap(L.Layer):
    def call(self, x):
        return tf.map_fn(lambda e: turned(tf.tanh(e)), x)


def in_a_loop():
    return net(L.Conv2D(4, 3), InMap(), *head())
