"""A model whose answer for one example depends on the others of its batch is refused, with the op."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from callables import source_of

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace
from saliency_exporter.version.independence import hold_examples_apart
from saliency_exporter.version.manifest import Rounding
from saliency_exporter.version.tolerances import tolerances

RNG = np.random.default_rng(7)
SHAPE = (6, 6, 3)
KERNEL = tf.constant(RNG.normal(size=(3, 3, 3, 4)), tf.float32)
X = tf.constant(RNG.normal(size=(2, *SHAPE)), tf.float32)
BOUNDS = tolerances(Rounding())
LAYER = keras.layers.BatchNormalization()


def net(x: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.tanh(tf.nn.conv2d(x, KERNEL, 1, "VALID")), [1, 2])


def normalized(x: tf.Tensor) -> tf.Tensor:
    mean, variance = tf.nn.moments(x, [0, 1, 2], name="of_the_batch")
    return net(tf.nn.batch_normalization(x, mean, variance, None, None, 1e-3))


def fused(x: tf.Tensor) -> tf.Tensor:
    y, *_ = tf.compat.v1.nn.fused_batch_norm(x, tf.ones(3), tf.zeros(3), is_training=True, name="trains")
    return net(y)


@tf.custom_gradient
def clipped(x: tf.Tensor):
    return tf.identity(x), lambda signal: tf.clip_by_norm(signal, 1e-3)


MIXING = {
    "a mean of the batch is taken away": (
        lambda x: net(x - tf.reduce_mean(x, 0, name="mean")),
        r"mean \(Mean\)",
    ),
    "moments over the batch": (normalized, r"of_the_batch/mean \(Mean\)"),
    "a fused normalization as in training": (fused, r"trains\w* \(FusedBatchNormV3\)"),
    "Keras's normalization as in training": (lambda x: net(LAYER(x, training=True)), r"\(\w+\)"),
    "a number of the whole batch": (
        lambda x: net(x / (1e-3 + tf.sqrt(tf.reduce_mean(tf.square(x), name="power")))),
        r"power \(Mean\)",
    ),
    "a softmax over the batch": (lambda x: tf.nn.softmax(net(x), 0), r"\(\w+\)"),
    "the first example of the batch": (lambda x: net(x) - net(x)[:1], r"\(StridedSlice\)"),
}


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("kind", MIXING)
def test_scores_that_depend_on_the_other_examples_are_refused_with_the_first_op(kind, gradients) -> None:
    call, op = MIXING[kind]
    alone = np.concatenate([call(X[:1]).numpy(), call(X[1:]).numpy()])
    apart = np.abs(call(X).numpy() - alone).max()
    with pytest.raises(ExportError, match=op) as error:
        hold_examples_apart("model", Forward(trace(source_of(call, SHAPE))), X, BOUNDS, gradients=gradients)
    assert f"differ by {apart:.2g} from" in str(error.value)


def test_a_model_that_is_mapped_over_its_examples_as_the_hint_says_is_not() -> None:
    def call(images: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(lambda image: normalized(image[tf.newaxis])[0], images)

    graph = trace(source_of(call, SHAPE))
    hold_examples_apart("model", Forward(graph), X, BOUNDS)
    scores = tf.function(Forward(graph).scores, autograph=False)
    np.testing.assert_allclose(scores(X)[1:], normalized(X[1:]), rtol=1e-5, atol=1e-6)


def test_a_gradient_of_its_own_over_the_whole_batch_is_refused() -> None:
    graph = trace(source_of(lambda x: net(clipped(x)), SHAPE))
    with pytest.raises(
        ExportError, match="the gradient of model for an example depends on the other examples"
    ):
        hold_examples_apart("model", Forward(graph), X, BOUNDS)
    hold_examples_apart("model", Forward(graph), X, BOUNDS, gradients=False)


APART = {
    "a network": net,
    "moments of each example": lambda x: net(
        (x - tf.reduce_mean(x, [1, 2, 3], keepdims=True)) / tf.math.reduce_std(x, [1, 2, 3], keepdims=True)
    ),
    "scores of zero": lambda x: 0.0 * net(x),
    "no gradient": lambda x: tf.round(net(x)),
}


@pytest.mark.parametrize("kind", APART)
def test_a_model_that_takes_each_example_by_itself_passes(kind) -> None:
    hold_examples_apart("model", Forward(trace(source_of(APART[kind], SHAPE))), X, BOUNDS)
