"""Graphs that are run on other tensors, and without the assignments that they make."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from saliency_exporter.runtime.inlined import inlined, read_only, run


class Counting(tf.Module):
    """Counts its calls, in a function that it calls, and adds the count to what it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.count = tf.Variable(3.0)

    @tf.function
    def added(self, x: tf.Tensor) -> tf.Tensor:
        before = self.count + 0.0
        self.count.assign_add(1.0)
        between = self.count + 0.0
        self.count.assign(between * 2.0)
        return x + before + 10.0 * between + 100.0 * self.count

    @tf.function
    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return self.added(x) * 2.0


def test_a_function_that_assigns_gives_what_its_next_call_would_and_assigns_nothing() -> None:
    model = Counting()
    function = model.__call__.get_concrete_function(tf.TensorSpec([None]))
    kept = read_only(function)
    x = tf.constant([0.0, 1.0])
    got = [tf.nest.flatten(kept(x))[0].numpy() for _ in range(2)]
    assert float(model.count) == 3.0
    # By hand: before 3, between 4, after 8.
    np.testing.assert_allclose(got, [[2 * (3 + 40 + 800), 2 * (1 + 3 + 40 + 800)]] * 2)
    np.testing.assert_allclose(function(x), got[0])
    assert [variable is model.count for variable in kept.variables] == [True]


def test_a_function_that_assigns_nothing_stays_itself() -> None:
    weight = tf.Variable(2.0)
    function = tf.function(lambda x: x * weight).get_concrete_function(tf.TensorSpec([None]))
    assert read_only(function) is function


@pytest.mark.parametrize("cut", [False, True])
def test_a_graph_runs_on_tensors_in_place_of_its_own(cut: bool) -> None:
    weight = tf.Variable([1.0, 2.0])
    inner = tf.function(lambda x: tf.math.square(x, name="squared") * weight)
    graph = inlined(tf.function(lambda x: inner(x) + 1.0).get_concrete_function(tf.TensorSpec([2])))
    (squared,) = [f"{node.name}:0" for node in graph.graph_def.node if node.op == "Square"]

    @tf.function
    def other(x: tf.Tensor) -> tf.Tensor:
        return run(graph, {squared if cut else graph.inputs[0]: x}, graph.outputs)[0]

    x = tf.constant([3.0, 5.0])
    np.testing.assert_allclose(other(x), [4.0, 11.0] if cut else [10.0, 51.0])
    weight.assign([0.0, 0.0])
    np.testing.assert_allclose(other(x), [1.0, 1.0])
