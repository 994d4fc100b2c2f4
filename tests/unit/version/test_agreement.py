"""A traced graph whose gradient is not the model's own is refused; one that is, passes, whatever its head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from callables import source_of

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace
from saliency_exporter.version.agreement import hold_to_model
from saliency_exporter.version.manifest import Rounding
from saliency_exporter.version.tolerances import tolerances

RNG = np.random.default_rng(7)
KERNEL = tf.constant(RNG.normal(size=(12, 4)).astype(np.float32))
ONE = KERNEL[:, :1]
X = tf.constant(RNG.normal(size=(2, 12)).astype(np.float32))
BOUNDS = tolerances(Rounding())

HEADS: dict[str, Callable] = {
    "logits": lambda x: tf.tanh(x) @ KERNEL,
    "softmax": lambda x: tf.nn.softmax(tf.tanh(x) @ KERNEL),
    "a sure softmax": lambda x: tf.nn.softmax(9.0 * tf.tanh(x) @ KERNEL),
    "a softmax with a class of 0": lambda x: tf.nn.softmax(tf.tanh(x) @ KERNEL - [0.0, 0.0, 0.0, 200.0]),
    "log_softmax": lambda x: tf.nn.log_softmax(tf.tanh(x) @ KERNEL),
    "log_sigmoids": lambda x: tf.math.log_sigmoid(tf.tanh(x) @ KERNEL),
    "sigmoids": lambda x: tf.sigmoid(tf.tanh(x) @ KERNEL),
    "one sigmoid": lambda x: tf.sigmoid(tf.tanh(x) @ ONE),
}


@pytest.mark.parametrize("head", HEADS)
def test_a_graph_as_it_was_traced_agrees_with_its_model(head: str) -> None:
    source = source_of(HEADS[head], (12,))
    agreement = hold_to_model(source, Forward(trace(source)), X, BOUNDS)
    assert agreement.examples == 2
    assert agreement.difference < 1e-4


@pytest.mark.parametrize("head", HEADS)
def test_a_graph_of_another_function_is_refused_with_both_norms_and_the_cosine(head: str) -> None:
    source = source_of(HEADS[head], (12,))
    other = replace(source, call=lambda x: HEADS[head](x + 0.3 * tf.sin(3 * x)))
    with pytest.raises(ExportError, match=r"differs by .* norms are .* cosine is"):
        hold_to_model(source, Forward(trace(other)), X, BOUNDS)


@pytest.mark.parametrize("kernels", ["onednn", "eigen"])
def test_the_switch_of_the_kernels_is_named_where_those_run_that_are_sometimes_wrong(monkeypatch, kernels):
    monkeypatch.setattr("saliency_exporter.version.agreement.running_kernels", lambda: kernels)
    source = source_of(HEADS["logits"], (12,))
    other = replace(source, call=lambda x: HEADS["logits"](2 * x))
    with pytest.raises(ExportError) as refused:
        hold_to_model(source, Forward(trace(other)), X, BOUNDS)
    assert ("TF_ENABLE_ONEDNN_OPTS=0" in refused.value.hint) is (kernels == "onednn")


def test_what_tracing_alone_loses_is_seen() -> None:
    """The model that runs has a gradient; the one that is traced ends in a cast to whole numbers and back."""

    def call(x):
        inside = x if tf.executing_eagerly() else x + tf.cast(tf.cast(2 * x, tf.int32), tf.float32) - 2 * x
        return tf.tanh(inside) @ KERNEL

    source = source_of(call, (12,))
    with pytest.raises(ExportError, match="the scores of model as a graph are not the model's own"):
        hold_to_model(source, Forward(trace(source)), X, BOUNDS)


def test_a_gradient_that_a_graph_has_lost_is_seen() -> None:
    """The same scores, through a stop_gradient in front of a part of them."""

    def call(x, stop=tf.identity):
        return tf.tanh(x) @ KERNEL + stop(tf.sin(x)) @ KERNEL

    source = source_of(call, (12,))
    other = replace(source, call=lambda x: call(x, tf.stop_gradient))
    with pytest.raises(ExportError, match="gradient of model as a graph is not the model's own"):
        hold_to_model(source, Forward(trace(other)), X, BOUNDS)


def test_a_model_that_runs_in_a_graph_alone_is_held_as_well() -> None:
    def call(x):
        tf.compat.v1.get_default_graph().get_operations()
        if tf.executing_eagerly():
            raise RuntimeError("this model runs in a graph alone")
        return tf.tanh(x) @ KERNEL

    source = source_of(call, (12,))
    assert hold_to_model(source, Forward(trace(source)), X, BOUNDS).examples == 2


def test_a_model_without_a_gradient_is_refused_by_the_name_of_the_op() -> None:
    source = source_of(lambda x: tf.one_hot(tf.argmax(x @ KERNEL, -1), 4), (12,))
    with pytest.raises(ExportError, match=r"it ends at ArgMax"):
        hold_to_model(source, Forward(trace(source)), X, BOUNDS)


def test_a_model_on_whole_numbers_has_no_gradient_of_its_own_to_be_held_to() -> None:
    source = source_of(lambda x: tf.cast(tf.cast(x, tf.uint8), tf.float32) @ KERNEL, (12,))
    assert hold_to_model(source, Forward(trace(source)), tf.abs(X), BOUNDS).examples == 0
