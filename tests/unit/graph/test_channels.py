"""Where a model has its input's channels, told by what its first ops do; the maps that follow from it."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from built_signatures import Signatures
from callables import source_of

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.channels import find_channels, with_channels_found
from saliency_exporter.graph.trace import trace
from saliency_exporter.sources.channels import with_channels
from saliency_exporter.sources.source import Source

L = keras.layers


def net(shape: tuple[int, ...], *layers: keras.Layer) -> keras.Model:
    return keras.Sequential([keras.Input(shape), *layers, L.Flatten(), L.Dense(4, activation="softmax")])


def turned(x: tf.Tensor) -> tf.Tensor:
    """A model that takes channels first and turns them, as converters from other frameworks write it."""
    y = tf.nn.relu(tf.nn.conv2d(tf.transpose(x - 1.0, [0, 2, 3, 1]), KERNEL, 1, "SAME"))
    return tf.reduce_mean(y, [1, 2])


def normalized_first(x: tf.Tensor) -> tf.Tensor:
    return tf.reshape((x - tf.constant(np.ones((1, 5, 1, 1), np.float32))) / 2.0, [-1, 5 * 60])[:, :4]


def own_transposition(x: tf.Tensor) -> tf.Tensor:
    """Channels last outside, first inside."""
    return tf.reduce_mean(tf.transpose(x, [0, 3, 1, 2]), [2, 3])


def new_axis(x: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.nn.conv2d(x[..., tf.newaxis], KERNEL[:, :, :1], 1, "SAME"), [1, 2])


def second_axis(x: tf.Tensor) -> tf.Tensor:
    y = tf.nn.conv2d(x[:, tf.newaxis], KERNEL[:, :, :1], 1, "SAME", data_format="NCHW")
    return tf.reduce_mean(y, [2, 3])


KERNEL = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(np.float32)
FIRST = {"data_format": "channels_first"}

FIRSTS = {
    "a convolution": lambda: net((3, 8, 10), L.Rescaling(2.0), L.Conv2D(2, 3, **FIRST)),
    "a depthwise convolution": lambda: net((5, 8, 10), L.DepthwiseConv2D(3, **FIRST)),
    "a pooling": lambda: net((2, 8, 10), L.MaxPooling2D(2, **FIRST), L.Conv2D(2, 3, **FIRST)),
    "a padding": lambda: net((6, 8, 10), L.ZeroPadding2D(1, **FIRST), L.Conv2D(2, 3, **FIRST)),
    "a volume": lambda: net((1, 6, 8, 10), L.Conv3D(2, 3, **FIRST)),
    "a series": lambda: net((7, 12), L.Conv1D(2, 3, **FIRST)),
    "a transposition": lambda: (turned, (3, 8, 10)),
    "a normalization": lambda: (normalized_first, (5, 6, 10)),
}
LASTS = {
    "a convolution": lambda: net((3, 32, 32), L.Conv2D(2, 3)),
    "an activation": lambda: net((1, 32, 32), L.ReLU(), L.Conv2D(2, 1)),
    "an image": lambda: net((8, 10, 3), L.Conv2D(2, 3)),
    "a pooling": lambda: net((4, 16, 16), L.AveragePooling2D(2)),
    "a transposition": lambda: (own_transposition, (8, 10, 4)),
    "a series": lambda: net((12, 12), L.Conv1D(2, 3)),
    "a pooled series": lambda: net((12, 12), L.MaxPooling1D(2)),
    "a mean over time": lambda: net((12, 12), L.GlobalAveragePooling1D()),
    "a dense layer": lambda: net((12, 12), L.Dense(3)),
    "a recurrent layer": lambda: net((12, 12), L.LSTM(3)),
    "a normalized series": lambda: net((12, 12), L.BatchNormalization()),
    "a separable series": lambda: net((12, 12), L.SeparableConv1D(3, 3)),
}
NONES = {
    "a layer that adds an axis": lambda: net((12, 10), L.Reshape((12, 10, 1)), L.Conv2D(2, 3)),
    "scaled before": lambda: net((12, 10), L.Rescaling(1 / 255), L.Reshape((12, 10, 1)), L.Conv2D(2, 3)),
    "a new axis": lambda: (new_axis, (12, 10)),
    "a new axis, channels first": lambda: (second_axis, (12, 10)),
    "an operation": lambda: net((12, 10), L.Lambda(lambda x: tf.expand_dims(x, -1)), L.Conv2D(2, 3)),
    "square and flattened": lambda: net((12, 12)),
    "square, scaled and flattened": lambda: net((12, 12), L.Rescaling(1 / 255)),
    "a volume": lambda: net((6, 8, 10), L.Reshape((6, 8, 10, 1)), L.Conv3D(2, 3)),
}
NOWHERE = {
    "an image, flattened": lambda: net((8, 8, 5)),
    "a series, flattened": lambda: net((12, 5)),
    "features": lambda: net((9,), L.Dense(5)),
}


def source(made: keras.Model | tuple[Callable, tuple[int, ...]]) -> Source:
    return source_of(*made) if isinstance(made, tuple) else source_of(made, made.input_shape[1:])


@pytest.mark.parametrize(
    ("make", "place"),
    [
        pytest.param(make, place, id=f"{place}: {name}")
        for place, kinds in {"first": FIRSTS, "last": LASTS, "none": NONES, None: NOWHERE}.items()
        for name, make in kinds.items()
    ],
)
def test_the_first_ops_show_where_the_channels_are(make: Callable, place: str | None) -> None:
    given = source(make())
    found = find_channels(trace(given), given.input_shape)
    assert (found and found.place) == place


@pytest.mark.parametrize("make", FIRSTS.values(), ids=FIRSTS)
def test_channels_first_are_refused_with_the_option_that_turns_them(make: Callable) -> None:
    given = source(make())
    channels, *sizes = given.input_shape
    with pytest.raises(ExportError, match="channels first") as error:
        with_channels_found(trace(given), given)
    assert f"[B, {', '.join(map(str, given.input_shape))}]" in str(error.value)
    assert f"--channels first transposes inside, so that clients send [B, {', '.join(map(str, sizes))}" in (
        error.value.hint or ""
    )
    # The hint's two options work.
    turned_source = with_channels(given, "first")
    assert turned_source.input_shape == (*sizes, channels)
    assert with_channels_found(trace(turned_source), turned_source).channels == "last"
    said = with_channels(given, "last")
    assert with_channels_found(trace(said), said).channels == "last"


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (4, 6, 8), (1, 8, 8, 8)])
def test_a_shape_that_looks_channels_first_is_refused_where_nothing_else_shows_it(shape) -> None:
    given = source(net(shape))
    with pytest.raises(ExportError, match=rf"a first size of {shape[0]}") as error:
        with_channels_found(trace(given), given)
    assert "--channels last" in error.value.hint
    assert with_channels_found(trace(given), with_channels(given, "last")).channels == "last"


@pytest.mark.parametrize("shape", [(3, 32, 3), (3, 4, 4), (8, 8, 3), (2, 32, 32), (3, 32)])
def test_other_shapes_are_not(shape) -> None:
    given = source(net(shape))
    assert with_channels_found(trace(given), given).channels == "last"


@pytest.mark.parametrize("make", [LASTS["an image"], NONES["a new axis"]], ids=["an image", "a gray picture"])
def test_channels_first_of_a_model_that_has_them_elsewhere_is_refused(make: Callable) -> None:
    given = with_channels(source(make()), "first")
    with pytest.raises(ExportError, match=r"--channels first.*are not first") as error:
        with_channels_found(trace(given), given)
    assert error.value.hint == "leave --channels out"


def test_features_have_no_channels_to_turn() -> None:
    with pytest.raises(ExportError, match=r"\[B, 9\], which has no axis beside") as error:
        with_channels(source(NOWHERE["features"]()), "first")
    assert error.value.hint == "leave --channels out"


@pytest.mark.parametrize("kind", ["a layer that adds an axis", "square and flattened"])
def test_saliency_of_gray_pictures_without_channels_is_the_maps_own_size(kind: str) -> None:
    model = NONES[kind]()
    x = np.random.default_rng(1).normal(size=(2, *model.input_shape[1:])).astype(np.float32)
    given = source(model)
    graph = with_channels_found(trace(given), given)
    logits = keras.Model(model.inputs, model.layers[-2].output)
    kernel, bias = model.layers[-1].get_weights()
    images = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(images)
        scores = (logits(images) @ kernel + bias)[:, 1]
    expected = tape.gradient(scores, images).numpy()
    outputs = Signatures(graph, methods=("gradients",))("explain_gradients", x, class_index=1)
    np.testing.assert_allclose(outputs["gradients"], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(outputs["saliency"], np.abs(expected), rtol=1e-4, atol=1e-6)
