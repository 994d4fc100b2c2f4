import numpy as np
import pytest
import tensorflow as tf
from covering import covering

from saliency_exporter.rules.lowering.dense import dense


@pytest.mark.parametrize(("batch", "units"), covering([1, 3, 8], [5, 512]))
def test_value_and_input_gradient_are_those_of_the_product(run_both, generator, units, batch):
    x, weight = generator.normal(size=(batch, 24)), generator.normal(size=(24, units))
    (plain_y, plain_dx), (y, dx) = run_both(dense, lambda x, w: tf.raw_ops.MatMul(a=x, b=w), x, weight)
    np.testing.assert_allclose(y, plain_y, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dx, plain_dx, rtol=1e-12, atol=1e-12)


def test_a_product_of_two_activations_is_declined_because_both_need_a_gradient():
    with tf.Graph().as_default():
        x = tf.compat.v1.placeholder(tf.float32, (4, 4))
        weight = tf.nn.softmax(x)
        assert dense(tf.matmul(x, weight).op.node_def, [x, weight]) is None


def test_a_transposed_weight_is_declined():
    with tf.Graph().as_default():
        x, weight = tf.zeros((2, 4)), tf.zeros((3, 4))
        assert dense(tf.matmul(x, weight, transpose_b=True).op.node_def, [x, weight]) is None
