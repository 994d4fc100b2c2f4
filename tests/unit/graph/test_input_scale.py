"""A model that scales its own input, behind a preprocessing that scales as well: said, and nothing else is.

What the network sees of pixels is written down with each case, by hand.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from callables import source_of
from keras import layers as L

from saliency_exporter.graph.input_scale import front_of, scaling_note
from saliency_exporter.graph.trace import trace
from saliency_exporter.sources.preprocessing import Preprocessing, builtin

SHAPE = (8, 6, 3)
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
UNITED = Preprocessing("mine:united", lambda x: x / 255.0)
CENTRED = Preprocessing("mine:centred", lambda x: x - 120.0)
STANDARD = Preprocessing("mine:standard", lambda x: tf.image.per_image_standardization(x))
DIM = Preprocessing("mine:dim", lambda x: 20.0 + 0.7 * x)


def net(*first: keras.layers.Layer, shape: tuple[int, ...] = SHAPE) -> keras.Sequential:
    """A network behind these layers."""
    keras.utils.set_random_seed(3)
    return keras.Sequential([keras.Input(shape), *first, L.Conv2D(4, 3), L.Flatten(), L.Dense(3)])


def behind(front: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
    """A network behind a function of tensors."""
    kernel = tf.constant(np.random.default_rng(0).normal(size=(3, 3, 3, 4)), tf.float32)
    return lambda x: tf.reduce_mean(tf.nn.conv2d(front(x), kernel, 1, "VALID"), [1, 2])


def normalization(unit: float) -> keras.layers.Layer:
    return L.Normalization(mean=MEAN * unit, variance=(DEVIATION * unit) ** 2)


def learned(mean: float, deviation: float) -> keras.Sequential:
    """A batch normalization in front, with what it learned of its inputs."""
    model = net(L.BatchNormalization(epsilon=1e-6))
    ones = np.ones(3)
    model.layers[0].set_weights([ones, 0 * ones, mean * ones, deviation**2 * ones])
    return model


def slim_vgg(x: tf.Tensor) -> tf.Tensor:
    """The means of ImageNet, channel by channel, in the order of Caffe."""
    red, green, blue = tf.split(x, 3, axis=-1)
    return tf.concat([blue - 103.939, green - 116.779, red - 123.68], -1)


def whole_numbers(x: tf.Tensor) -> tf.Tensor:
    return behind(lambda x: tf.cast(tf.cast(x, tf.uint8), tf.float32) / 255.0)(x)


def resized(x: tf.Tensor) -> tf.Tensor:
    return tf.image.resize(x, (16, 12)) / 127.5 - 1.0


def half(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.cast(x, tf.float16) * tf.cast(1 / 255, tf.float16), tf.float32)


WRONG = {
    # Pixels were scaled before: a division by 255 leaves 2 / 255 of -1..1.
    "Rescaling, tf": (lambda: net(L.Rescaling(1 / 255)), builtin("tf"), "-0.00392..0.00392"),
    "Rescaling, torch": (lambda: net(L.Rescaling(1 / 255)), builtin("torch"), "-0.00831..0.0104"),
    "Rescaling, caffe": (lambda: net(L.Rescaling(1 / 255)), builtin("caffe"), "-0.485..0.592"),
    "Rescaling, own": (lambda: net(L.Rescaling(1 / 255)), UNITED, "0..0.00392"),
    "Rescaling to -1..1, tf": (lambda: net(L.Rescaling(1 / 127.5, -1)), builtin("tf"), "-1.01..-0.992"),
    "Rescaling to -1..1, caffe": (lambda: net(L.Rescaling(1 / 127.5, -1)), builtin("caffe"), "-1.97..0.185"),
    "two Rescalings, tf": (
        lambda: net(L.Rescaling(1 / 255), L.Rescaling(2.0, -1)),
        builtin("tf"),
        "-1.01..-0.992",
    ),
    "Normalization of pixels, torch": (lambda: net(normalization(255)), builtin("torch"), "-2.15..-1.76"),
    "Rescaling, Normalization, tf": (
        lambda: net(L.Rescaling(1 / 255), normalization(1)),
        builtin("tf"),
        "-2.14..-1.79",
    ),
    "Normalization of 0..1, torch": (lambda: net(normalization(1)), builtin("torch"), "-11.4..9.93"),
    "Normalization of 0..1, pixels": (lambda: net(normalization(1)), builtin("pixels"), "-2.12..1.14e+03"),
    "batch normalization of pixels, tf": (lambda: learned(120, 60), builtin("tf"), "-2.02..-1.98"),
    "batch normalization of 0..1, pixels": (lambda: learned(0.5, 0.25), builtin("pixels"), "-2..1.02e+03"),
    "x / 255 in a function, tf": (lambda: behind(lambda x: x / 255.0), builtin("tf"), "-0.00392..0.00392"),
    "x * 1/255 in half precision, tf": (lambda: behind(half), builtin("tf"), "-0.00392..0.00392"),
    "resized first, tf": (lambda: behind(resized), builtin("tf"), "-1.01..-0.992"),
    "gray repeated, tf": (
        lambda: behind(lambda x: tf.repeat(x[..., :1], 3, axis=-1) / 255.0),
        builtin("tf"),
        "-0.00392..0.00392",
    ),
    "bounded first, tf": (
        lambda: behind(lambda x: tf.clip_by_value(x, 0.0, 255.0) / 255.0),
        builtin("tf"),
        "0..0.00392",
    ),
    "1 - x / 255, tf": (lambda: behind(lambda x: 1.0 - x / 255.0), builtin("tf"), "0.996..1"),
    "Caffe's means inside, caffe": (lambda: behind(slim_vgg), builtin("caffe"), "-234..27.4"),
    "Caffe's means inside, tf": (lambda: behind(slim_vgg), builtin("tf"), "-125..-103"),
    "channels turned, tf": (
        lambda: behind(lambda x: tf.transpose(tf.transpose(x, [0, 3, 1, 2]) / 255.0, [0, 2, 3, 1])),
        builtin("tf"),
        "-0.00392..0.00392",
    ),
    "0..1 to -1..1, tf": (lambda: behind(lambda x: 2.0 * x - 1.0), builtin("tf"), "-3..1"),
    "0..1 to -1..1, pixels": (lambda: behind(lambda x: (x - 0.5) * 2.0), builtin("pixels"), "-1..509"),
    "0..1 to pixels, pixels": (lambda: behind(lambda x: x * 255.0), builtin("pixels"), "0..6.5e+04"),
}


@pytest.mark.parametrize("case", WRONG)
def test_pixels_that_are_scaled_for_another_input_are_said_with_what_the_network_sees(case: str) -> None:
    make, preprocessing, seen = WRONG[case]
    note = scaling_note(trace(source_of(make(), SHAPE)), preprocessing, "mine")
    assert note is not None
    assert f"sees {seen}:" in note
    of_pixels = "0..1" not in case.split(",")[0]
    step = "--preprocessing pixels" if of_pixels else "--preprocessing unit"
    assert step in note or case == "0..1 to pixels, pixels"


RIGHT = {
    "Rescaling, pixels": (lambda: net(L.Rescaling(1 / 255)), builtin("pixels")),
    "Rescaling to -1..1, pixels": (lambda: net(L.Rescaling(1 / 127.5, -1)), builtin("pixels")),
    "Normalization of pixels, pixels": (lambda: net(normalization(255)), builtin("pixels")),
    "Normalization of 0..1, own": (lambda: net(normalization(1)), UNITED),
    "0..1 to -1..1, own": (lambda: behind(lambda x: 2.0 * x - 1.0), UNITED),
    "0..1 to pixels, own": (lambda: behind(lambda x: 255.0 * x), UNITED),
    "Caffe's means inside, pixels": (lambda: behind(slim_vgg), builtin("pixels")),
    "Rescaling, own function about the mean": (lambda: net(L.Rescaling(1 / 255)), CENTRED),
    "Rescaling, own function of fewer grays": (lambda: net(L.Rescaling(1 / 255)), DIM),
    "a factor behind Caffe's means": (lambda: behind(lambda x: 0.017 * x), builtin("caffe")),
    "bounded to -1..1, tf": (lambda: behind(lambda x: tf.clip_by_value(x, -1.0, 1.0)), builtin("tf")),
    "a rectifier first, tf": (lambda: behind(tf.nn.relu), builtin("tf")),
    "nothing of its own, tf": (net, builtin("tf")),
    "nothing of its own, torch": (net, builtin("torch")),
    "nothing of its own, caffe": (net, builtin("caffe")),
    "nothing of its own, pixels": (net, builtin("pixels")),
    "nothing of its own, each image's own": (net, STANDARD),
    "a new batch normalization, tf": (lambda: net(L.BatchNormalization()), builtin("tf")),
    "a new batch normalization, pixels": (lambda: net(L.BatchNormalization()), builtin("pixels")),
    "a batch normalization of -1..1, tf": (lambda: learned(0.5, 0.5), builtin("tf")),
    "a batch normalization of 0..1, torch": (lambda: learned(0.45, 0.27), builtin("torch")),
    "a batch normalization of pixels, caffe": (lambda: learned(5, 60), builtin("caffe")),
    "a batch normalization of pixels, pixels": (lambda: learned(120, 60), builtin("pixels")),
    "each image's own scaling, tf": (
        lambda: behind(lambda x: tf.image.per_image_standardization(x)),
        builtin("tf"),
    ),
    "scaled and not, tf": (lambda: behind(lambda x: x + tf.tanh(x / 255.0)), builtin("tf")),
    "the half of -1..1, tf": (lambda: behind(lambda x: 0.5 * x + 0.5), builtin("tf")),
    "float input": (lambda: net(L.Rescaling(1 / 255)), builtin("none")),
    "float input of 0..1": (lambda: behind(lambda x: 2.0 * x - 1.0), builtin("none")),
}


@pytest.mark.parametrize("case", RIGHT)
def test_of_an_ordinary_model_nothing_is_said(case: str) -> None:
    make, preprocessing = RIGHT[case]
    assert scaling_note(trace(source_of(make(), SHAPE)), preprocessing, "mine") is None


def test_a_model_on_whole_numbers_is_given_pixels() -> None:
    graph = trace(source_of(whole_numbers, SHAPE))
    assert graph.input_dtype == "uint8"
    assert scaling_note(graph, builtin("pixels"), "mine") is None
    assert "takes whole numbers" in scaling_note(graph, builtin("tf"), "mine")


_SLOW = ("EfficientNetB0", "EfficientNetV2B0", "ConvNeXtTiny")


@pytest.mark.parametrize(
    "family", ["MobileNetV3Small", *(pytest.param(name, marks=pytest.mark.slow) for name in _SLOW)]
)
def test_families_that_scale_pixels_themselves_are_said_behind_tf_alone(family: str) -> None:
    model = getattr(keras.applications, family)(weights=None, input_shape=(64, 64, 3))
    graph = trace(source_of(model, (64, 64, 3)))
    assert "--preprocessing pixels" in scaling_note(graph, builtin("tf"), family)
    assert scaling_note(graph, builtin("pixels"), family) is None


def test_series_and_features_have_a_front_too() -> None:
    model = keras.Sequential([keras.Input((9,)), L.Rescaling(1 / 255), L.Dense(3)])
    graph = trace(source_of(model, (9,)))
    assert front_of(graph) is not None
    assert scaling_note(graph, builtin("pixels"), "mine") is None
    assert "sees -0.00392..0.00392" in scaling_note(graph, builtin("tf"), "mine")


def test_where_this_processor_cannot_run_the_first_ops_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*arguments: object) -> None:
        raise tf.errors.UnimplementedError(None, None, "no kernel for NCHW")

    graph = trace(source_of(net(L.Rescaling(1 / 255)), SHAPE))
    assert scaling_note(graph, builtin("tf"), "mine") is not None
    monkeypatch.setattr("saliency_exporter.graph.input_scale._values", refuse)
    assert scaling_note(graph, builtin("tf"), "mine") is None


@pytest.mark.parametrize("steps", [2, 5])
def test_what_has_the_time_first_has_no_examples_to_look_at(steps: int) -> None:
    """As a recurrent layer takes it; there may be as many steps as there are examples."""
    kernel = tf.constant(np.random.default_rng(1).normal(size=(3, 4)), tf.float32)

    def model(x: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.tanh(tf.transpose(x, [1, 0, 2]) / 255.0 @ kernel), 0)

    graph = trace(source_of(model, (steps, 3)))
    assert scaling_note(graph, builtin("tf"), "mine") is None


def test_frames_that_were_put_into_one_batch_are_none_either() -> None:
    def model(x: tf.Tensor) -> tf.Tensor:
        frames = tf.reshape(x, [-1, 6, 6, 3]) / 255.0
        return tf.reshape(tf.reduce_mean(frames**2, [1, 2]), [-1, 4 * 3])

    graph = trace(source_of(model, (4, 6, 6, 3)))
    assert scaling_note(graph, builtin("tf"), "mine") is None
