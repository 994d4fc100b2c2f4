"""Networks drawn at random: what their signatures answer is held against NumPy, within derived bounds.

The bounds are those of `random_net`: what float32 arithmetic may have changed, for every number on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np
import pytest
import tensorflow as tf
from antithetic import antithetic_normal
from built_signatures import Signatures
from callables import source_of
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from random_net import (
    FUNCTIONS,
    Activation,
    AveragePool,
    BatchNorm,
    Chain,
    Concatenation,
    Conv,
    Dense,
    MaxPool,
    Mode,
    Net,
    Residual,
    Trace,
    U,
    Value,
    Windows,
    gamma,
)

from saliency_exporter.graph.feature_layers import with_feature_layer
from saliency_exporter.graph.trace import trace

layers = keras.layers
RECTIFIERS = [*(name for name, f in FUNCTIONS.items() if f.region is not None), "prelu"]
CLASSES = 3

Shape = tuple[int, int, int]


# --- drawing ---------------------------------------------------------------------------------------------


class Draw:
    """Draws layers that fit a shape; weights come from a generator of their own, rounded to float32."""

    def __init__(self, draw: Callable) -> None:
        self.draw = draw
        self.rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def pick(self, *choices: object) -> object:
        return self.draw(st.sampled_from(choices))

    def weights(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        return (scale * self.rng.normal(size=shape)).astype(np.float32).astype(np.float64)

    def windows(self, shape: Shape, keep: bool, *, dilated: bool = False, square: bool = False) -> Windows:
        kernel = (self.pick(1, 2, 3), self.pick(1, 2, 3))
        strides = (self.pick(1, 2), self.pick(1, 2))
        strides = (strides[0],) * 2 if square else strides
        dilation = self.pick(2, 3) if dilated else 1
        padding = self.pick("same", "valid")
        # What keeps the shape, and what would not fit the picture otherwise.
        if keep or dilated:
            strides = (1, 1)
        reach = [(k - 1) * dilation + 1 for k in kernel]
        if keep or any(r > n for r, n in zip(reach, shape[:2], strict=True)):
            padding = "same"
        return Windows(kernel, strides, dilation, padding)

    def conv(self, shape: Shape, keep: bool, kind: str, channels: int | None = None) -> Conv:
        windows = self.windows(shape, keep, dilated="dilated" in kind, square=kind == "depthwise")
        groups = shape[2] if kind == "depthwise" else 2 if "grouped" in kind else 1
        if kind == "depthwise":
            outer = shape[2] * (1 if keep else self.pick(1, 2))
        else:
            outer = channels or (shape[2] if keep else self.pick(2, 4, 6))
        fan_in = windows.kernel[0] * windows.kernel[1] * shape[2] // groups
        # A gain of 3 drives some inputs of a ReLU6 above 6.
        weight = self.weights(
            *windows.kernel, shape[2] // groups, outer, scale=self.pick(1.0, 3.0) / fan_in**0.5
        )
        use_bias = self.pick(True, False)
        bias = self.weights(outer) if use_bias else np.zeros(outer)
        return Conv(windows, weight, bias, groups, kind, use_bias)

    def batch_norm(self, channels: int) -> BatchNorm:
        variance = self.rng.uniform(0.1, 2, channels).astype(np.float32).astype(np.float64)
        return BatchNorm(*(self.weights(channels) for _ in range(3)), variance)

    def activation(self, shape: Shape, names: list[str]) -> Activation:
        name = self.pick(*names)
        if name != "prelu":
            return Activation(name, self.pick("layer", "function", "nested function"))
        return Activation(name, "layer", self.weights(*self.pick((1, 1), shape[:2]), shape[2], scale=0.3))

    def layer(self, shape: Shape, keep: bool, depth: int) -> list[object]:
        convolutions = ["conv", "depthwise", "dilated"]
        convolutions += ["grouped", "grouped and dilated"] if shape[2] % 2 == 0 else []
        kinds = [*convolutions, "fused", "separable", "norm", "activation", "max", "mean"]
        kinds += ["residual", "nested", "shared"] if depth else []
        kinds += ["concatenation"] if depth and not keep and shape[2] <= 6 else []
        kind = self.pick(*kinds)
        if kind == "separable":
            depthwise = self.conv(shape, keep, "depthwise")
            middle = shape_after([depthwise], shape)
            point = self.conv(middle, True, "point", shape[2] if keep else 4)
            return [depthwise, point]
        if kind in convolutions:
            return [self.conv(shape, keep, kind)]
        if kind == "fused":
            # What TensorFlow's remapper makes one op of.
            chosen = [self.conv(shape, keep, self.pick(*convolutions))]
            after = shape_after(chosen, shape)
            chosen += [self.batch_norm(after[2])] if self.pick(True, False) else []
            return [*chosen, self.activation(after, [*FUNCTIONS, "prelu"])]
        if kind == "norm":
            return [self.batch_norm(shape[2])]
        if kind == "activation":
            return [self.activation(shape, [*FUNCTIONS, "prelu"])]
        if kind in ("max", "mean"):
            windows = self.windows(shape, keep)
            return [MaxPool(windows) if kind == "max" else AveragePool(windows)]
        if kind == "shared":
            once = self.chain(shape, True, depth - 1, nested=self.pick(True, False))
            return [once, once]
        if kind == "residual":
            return [Residual(self.chain(shape, True, depth - 1))]
        if kind == "concatenation":
            return [Concatenation(self.chain(shape, True, depth - 1))]
        return [self.chain(shape, keep, depth - 1, nested=True)]

    def chain(self, shape: Shape, keep: bool, depth: int, nested: bool = False) -> Chain:
        chosen: list[object] = []
        for _ in range(self.draw(st.integers(1, 2))):
            drawn = self.layer(shape, keep, depth)
            chosen += drawn
            shape = shape_after(drawn, shape)
        return Chain(chosen, nested)


def shape_after(chosen: list[object], shape: tuple[int, ...]) -> tuple[int, ...]:
    zeros = np.zeros(shape)
    return Chain(chosen).forward(Value(zeros, zeros), Trace())[0].value.shape


@st.composite
def nets(draw: Callable) -> Net:
    """conv → 1 or 2 drawn layers → activation that rectifies → 1 or 2 drawn layers → head → 3 scores."""
    d = Draw(draw)
    shape = (draw(st.integers(4, 9)), draw(st.integers(4, 9)), draw(st.integers(1, 3)))
    chosen: list[object] = [d.conv(shape, False, "conv")]
    after = shape_after(chosen, shape)
    for part in (
        lambda shape: d.chain(shape, False, 2).layers,
        lambda shape: [d.activation(shape, RECTIFIERS)],
        lambda shape: d.chain(shape, False, 2).layers,
        lambda shape: d.pick([], [AveragePool(None)], [MaxPool(None)]),
    ):
        drawn = list(part(after))
        chosen += drawn
        after = shape_after(drawn, after)
    features = int(np.prod(after))
    chosen.append(Dense(d.weights(features, CLASSES, scale=features**-0.5), d.weights(CLASSES)))
    return Net(shape, Chain(chosen))


# --- the same network in Keras -----------------------------------------------------------------------------


class Function(layers.Layer):
    """A layer that calls a function, through a function of its own."""

    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.function = function

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.function(x)

    def compute_output_shape(self, shape: tuple) -> tuple:
        return shape


def _relu_all(x: tf.Tensor) -> tf.Tensor:
    return tf.where(x >= 2.0, 2.0, tf.where(x >= 0.25, x, 0.1 * (x - 0.25)))


# Each activation as a layer (or as the name of one) and as a function of TensorFlow or keras.ops.
WAYS: dict[str, tuple[Callable[[], layers.Layer], Callable]] = {
    "relu": (layers.ReLU, tf.nn.relu),
    "relu6": (lambda: layers.ReLU(max_value=6.0), tf.nn.relu6),
    "relu_max": (lambda: layers.ReLU(max_value=1.5), lambda x: tf.clip_by_value(x, 0.0, 1.5)),
    "leaky": (lambda: layers.LeakyReLU(negative_slope=0.3), lambda x: tf.nn.leaky_relu(x, 0.3)),
    "thresholded": (lambda: layers.ReLU(threshold=0.5), lambda x: tf.where(x >= 0.5, x, 0.0)),
    "relu_all": (lambda: layers.ReLU(2.0, negative_slope=0.1, threshold=0.25), _relu_all),
    "swish": (lambda: layers.Activation("silu"), tf.nn.silu),
    "swish_beta": (lambda: Function(lambda x: x * keras.ops.sigmoid(1.7 * x)), lambda x: tf.nn.silu(x, 1.7)),
    "gelu": (lambda: layers.Activation("gelu"), lambda x: tf.nn.gelu(x, approximate=False)),
    "gelu_tanh": (
        lambda: Function(lambda x: keras.ops.gelu(x, approximate=True)),
        lambda x: tf.nn.gelu(x, approximate=True),
    ),
    "mish": (lambda: layers.Activation("mish"), lambda x: x * tf.tanh(tf.nn.softplus(x))),
    "softplus": (lambda: layers.Activation("softplus"), tf.nn.softplus),
    "elu": (layers.ELU, tf.nn.elu),
    "elu_alpha": (lambda: layers.ELU(alpha=0.5), lambda x: keras.ops.elu(x, alpha=0.5)),
    "selu": (lambda: layers.Activation("selu"), tf.nn.selu),
    "hard_swish": (lambda: layers.Activation("hard_silu"), lambda x: x * tf.nn.relu6(x + 3) / 6),
    "hard_sigmoid": (lambda: layers.Activation("hard_sigmoid"), lambda x: tf.nn.relu6(x + 3) / 6),
    "sigmoid": (lambda: layers.Activation("sigmoid"), tf.sigmoid),
    "tanh": (lambda: layers.Activation("tanh"), tf.tanh),
}


class KerasTwin:
    """Builds the network of Keras layers; a layer that is used twice is one layer."""

    def __init__(self) -> None:
        self.made: dict[int, tuple[object, Callable]] = {}

    def model(self, net: Net) -> keras.Model:
        x = keras.Input(net.input_shape)
        return keras.Model(x, self.apply(net.chain, x))

    def apply(self, part: object, x: object) -> object:
        if isinstance(part, Residual):
            return layers.Add()([x, self.apply(part.inner, x)])
        if isinstance(part, Concatenation):
            return layers.Concatenate()([x, self.apply(part.inner, x)])
        if isinstance(part, Chain) and not part.nested:
            for inner in part.layers:
                x = self.apply(inner, x)
            return x
        if id(part) not in self.made:
            self.made[id(part)] = (part, self.make(part, x))
        return self.made[id(part)][1](x)

    def make(self, part: object, x: object) -> Callable:
        if isinstance(part, Chain):
            inner = keras.Input(x.shape[1:])
            return keras.Model(inner, self.apply(Chain(part.layers), inner))
        layer, weights = self.layer(part)
        if isinstance(layer, list):
            return keras.Sequential([keras.Input(x.shape[1:]), *layer])
        layer.build(x.shape)
        layer.set_weights(weights)
        return layer

    def layer(self, part: object) -> tuple[object, list[np.ndarray]]:
        if isinstance(part, Conv):
            return self.conv(part)
        if isinstance(part, BatchNorm):
            return layers.BatchNormalization(), [part.gamma, part.beta, part.mean, part.variance]
        if isinstance(part, Dense):
            return self.dense(part)
        if isinstance(part, Activation):
            return self.activation(part)
        assert isinstance(part, MaxPool | AveragePool)
        largest = isinstance(part, MaxPool)
        if part.windows is None:
            return (layers.GlobalMaxPooling2D if largest else layers.GlobalAveragePooling2D)(), []
        w = part.windows
        return (layers.MaxPool2D if largest else layers.AvgPool2D)(w.kernel, w.strides, w.padding), []

    def conv(self, part: Conv) -> tuple[object, list[np.ndarray]]:
        w = part.windows
        options = {"strides": w.strides, "padding": w.padding, "use_bias": part.use_bias}
        weights = [part.weight, *([part.bias] if part.use_bias else [])]
        if part.kind == "depthwise":
            rows, columns, _, outer = part.weight.shape
            layer = layers.DepthwiseConv2D(w.kernel, depth_multiplier=outer // part.groups, **options)
            weights[0] = part.weight.reshape(rows, columns, part.groups, outer // part.groups)
            return layer, weights
        options |= {"dilation_rate": w.dilation, "groups": part.groups}
        return layers.Conv2D(part.weight.shape[3], w.kernel, **options), weights

    def dense(self, part: Dense) -> tuple[object, list[np.ndarray]]:
        dense = layers.Dense(CLASSES)
        dense.build((None, len(part.weight)))
        dense.set_weights([part.weight, part.bias])
        return [layers.Flatten(), dense], []

    def activation(self, part: Activation) -> tuple[object, list[np.ndarray]]:
        if part.slopes is not None:
            shared = [1, 2] if part.slopes.shape[:2] == (1, 1) else None
            return layers.PReLU(shared_axes=shared), [part.slopes]
        make, function = WAYS[part.name]
        if part.way == "layer":
            return make(), []
        return Function(tf.function(function) if part.way == "nested function" else function), []


# --- comparing ---------------------------------------------------------------------------------------------


def check(net: Net, signatures_of: Callable, seed: int, **options: object) -> None:
    """Hold scores, gradients and guided maps of two random images against the written-out passes."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(2, *net.input_shape)).astype(np.float32)
    directions = rng.normal(size=images.shape)
    expected = []
    for c, x in enumerate(images.astype(np.float64)):
        scores, back, trace = net.run(x)
        assume(not trace.ambiguous)
        answers = []
        for guided in (False, True):
            first, last = (net.signal(back, scores, c, Mode(guided, last)) for last in (False, True))
            # A maximum that two positions may win: the answer may depend on which.
            assume(np.all(np.abs(first.value - last.value) <= first.error))
            assume(meaningful(first))
            answers.append(first)
        difference = net.directional_difference(x, directions[c], c)
        assume(difference is not None)
        expected.append((scores, *answers, difference))
    signatures = signatures_of(
        KerasTwin().model(net),
        net.input_shape,
        methods=("gradients", "guided"),
        batch_sizes=(2,),
        whole=True,
        **options,
    )
    plain = signatures("explain_gradients", images, class_index=[0, 1])
    guided = signatures("explain_guided", images, class_index=[0, 1])
    for c, (scores, gradient, signal, (slope, slope_error)) in enumerate(expected):
        for answer in (plain, guided):
            assert abs(answer["score"][c] - scores.value[c]) <= scores.error[c]
        within(plain["gradients"][c], gradient)
        within(guided["gradients"][c], signal)
        got = float(np.sum(plain["gradients"][c] * directions[c]))
        assert abs(got - slope) <= np.sum(gradient.error * np.abs(directions[c])) + slope_error


def check_paths(net: Net, signatures_of: Callable, seed: int, **options: object) -> None:
    """Hold what is made of several gradients of an image against the written-out passes at the same places.

    Gradient × input, integrated gradients from a gray image, and the mean of guided signals of noisy copies.
    """
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(2, *net.input_shape)).astype(np.float32)
    levels, steps = np.float32([0.25, -0.5]), [2, 3]
    noise = [
        antithetic_normal(tf.constant([5, 6]), tf.constant(i), net.input_shape).numpy() for i in range(2)
    ]
    expected = []
    for c, x in enumerate(images.astype(np.float64)):
        way = x - levels[c]
        ends = (np.arange(steps[c] + 1) / steps[c]) ** 2
        places = [levels[c] + node * way for node in (ends[1:] + ends[:-1]) / 2]
        gradients = [signal_at(net, place, np.abs(x) + np.abs(place), c) for place in places]
        sigma = 0.1 * np.ptp(x)
        noisy = [x + sigma * sample[c] for sample in noise]
        signals = [signal_at(net, copy, np.abs(x) + np.abs(copy), c, guided=True) for copy in noisy]
        answers = (
            times(x, signal_at(net, x, np.zeros_like(x), c)),
            times(way, weighted(gradients, np.diff(ends))),
            weighted(signals, [0.5, 0.5]),
        )
        assume(all(map(meaningful, answers)))
        expected.append(answers)
    signatures = signatures_of(
        KerasTwin().model(net),
        net.input_shape,
        methods=("gradient_x_input", "integrated_gradients", "smooth(guided)"),
        batch_sizes=(2,),
        **options,
    )
    classes = {"class_index": [0, 1]}
    noisy_copies = {"num_samples": 2, "noise_level": 0.1, "seed": [5, 6]}
    products = signatures("explain_gradient_x_input", images, **classes)["attributions"]
    way = signatures("explain_integrated_gradients", images, **classes, num_steps=steps, baseline=levels)
    means = signatures("explain_smooth_guided", images, **classes, **noisy_copies)["gradients"]
    for got, wanted in zip((products, way["attributions"], means), zip(*expected, strict=True), strict=True):
        for c in (0, 1):
            within(got[c], wanted[c])


def check_cams(net: Net, seed: int, **options: object) -> None:
    """Hold the cams of the last feature layer against the original's features and the tape behind them."""
    model = KerasTwin().model(net)
    graph = with_feature_layer(trace(source_of(lambda x: model(x, training=False), net.input_shape)), "net")
    assume(graph.features is not None)
    named = [layer for layer in model.layers if layer.name == graph.features.name]
    assume(len(named) == 1 and len(named[0]._inbound_nodes) == 1)
    features = named[0].output
    x = np.random.default_rng(seed).normal(size=(2, *net.input_shape)).astype(np.float32)
    values = keras.Model(model.inputs[0], features)(x)
    with tf.GradientTape() as tape:
        tape.watch(values)
        scores = keras.Model(features, model.outputs[0])(values)
        score = tf.gather(scores, [0, 1], batch_dims=1)
    gradients = tape.gradient(score, values).numpy().astype(np.float64)
    values = values.numpy().astype(np.float64)
    expected = {
        "grad_cam": (gradients.mean((1, 2), keepdims=True) * values).sum(-1),
        "hires_cam": (gradients * values).sum(-1),
        "layer_cam": (np.maximum(gradients, 0) * values).sum(-1),
    }
    built = Signatures(graph, methods=tuple(expected), batch_sizes=(2,), **options)
    for name, wanted in expected.items():
        got = built(f"explain_{name}", x, class_index=[0, 1])
        size = np.linalg.norm(gradients) * np.linalg.norm(values)
        assert np.linalg.norm(got["cam"] - wanted) <= 1e-4 * size, name


def signal_at(net: Net, x: np.ndarray, size: np.ndarray, c: int, *, guided: bool = False) -> Value:
    """What reaches a place that float32 computes with numbers of the given size, from class c."""
    trace = Trace()
    scores, back = net.chain.forward(Value(x, 8 * U * size), trace)
    assume(not trace.ambiguous)
    first, last = (net.signal(back, scores, c, Mode(guided, last)) for last in (False, True))
    assume(np.all(np.abs(first.value - last.value) <= first.error))
    return first


def weighted(values: list[Value], weights: Sequence[float]) -> Value:
    """Their sum with weights: each product rounds, as do the weight and the sum."""
    total = sum(weight * part.value for part, weight in zip(values, weights, strict=True))
    sizes = sum(weight * np.abs(part.value) for part, weight in zip(values, weights, strict=True))
    errors = sum(weight * part.error for part, weight in zip(values, weights, strict=True))
    return Value(total, errors + gamma(len(values) + 8) * (sizes + errors))


def times(factor: np.ndarray, value: Value) -> Value:
    """A product with what is itself a difference of two float32 numbers."""
    product = factor * value.value
    error = np.abs(factor) * value.error
    return Value(product, error + gamma(8) * (np.abs(product) + error + np.abs(value.value)))


def meaningful(expected: Value) -> bool:
    """Whether the bound is at most 1 % of the map, so that a wrong mask cannot hide in it.

    Worst cases multiply with depth: behind a dozen layers the bound may be larger than the map.
    """
    return bool(np.linalg.norm(expected.error) <= 1e-2 * np.linalg.norm(expected.value))


def within(got: np.ndarray, expected: Value) -> None:
    excess = np.abs(got - expected.value) - expected.error
    size = np.abs(expected.value).max()
    assert excess.max() <= 0, f"beyond its bound by {excess.max():.3g}, at size {size:.3g}"


_SETTINGS = {
    "deadline": None,
    "database": None,
    "derandomize": True,
    # Shrinking would build hundreds of networks more; a drawn one is small enough to be read.
    "phases": (Phase.explicit, Phase.generate),
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
}
_OPTIONS = st.fixed_dictionaries({"target": st.sampled_from(["cpu", "gpu"]), "lowering": st.booleans()})


@settings(max_examples=4, **_SETTINGS)
@given(net=nets(), seed=st.integers(0, 2**32 - 1), options=_OPTIONS)
def test_signatures_of_a_few_random_architectures_equal_the_passes_written_out(
    signatures_of, net, seed, options
):
    check(net, signatures_of, seed, **options)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=300, **_SETTINGS)
@given(net=nets(), seed=st.integers(0, 2**32 - 1), options=_OPTIONS)
def test_signatures_of_many_random_architectures_equal_the_passes_written_out(
    signatures_of, net, seed, options
):
    check(net, signatures_of, seed, **options)


# In make test, test_cams.py holds cams to the original's features.
@pytest.mark.slow
@settings(max_examples=4, **_SETTINGS)
@given(net=nets(), seed=st.integers(0, 2**32 - 1), options=_OPTIONS)
def test_cams_of_a_few_random_architectures_equal_those_of_the_originals_features(net, seed, options):
    check_cams(net, seed, **options)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=200, **_SETTINGS)
@given(net=nets(), seed=st.integers(0, 2**32 - 1), options=_OPTIONS)
def test_cams_of_many_random_architectures_equal_those_of_the_originals_features(net, seed, options):
    check_cams(net, seed, **options)


# In make test, test_integrated_gradients.py and test_smooth.py hold them to passes that are written out.
@pytest.mark.slow
@settings(max_examples=1, **_SETTINGS)
@given(net=nets(), seed=st.integers(0, 2**32 - 1), options=_OPTIONS)
def test_paths_and_noisy_copies_of_a_few_random_architectures_equal_the_passes_written_out(
    signatures_of, net, seed, options
):
    check_paths(net, signatures_of, seed, **options)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=100, **_SETTINGS)
@given(net=nets(), seed=st.integers(0, 2**32 - 1), options=_OPTIONS)
def test_paths_and_noisy_copies_of_many_random_architectures_equal_the_passes_written_out(
    signatures_of, net, seed, options
):
    check_paths(net, signatures_of, seed, **options)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=25, **_SETTINGS)
@given(net=nets(), seed=st.integers(0, 2**32 - 1))
def test_compiled_signatures_of_random_architectures_equal_the_passes_written_out(signatures_of, net, seed):
    check(net, signatures_of, seed, compile="xla", target="cpu")


@settings(max_examples=20, **_SETTINGS)
@given(net=nets(), seed=st.integers(0, 2**32 - 1))
def test_the_passes_written_out_agree_with_central_differences(net, seed):
    x, direction = np.random.default_rng(seed).normal(size=(2, *net.input_shape))
    scores, back, _ = net.run(x)
    difference = net.directional_difference(x, direction, 1)
    assume(difference is not None)
    # The differences are of float64, so the maxima are too.
    gradient = net.signal(back, scores, 1, Mode(exact=True))
    assert abs(np.sum(gradient.value * direction) - difference[0]) <= difference[1]
