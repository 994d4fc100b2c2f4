"""Branches that a held input or a default decides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from callables import source_of
from exports import THREE

from saliency_exporter.contract.build import build_signatures
from saliency_exporter.contract.settings import Settings
from saliency_exporter.graph.activations.find import find_activations
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace
from saliency_exporter.methods.registry import find_methods
from saliency_exporter.sources.load import load_source
from saliency_exporter.sources.preprocessing import builtin

v1 = tf.compat.v1
KERNEL = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
X = np.random.default_rng(2).normal(size=(3, 4)).astype(np.float32)


def save(directory: Path, *, fed: bool) -> str:
    """relu(x) @ kernel, trained with another branch, as TensorFlow 1 wrote it: with Switch and Merge."""
    with tf.Graph().as_default(), v1.Session() as session:
        v1.disable_control_flow_v2()
        try:
            x = v1.placeholder(tf.float32, [None, 4], name="x")
            training = v1.placeholder(tf.bool, [], "training")
            if not fed:
                training = v1.placeholder_with_default(False, [])
            kernel = v1.get_variable("kernel", initializer=KERNEL, use_resource=False)
            hidden = v1.cond(training, lambda: tf.sin(x) * 3.0, lambda: tf.nn.relu(x))
            logits = v1.cond(tf.logical_not(training), lambda: hidden @ kernel, lambda: hidden @ -kernel)
        finally:
            v1.enable_control_flow_v2()
        session.run(v1.global_variables_initializer())
        ops = {node.op for node in session.graph.as_graph_def().node}
        assert {"Switch", "Merge"} <= ops
        inputs = {"x": x, "training": training} if fed else {"x": x}
        v1.saved_model.simple_save(session, str(directory), inputs, {"logits": logits})
    return str(directory)


@pytest.mark.parametrize("fed", [True, False], ids=["held", "default"])
def test_a_training_switch_of_tensorflow_1_leaves_one_form(fed: bool, tmp_path: Path) -> None:
    held = {"training": np.array(False)} if fed else {}
    graph = trace(load_source(save(tmp_path / "old", fed=fed), held=held))
    assert {"Switch", "Merge", "Sin"}.isdisjoint(node.op for node in graph.nodes)
    assert find_activations(graph).count() == {"relu": 1}
    signatures = build_signatures(
        Forward(graph),
        builtin("none"),
        Settings(methods=find_methods(THREE), batch_sizes=(4,), compile="none"),
        "old",
    )
    got = signatures["explain_gradients"](tf.constant(X), tf.constant([2, 0, 1]))
    np.testing.assert_allclose(got["gradients"], KERNEL.T[[2, 0, 1]] * (X > 0), rtol=1e-6)
    np.testing.assert_allclose(
        got["score"], (np.maximum(X, 0) @ KERNEL)[np.arange(3), [2, 0, 1]], rtol=1e-5, atol=1e-6
    )


def test_a_held_switch_takes_the_other_branch(tmp_path: Path) -> None:
    source = load_source(save(tmp_path / "old", fed=True), held={"training": np.array(True)})
    graph = trace(source)
    assert "Relu" not in {node.op for node in graph.nodes}
    got = tf.function(Forward(graph).scores)(tf.constant(X))
    np.testing.assert_allclose(got, -3 * np.sin(X) @ KERNEL, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("double", [True, False])
def test_a_decided_selection_is_no_activation(double: bool) -> None:
    def call(x: tf.Tensor) -> tf.Tensor:
        scores = tf.nn.relu(x) @ KERNEL
        return tf.where(tf.constant(double), 2 * scores, scores)

    graph = trace(source_of(call, (4,)))
    assert {"Select", "SelectV2"}.isdisjoint(node.op for node in graph.nodes)
    assert find_activations(graph).uncovered == ()
    got = tf.function(Forward(graph).scores)(tf.constant(X))
    np.testing.assert_allclose(got, (1 + double) * np.maximum(X, 0) @ KERNEL, rtol=1e-5, atol=1e-6)


def test_a_selection_that_also_broadcasts_stays() -> None:
    def call(x: tf.Tensor) -> tf.Tensor:
        bias = tf.where(tf.constant(True), tf.constant([1.0, 2.0, 3.0]), x @ KERNEL)
        return bias + 0.0

    graph = trace(source_of(call, (4,)), score="output")
    got = tf.function(Forward(graph).scores)(tf.constant(X))
    np.testing.assert_array_equal(got, np.tile([1.0, 2.0, 3.0], (3, 1)))


def test_a_selection_by_the_image_stays() -> None:
    graph = trace(source_of(lambda x: tf.where(x > 0, x, 0.1 * x) @ KERNEL, (4,)))
    assert "SelectV2" in {node.op for node in graph.nodes}
