"""One op, by TensorFlow's own kernel and by a lowering rule, each with its input gradient."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf


def _run_both(rule, op, x, *weights, oracle=None, compiled=True):
    """((output, input gradient) of the plain op uncompiled, the same of the rule compiled), as arrays.

    Without `compiled`, the rule is not compiled either.

    op(x, *weights) is the TensorFlow call; x and weights are arrays; oracle(x, *weights) takes the plain
    op's place where TensorFlow's CPU has no kernel for it. The upstream signal is random, not ones, so that
    a signal sent through the wrong tap cannot hide behind a right sum. As in an exported model, the batch
    size is unknown when the rule is traced.
    """
    oracle = oracle or op
    x, *weights = tf.constant(x), *(tf.Variable(value) for value in weights)
    with tf.Graph().as_default():
        placeholders = [tf.compat.v1.placeholder(value.dtype, value.shape) for value in (x, *weights)]
        node = op(*placeholders).op.node_def
    as_traced = node.SerializeToString(deterministic=True)
    upstream = tf.constant(np.random.default_rng(7).normal(size=oracle(x, *weights).shape), x.dtype)

    def value_and_gradient(function):
        def run(x, upstream):
            y = function(x)
            return y, tf.gradients(y, x, upstream)[0]

        signature = [tf.TensorSpec((None, *value.shape[1:]), value.dtype) for value in (x, upstream)]
        return {"func": run, "input_signature": signature, "autograph": False}

    def lowered(x):
        outputs = rule(node, [x, *(weight.read_value() for weight in weights)])
        assert outputs is not None, f"the rule declined {node}"
        return outputs[0]

    plain = tf.function(**value_and_gradient(lambda x: oracle(x, *weights)))(x, upstream)
    ruled = tf.function(**value_and_gradient(lowered), jit_compile=compiled)(x, upstream)
    assert node.SerializeToString(deterministic=True) == as_traced, "the rule changed the node"
    return tuple(t.numpy() for t in plain), tuple(t.numpy() for t in ruled)


@pytest.fixture(scope="session")
def run_both():
    return _run_both


@pytest.fixture
def generator():
    return np.random.default_rng(0)
