import numpy as np
import pytest
import tensorflow as tf

from saliency_exporter.rules.lowering.pointwise import pointwise, pointwise_uncompiled


def convolution(strides=(1, 1), padding="SAME"):
    return lambda x, kernel: tf.raw_ops.Conv2D(
        input=x, filter=kernel, strides=[1, *strides, 1], padding=padding
    )


@pytest.mark.parametrize(("batch", "filters"), [(2, 3), (2, 1024), (3, 1024)])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (3, 2)])
def test_value_and_input_gradient_are_those_of_the_convolution(
    run_both, generator, strides, padding, batch, filters
):
    x, kernel = generator.normal(size=(batch, 8, 7, 64)), generator.normal(size=(1, 1, 64, filters))
    (plain_y, plain_dx), (y, dx) = run_both(pointwise, convolution(strides, padding), x, kernel)
    np.testing.assert_allclose(y, plain_y, rtol=1e-12, atol=1e-11)
    np.testing.assert_allclose(dx, plain_dx, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_uncompiled_value_and_input_gradient_are_those_of_the_convolution(run_both, generator, padding):
    x, kernel = generator.normal(size=(3, 8, 7, 64)), generator.normal(size=(1, 1, 64, 24))
    op = convolution(padding=padding)
    (plain_y, plain_dx), (y, dx) = run_both(pointwise_uncompiled, op, x, kernel, compiled=False)
    np.testing.assert_allclose(y, plain_y, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dx, plain_dx, rtol=1e-12, atol=1e-11)


def test_uncompiled_strides_are_declined():
    with tf.Graph().as_default():
        x, kernel = tf.zeros((1, 8, 8, 4)), tf.zeros((1, 1, 4, 2))
        assert pointwise_uncompiled(convolution((1, 2))(x, kernel).op.node_def, [x, kernel]) is None
        assert pointwise_uncompiled(convolution()(x, kernel).op.node_def, [x, kernel]) is not None


@pytest.mark.parametrize("rule", [pointwise, pointwise_uncompiled])
def test_other_convolutions_are_declined(rule):
    with tf.Graph().as_default():
        x = tf.zeros((1, 8, 8, 4))
        for kernel, options in (
            (tf.zeros((3, 3, 4, 2)), {"padding": "SAME"}),
            (tf.zeros((1, 1, 2, 2)), {"padding": "SAME"}),
            (tf.zeros((1, 1, 8, 2)), {"padding": "SAME", "data_format": "NCHW"}),
            (
                tf.zeros((1, 1, 4, 2)),
                {"padding": "EXPLICIT", "explicit_paddings": [0, 0, 1, 1, 1, 1, 0, 0]},
            ),
            (tf.reshape(x[0, :2, :2, :2], (1, 1, 4, 2)) + tf.reduce_mean(x), {"padding": "SAME"}),
        ):
            y = tf.raw_ops.Conv2D(input=x, filter=kernel, strides=[1] * 4, **options)
            assert rule(y.op.node_def, [x, kernel]) is None
