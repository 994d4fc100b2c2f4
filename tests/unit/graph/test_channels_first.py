"""Models of channels first, turned: the same net with its channels last, run by Keras, is what is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from built_signatures import Signatures
from callables import source_of
from covering import covering

from saliency_exporter.graph.channels import with_channels_found
from saliency_exporter.graph.folding import fold
from saliency_exporter.graph.trace import trace
from saliency_exporter.sources.channels import with_channels

SIZES, CHANNELS = (9, 12), 4


def convolutions(k: Any, layout: dict[str, str], axis: int) -> Sequence[Any]:
    layers = k.layers
    return [
        # 7, since Keras 3 adds a bias along the width where the width is the number of channels.
        layers.Conv2D(7, 3, padding="same", activation="relu", **layout),
        layers.BatchNormalization(axis=axis),
        layers.DepthwiseConv2D(3, strides=2, padding="same", **layout),
        layers.ReLU(6.0),
        layers.MaxPooling2D(2, padding="same", **layout),
        layers.PReLU(shared_axes=[2, 3] if axis == 1 else [1, 2]),
        layers.Conv2D(8, 1, use_bias=False, **layout),
        layers.BatchNormalization(axis=axis),
    ]


def others(k: Any, layout: dict[str, str], axis: int) -> Sequence[Any]:
    layers = k.layers
    return [
        layers.ZeroPadding2D(((1, 2), (0, 1)), **layout),
        layers.SeparableConv2D(8, 3, activation="relu", **layout),
        layers.AveragePooling2D(2, **layout),
        layers.Conv2DTranspose(5, 3, strides=2, padding="same", **layout),
        layers.Activation("swish"),
        layers.UpSampling2D(2, **layout),
        layers.Cropping2D(1, **layout),
    ]


def grouped(k: Any, layout: dict[str, str], axis: int) -> Sequence[Any]:
    layers = k.layers
    return [
        layers.Conv2D(8, 3, groups=2, activation="relu", **layout),
        layers.BatchNormalization(axis=axis),
        layers.Conv2D(6, 3, dilation_rate=2, padding="same", activation="relu", **layout),
    ]


def net(k: Any, stack: Callable, data_format: str) -> Any:
    first = data_format == "channels_first"
    layout = {"data_format": data_format}
    shape = (CHANNELS, *SIZES) if first else (*SIZES, CHANNELS)
    end = [k.layers.GlobalAveragePooling2D(**layout), k.layers.Dense(3), k.layers.Softmax()]
    return k.Sequential([k.layers.Input(shape), *stack(k, layout, 1 if first else -1), *end])


def pair(k: Any, stack: Callable) -> tuple[Any, Any]:
    """The net with channels first, and the same with channels last."""
    k.utils.set_random_seed(3)
    first, last = net(k, stack, "channels_first"), net(k, stack, "channels_last")
    rng = np.random.default_rng(5)
    for mine, other in zip(first.weights, last.weights, strict=True):
        # Statistics and slopes that matter; a variance is positive.
        value = rng.uniform(0.2, 1.2, mine.shape) if len(mine.shape) != 4 else np.asarray(mine)
        mine.assign(value)
        # Slopes of a PReLU are [C, 1, 1] and [1, 1, C].
        other.assign(np.reshape(value, other.shape))
    return first, last


@pytest.mark.parametrize(("stack", "k"), covering([convolutions, others, grouped], [keras, tf_keras]))
def test_a_net_of_channels_first_layers_is_the_same_net(k: Any, stack: Callable) -> None:
    first, last = pair(k, stack)
    x = np.random.default_rng(1).normal(size=(2, *SIZES, CHANNELS)).astype(np.float32)
    logits = k.Model(last.inputs, last.layers[-2].output)
    images = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(images)
        scores = logits(images, training=False)
        chosen = scores[:, 2]
    expected = tape.gradient(chosen, images).numpy()

    call = lambda x: first(x, training=False)  # noqa: E731
    call.variables = first.variables
    source = with_channels(source_of(call, (CHANNELS, *SIZES)), "first")
    graph = with_channels_found(trace(source), source)
    saliency, scale = np.abs(expected).max(axis=-1), np.abs(expected).max()
    for traced in (graph, fold(graph)):
        answer = Signatures(traced, methods=("gradients",))("explain_gradients", x, class_index=2)
        np.testing.assert_allclose(answer["score"], scores[:, 2], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(answer["gradients"], expected, rtol=1e-3, atol=1e-4 * scale)
        np.testing.assert_allclose(answer["saliency"], saliency, rtol=1e-3, atol=1e-4 * scale)
