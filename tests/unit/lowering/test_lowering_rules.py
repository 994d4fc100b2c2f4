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
