import numpy as np
import pytest
import tensorflow as tf

from saliency_exporter.rules.lowering import lowering_rules
from saliency_exporter.rules.lowering.winograd import winograd


def test_a_cpu_gets_rules_and_a_gpu_keeps_its_own_kernels():
    assert {"DepthwiseConv2dNative", "MaxPool"} <= set(lowering_rules("cpu"))
    assert lowering_rules("gpu") == {}


def test_uncompiled_the_rules_of_a_cpu_are_those_that_are_no_plain_loops():
    assert set(lowering_rules("cpu", compiled=False)) == {"Conv2D"}
    assert lowering_rules("gpu", compiled=False) == {}


def test_an_unknown_target_is_named_in_the_error():
    for compiled in (True, False):
        with pytest.raises(ValueError, match="'tpu'"):
            lowering_rules("tpu", compiled=compiled)


def test_uncompiled_a_strided_first_layer_has_a_rule_of_its_own():
    with tf.Graph().as_default() as graph:
        x, kernel = tf.zeros((1, 32, 32, 3)), tf.zeros((3, 3, 3, 8))
        node = tf.nn.conv2d(x, kernel, 2, "SAME").op.node_def
        (y,) = lowering_rules("cpu", compiled=False)["Conv2D"](node, [x, kernel])
        tf.gradients(y, x)
        assert "Conv2DBackpropInput" not in {op.type for op in graph.get_operations()}


def test_uncompiled_a_smaller_picture_is_worth_minimal_filtering():
    """ResNet50's 14² × 256."""
    with tf.Graph().as_default():
        x = tf.zeros((1, 14, 14, 256))
        kernel = tf.constant(np.zeros((3, 3, 256, 256), np.float32))
        node = tf.nn.conv2d(x, kernel, 1, "SAME").op.node_def
        assert lowering_rules("cpu", compiled=False)["Conv2D"](node, [x, kernel]) is not None
        assert winograd(node, [x, kernel]) is None


def taken(kernels, x_shape, kernel_shape, strides=1):
    """The op types that the rule for a convolution adds with its gradient, or None where it declines."""
    with tf.Graph().as_default() as graph:
        x, kernel = tf.zeros((1, *x_shape)), tf.constant(np.zeros(kernel_shape, np.float32))
        node = tf.nn.conv2d(x, kernel, strides, "SAME").op.node_def
        before = len(graph.get_operations())
        outputs = lowering_rules("cpu", compiled=False, kernels=kernels)["Conv2D"](node, [x, kernel])
        if outputs is None:
            return None
        tf.gradients(outputs[0], x)
        return {op.type for op in graph.get_operations()[before:]}


def test_each_set_of_kernels_has_the_rules_that_are_faster_with_it():
    first_layer = (32, 32, 3), (3, 3, 3, 8), 2
    large = (28, 28, 512), (3, 3, 512, 512)
    small_kernel = (56, 56, 64), (1, 1, 64, 256)
    assert taken("onednn", *first_layer) is not None
    assert taken("eigen", *first_layer) is None
    fewer = (28, 28, 256), (3, 3, 256, 256)
    assert [taken("onednn", *layer) is not None for layer in (large, fewer)] == [True, True]
    assert [taken("eigen", *layer) is not None for layer in (large, fewer)] == [True, False]
    assert taken("onednn", *small_kernel) is None
    # Eigen's own gradient of a 1×1 convolution is a product and a pass over the memory more.
    way_back = taken("eigen", *small_kernel)
    assert "MatMul" in way_back
    assert "Conv2DBackpropInput" not in way_back
    assert "Conv2D" in way_back
