import numpy as np
import pytest
import tensorflow as tf
from covering import covering

from saliency_exporter.rules.lowering.convolution import convolution


def conv2d(stride=1, padding="SAME", explicit_paddings=(), dilation=1):
    return lambda x, kernel: tf.raw_ops.Conv2D(
        input=x,
        filter=kernel,
        strides=[1, stride, stride, 1],
        padding=padding,
        explicit_paddings=list(explicit_paddings),
        dilations=[1, dilation, dilation, 1],
    )


def assert_same(both):
    (plain_y, plain_dx), (y, dx) = both
    np.testing.assert_allclose(y, plain_y, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(dx, plain_dx, rtol=1e-11, atol=1e-11)


CONVOLUTIONS = [
    *(((3, 3), (10, 9), 3, stride) for stride in (1, 2, 4)),
    *(((7, 4), (9, 8), 1, stride) for stride in (1, 2, 4)),
    ((3, 3), (10, 9), 6, 1),
    ((2, 5), (9, 8), 6, 1),
]


@pytest.mark.parametrize(("convolved", "padding"), covering(CONVOLUTIONS, ["SAME", "VALID"]))
def test_value_and_input_gradient_are_those_of_the_convolution(run_both, generator, convolved, padding):
    taps, size, channels, stride = convolved
    x, kernel = generator.normal(size=(2, *size, channels)), generator.normal(size=(*taps, channels, 5))
    assert_same(run_both(convolution, conv2d(stride, padding), x, kernel))


@pytest.mark.parametrize(("batch", "stride"), covering([1, 2, 8], [1, 2]))
def test_kernel_larger_than_the_picture_has_the_same_gradient_at_every_batch_size(
    run_both, generator, batch, stride
):
    x, kernel = generator.normal(size=(batch, 2, 2, 32)), generator.normal(size=(3, 3, 32, 128))
    assert_same(run_both(convolution, conv2d(stride), x, kernel))


@pytest.mark.parametrize(("channels", "stride"), [(3, 2), (6, 1)])
def test_explicit_padding_is_that_of_the_convolution(run_both, generator, channels, stride):
    x, kernel = generator.normal(size=(2, 9, 8, channels)), generator.normal(size=(3, 3, channels, 5))
    op = conv2d(stride, "EXPLICIT", [0, 0, 1, 0, 2, 1, 0, 0])
    assert_same(run_both(convolution, op, x, kernel))


@pytest.mark.parametrize("channels", [3, 6])
def test_dilation_is_that_of_the_convolution(run_both, generator, channels):
    x, kernel = generator.normal(size=(2, 9, 8, channels)), generator.normal(size=(3, 3, channels, 5))
    spread = np.zeros((5, 5, channels, 5))
    spread[::2, ::2] = kernel
    oracle = conv2d()
    both = run_both(convolution, conv2d(dilation=2), x, kernel, oracle=lambda x, _: oracle(x, spread))
    assert_same(both)


def test_other_convolutions_are_declined():
    with tf.Graph().as_default():
        unknown = tf.compat.v1.placeholder(tf.float32, (None, None, None, 3))
        beyond = [0, 0, 3, 0, 0, 0, 0, 0]  # more than the kernel reaches: the signal would have to be cut
        for op, x, kernel in (
            (conv2d(2), tf.zeros((1, 8, 8, 5)), tf.zeros((3, 3, 5, 2))),
            (conv2d(2), tf.zeros((1, 28, 28, 256)), tf.constant(np.zeros((3, 3, 256, 256), np.float32))),
            (conv2d(1, "EXPLICIT", beyond), tf.zeros((1, 8, 8, 5)), tf.zeros((3, 3, 5, 2))),
            (conv2d(), tf.zeros((1, 8, 8, 4)), tf.zeros((3, 3, 2, 2))),
            (conv2d(), unknown, tf.zeros((3, 3, 3, 2))),
        ):
            assert convolution(op(x, kernel).op.node_def, [x, kernel]) is None
