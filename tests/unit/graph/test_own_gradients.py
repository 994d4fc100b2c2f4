"""Gradients that a model's author gave its ops, held to an eager GradientTape on the model itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from built_signatures import signatures_of
from callables import source_of
from keras import layers
from tensorflow.python.framework import ops

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.activations.find import find_activations
from saliency_exporter.graph.differentiable import NoGradient, refuse_unsaved_gradients
from saliency_exporter.graph.folding import fold
from saliency_exporter.graph.gates import is_gate
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace
from saliency_exporter.sources import saved_model

RNG = np.random.default_rng(3)
W = tf.Variable(RNG.normal(size=(12, 4)).astype(np.float32))
SCALE = tf.constant(RNG.normal(size=12).astype(np.float32))
X = RNG.normal(size=(3, 12)).astype(np.float32)
CLASS = 2


@tf.custom_gradient
def straight_through(x):
    inside = tf.cast(tf.abs(x) < 1, x.dtype)  # read by the gradient alone
    return tf.sign(x), lambda dy: dy * inside


@tf.custom_gradient
def reversed_(x):
    return tf.identity(x), lambda dy: -0.7 * dy


@tf.custom_gradient
def safe_sqrt(x):
    y = tf.sqrt(x)
    return y, lambda dy: dy / (2 * tf.maximum(y, 1e-3))


@tf.custom_gradient
def with_variable(x):
    def gradient(dy, variables):
        return dy * W[:, 1], [tf.zeros_like(variable) for variable in variables]

    return x * W[:, 0], gradient


@tf.custom_gradient
def with_constant(x):
    return 1.5 * x, lambda dy: dy * SCALE


@tf.custom_gradient
def two_outputs(x, index):
    def gradient(first, second):
        return 3.0 * first + tf.reduce_sum(second, -1, keepdims=True), None

    return (2 * x, tf.gather(x, index, axis=1)), gradient


@tf.custom_gradient
def nested(x):
    y = straight_through(2 * x) + x
    return y, lambda dy: dy * y


@tf.custom_gradient
def passed_on(x):
    return tf.round(x), lambda dy: dy


@tf.function
def in_a_function(x, w):
    return straight_through(x) * tf.reduce_sum(w) + reversed_(x)


@tf.recompute_grad
def recomputed(x):
    return tf.tanh(x) * W[:, 2]


def both(x):
    first, second = two_outputs(x, tf.constant([1, 5]))
    return tf.concat([first[:, :10], second], 1)


FUNCTIONS: dict[str, Callable] = {
    "straight through": straight_through,
    "reversal": lambda x: reversed_(tf.tanh(x)),
    "safe square root": lambda x: safe_sqrt(tf.nn.relu(x)),
    "reads a variable": with_variable,
    "reads a constant": with_constant,
    "two outputs": both,
    "one in another": nested,
    "pass through": lambda x: tf.grad_pass_through(tf.round)(3 * x),
    "signal itself": lambda x: passed_on(3 * x),
    "in a function": lambda x: in_a_function(x, W),
    "twice in a function": lambda x: in_a_function(in_a_function(x, W), W),
    "recomputed": recomputed,
}


def own_gradient(call: Callable, x: np.ndarray, index: int) -> np.ndarray:
    given = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(given)
        score = call(given)[:, index]
    return tape.gradient(score, given).numpy()


def replayed_gradient(graph, x: np.ndarray, index: int, *, compiled: bool) -> np.ndarray:
    forward = Forward(graph)

    @tf.function(autograph=False, jit_compile=compiled)
    def gradient(x):
        return tf.gradients(forward.scores(x, compiled=compiled)[:, index], x)[0]

    return gradient(tf.constant(x)).numpy()


def difference(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_op_keeps_the_gradient_that_its_author_gave_it(name: str) -> None:
    def call(x):
        return FUNCTIONS[name](x) @ W

    graph = trace(source_of(call, (12,)))
    want = own_gradient(call, X, CLASS)
    assert any(map(is_gate, graph.nodes))
    for variant in (graph, fold(graph)):
        assert difference(replayed_gradient(variant, X, CLASS, compiled=False), want) < 1e-6


def test_xla_compiles_the_gradient_of_an_author() -> None:
    def call(x):
        return in_a_function(with_variable(x), W) @ W

    graph = trace(source_of(call, (12,)))
    got = replayed_gradient(graph, X, CLASS, compiled=True)
    assert difference(got, own_gradient(call, X, CLASS)) < 1e-6


def test_an_overridden_gradient_of_one_op_is_kept() -> None:
    name = "test_own_gradients.OfRound"
    tf.RegisterGradient(name)(lambda op, dy: 0.5 * dy * op.inputs[0] * op.outputs[0])

    def call(x):
        with tf.compat.v1.get_default_graph().gradient_override_map({"Round": name}):
            return tf.round(x) @ W

    graph = trace(source_of(call, (12,)))
    # ∂S_c/∂x = ½ · x · round(x) · W[:, c], by the gradient as it is registered; TensorFlow's own is none.
    want = 0.5 * X * np.round(X) * W.numpy()[:, CLASS]
    np.testing.assert_allclose(replayed_gradient(graph, X, CLASS, compiled=False), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("beta", [1.0, 1.7])
def test_swish_is_an_activation_and_not_an_op_with_a_gradient_of_its_own(beta: float) -> None:
    def call(x):
        return tf.nn.silu(x @ W, beta=beta)

    graph = trace(source_of(call, (12,)))
    assert not any(map(is_gate, graph.nodes))
    assert sum(find_activations(graph).count().values()) == 1
    got = replayed_gradient(graph, X, CLASS, compiled=False)
    assert difference(got, own_gradient(call, X, CLASS)) < 1e-6


def test_a_swish_with_another_gradient_keeps_it() -> None:
    @tf.custom_gradient
    def swish(x):
        return x * tf.sigmoid(x), lambda dy: 2.0 * dy

    def call(x):
        return swish(x) @ W

    graph = trace(source_of(call, (12,)))
    got = replayed_gradient(graph, X, CLASS, compiled=False)
    np.testing.assert_allclose(got, np.broadcast_to(2 * W.numpy()[:, CLASS], X.shape), rtol=1e-6)


def quantized() -> keras.Sequential:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, activation="swish"),
            layers.Flatten(),
            layers.Dense(16, activation="relu"),
            layers.Dense(4),
            layers.Softmax(),
        ]
    )
    model.quantize("int8")
    return model


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_a_model_quantized_by_keras_is_explained_by_its_own_gradient() -> None:
    model = quantized()
    logits = keras.Sequential(model.layers[:-1])
    x = RNG.normal(size=(2, 8, 8, 3)).astype(np.float32)
    signatures = signatures_of(lambda x: model(x, training=False), (8, 8, 3), batch_sizes=(2,))
    want = own_gradient(logits, x, CLASS)
    got = signatures("explain_gradients", x, class_index=CLASS)
    assert difference(got["gradients"], want) < 1e-5
    smooth = signatures("explain_smooth", x, class_index=CLASS, num_samples=3, noise_level=0.0)
    assert difference(smooth["gradients"], want) < 1e-5
    assert find_activations(signatures.graph).count() == {"swish": 1, "relu": 1}


def test_a_rectifier_with_a_gradient_of_its_own_has_no_guided_rule() -> None:
    @tf.custom_gradient
    def leaky_backward(x):
        return tf.nn.relu(x), lambda dy: tf.where(x > 0, dy, 0.1 * dy)

    graph = trace(source_of(lambda x: tf.nn.relu(leaky_backward(x) @ W), (12,)))
    coverage = find_activations(graph)
    assert coverage.count() == {"relu": 1}
    assert coverage.uncovered == (("rectifier with a gradient of its own", "IdentityN"),)


def test_nor_has_one_in_a_block_that_is_recomputed_on_the_way_back() -> None:
    block = tf.recompute_grad(lambda x: tf.nn.relu(x * SCALE) + x)

    def model(x):
        return tf.nn.relu(block(x)) @ W

    coverage = find_activations(trace(source_of(model, (12,))))
    assert coverage.count() == {"relu": 1}
    assert [op for op, _ in coverage.uncovered] == ["rectifier with a gradient of its own"]
    signatures = signatures_of(model, (12,), batch_sizes=(3,), methods=("gradients",))
    got = signatures("explain_gradients", X, class_index=CLASS)["gradients"]
    assert difference(got, own_gradient(model, X, CLASS)) < 1e-5


def saved(directory: Path, *, gradients: bool) -> Callable:
    """A model in a SavedModel, as another process finds it: without what this one has registered."""

    def call(x):
        return in_a_function(tf.nn.silu(x), W) @ W

    module = tf.Module()
    module.w = W
    module.serve = tf.function(
        lambda x: {"y": call(x)}, input_signature=[tf.TensorSpec([None, 12], name="x")]
    )
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=gradients)
    registered = ops.gradient_registry._registry
    before = set(registered)
    tf.saved_model.save(module, str(directory), signatures=module.serve, options=options)
    for name in set(registered) - before:
        del registered[name]
    return call


def test_a_gradient_that_a_saved_model_holds_is_kept(tmp_path: Path) -> None:
    call = saved(tmp_path, gradients=True)
    graph = trace(saved_model.load(tmp_path))
    assert sum(map(is_gate, graph.nodes)) == 2  # straight_through and reversed_; swish is TensorFlow's
    refuse_unsaved_gradients(graph, "model")
    got = replayed_gradient(graph, X, CLASS, compiled=False)
    assert difference(got, own_gradient(call, X, CLASS)) < 1e-6


def test_a_gradient_that_was_not_saved_is_refused_by_the_name_of_its_op(tmp_path: Path) -> None:
    saved(tmp_path, gradients=False)
    graph = trace(saved_model.load(tmp_path))
    with pytest.raises(ExportError, match=r"saved without the gradient .*/IdentityN .IdentityN") as raised:
        refuse_unsaved_gradients(graph, "model")
    assert "experimental_custom_gradients=True" in (raised.value.hint or "")


def in_a_loop(x):
    turn = lambda i, v: (i + 1, straight_through(v) + x)  # noqa: E731
    return tf.while_loop(lambda i, v: i < 3, turn, (0, x), maximum_iterations=3)[1]


def in_a_branch(x):
    return tf.cond(tf.reduce_mean(x) > 0, lambda: straight_through(x), lambda: tf.sin(x))


@pytest.mark.parametrize("call", [in_a_loop, in_a_branch])
def test_a_gradient_of_its_own_inside_a_loop_is_refused_where_one_is_needed(call: Callable) -> None:
    graph = trace(source_of(lambda x: call(x) @ W, (12,)))
    with pytest.raises(NoGradient, match=r"IdentityN .IdentityN. of model has .* inside a loop or a branch"):
        refuse_unsaved_gradients(graph, "model")
    # The scores alone need none.
    scores = tf.function(Forward(graph).scores, autograph=False)(tf.constant(X))
    np.testing.assert_allclose(scores, call(tf.constant(X)) @ W, rtol=1e-5, atol=1e-5)


def test_a_swish_inside_a_loop_is_differentiated_as_outside() -> None:
    def call(x):
        return tf.while_loop(
            lambda i, v: i < 3, lambda i, v: (i + 1, tf.nn.silu(v) + x), (0, x), maximum_iterations=3
        )[1]

    graph = trace(source_of(call, (12,)))
    got = replayed_gradient(graph, X, CLASS, compiled=False)
    assert difference(got, own_gradient(call, X, CLASS)) < 1e-6
