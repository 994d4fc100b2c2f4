"""What XLA resizes wrongly, or not at all, is resized as the model resizes it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import tensorflow as tf
from callables import source_of
from covering import covering
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.resizing import resizing_rules
from saliency_exporter.graph.trace import trace


def raw(op: Callable[..., tf.Tensor], **options: bool) -> Callable[[tf.Tensor, tuple[int, int]], tf.Tensor]:
    return lambda x, size: op(images=x, size=size, **options)


KINDS = {
    "bilinear": lambda x, size: tf.image.resize(x, size),
    "bilinear of TensorFlow 1": raw(tf.raw_ops.ResizeBilinear),
    "bilinear, corners aligned": raw(tf.raw_ops.ResizeBilinear, align_corners=True),
    "bicubic": lambda x, size: tf.image.resize(x, size, "bicubic"),
    "bicubic of TensorFlow 1": raw(tf.raw_ops.ResizeBicubic),
}


def scores_of(resize: Callable, size: tuple[int, int]) -> Callable[[tf.Tensor], tf.Tensor]:
    """Three scores of resized images; no two places of them count alike."""
    rng = np.random.default_rng(0)
    weights = tf.constant(rng.normal(size=(*size, 2, 3)) / np.prod(size), tf.float32)
    return lambda x: tf.einsum("bhwc,hwck->bk", tf.tanh(resize(x, size)), weights)


def score_and_gradient(scores: Callable[[tf.Tensor], tf.Tensor], x: np.ndarray, compiled: bool) -> list:
    @tf.function(autograph=False, jit_compile=compiled)
    def run(x: tf.Tensor) -> list[tf.Tensor]:
        y = scores(x)
        return [y, tf.gradients(y[:, 0] - y[:, 2], x)[0]]

    with tf.device("/CPU:0"):
        return [value.numpy() for value in run(tf.constant(x))]


SIZES = [((4, 6), (12, 10)), ((32, 5), (224, 9)), ((15, 4), (25, 4)), ((9, 12), (6, 8)), ((6, 3), (1, 1))]
"""Of an image, and the new one."""


@pytest.mark.parametrize(("kind", "sizes"), covering(list(KINDS), SIZES))
def test_compiled_scores_and_gradients_are_those_of_tensorflows_own_kernel(kind, sizes):
    size, new = sizes
    network = scores_of(KINDS[kind], new)
    forward = Forward(trace(source_of(network, (*size, 2)), score="output"))
    x = np.random.default_rng(1).normal(size=(2, *size, 2)).astype(np.float32)
    expected = score_and_gradient(network, x, compiled=False)
    got = score_and_gradient(lambda x: forward.scores(x, compiled=True), x, compiled=True)
    for value, right in zip(got, expected, strict=True):
        np.testing.assert_allclose(value, right, rtol=1e-4, atol=2e-5 * np.abs(right).max())


def linear_resize(size: int, new: int) -> np.ndarray:
    """The matrix of bilinear interpolation between pixels' centers, from its definition, [new, size]."""
    matrix = np.zeros((new, size))
    for output in range(new):
        position = (output + 0.5) * size / new - 0.5
        below = int(np.floor(position + 1e-9))
        for pixel, weight in ((below, 1 - (position - below)), (below + 1, position - below)):
            matrix[output, min(max(pixel, 0), size - 1)] += weight
    return matrix


def test_an_enlargement_by_seven_is_the_interpolation_by_hand():
    """As a network for 224 x 224 takes pictures of 32 x 32."""
    network = lambda x: tf.reshape(tf.reduce_sum(tf.image.resize(x, (224, 224)), 2), [-1, 224 * 3])  # noqa: E731
    forward = Forward(trace(source_of(network, (32, 32, 3)), score="output"))
    x = np.random.default_rng(2).normal(size=(1, 32, 32, 3)).astype(np.float32)
    compiled = tf.function(lambda x: forward.scores(x, compiled=True), jit_compile=True, autograph=False)
    matrix = linear_resize(32, 224)
    expected = np.einsum("oh,pw,bhwc->boc", matrix, matrix, x)
    np.testing.assert_allclose(compiled(x).numpy().reshape(expected.shape), expected, atol=1e-3)


def test_images_of_whole_numbers_are_resized_as_floats():
    x = np.random.default_rng(3).integers(0, 255, (2, 5, 5, 1))
    node = tf.raw_ops.ResizeBilinear
    (y,) = rule_on(x.astype(np.uint8), (15, 15))
    np.testing.assert_allclose(
        y, node(images=x.astype(np.uint8), size=(15, 15), half_pixel_centers=True), atol=1e-3
    )


def rule_on(images: np.ndarray, size: tuple[int, int]) -> list[np.ndarray]:
    node = NodeDef(name="op", op="ResizeBilinear", input=["images", "size"])
    node.attr["half_pixel_centers"].b = True
    node.attr["T"].type = tf.as_dtype(images.dtype).as_datatype_enum
    rule = resizing_rules(tf.version.GRAPH_DEF_VERSION)["ResizeBilinear"]
    outputs = tf.function(lambda x: rule(node, [x, tf.constant(size)]), autograph=False)(images)
    return [output.numpy() for output in outputs]


@pytest.mark.parametrize(("size", "new"), [((8, 8), (16, 16)), ((300, 8), (224, 16)), ((7, 7), (7, 7))])
def test_what_xla_resizes_rightly_has_no_rule(size, new):
    node = NodeDef(name="op", op="ResizeBilinear", input=["images", "size"])
    node.attr["half_pixel_centers"].b = True
    node.attr["T"].type = tf.float32.as_datatype_enum
    with tf.Graph().as_default():
        x = tf.compat.v1.placeholder(tf.float32, (None, *size, 3))
        rule = resizing_rules(tf.version.GRAPH_DEF_VERSION)["ResizeBilinear"]
        assert rule(node, [x, tf.constant(new)]) is None
        # A size that only the image shows.
        assert rule(node, [x, 3 * tf.shape(tf.compat.v1.placeholder(tf.float32, (None, None)))]) is None


@pytest.mark.slow
def test_of_many_sizes_those_without_a_rule_are_right_compiled():
    rng = np.random.default_rng(4)
    for _ in range(300):
        (size, new), half = map(int, rng.integers(1, 60, 2)), bool(rng.integers(2))
        x = rng.normal(size=(1, size, 1, 2)).astype(np.float32)
        resize = raw(tf.raw_ops.ResizeBilinear, half_pixel_centers=half)
        network = lambda x, n=new, resize=resize: tf.reshape(resize(x, (n, 1)), [-1, 2 * n])  # noqa: E731
        forward = Forward(trace(source_of(network, (size, 1, 2)), score="output"))
        compiled = tf.function(partial(forward.scores, compiled=True), jit_compile=True, autograph=False)
        np.testing.assert_allclose(compiled(x), network(x), atol=1e-3, err_msg=f"{size} to {new}, {half}")
