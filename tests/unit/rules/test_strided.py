import numpy as np
import pytest
import tensorflow as tf
from covering import covering
from rounding import assert_equal_to_rounding

from saliency_exporter.rules.lowering.strided import strided_uncompiled


def conv2d(strides=(2, 2), padding="SAME", explicit_paddings=(), dilation=1):
    return lambda x, kernel: tf.raw_ops.Conv2D(
        input=x,
        filter=kernel,
        strides=[1, *strides, 1],
        padding=padding,
        explicit_paddings=list(explicit_paddings),
        dilations=[1, dilation, dilation, 1],
    )


def assert_same(both):
    (plain_y, plain_dx), (y, dx) = both
    np.testing.assert_allclose(y, plain_y, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dx, plain_dx, rtol=1e-11, atol=1e-11)


CONVOLVED = [((3, 3), (10, 9), 3), ((7, 7), (12, 15), 3), ((2, 5), (9, 8), 1), ((1, 4), (8, 8), 4)]


@pytest.mark.parametrize(
    ("convolved", "strides", "padding"), covering(CONVOLVED, [(2, 2), (1, 3), (4, 2)], ["SAME", "VALID"])
)
def test_value_and_input_gradient_are_those_of_the_convolution(
    run_both, generator, convolved, strides, padding
):
    taps, size, channels = convolved
    x, kernel = generator.normal(size=(3, *size, channels)), generator.normal(size=(*taps, channels, 5))
    assert_same(run_both(strided_uncompiled, conv2d(strides, padding), x, kernel, compiled=False))


@pytest.mark.parametrize(("taps", "channels"), [(3, 3), (7, 3), (5, 1)])
def test_in_float32_oneDNN_gives_the_same(run_both, generator, taps, channels):
    """An even picture with SAME: more zeros behind it than in front."""
    x = generator.normal(size=(3, 32, 32, channels)).astype(np.float32)
    kernel = generator.normal(size=(taps, taps, channels, 24)).astype(np.float32)
    (plain_y, plain_dx), (y, dx) = run_both(strided_uncompiled, conv2d(), x, kernel, compiled=False)
    assert_equal_to_rounding(y, plain_y)
    assert_equal_to_rounding(dx, plain_dx)


def test_explicit_padding_is_that_of_the_convolution(run_both, generator):
    x, kernel = generator.normal(size=(2, 9, 8, 3)), generator.normal(size=(3, 3, 3, 5))
    op = conv2d((2, 2), "EXPLICIT", [0, 0, 1, 0, 2, 1, 0, 0])
    both = run_both(
        strided_uncompiled,
        op,
        x,
        kernel,
        oracle=lambda x, kernel: conv2d((2, 2), "VALID")(tf.pad(x, [(0, 0), (1, 0), (2, 1), (0, 0)]), kernel),
        compiled=False,
    )
    assert_same(both)


def test_other_convolutions_are_declined():
    with tf.Graph().as_default():
        unknown = tf.compat.v1.placeholder(tf.float32, (None, None, None, 3))
        beyond = [0, 0, 4, 0, 0, 0, 0, 0]  # more than the kernel reaches: the signal would have to be cut
        computed = tf.compat.v1.placeholder(tf.float32, (3, 3, 3, 2))
        x, kernel = tf.zeros((1, 8, 8, 3)), tf.zeros((3, 3, 3, 2))
        assert strided_uncompiled(conv2d()(x, kernel).op.node_def, [x, kernel]) is not None
        for op, x, kernel in (
            (conv2d((1, 1)), tf.zeros((1, 8, 8, 3)), tf.zeros((3, 3, 3, 2))),
            (conv2d(), tf.zeros((1, 8, 8, 5)), tf.zeros((3, 3, 5, 2))),
            (conv2d(dilation=2), tf.zeros((1, 8, 8, 3)), tf.zeros((3, 3, 3, 2))),
            (conv2d(), tf.zeros((1, 8, 8, 4)), tf.zeros((3, 3, 2, 2))),
            (conv2d(), unknown, tf.zeros((3, 3, 3, 2))),
            (conv2d(), tf.zeros((1, 8, 8, 3)), computed),
            (conv2d((2, 2), "EXPLICIT", beyond), tf.zeros((1, 8, 8, 3)), tf.zeros((3, 3, 3, 2))),
        ):
            assert strided_uncompiled(op(x, kernel).op.node_def, [x, kernel]) is None
