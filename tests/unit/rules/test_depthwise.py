"""Float64, so that the only difference left is rounding and not the order of additions in float32."""

import numpy as np
import pytest
import tensorflow as tf
from covering import covering

from saliency_exporter.rules.lowering.depthwise import depthwise

TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}


def depthwise_op(stride=1, padding="SAME", explicit_paddings=(), dilations=(1, 1)):
    def op(x, kernel):
        return tf.raw_ops.DepthwiseConv2dNative(
            input=x,
            filter=kernel,
            strides=[1, stride, stride, 1],
            padding=padding,
            explicit_paddings=list(explicit_paddings),
            dilations=[1, *dilations, 1],
        )

    return op


def assert_same(both):
    (plain_y, plain_dx), (y, dx) = both
    np.testing.assert_allclose(y, plain_y, **TOLERANCE)
    np.testing.assert_allclose(dx, plain_dx, **TOLERANCE)


@pytest.mark.parametrize(
    ("taps", "stride", "padding", "size_and_multiplier"),
    covering([(3, 3), (5, 2)], [1, 2, 3], ["SAME", "VALID"], [((8, 9), 1), ((7, 6), 3)]),
)
def test_value_and_input_gradient_are_those_of_the_native_op(
    run_both, generator, taps, stride, padding, size_and_multiplier
):
    size, multiplier = size_and_multiplier
    x = generator.normal(size=(2, *size, 4))
    kernel = generator.normal(size=(*taps, 4, multiplier))
    assert_same(run_both(depthwise, depthwise_op(stride, padding), x, kernel))


@pytest.mark.parametrize("taps", [1, 2])
def test_inputs_that_no_window_reads_get_no_gradient(run_both, generator, taps):
    x, kernel = generator.normal(size=(2, 8, 7, 4)), generator.normal(size=(taps, taps, 4, 1))
    both = run_both(depthwise, depthwise_op(stride=3, padding="VALID"), x, kernel)
    assert_same(both)
    assert (both[1][1][:, 2::3] == 0).all()


@pytest.mark.parametrize("stride", [1, 2])
def test_explicit_padding_is_that_of_the_native_op(run_both, generator, stride):
    x, kernel = generator.normal(size=(2, 6, 9, 3)), generator.normal(size=(3, 3, 3, 1))
    op = depthwise_op(stride, "EXPLICIT", [0, 0, 1, 0, 2, 1, 0, 0])
    assert_same(run_both(depthwise, op, x, kernel))


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("stride", [1, 2])
def test_dilation_is_a_kernel_with_zeros_between_its_taps(run_both, generator, stride, padding):
    x, kernel = generator.normal(size=(2, 9, 8, 3)), generator.normal(size=(3, 3, 3, 2))
    spread = np.zeros((5, 7, 3, 2))
    spread[::2, ::3] = kernel
    op = depthwise_op(stride, padding, dilations=(2, 3))
    oracle = depthwise_op(stride, padding)
    assert_same(run_both(depthwise, op, x, kernel, oracle=lambda x, _: oracle(x, spread)))


@pytest.mark.parametrize("multiplier", [1, 2])
def test_convolution_with_a_group_for_each_channel_is_depthwise(run_both, generator, multiplier):
    x, kernel = generator.normal(size=(2, 7, 6, 4)), generator.normal(size=(3, 3, 1, 4 * multiplier))

    def grouped(x, kernel):
        return tf.raw_ops.Conv2D(input=x, filter=kernel, strides=[1, 2, 2, 1], padding="SAME")

    def one_convolution_for_each_channel(x, kernel):
        pairs = zip(tf.split(x, 4, axis=3), tf.split(kernel, 4, axis=3), strict=True)
        return tf.concat([grouped(channel, own) for channel, own in pairs], axis=3)

    assert_same(run_both(depthwise, grouped, x, kernel, oracle=one_convolution_for_each_channel))


def test_layouts_and_shapes_that_are_not_its_own_are_declined():
    with tf.Graph().as_default():
        kernel = tf.zeros((3, 3, 4, 1))
        nchw = tf.raw_ops.DepthwiseConv2dNative(
            input=tf.zeros((1, 4, 8, 8)), filter=kernel, strides=[1] * 4, padding="SAME", data_format="NCHW"
        )
        assert depthwise(nchw.op.node_def, list(nchw.op.inputs)) is None
        unknown = tf.compat.v1.placeholder(tf.float32, (None, None, None, 4))
        assert depthwise(depthwise_op()(unknown, kernel).op.node_def, [unknown, kernel]) is None
        full = tf.nn.conv2d(tf.zeros((1, 8, 8, 4)), tf.zeros((3, 3, 4, 4)), 1, "SAME")
        assert depthwise(full.op.node_def, list(full.op.inputs)) is None


def test_a_kernel_computed_from_the_image_is_declined_because_it_needs_its_gradient():
    with tf.Graph().as_default():
        x = tf.compat.v1.placeholder(tf.float32, (None, 8, 8, 4))
        kernel = tf.reshape(tf.reduce_mean(x, [0, 1, 2]), (1, 1, 4, 1))
        y = depthwise_op()(x, kernel)
        assert depthwise(y.op.node_def, [x, kernel]) is None


def test_equal_layers_share_the_constants_of_their_taps(generator):
    """Nine slices a layer, with three constants each, would be a third of what an export traces."""
    kernel = generator.normal(size=(3, 3, 4, 1))
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float64, (None, 8, 8, 4))
        node = depthwise_op()(x, tf.constant(kernel)).op.node_def
        for _ in range(5):
            (x,) = depthwise(node, [x, tf.constant(kernel)])
    slices = [operation for operation in graph.get_operations() if operation.type == "StridedSlice"]
    bounds = {value.name for operation in slices for value in operation.inputs[1:]}
    assert len(slices) >= 5 * 9
    # Of nine taps the starts and the ends, and one stride.
    assert len(bounds) <= 9 + 9 + 1
