from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from callables import source_of

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.activations.find import Coverage, find_activations
from saliency_exporter.graph.activations.identify import identify
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace
from saliency_exporter.methods import guided
from saliency_exporter.rules.guided import guided_replacements
from saliency_exporter.sources.load import load_source

layers = keras.layers


class LearnedSwish(layers.Layer):
    """x · σ(βx), one learned β."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.beta = self.add_weight(shape=(), initializer="ones")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x * tf.sigmoid(self.beta * x)


def coverage_of(activation) -> Coverage:
    layer = activation if isinstance(activation, keras.Layer) else layers.Activation(activation)
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4), layer, layers.Dense(3)])
    return find_activations(trace(source_of(model, (8,))))


@pytest.mark.parametrize(
    ("activation", "kind"),
    [
        ("relu", "relu"),
        (tf.nn.relu, "relu"),
        (keras.ops.relu, "relu"),
        (lambda x: tf.maximum(x, 0.0), "relu"),
        (lambda x: tf.where(x > 0, x, 0.0), "relu"),
        ("relu6", "relu6"),
        (lambda x: tf.minimum(tf.maximum(x, 0.0), 6.0), "relu6"),
        (layers.ReLU(max_value=3.0), "relu(max_value=3)"),
        (layers.ReLU(threshold=1.0), "relu(threshold=1)"),
        (layers.ReLU(max_value=3.0, negative_slope=0.1), "relu(negative_slope=0.1, max_value=3)"),
        (
            layers.ReLU(max_value=3.0, negative_slope=0.1, threshold=0.5),
            "relu(negative_slope=0.1, max_value=3, threshold=0.5)",
        ),
        (layers.LeakyReLU(negative_slope=0.3), "relu(negative_slope=0.3)"),
        ("silu", "swish"),
        (tf.nn.silu, "swish"),
        (lambda x: x * tf.sigmoid(x), "swish"),
        (lambda x: x * tf.sigmoid(1.702 * x), "swish(beta=1.702)"),
        ("gelu", "gelu"),
        (lambda x: keras.ops.gelu(x, approximate=True), "gelu(tanh)"),
        ("mish", "mish"),
        ("softplus", "softplus"),
        ("elu", "elu"),
        (layers.ELU(alpha=0.5), "elu(alpha=0.5)"),
        ("selu", "selu"),
        ("hard_silu", "hard_swish"),
        ("hard_sigmoid", "hard_sigmoid"),
        (layers.PReLU(alpha_initializer="random_normal"), "prelu"),
        (lambda x: tf.where(x > 0, x, tf.constant([0.1, 0.2, 0.3, 0.4]) * x), "prelu"),
    ],
)
def test_an_activation_is_recognised_by_what_it_computes(activation, kind):
    coverage = coverage_of(activation)
    assert coverage.count() == {kind: 1}
    assert coverage.uncovered == ()


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softsign", "exponential", "linear"])
def test_smooth_squashing_functions_are_no_rectifiers(activation):
    coverage = coverage_of(activation)
    assert coverage.rectifiers == ()
    assert coverage.uncovered == ()


@pytest.mark.parametrize(
    ("activation", "op"),
    [
        (lambda x: tf.constant([1.0, 2.0, 3.0, 4.0]) * tf.nn.relu(-x), "Relu"),
        ("hard_tanh", "Minimum"),
        ("hard_shrink", "Abs"),
        (lambda x: x * tf.sigmoid(x * tf.constant([1.0, 2.0, 3.0, 4.0])), "self-gated product"),
        (LearnedSwish(), "self-gated product"),
        (lambda x: -tf.nn.relu(-x), "Relu"),
    ],
)
def test_a_rectifying_op_that_is_no_known_activation_is_reported(activation, op):
    assert op in [uncovered[0] for uncovered in coverage_of(activation).uncovered]


def test_a_rectifier_in_a_loop_body_is_reported():
    def looped(x: tf.Tensor) -> tf.Tensor:
        return tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, tf.nn.relu(y - 0.1)), (0, x))[1]

    coverage = find_activations(trace(source_of(looped, (8,))))
    assert coverage.uncovered[0][0].startswith("Relu inside")


def test_a_rectifier_behind_a_gate_is_one_of_its_own():
    coverage = coverage_of(lambda x: tf.nn.relu(keras.ops.hard_sigmoid(x)))
    assert coverage.count() == {"hard_sigmoid": 1, "relu": 1}
    assert coverage.uncovered == ()


def test_two_rectifiers_in_a_row_with_a_layer_between_are_two():
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(4, "relu"), layers.Dense(4, "relu6"), layers.Dense(3)]
    )
    assert find_activations(trace(source_of(model, (8,)))).count() == {"relu": 1, "relu6": 1}


def test_mobilenet_v3_has_no_rectifier_inside_its_gates():
    model = keras.applications.MobileNetV3Small(weights=None, input_shape=(64, 64, 3), classes=4)
    coverage = find_activations(trace(source_of(model, (64, 64, 3))))
    # 28 Relu6 in the graph: 19 in hard-swish, 9 in the hard-sigmoids of squeeze-and-excitation.
    assert coverage.count() == {"relu": 14, "hard_swish": 19, "hard_sigmoid": 9}
    assert coverage.uncovered == ()


def test_a_model_without_rectifier_is_refused_with_the_way_out():
    graph = trace(source_of(lambda x: tf.tanh(x), (8,)))
    with pytest.raises(ExportError, match="no rectifier"):
        guided.replacements(graph, "tanh-net")


def test_an_uncovered_activation_is_refused_by_name():
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(4),
            layers.Activation("hard_tanh", name="my_hard_tanh"),
            layers.Dense(3),
        ]
    )
    with pytest.raises(ExportError, match="my_hard_tanh"):
        guided.replacements(trace(source_of(model, (8,))), "net")


def test_what_is_no_activation_is_not_named():
    for function in (np.abs, np.sin, lambda x: 2 * np.maximum(x, 0), lambda x: x, lambda x: x * 0):
        assert identify(function) is None


def one_unit_guided(activation, x: float, upstream: float) -> float:
    """The guided signal that reaches x through upstream · activation(x)."""

    def scores(value: tf.Tensor) -> tf.Tensor:
        return tf.stack([upstream * activation(value)[:, 0], 0.0 * value[:, 0]], axis=1)

    graph = trace(source_of(scores, (1,)), score="output")
    forward = Forward(graph)
    replacements = guided_replacements(find_activations(graph))

    @tf.function(autograph=False)
    def run(value: tf.Tensor) -> tf.Tensor:
        result = forward.scores(value, replacements=replacements)
        return tf.gradients(result, value, grad_ys=tf.constant([[1.0, 0.0]]))[0]

    return float(run(tf.constant([[x]]))[0, 0])


# The rule by hand: pass where threshold < x < max_value and the signal is positive, times the slope there.
@pytest.mark.parametrize(
    ("activation", "x", "upstream", "expected"),
    [
        (tf.nn.relu, 2.0, 3.0, 3.0),
        (tf.nn.relu, 2.0, -3.0, 0.0),
        (tf.nn.relu, -2.0, 3.0, 0.0),
        (tf.nn.relu6, 5.0, 3.0, 3.0),
        (tf.nn.relu6, 7.0, 3.0, 0.0),
        (tf.nn.relu6, 6.0, 3.0, 0.0),
        # A CReLU is two rectifiers, of x and of -x: below 0 the second passes, by -1.
        (lambda x: tf.reduce_sum(tf.nn.crelu(x), axis=1, keepdims=True), 2.0, 3.0, 3.0),
        (lambda x: tf.reduce_sum(tf.nn.crelu(x), axis=1, keepdims=True), -2.0, 3.0, -3.0),
        (lambda x: tf.reduce_sum(tf.nn.crelu(x), axis=1, keepdims=True), -2.0, -3.0, 0.0),
        (layers.ReLU(max_value=3.0), 3.0, 2.0, 0.0),
        (layers.ReLU(max_value=3.0), 2.5, 2.0, 2.0),
        (layers.ReLU(max_value=3.0), 4.0, 2.0, 0.0),
        (layers.ReLU(threshold=1.0), 0.5, 2.0, 0.0),
        (layers.ReLU(threshold=1.0), 1.5, 2.0, 2.0),
        (layers.LeakyReLU(negative_slope=0.3), -1.0, 2.0, 0.0),
        (layers.LeakyReLU(negative_slope=0.3), 1.0, 2.0, 2.0),
        (layers.LeakyReLU(negative_slope=0.3), 1.0, -2.0, 0.0),
        (layers.PReLU(alpha_initializer=keras.initializers.Constant(0.3)), -1.0, 2.0, 0.0),
        (layers.PReLU(alpha_initializer=keras.initializers.Constant(0.3)), 1.0, 2.0, 2.0),
        (layers.PReLU(alpha_initializer=keras.initializers.Constant(-1.5)), 1.0, -2.0, 0.0),
        # elu'(1) = 1; softplus'(1) = σ(1); below 0 nothing passes though both have a slope there.
        (tf.nn.elu, 1.0, 2.0, 2.0),
        (tf.nn.elu, -1.0, 2.0, 0.0),
        (tf.nn.selu, 1.0, 2.0, 2 * 1.050700987),
        (tf.nn.selu, -1.0, 2.0, 0.0),
        (tf.nn.softplus, 1.0, 2.0, 2 * 0.731058579),
        (tf.nn.softplus, -1.0, 2.0, 0.0),
        # mish'(1) = tanh(sp) + σ(1)(1 − tanh²(sp)) with sp = ln(1 + e) = 1.313261688, tanh(sp) = 0.865098388
        (keras.activations.mish, 1.0, 1.0, 0.865098388 + 0.731058579 * (1 - 0.865098388**2)),
        (keras.activations.mish, -1.0, 1.0, 0.0),
        # A hard-sigmoid is a gate: its own derivative 1/6 for either sign of the signal and of x.
        (lambda x: tf.nn.relu(keras.ops.hard_sigmoid(x) - 0.2), -1.0, 3.0, 0.5),
        # swish'(1) = s + s(1 − s) with s = 1/(1 + e⁻¹) = 0.731058579
        (tf.nn.silu, 1.0, 2.0, 2 * 0.927670511),
        (tf.nn.silu, 1.0, -2.0, 0.0),
        (tf.nn.silu, -1.0, 2.0, 0.0),
        # gelu'(1) = Φ(1) + φ(1) = 0.841344746 + 0.241970725
        (tf.nn.gelu, 1.0, 1.0, 1.083315471),
        (tf.nn.gelu, -1.0, 1.0, 0.0),
        # hard_swish'(1) = (2·1 + 3)/6; beyond 3 it is the identity
        (keras.ops.hard_silu, 1.0, 3.0, 2.5),
        (keras.ops.hard_silu, 4.0, 3.0, 3.0),
        (keras.ops.hard_silu, -1.0, 3.0, 0.0),
    ],
)
def test_the_guided_rule_of_one_unit(activation, x, upstream, expected):
    assert one_unit_guided(activation, x, upstream) == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_every_way_to_write_a_rectifier_is_found_nested_and_in_a_saved_model_without_source(tmp_path):
    inner = tf.function(lambda x: tf.nn.relu6(x))
    ways = {
        "layer": layers.ReLU(max_value=3.0),
        "argument": layers.Dense(4, activation="relu"),
        "keras.ops": layers.Lambda(keras.ops.leaky_relu),
        "tf.nn in a nested function": layers.Lambda(lambda x: tf.function(lambda y: inner(y))(x)),
        "nested model": keras.Sequential([keras.Input((4,)), layers.Dense(4, "swish"), layers.PReLU()]),
        "threshold": layers.ReLU(threshold=0.5, negative_slope=0.1, max_value=2.0),
    }
    # With a layer between, or the leaky one behind the ReLU would be no rectifier: it would change nothing.
    stack = [layer for way in ways.values() for layer in (layers.Dense(4), way)]
    model = keras.Sequential([keras.Input((2, 2, 3)), layers.Flatten(), *stack, layers.Dense(3)])
    expected = {
        "relu(max_value=3)": 1,
        "relu": 1,
        "relu(negative_slope=0.2)": 1,
        "relu6": 1,
        "swish": 1,
        "prelu": 1,
        "relu(negative_slope=0.1, max_value=2, threshold=0.5)": 1,
    }
    direct = find_activations(trace(source_of(model, (2, 2, 3))))
    assert direct.uncovered == ()
    assert direct.count() == expected

    model.export(tmp_path / "saved", verbose=False)
    loaded = find_activations(trace(load_source(str(tmp_path / "saved"))))
    assert loaded.uncovered == ()
    assert loaded.count() == expected
