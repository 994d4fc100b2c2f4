"""How far a right map may be from another right one in few bits, and that a wrong one is farther.

Two computations of a map in few bits differ by rounding, which grows with the unit u of the dtype and with
the root of the depth (Higham 2002, section 2.8). And they differ by rectifiers whose input is within rounding
of zero: these pass their signal in one computation alone. Each is shown here without the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

import keras
import numpy as np
import pytest
import tensorflow as tf
from built_signatures import Signatures
from callables import source_of
from keras import layers as L

from saliency_exporter.graph.folding import fold
from saliency_exporter.graph.forward_graph import ForwardGraph
from saliency_exporter.graph.rounding import rounding_of
from saliency_exporter.graph.trace import trace
from saliency_exporter.version.tolerances import Tolerances, tolerances
from saliency_exporter.version.verify import _beyond_tolerance, _Errors

SHAPE, DEPTH, CLASS = (12, 12, 3), 5, 1
X = np.random.default_rng(3).normal(size=(6, *SHAPE)).astype(np.float32)
UNITS = {"mixed_float16": 2.0**-11, "mixed_bfloat16": 2.0**-8}


def network(policy: str, activation: str) -> keras.Sequential:
    """Convolutions in a precision of Keras, the scores in float32; the weights are the same in each."""
    keras.utils.set_random_seed(5)
    dtype = keras.mixed_precision.DTypePolicy(policy)
    body: list[L.Layer] = []
    for _ in range(DEPTH):
        body += [L.Conv2D(8, 3, padding="same", dtype=dtype), L.Activation(activation, dtype=dtype)]
    head = [
        L.GlobalAveragePooling2D(dtype=dtype),
        L.Dense(4, dtype=dtype),
        L.Activation("linear", dtype="float32"),
    ]
    return keras.Sequential([keras.Input(SHAPE), *body, *head])


def tape(call: Callable[[tf.Tensor], tf.Tensor], x: np.ndarray, c: int = CLASS) -> np.ndarray:
    """TensorFlow's own gradient of the score of a class."""
    given = tf.constant(x)
    with tf.GradientTape() as recorded:
        recorded.watch(given)
        score = call(given)[:, c]
    return recorded.gradient(score, given).numpy().astype(np.float64)


def apart(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """‖difference‖₂ / ‖expected‖₂ of each example."""
    rows = (got - want).reshape(len(want), -1), want.reshape(len(want), -1)
    return np.linalg.norm(rows[0], axis=1) / np.linalg.norm(rows[1], axis=1)


def exported(graph: ForwardGraph, x: np.ndarray, c: int = CLASS) -> Iterator[np.ndarray]:
    """The gradients that signatures give: as traced, folded, and compiled."""
    for variant, compile in ((graph, "none"), (fold(graph), "none"), (fold(graph), "xla")):
        built = Signatures(variant, methods=("gradients",), batch_sizes=(len(x),), compile=compile)
        yield built("explain_gradients", x, class_index=c)["gradients"].astype(np.float64)


@pytest.mark.parametrize("policy", UNITS)
def test_what_half_precision_changes_is_rounding_and_grows_with_its_unit(policy: str) -> None:
    """Where nothing rectifies, of the model itself and of every way in which it is exported."""
    model, exact = network(policy, "tanh"), tape(network("float32", "tanh"), X)
    graph = trace(source_of(model, SHAPE))
    found = rounding_of(graph)
    assert found.unit == UNITS[policy]
    bound = 2 * found.unit * np.sqrt(found.depth)
    own = tape(model, X)
    # Less than a quarter of it would mean that nothing was computed in few bits.
    assert found.unit / 4 < apart(own, exact).max() <= bound
    for got in exported(graph, X):
        assert apart(got, own).max() <= bound
        assert apart(got, exact).max() <= bound
    # What is lost with one activation's derivative is far beyond it.
    assert apart(tape(without_a_derivative(model), X), own).min() > 2 * bound


def without_a_derivative(model: keras.Sequential) -> Callable[[tf.Tensor], tf.Tensor]:
    """The model, whose first activation passes every signal back as it is."""

    def call(x: tf.Tensor) -> tf.Tensor:
        first, activation, *rest = model.layers
        y = tf.grad_pass_through(activation)(first(x))
        for layer in rest:
            y = layer(y)
        return y

    return call


def with_sides_of(model: keras.Sequential, low: keras.Sequential) -> Callable[[tf.Tensor], tf.Tensor]:
    """The float32 model whose rectifiers are open where those of the one in few bits are."""

    def call(x: tf.Tensor) -> tf.Tensor:
        y, other = x, tf.stop_gradient(x)
        for layer, of_low in zip(model.layers, low.layers, strict=True):
            other = of_low(other)
            rectifies = isinstance(layer, L.Activation) and layer.activation is keras.activations.relu
            y = y * tf.cast(other > 0, y.dtype) if rectifies else layer(y)
        return y

    return call


@pytest.mark.parametrize("policy", UNITS)
def test_what_is_beyond_rounding_are_rectifiers_that_changed_sides(policy: str) -> None:
    low, model = network(policy, "relu"), network("float32", "relu")
    found = rounding_of(trace(source_of(low, SHAPE)))
    rounding = 2 * found.unit * np.sqrt(found.depth)
    own, exact = tape(low, X), tape(model, X)
    assert apart(own, exact).max() > rounding
    assert apart(own, tape(with_sides_of(model, low), X)).max() <= rounding
    bounds = tolerances(found)
    for got in exported(trace(source_of(low, SHAPE)), X):
        assert apart(got, own).min() <= bounds.gradient
        assert apart(got, own).max() <= bounds.outlier
    assert apart(tape(low, X, CLASS + 1), own).min() > bounds.outlier
    assert apart(tape(low, X[::-1].copy()), own).min() > bounds.outlier


def quantized() -> keras.Sequential:
    """Layers of 8 bits, whose gradient Keras writes itself, between rectifiers."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            L.Conv2D(8, 3, activation="relu"),
            L.Flatten(),
            *(L.Dense(64, activation="relu") for _ in range(3)),
            L.Dense(4),
        ]
    )
    model.quantize("int8")
    return model


def share_accepted(got: np.ndarray, want: np.ndarray, bounds: Tolerances) -> float:
    """The share of pairs of examples, as the reference of an export has two, that verification takes."""
    errors = apart(got, want)
    pairs = list(combinations(errors.tolist(), 2))
    return sum(not _beyond_tolerance(_Errors(0.0, dict(enumerate(pair))), bounds) for pair in pairs) / len(
        pairs
    )


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_verification_accepts_right_maps_of_quantized_models_and_no_wrong_one() -> None:
    """What another processor computes is right of a nearby input: here of one that is rounded otherwise."""
    model = quantized()
    generator = np.random.default_rng(8)
    x = generator.normal(size=(600, *SHAPE)).astype(np.float32)
    graph = trace(source_of(model, SHAPE))
    bounds = tolerances(rounding_of(graph))
    own = tape(model, x)
    for got in exported(graph, x[:20]):
        assert share_accepted(got, own[:20], bounds) == 1
    changed = 0
    for roundings in (16, 64):
        off = roundings * 2.0**-23 * generator.choice([-1, 1], x.shape)
        got = tape(model, (x * (1 + off)).astype(np.float32))
        changed += np.sum(apart(got, own) > bounds.gradient)
        assert share_accepted(got, own, bounds) > 0.99
        assert np.median(apart(got, own)) < 1e-5
    assert changed, "no rectifier and no step of 8 bits changed sides: nothing was shown"
    few = slice(0, 40)
    wrong = {
        "another class": tape(model, x[few], CLASS + 1),
        "another example": np.roll(own[few], 1, axis=0),
        "rectified": np.maximum(own[few], 0),
        "negative": -own[few],
    }
    for name, got in wrong.items():
        assert share_accepted(got, own[few], bounds) == 0, name
