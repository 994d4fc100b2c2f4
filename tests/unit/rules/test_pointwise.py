import numpy as np
import pytest
import tensorflow as tf
from covering import covering

from saliency_exporter.rules.lowering.pointwise import pointwise, pointwise_uncompiled


def convolution(strides=(1, 1), padding="SAME"):
    return lambda x, kernel: tf.raw_ops.Conv2D(
        input=x, filter=kernel, strides=[1, *strides, 1], padding=padding
    )


@pytest.mark.parametrize(
    ("strides", "padding", "batch_and_filters"),
    covering([(1, 1), (2, 2), (3, 2)], ["SAME", "VALID"], [(2, 3), (2, 1024), (3, 1024)]),
)
def test_value_and_input_gradient_are_those_of_the_convolution(
    run_both, generator, strides, padding, batch_and_filters
):
    batch, filters = batch_and_filters
    x, kernel = generator.normal(size=(batch, 8, 7, 64)), generator.normal(size=(1, 1, 64, filters))
    (plain_y, plain_dx), (y, dx) = run_both(pointwise, convolution(strides, padding), x, kernel)
    np.testing.assert_allclose(y, plain_y, rtol=1e-12, atol=1e-11)
    np.testing.assert_allclose(dx, plain_dx, rtol=1e-12, atol=1e-11)


UNCOMPILED = [
    ((8, 6), 24, (1, 1)),
    ((8, 6), 24, (2, 2)),
    ((8, 6), 24, (4, 3)),
    ((96, 96), 128, (2, 2)),
    ((2, 3), 4800, (1, 1)),
]


@pytest.mark.parametrize(("convolved", "padding"), covering(UNCOMPILED, ["SAME", "VALID"]))
def test_uncompiled_value_and_input_gradient_are_those_of_the_convolution(
    run_both, generator, convolved, padding
):
    """The fourth is no product, between little arithmetic and a large kernel; the last is one both ways."""
    size, filters, strides = convolved
    x, kernel = generator.normal(size=(3, *size, 64)), generator.normal(size=(1, 1, 64, filters))
    op = convolution(strides, padding)
    (plain_y, plain_dx), (y, dx) = run_both(pointwise_uncompiled, op, x, kernel, compiled=False)
    np.testing.assert_allclose(y, plain_y, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dx, plain_dx, rtol=1e-12, atol=1e-11)


def test_uncompiled_strides_that_do_not_divide_the_picture_are_declined():
    with tf.Graph().as_default():
        kernel = tf.zeros((1, 1, 4, 2))
        for size, strides, taken in (
            ((8, 8), (2, 2), True),
            ((9, 8), (2, 2), False),
            ((8, 9), (2, 2), False),
        ):
            x = tf.zeros((1, *size, 4))
            outputs = pointwise_uncompiled(convolution(strides)(x, kernel).op.node_def, [x, kernel])
            assert (outputs is not None) == taken, size


@pytest.mark.parametrize(
    ("size", "channels", "filters", "taken"),
    [(56, 24, 144, True), (7, 1024, 2048, True), (56, 64, 256, False), (14, 256, 1024, False)],
)
def test_uncompiled_a_product_is_for_little_arithmetic_or_large_kernels(size, channels, filters, taken):
    with tf.Graph().as_default():
        x = tf.zeros((1, size, size, channels))
        kernel = tf.constant(np.zeros((1, 1, channels, filters), np.float32))
        assert pointwise(convolution()(x, kernel).op.node_def, [x, kernel]) is not None
        outputs = pointwise_uncompiled(convolution()(x, kernel).op.node_def, [x, kernel])
        assert (outputs is not None) == taken


@pytest.mark.parametrize(
    ("size", "channels", "filters", "convolutions"),
    [(7, 960, 320, 0), (19, 728, 728, 0), (7, 192, 1152, 1), (14, 480, 80, 1)],
)
def test_uncompiled_the_value_is_a_product_for_very_large_kernels_alone(
    size, channels, filters, convolutions
):
    """A convolution keeps its bias and its activation in one op; beyond 300 000 weights that counts less."""
    kernel = np.zeros((1, 1, channels, filters), np.float32)
    with tf.Graph().as_default() as graph:
        x, weights = tf.zeros((1, size, size, channels)), tf.constant(kernel)
        node = convolution()(x, weights).op.node_def
        before = len(graph.get_operations())
        assert pointwise_uncompiled(node, [x, weights]) is not None
        added = [op.type for op in graph.get_operations()[before:]]
    assert (added.count("Conv2D"), added.count("MatMul")) == (convolutions, 1 - convolutions)


@pytest.mark.parametrize("rule", [pointwise, pointwise_uncompiled])
def test_other_convolutions_are_declined(rule):
    with tf.Graph().as_default():
        x, kernel = tf.zeros((1, 8, 8, 4)), tf.zeros((1, 1, 4, 2))
        assert rule(convolution()(x, kernel).op.node_def, [x, kernel]) is not None
        square = tf.zeros((1, 8, 8, 8))
        nchw = tf.raw_ops.Conv2D(
            input=square, filter=tf.zeros((1, 1, 8, 2)), strides=[1] * 4, padding="SAME", data_format="NCHW"
        )
        assert rule(nchw.op.node_def, [square, tf.zeros((1, 1, 8, 2))]) is None
        for kernel, options in (
            (tf.zeros((3, 3, 4, 2)), {"padding": "SAME"}),
            (tf.zeros((1, 1, 2, 2)), {"padding": "SAME"}),
            (
                tf.zeros((1, 1, 4, 2)),
                {"padding": "EXPLICIT", "explicit_paddings": [0, 0, 1, 1, 1, 1, 0, 0]},
            ),
            (tf.reshape(x[0, :2, :2, :2], (1, 1, 4, 2)) + tf.reduce_mean(x), {"padding": "SAME"}),
        ):
            y = tf.raw_ops.Conv2D(input=x, filter=kernel, strides=[1] * 4, **options)
            assert rule(y.op.node_def, [x, kernel]) is None
