import numpy as np
import pytest
import tensorflow as tf
from covering import covering

from saliency_exporter.rules.lowering.max_pool import max_pool


def max_pool_op(window, stride, padding, explicit_paddings=()):
    def op(x):
        return tf.raw_ops.MaxPool(
            input=x,
            ksize=[1, *window, 1],
            strides=[1, stride, stride, 1],
            padding=padding,
            explicit_paddings=list(explicit_paddings),
        )

    return op


def with_ties(generator, shape):
    """Half zeros, as after a ReLU, and few distinct values: nearly every window has a tie."""
    return np.maximum(generator.integers(-3, 4, size=shape), 0).astype(np.float64)


def assert_same(both):
    (plain_y, plain_dx), (y, dx) = both
    np.testing.assert_array_equal(y, plain_y)
    np.testing.assert_allclose(dx, plain_dx, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(
    ("window_and_size", "stride", "padding"),
    covering([((2, 2), (8, 9)), ((3, 3), (7, 6)), ((4, 1), (9, 7))], [1, 2, 3], ["SAME", "VALID"]),
)
def test_value_and_gradient_are_those_of_the_native_op_with_ties(
    run_both, generator, window_and_size, stride, padding
):
    window, size = window_and_size
    x = with_ties(generator, (2, *size, 4))
    assert_same(run_both(max_pool, max_pool_op(window, stride, padding), x))


def test_explicit_padding_is_that_of_the_native_op(run_both, generator):
    op = max_pool_op((3, 3), 2, "EXPLICIT", [0, 0, 1, 0, 2, 1, 0, 0])
    assert_same(run_both(max_pool, op, with_ties(generator, (2, 7, 8, 3))))


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_padding_never_wins_where_all_values_are_negative(run_both, generator, padding):
    x = -1 - with_ties(generator, (2, 7, 7, 3))
    assert_same(run_both(max_pool, max_pool_op((3, 3), 2, padding), x))


def test_a_window_of_equal_values_sends_all_its_signal_to_the_first():
    x = np.zeros((1, 4, 4, 1))
    with tf.Graph().as_default():
        node = max_pool_op((2, 2), 2, "VALID")(tf.constant(x)).op.node_def

    @tf.function(jit_compile=True)
    def gradient(x):
        return tf.gradients(max_pool(node, [x])[0], x)[0]

    expected = np.zeros((1, 4, 4, 1))
    expected[:, ::2, ::2] = 1
    np.testing.assert_array_equal(gradient(tf.constant(x)), expected)


def test_layouts_and_shapes_that_are_not_its_own_are_declined():
    with tf.Graph().as_default():
        unknown = tf.compat.v1.placeholder(tf.float32, (None, None, None, 4))
        assert max_pool(max_pool_op((2, 2), 2, "SAME")(unknown).op.node_def, [unknown]) is None
        known = tf.zeros((1, 4, 8, 8))
        nchw = tf.raw_ops.MaxPool(
            input=known, ksize=[1, 1, 2, 2], strides=[1, 1, 2, 2], padding="SAME", data_format="NCHW"
        )
        assert max_pool(nchw.op.node_def, [known]) is None
        channels = tf.raw_ops.MaxPool(input=known, ksize=[1, 1, 1, 2], strides=[1, 1, 1, 2], padding="VALID")
        assert max_pool(channels.op.node_def, [known]) is None
