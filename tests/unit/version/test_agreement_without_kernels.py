"""A model that no set of the kernels here runs, as channels first on some, is probed and held all the same.

Neither Eigen's kernels nor oneDNN's have DepthToSpace with channels first; XLA compiles it.
"""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from callables import source_of

from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace
from saliency_exporter.sources.class_scores import probe
from saliency_exporter.version.agreement import hold_to_model
from saliency_exporter.version.manifest import Rounding
from saliency_exporter.version.tolerances import tolerances

SHAPE = (8, 3, 5)


def scores(x: tf.Tensor) -> tf.Tensor:
    y = tf.raw_ops.DepthToSpace(input=tf.nn.relu(x), block_size=2, data_format="NCHW")
    return tf.reduce_sum(
        y * tf.constant(np.random.default_rng(0).normal(size=(2, 6, 10)), tf.float32), [2, 3]
    )


def test_such_a_model_shows_its_output() -> None:
    with pytest.raises((tf.errors.NotFoundError, tf.errors.UnimplementedError)):
        scores(tf.zeros([1, *SHAPE]))
    assert probe("model", scores, SHAPE).shape.as_list() == [1, 2]


def test_its_gradient_is_held_against_the_traced_one() -> None:
    source = source_of(scores, SHAPE)
    x = tf.constant(np.random.default_rng(1).normal(size=(2, *SHAPE)).astype(np.float32))
    agreement = hold_to_model(source, Forward(trace(source)), x, tolerances(Rounding()))
    assert agreement.examples == 2
    assert agreement.difference < 1e-6
