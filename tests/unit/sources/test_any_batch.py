"""Models of a fixed batch take any: the scores and gradients of each example are those that it has alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from built_signatures import signatures_of
from callables import source_of
from covering import covering

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace
from saliency_exporter.sources.any_batch import for_any_batch
from saliency_exporter.sources.keras_model import source_from_keras
from saliency_exporter.sources.load import load_source

SHAPE = (6, 6, 3)
_RANDOM = np.random.default_rng(7)
KERNEL = _RANDOM.normal(size=(3, 3, 3, 4)).astype(np.float32)
DENSE = _RANDOM.normal(size=(6 * 6 * 4, 5)).astype(np.float32)
EXAMPLES = _RANDOM.uniform(-1, 1, (3, *SHAPE)).astype(np.float32)


def flattened(x: tf.Tensor, batch: int) -> tf.Tensor:
    """Relu behind a convolution, and a flattening whose constant is the size of the batch."""
    hidden = tf.nn.relu(tf.nn.conv2d(x, KERNEL, 1, "SAME"))
    return tf.reshape(hidden, [batch, 6 * 6 * 4]) @ DENSE


def pooled(x: tf.Tensor, batch: int) -> tf.Tensor:
    del batch
    return tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(x, KERNEL, 1, "SAME")), [1, 2])


def looped(x: tf.Tensor, batch: int) -> tf.Tensor:
    """A loop whose number of steps each example decides, which vectorizing leaves to tf.while_loop."""
    steps = tf.minimum(tf.cast(tf.reduce_max(tf.abs(x)) * 10, tf.int32), 20)
    y = tf.reshape(tf.reduce_mean(x, [1, 2]), [batch, 3])
    return tf.while_loop(lambda i, y: i < steps, lambda i, y: (i + 1, y * 1.1), [0, y])[1]


def of_batch(call: Callable, batch: int) -> Callable:
    spec = tf.TensorSpec([batch, *SHAPE], tf.float32)
    function = tf.function(lambda x: call(x, batch), input_signature=[spec], autograph=False)
    return for_any_batch("model", function, batch, SHAPE)


def alone(call: Callable, batch: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Scores and gradient of the first class, of each example by itself, by eager differentiation."""
    scores, gradients = [], []
    for example in EXAMPLES:
        x = tf.constant(np.stack([example] * batch))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = call(x, batch)[0]
            first = y[0]
        scores.append(y.numpy())
        gradients.append(tape.gradient(first, x).numpy().sum(0))
    return np.stack(scores), np.stack(gradients)


@pytest.mark.parametrize(("call", "batch"), covering([pooled, flattened, looped], [1, 2]))
def test_scores_and_gradients_are_those_of_each_example_alone(call: Callable, batch: int) -> None:
    scores, gradients = alone(call, batch)
    any_batch = of_batch(call, batch)
    with tf.GradientTape() as tape:
        x = tf.constant(EXAMPLES)
        tape.watch(x)
        got = any_batch(x)
        first = got[:, 0]
    np.testing.assert_allclose(got, scores, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(tape.gradient(first, x), gradients, rtol=1e-4, atol=1e-5)


def test_only_a_size_in_a_constant_costs_the_plain_graph() -> None:
    ops = [node.op for node in trace(source_of(of_batch(pooled, 1), SHAPE)).nodes]
    assert [op for op in ops if op not in ("Const", "EnsureShape")] == [
        "Placeholder",
        "Conv2D",
        "Relu",
        "Mean",
    ]
    ops = [node.op for node in trace(source_of(of_batch(flattened, 1), SHAPE)).nodes]
    assert "While" not in ops
    assert "GatherV2" not in ops
    assert ops.count("Conv2D") == 1


@pytest.mark.parametrize("head", [tf.nn.softmax, tf.nn.log_softmax, tf.sigmoid], ids=lambda f: f.__name__)
def test_the_head_is_found_where_a_loop_runs_over_the_examples(head: Callable) -> None:
    keras.utils.set_random_seed(3)
    x = keras.Input(batch_shape=(1, 6, 3))
    recurrent = keras.layers.LSTM(5, stateful=True)
    logits = keras.layers.Dense(4)(recurrent(x))
    model = keras.Model(x, logits)
    ended = keras.Model(x, keras.layers.Activation(head)(logits))
    series = np.random.default_rng(2).normal(size=(3, 6, 3)).astype(np.float32)
    source = source_from_keras(ended, name="model", origin="test")
    graph = trace(source)
    assert not graph.head_assumed
    assert graph.head == ("sigmoid" if head is tf.sigmoid else "softmax")
    want = []
    for one in series:
        recurrent.reset_state()
        want.append(model(one[np.newaxis], training=False)[0].numpy())
    got = tf.function(Forward(graph).scores)(tf.constant(series))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("compiled", ["none", "xla"])
def test_every_method_explains_it(compiled: str) -> None:
    methods = ("gradients", "guided")
    built = signatures_of(of_batch(flattened, 1), SHAPE, compile=compiled, batch_sizes=(4,), methods=methods)
    plain = signatures_of(lambda x: flattened(x, -1), SHAPE, batch_sizes=(4,), methods=("guided",))
    _, gradients = alone(flattened)
    got = built("explain_gradients", EXAMPLES, class_index=0)
    np.testing.assert_allclose(got["gradients"], gradients, rtol=1e-4, atol=1e-5)
    want = plain("explain_guided", EXAMPLES, class_index=0)["gradients"]
    got = built("explain_guided", EXAMPLES, class_index=0)["gradients"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_what_mixes_the_examples_of_a_batch_gives_each_its_own_scores() -> None:
    def normalized(x: tf.Tensor, batch: int) -> tf.Tensor:
        hidden = pooled(x, batch)
        return (hidden - tf.reduce_mean(hidden, 0)) + tf.reduce_max(x)

    scores, _ = alone(normalized, 1)
    np.testing.assert_allclose(of_batch(normalized, 1)(tf.constant(EXAMPLES)), scores, rtol=1e-5, atol=1e-6)


def test_a_signature_of_a_batch_of_one_is_the_forward_pass(tmp_path: Path) -> None:
    class Net(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = tf.Variable(DENSE)

        @tf.function(input_signature=[tf.TensorSpec([1, *SHAPE], name="photo")])
        def one(self, photo):
            hidden = tf.nn.relu(tf.nn.conv2d(photo, KERNEL, 1, "SAME"))
            return {"scores": tf.reshape(hidden, [1, 6 * 6 * 4]) @ self.dense}

    net = Net()
    tf.saved_model.save(net, tmp_path / "net", net.one)
    source = load_source(str(tmp_path / "net"))
    scores, _ = alone(flattened)
    np.testing.assert_allclose(source.call(tf.constant(EXAMPLES)), scores, rtol=1e-5, atol=1e-5)
    (variable,) = source.variables
    # The export's own weights are the kept signature's.
    assert [id(v) for v in trace(source).variables.values()] == [id(variable)]
    assert list(source.kept.signatures) == ["serving_default"]


def test_a_callable_of_a_batch_of_two_is_the_forward_pass(module) -> None:
    name = module(
        """
        import tensorflow as tf

        @tf.function(input_signature=[tf.TensorSpec([2, 6, 6, 3])])
        def two(x):
            return tf.reshape(tf.reduce_max(x, [1, 2]), [2, 3])
        """
    )
    source = load_source(f"{name}:two")
    np.testing.assert_allclose(source.call(tf.constant(EXAMPLES)), EXAMPLES.max((1, 2)), rtol=1e-6)


def test_a_stateful_recurrent_model_starts_from_the_state_that_it_was_saved_with() -> None:
    keras.utils.set_random_seed(3)
    x = keras.Input(batch_shape=(1, 4, 3))
    recurrent = keras.layers.GRU(5, stateful=True, unroll=True)
    model = keras.Model(x, keras.layers.Dense(4, activation="softmax")(recurrent(x)))
    state = np.random.default_rng(1).normal(size=(1, 5)).astype(np.float32)
    recurrent.states[0].assign(state)
    series = np.random.default_rng(2).normal(size=(3, 4, 3)).astype(np.float32)
    source = source_from_keras(model, name="model", origin="test")
    got, again = (source.call(tf.constant(series)).numpy() for _ in range(2))
    np.testing.assert_array_equal(recurrent.states[0].numpy(), state)
    want = []
    for one in series:
        recurrent.states[0].assign(state)
        want.append(model(one[np.newaxis], training=False)[0].numpy())
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got, again)


def test_what_takes_no_other_batch_is_refused() -> None:
    @tf.function(input_signature=[tf.TensorSpec([1, *SHAPE])])
    def fixed(x):
        return tf.ensure_shape(tf.numpy_function(_max_of_one, [x], tf.float32), [1, 3])

    with pytest.raises(ExportError, match="takes a batch of 1, and could not be made to take any other") as e:
        for_any_batch("model", fixed, 1, SHAPE)
    assert "module:callable" in e.value.hint


_calls = 0


def _max_of_one(x: np.ndarray) -> np.ndarray:
    """Fails after what the reference needs, as what depends on more than its input may."""
    global _calls
    _calls += 1
    if _calls > 6:
        raise ValueError("no more")
    return x.max((1, 2))
