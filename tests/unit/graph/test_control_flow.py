"""Loops, branches, recurrent layers, state: the gradient is that of the model itself, in every call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from callables import source_of
from rounding import assert_equal_to_rounding

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.evaluate import independent_of_input
from saliency_exporter.graph.loops import beyond_xla
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace
from saliency_exporter.sources.load import load_source

layers = keras.layers

generator = np.random.default_rng(5)
W = tf.Variable(generator.normal(0, 0.3, (6, 6)).astype(np.float32))
OUT = tf.Variable(generator.normal(0, 1, (6, 3)).astype(np.float32))


def gradient_of(model: Callable, x: np.ndarray, class_index: int = 0) -> np.ndarray:
    """The gradient of a class score by TensorFlow's tape, through the model itself, eagerly."""
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        score = tf.reduce_sum(model(x)[:, class_index])
    return tape.gradient(score, x).numpy()


def sequential(*parts: layers.Layer, shape: tuple[int, ...]) -> keras.Model:
    keras.utils.set_random_seed(3)
    return keras.Sequential([keras.Input(shape), *parts, layers.Dense(3)])


def masked_and_bidirectional() -> keras.Model:
    return sequential(
        layers.Masking(-1.0),
        layers.Bidirectional(layers.GRU(4)),
        shape=(5, 4),
    )


def convolutional() -> keras.Model:
    return sequential(layers.ConvLSTM2D(2, 3), layers.Flatten(), shape=(3, 5, 5, 2))


def unrolled() -> keras.Model:
    return sequential(layers.SimpleRNN(4, unroll=True), shape=(4, 3))


def stacked() -> keras.Model:
    return sequential(layers.LSTM(4, return_sequences=True), layers.LSTM(3), shape=(4, 3))


def inputs(shape: tuple[int, ...], examples: int = 2) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(examples, *shape)).astype(np.float32)
    x[1, 2:] = -1.0  # as long as a mask of -1 says
    return x


@pytest.mark.parametrize("make", [masked_and_bidirectional, convolutional, unrolled, stacked])
def test_recurrent_layers_have_the_gradient_of_the_model_itself(signatures_of, make):
    model = make()
    x = inputs(model.input_shape[1:])
    methods = ("gradients", "smooth") if make is stacked else ("gradients",)
    built = signatures_of(lambda v: model(v, training=False), x.shape[1:], methods=methods)
    want = gradient_of(model, x)
    got = built("explain_gradients", x, class_index=0)
    assert_equal_to_rounding(got["gradients"], want)
    if "smooth" in methods:
        # Several replays in one program, each of which differentiates the loops: equal noise-free samples.
        got = built("explain_smooth", x, class_index=0, num_samples=2, noise_level=0.0)
        assert_equal_to_rounding(got["gradients"], want)


@tf.function(autograph=False)
def called_in_a_loop(x: tf.Tensor) -> tf.Tensor:
    return tf.tanh(x @ W)


def loop_over_time(x: tf.Tensor) -> tf.Tensor:
    """A loop of which nothing but its condition says how often it turns, with a function called inside."""
    steps = tf.shape(x)[1]

    def body(i: tf.Tensor, h: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return i + 1, called_in_a_loop(h) + x[:, i]

    return tf.while_loop(lambda i, _: i < steps, body, (0, x[:, 0]))[1] @ OUT


def loop_in_a_loop(x: tf.Tensor) -> tf.Tensor:
    def body(i: tf.Tensor, h: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return i + 1, tf.while_loop(lambda j, _: j < 3, lambda j, k: (j + 1, tf.tanh(k @ W)), (0, h))[1] + h

    return tf.while_loop(lambda i, _: i < 2, body, (0, x))[1] @ OUT


def two_branches(x: tf.Tensor) -> tf.Tensor:
    return tf.cond(tf.reduce_sum(x) > 0, lambda: called_in_a_loop(x), lambda: tf.sin(x)) @ OUT


def three_branches(x: tf.Tensor) -> tf.Tensor:
    which = tf.cast(tf.reduce_sum(x) > 0, tf.int32) * 7  # beyond the last: the last
    return tf.switch_case(which, [lambda: tf.tanh(x @ W), lambda: x, lambda: tf.sin(x)]) @ OUT


def mapped(x: tf.Tensor) -> tf.Tensor:
    return tf.map_fn(lambda row: tf.tanh(tf.linalg.matvec(W, row)), x) @ OUT


def scanned(x: tf.Tensor) -> tf.Tensor:
    steps = tf.transpose(x, [1, 0, 2])
    return tf.scan(lambda h, step: tf.tanh(h @ W + step), steps, tf.zeros_like(x[:, 0]))[-1] @ OUT


@pytest.mark.parametrize(
    "model", [loop_over_time, loop_in_a_loop, two_branches, three_branches, mapped, scanned]
)
def test_control_flow_has_the_gradient_of_the_model_itself(signatures_of, model):
    x = inputs((4, 6) if model in (loop_over_time, scanned) else (6,))
    # Checks and slices around it are control flow themselves.
    whole = model is loop_in_a_loop
    built = signatures_of(model, x.shape[1:], methods=("gradients",), whole=whole)
    for sign in (1, -1):  # both branches
        got = built("explain_gradients", sign * x, class_index=0)["gradients"]
        assert_equal_to_rounding(got, gradient_of(model, sign * x), name=f"{model.__name__} {sign}")


def recurrent() -> keras.Model:
    return sequential(layers.LSTM(3), shape=(4, 6))


@pytest.mark.parametrize("model", [loop_over_time, three_branches, recurrent])
def test_compiled_control_flow_has_the_gradient_of_the_model_itself(signatures_of, model):
    x = inputs((6,) if model is three_branches else (4, 6))
    model = model() if model is recurrent else model
    built = signatures_of(
        model, x.shape[1:], methods=("gradients",), compile="xla", batch_sizes=(2,), whole=True
    )
    got = built("explain_gradients", x, class_index=0)["gradients"]
    assert_equal_to_rounding(got, gradient_of(model, x))


def test_a_list_of_tensors_is_no_constant():
    graph = trace(source_of(stacked(), (4, 3)))
    assert any(node.op == "TensorListReserve" for node in graph.nodes)
    assert not any(node.op.startswith("TensorList") for node in independent_of_input(graph).values())


def maxima(model: Callable, shape: tuple[int, ...]) -> list[int]:
    """What the loops of a model, the outer ones first, have as their maximum number of iterations."""
    graph = trace(source_of(model, shape))
    bodies = [graph.nodes, *(function.node_def for function in graph.library.library.function)]
    found = []
    for body in bodies:
        nodes = {node.name: node for node in body}
        for node in body:
            if "While" in node.op:
                maximum = nodes[node.input[1].partition(":")[0]]
                found.append(int(tf.make_ndarray(maximum.attr["value"].tensor)))
    return found


def test_a_loop_knows_how_often_it_turns():
    assert maxima(loop_over_time, (4, 6)) == [4]
    assert maxima(loop_in_a_loop, (6,)) == [2, 3]

    def counts_down_by_two(x: tf.Tensor) -> tf.Tensor:
        return tf.while_loop(lambda i, _: i > 0, lambda i, h: (i - 2, tf.tanh(h)), (7, x))[1]

    assert maxima(counts_down_by_two, (6,)) == [4]


def until_small(x: tf.Tensor) -> tf.Tensor:
    is_large = lambda h: tf.reduce_max(h) > 0.5  # noqa: E731
    return tf.while_loop(is_large, lambda h: (tf.tanh(h @ W),), (x,), name="settle")[0]


def branch_in_a_loop(x: tf.Tensor) -> tf.Tensor:
    def body(i: tf.Tensor, h: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return i + 1, tf.cond(tf.reduce_sum(h) > 0, lambda: tf.tanh(h @ W), lambda: tf.sin(h))

    return tf.while_loop(lambda i, _: i < 3, body, (0, x), name="settle")[1]


def growing(x: tf.Tensor) -> tf.Tensor:
    def body(i: tf.Tensor, array: tf.TensorArray, h: tf.Tensor) -> tuple:
        return i + 1, array.write(i, h), tf.tanh(h @ W)

    start = (0, tf.TensorArray(tf.float32, size=0, dynamic_size=True), x)
    _, array, _ = tf.while_loop(lambda i, *_: i < 3, body, start, name="settle")
    return tf.reduce_mean(array.stack(), 0)


@pytest.mark.parametrize(
    ("model", "why"),
    [(until_small, "known only while it runs"), (branch_in_a_loop, "branch"), (growing, "TensorArray grows")],
)
def test_what_xla_cannot_differentiate_is_refused_by_name_and_served_without_it(signatures_of, model, why):
    with pytest.raises(ExportError, match="settle") as refusal:
        signatures_of(model, (6,), compile="xla", methods=("gradients",))
    assert why in str(refusal.value)
    assert "--compile none" in str(refusal.value.hint)
    x = inputs((6,))
    built = signatures_of(model, (6,), methods=("gradients",))
    got = built("explain_gradients", x, class_index=1)
    assert_equal_to_rounding(got["gradients"], gradient_of(model, x, 1))


def test_a_loop_that_no_gradient_passes_through_may_be_compiled():
    def positions(x: tf.Tensor) -> tf.Tensor:
        unknown = tf.cast(tf.reduce_sum(x), tf.int32)
        turns = tf.while_loop(lambda i: i < unknown, lambda i: (i + 1,), (0,))[0]
        return x * tf.cast(turns, tf.float32)

    assert beyond_xla(trace(source_of(positions, (6,)))) == []


class Remembers(tf.Module):
    """A model with state: adds what it remembers, then remembers the mean of the last batch, and counts."""

    def __init__(self) -> None:
        self.memory = tf.Variable(tf.linspace(0.0, 1.0, 6), name="memory")
        self.calls = tf.Variable(3.0, name="calls")

    @tf.function(autograph=False)
    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        y = tf.tanh(x + self.memory) @ OUT
        self.memory.assign(tf.reduce_mean(x, 0))
        self.calls.assign_add(1.0)
        return y


def test_what_is_assigned_and_not_read_again_is_left_out_and_its_value_is_the_one_at_export(signatures_of):
    model = Remembers()
    x = inputs((6,))
    stateless = lambda v: tf.tanh(v + tf.linspace(0.0, 1.0, 6)) @ OUT  # noqa: E731
    built = signatures_of(model, (6,), methods=("gradients",))
    for _ in range(2):  # the second call answers as the first
        got = built("explain_gradients", x, class_index=0)["gradients"]
        assert_equal_to_rounding(got, gradient_of(stateless, x))
    assert model.calls.numpy() == 3.0


def test_a_variable_that_is_assigned_is_a_weight_of_the_export_and_not_the_models():
    model = Remembers()
    graph = trace(source_of(model, (6,)))
    assert not any(variable is model.memory for variable in graph.variables.values())
    assert len(graph.weights) == 2  # the memory's value, and the weight behind it


def test_nor_is_it_one_where_the_batch_of_a_saved_model_was_fixed(tmp_path: Path):
    model = Remembers()
    model.out = OUT  # What is saved has to be tracked.
    spec = tf.TensorSpec([1, 6], tf.float32, name="x")
    signature = tf.function(lambda x: {"y": model(x)}, autograph=False).get_concrete_function(spec)
    tf.saved_model.save(model, str(tmp_path), signatures=signature)
    source = load_source(str(tmp_path))
    assert source.kept is not None
    read = [variable.handle for variable in trace(source).variables.values()]
    # The signature that is kept assigns the memory at every call; a first call has its value at export.
    (kept,) = source.kept.signatures.values()
    assigned = [v.handle for v in kept.variables if v.shape == (6,) or v.shape == ()]
    assert len(assigned) == 2
    assert not any(one is other for one in read for other in assigned)
    x = inputs((6,))
    stateless = lambda v: tf.tanh(v + tf.linspace(0.0, 1.0, 6)) @ OUT  # noqa: E731
    got = tf.function(Forward(trace(source)).scores)(tf.constant(x))
    np.testing.assert_allclose(got, stateless(tf.constant(x)), rtol=1e-5, atol=1e-6)


class Ticks(tf.Module):
    """A model whose scores depend on how often it was called, the present call included."""

    def __init__(self) -> None:
        self.calls = tf.Variable(0.0, name="ticks")

    @tf.function(autograph=False)
    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        self.calls.assign_add(1.0)
        return x * self.calls


def test_scores_that_read_what_was_just_assigned_are_those_of_a_first_call():
    ticks = Ticks()
    ticks.calls.assign(4.0)
    forward = Forward(trace(source_of(ticks, (6,))))
    x = tf.ones([2, 6])
    for _ in range(2):
        np.testing.assert_allclose(tf.function(forward.scores)(x), 5.0 * x, rtol=1e-6)
    assert ticks.calls.numpy() == 4.0


def test_a_variable_that_is_assigned_in_one_turn_of_a_loop_and_read_in_the_next_is_refused():
    state = tf.Variable(tf.ones([6]), name="state")

    @tf.function(autograph=False)
    def model(x: tf.Tensor) -> tf.Tensor:
        def body(i: tf.Tensor, h: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            h = h * state
            state.assign_add(tf.ones([6]))
            return i + 1, h

        return tf.while_loop(lambda i, _: i < 3, body, (0, x))[1]

    with pytest.raises(ExportError, match="'state'"):
        trace(source_of(model, (6,)))
