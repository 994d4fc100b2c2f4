"""Small networks for every pattern of ops that the remapper knows, replayed by the exporter, uncompiled.

python tests/matrix/fusions.py            the quick selection, float32
python tests/matrix/fusions.py here       of it, what the set of kernels that runs here lacked or got wrong
python tests/matrix/fusions.py all        every pattern, float32 and a part of them in the other data types
python tests/matrix/fusions.py NAME…      the patterns with such a name
python tests/matrix/fusions.py bare …     the same without what the exporter does: which patterns need it
python tests/matrix/fusions.py expected=FILE.npz …    what XLA computes is read from there, or written there

Scores and input gradients of each network, replayed as for the reference of an export and as for an export
for CPUs, are held against the network itself, compiled by XLA in float64 where it has the ops. With which of
TensorFlow's kernels it runs depends on TF_ENABLE_ONEDNN_OPTS. It prints what fails, and exits with 1 then.
"""

from __future__ import annotations

import itertools
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.test_util import IsMklEnabled

from saliency_exporter.graph.folding import fold
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace
from saliency_exporter.rules.lowering import lowering_rules

# Largest |difference| over the size of what is compared, of scores and of gradients. In few bits the sides of
# kinks flip, and one flip may be as large as the gradient: there it is the norm of the difference over the
# norm, which shows that there is a kernel and that it computes about that.
TOLERANCES = {
    "float64": (1e-6, 1e-6),
    "float32": (1e-4, 1e-4),
    "float16": (3e-2, 2e-1),
    "bfloat16": (1e-1, 4e-1),
}
_AT_ONCE = 40

Body = Callable[[tf.Tensor, "Weights"], tf.Tensor]


class Weights:
    """Variables of a network, made at their first use, of one data type and seeded by the network's name."""

    def __init__(self, name: str, dtype: tf.DType) -> None:
        self.dtype = dtype
        self.rng = np.random.default_rng(zlib.crc32(name.encode()))
        self.made: list[tf.Variable] = []
        self.used = 0

    def __call__(self, *shape: int, positive: bool = False) -> tf.Tensor:
        if self.used == len(self.made):
            value = self.rng.normal(size=shape) * 0.4
            with tf.init_scope():
                self.made.append(tf.Variable(tf.cast(np.abs(value) + 0.1 if positive else value, self.dtype)))
        self.used += 1
        return self.made[self.used - 1].read_value()


@dataclass(frozen=True)
class Network:
    """A name, the shape of its input, and what it computes from it."""

    name: str
    shape: tuple[int, ...]
    body: Body

    def function(self, dtype: tf.DType) -> tuple[Callable[[tf.Tensor], tf.Tensor], Weights]:
        """Scores [B, 2], float32 or float64, of [B, *shape], and the variables."""
        weights = Weights(self.name, dtype)
        out = tf.float64 if dtype == tf.float64 else tf.float32

        def call(x: tf.Tensor) -> tf.Tensor:
            weights.used = 0
            y = self.body(tf.cast(x, dtype), weights)
            flat = tf.cast(tf.reshape(y, [-1, int(np.prod(y.shape[1:]))]), out)
            head = np.random.default_rng(1).normal(size=(flat.shape[1], 2)) / flat.shape[1] ** 0.5
            # A sum of products and no MatMul: the head is no part of any pattern.
            return tf.reduce_sum(flat[:, :, tf.newaxis] * tf.constant(head, out), axis=1)

        return call, weights


def activated(name: str, x: tf.Tensor) -> tf.Tensor:
    """One of the activations that the remapper looks for, or another one."""
    functions: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
        "": lambda x: x,
        "relu": tf.nn.relu,
        "relu6": tf.nn.relu6,
        "elu": tf.nn.elu,
        "leaky": partial(tf.nn.leaky_relu, alpha=0.3),
        "tanh": tf.tanh,
        "sigmoid": tf.sigmoid,
        "swish": lambda x: x * tf.sigmoid(x),
        "mish": lambda x: x * tf.tanh(tf.nn.softplus(x)),
        "gelu": partial(tf.nn.gelu, approximate=False),
        "gelu_tanh": partial(tf.nn.gelu, approximate=True),
        "hard_swish": lambda x: x * tf.nn.relu6(x + 3) / 6,
    }
    return functions[name](x)


def shifted(kind: str, y: tf.Tensor, weights: Weights) -> tf.Tensor:
    """A bias or a batch normalization behind y, written in one of several ways."""
    channels = y.shape[-1]
    if kind == "bias":
        return tf.nn.bias_add(y, weights(channels))
    if kind == "sum":
        return weights(channels) + y
    if kind == "sum 4d":
        return y + tf.reshape(weights(channels), [1] * (y.shape.rank - 1) + [channels])
    if kind == "norm":
        if y.dtype == tf.float64:
            gamma, beta, mean = (weights(channels) for _ in range(3))
            return gamma * (y - mean) / tf.sqrt(weights(channels, positive=True) + 1e-2) + beta
        statistics = [tf.cast(weights(channels, positive=i == 3), tf.float32) for i in range(4)]
        gamma, beta, mean, variance = statistics
        return tf.raw_ops.FusedBatchNormV3(
            x=y, scale=gamma, offset=beta, mean=mean, variance=variance, epsilon=1e-2, is_training=False
        ).y
    return y


@dataclass(frozen=True)
class Convolution:
    """A two-dimensional convolution of 4 channels, what follows it, and its attributes."""

    groups: int = 1
    stride: int = 1
    dilation: int = 1
    padding: str = "SAME"
    shift: str = ""
    activation: str = ""
    residual: bool = False
    depthwise: bool = False
    filters: int = 8
    taps: int = 3

    @property
    def name(self) -> str:
        words = [
            "depthwise" if self.depthwise else f"conv of {self.groups} groups",
            f"stride {self.stride}",
            f"dilation {self.dilation}",
            self.padding,
            self.shift,
            "residual" if self.residual else "",
            self.activation,
        ]
        return ", ".join(word for word in words if word)

    def __call__(self, x: tf.Tensor, weights: Weights) -> tf.Tensor:
        options = {
            "strides": [1, self.stride, self.stride, 1],
            "dilations": [1, self.dilation, self.dilation, 1],
            "padding": self.padding,
            "explicit_paddings": [0, 0, 1, 2, 3, 0, 0, 0] if self.padding == "EXPLICIT" else [],
        }
        if self.depthwise:
            y = tf.raw_ops.DepthwiseConv2dNative(input=x, filter=weights(3, 3, 4, 2), **options)
        else:
            kernel = weights(self.taps, self.taps, 4 // self.groups, self.filters)
            y = tf.raw_ops.Conv2D(input=x, filter=kernel, **options)
        y = shifted(self.shift, y, weights)
        if self.residual:
            y = (
                y + tf.sin(2.0 * y)
                if self.stride > 1 or y.shape[1] != x.shape[1]
                else y + tf.tile(x, [1, 1, 1, 2])
            )
        return activated(self.activation, y)

    def network(self) -> Network:
        return Network(self.name, (9, 8, 4), self)


def convolutions() -> Iterator[Convolution]:
    """All combinations: 1728 of them."""
    steps = ((1, 1), (2, 1), (1, 2))
    ways = [(a, False) for a in ("", "relu", "relu6", "elu", "leaky", "tanh", "sigmoid", "swish", "gelu")]
    ways += [(a, True) for a in ("", "relu", "leaky")]
    for (stride, dilation), padding, shift, (activation, residual) in itertools.product(
        steps, ("SAME", "VALID", "EXPLICIT"), ("", "bias", "sum", "norm"), ways
    ):
        for groups in (1, 2, 4):
            yield Convolution(groups, stride, dilation, padding, shift, activation, residual)
        yield Convolution(1, stride, dilation, padding, shift, activation, residual, depthwise=True)


def _product(shape: Sequence[int], shift: str, activation: str, residual: bool) -> Network:
    def body(x: tf.Tensor, weights: Weights) -> tf.Tensor:
        y = shifted(shift, x @ weights(shape[-1], shape[-1]), weights)
        return activated(activation, y + 2.0 * x if residual else y)

    name = ", ".join(w for w in ("product", shift, "residual" if residual else "", activation) if w)
    return Network(name, tuple(shape), body)


def _volume(groups: int, dilation: int, padding: str, shift: str, activation: str, residual: bool) -> Network:
    def body(x: tf.Tensor, weights: Weights) -> tf.Tensor:
        y = tf.raw_ops.Conv3D(
            input=x,
            filter=weights(3, 2, 3, 4 // groups, 8),
            strides=[1] * 5,
            padding=padding,
            dilations=[1, *[dilation] * 3, 1],
        )
        y = shifted(shift, y, weights)
        return activated(activation, y + tf.sin(2.0 * y) if residual else y)

    words = [f"volume of {groups} groups", f"dilation {dilation}", padding, shift]
    words += ["residual" if residual else "", activation]
    return Network(", ".join(word for word in words if word), (6, 5, 7, 4), body)


def _padded_volume(padding: str, paddings: Sequence[Sequence[int]], dtype: type) -> Network:
    def body(x: tf.Tensor, weights: Weights) -> tf.Tensor:
        x = tf.pad(x, tf.constant(paddings, dtype))
        y = tf.raw_ops.Conv3D(
            input=x, filter=weights(3, 2, 3, x.shape[-1], 6), strides=[1] * 5, padding=padding
        )
        return tf.nn.relu(tf.nn.bias_add(y, weights(6)))

    return Network(f"padded volume, {padding}, {paddings}, {np.dtype(dtype)}", (4, 5, 4, 2), body)


def _padded(padding: str, paddings: Sequence[Sequence[int]], groups: int) -> Network:
    def body(x: tf.Tensor, weights: Weights) -> tf.Tensor:
        x = tf.pad(x, paddings)
        y = tf.raw_ops.Conv2D(
            input=x, filter=weights(3, 3, x.shape[-1] // groups, 8), strides=[1] * 4, padding=padding
        )
        return tf.nn.relu(tf.nn.bias_add(y, weights(8)))

    return Network(f"padded conv of {groups} groups, {padding}, {paddings}", (7, 6, 4), body)


def _channels_first(
    kind: str, groups: int = 1, stride: int = 1, dilation: int = 1, padding: str = "SAME"
) -> Network:
    apart = [1, 1, stride, stride]
    explicit = [0, 0, 0, 0, 1, 2, 3, 0] if padding == "EXPLICIT" else []

    def body(x: tf.Tensor, weights: Weights) -> tf.Tensor:
        options = {"data_format": "NCHW", "strides": apart, "padding": padding}
        if kind in ("conv", "depthwise"):
            options |= {"dilations": [1, 1, dilation, dilation], "explicit_paddings": explicit}
        if kind == "conv":
            y = tf.raw_ops.Conv2D(input=x, filter=weights(3, 3, 4 // groups, 8), **options)
        elif kind == "depthwise":
            y = tf.raw_ops.DepthwiseConv2dNative(input=x, filter=weights(3, 3, 4, 2), **options)
        elif kind == "max":
            y = tf.raw_ops.MaxPool(input=x, ksize=[1, 1, 3, 2], **options)
        elif kind == "mean":
            y = tf.raw_ops.AvgPool(value=x, ksize=[1, 1, 3, 2], **options)
        elif kind == "transposed":
            size = [tf.shape(x)[0], 6, 8 * stride, 9 * stride]
            y = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=size, filter=weights(3, 3, 6, 4), out_backprop=x, **options
            )
        else:
            y = tf.raw_ops.DepthToSpace(input=x, block_size=2, data_format="NCHW")
        if kind in ("conv", "depthwise"):
            y = tf.nn.bias_add(y, weights(8), data_format="NCHW")
        return tf.nn.relu(y)

    name = f"channels first: {kind} of {groups} groups, stride {stride}, dilation {dilation}, {padding}"
    return Network(name, (4, 8, 9), body)


def _normalized(kind: str, activation: str, epsilon: float) -> Network:
    """Normalizations of an input of small variance, where epsilon counts."""

    def body(x: tf.Tensor, weights: Weights) -> tf.Tensor:
        x = 0.03 * x
        if kind == "instance":
            mean, variance = tf.nn.moments(x, [1, 2], keepdims=True)
        elif kind == "layer":
            mean, variance = tf.nn.moments(x, [-1], keepdims=True)
        else:
            rows = tf.shape(x)[0] * x.shape[1] * x.shape[2]
            one = tf.ones([rows], tf.float32)
            y = tf.compat.v1.nn.fused_batch_norm(
                tf.reshape(x, tf.stack([1, rows, x.shape[3], 1])),
                scale=one,
                offset=tf.zeros([rows], tf.float32),
                epsilon=max(epsilon, 1.001e-5),
                data_format="NCHW",
            )[0]
            return activated(activation, tf.reshape(y, tf.shape(x)) * weights(4) + weights(4))
        return activated(
            activation, tf.nn.batch_normalization(x, mean, variance, weights(4), weights(4), epsilon)
        )

    return Network(f"{kind} normalization, {epsilon}, {activation}", (5, 4, 4), body)


def _attention(port: int, scale: float) -> Network:
    def body(x: tf.Tensor, weights: Weights) -> tf.Tensor:
        query = tf.transpose(tf.reshape(x, [-1, 6, 2, 4]), [0, 2, 1, 3])
        masks = tf.split(weights(1, 1, 6, 12), 2, axis=-1)
        scores = tf.matmul(query, query, transpose_b=True) * tf.cast(scale, x.dtype) + masks[port]
        return tf.matmul(tf.nn.softmax(scores), query)

    return Network(f"attention, mask {port}", (6, 8), body)


def _gated(gate: str) -> Network:
    def body(x: tf.Tensor, weights: Weights) -> tf.Tensor:
        a, b = tf.split(x, 2, axis=-1)
        return (tf.sigmoid(a) if gate == "sigmoid" else tf.tanh(tf.nn.softplus(a))) * b

    return Network(f"gated by {gate}", (5, 4, 4), body)


def _turned_product(shift: str, activation: str, residual: bool) -> Network:
    def body(x: tf.Tensor, weights: Weights) -> tf.Tensor:
        turned = tf.transpose(x)
        y = shifted(shift, tf.matmul(turned, weights(6, 5), transpose_a=True), weights)
        y = y + x[:, :5] if residual else y
        return activated(activation, y)

    words = ["turned product", shift, "residual" if residual else "", activation]
    return Network(", ".join(word for word in words if word), (6,), body)


def _sequence(groups: int) -> Network:
    def body(x: tf.Tensor, weights: Weights) -> tf.Tensor:
        return tf.nn.relu(tf.nn.bias_add(tf.nn.conv1d(x, weights(3, 4 // groups, 8), 1, "SAME"), weights(8)))

    return Network(f"sequence of {groups} groups", (9, 4), body)


def _dynamic(groups: int, dilation: int) -> Network:
    """A kernel that is computed from the image: its gradient counts too."""

    def body(x: tf.Tensor, weights: Weights) -> tf.Tensor:
        pooled = tf.reduce_mean(x, axis=[0, 1, 2])
        kernel = tf.reshape(
            tf.tensordot(pooled, weights(4, 3 * 3 * (4 // groups) * 8), 1), [3, 3, 4 // groups, 8]
        )
        options = {"strides": [1] * 4, "dilations": [1, dilation, dilation, 1], "padding": "SAME"}
        return tf.nn.bias_add(tf.raw_ops.Conv2D(input=x, filter=tf.tanh(kernel), **options), weights(8))

    return Network(f"dynamic conv of {groups} groups, dilation {dilation}", (7, 6, 4), body)


def others() -> list[Network]:
    """Patterns beside those of two-dimensional convolutions."""
    activations = (
        "",
        "relu",
        "relu6",
        "elu",
        "leaky",
        "tanh",
        "sigmoid",
        "gelu",
        "gelu_tanh",
        "swish",
        "mish",
    )
    around = ([[0, 0], [1, 2], [0, 3], [0, 0]], [[0, 0], [1, 0], [0, 0], [2, 2]])
    volume = [[0, 0], [1, 1], [0, 2], [1, 0], [0, 0]]
    return [
        *(_product((6,), s, a, r) for s in ("bias", "sum") for a in activations for r in (False, True)),
        *(
            _turned_product(s, a, r)
            for s in ("bias", "sum")
            for a in ("", "relu", "tanh", "gelu", "leaky")
            for r in (False, True)
        ),
        *(
            _volume(g, d, p, s, a, r)
            for g, d in ((1, 1), (2, 1), (1, 2), (2, 2))
            for p in ("SAME", "VALID")
            for s in ("", "bias", "sum")
            for a, r in (("", False), ("relu", False), ("leaky", False), ("leaky", True), ("relu", True))
            if d == 1 or p == "SAME"
        ),
        *(_padded_volume(p, volume, dtype) for p in ("VALID", "SAME") for dtype in (np.int32, np.int64)),
        _padded_volume("VALID", [[0, 0], [1, 1], [0, 0], [1, 0], [1, 2]], np.int32),
        *(_padded(p, pads, g) for p in ("VALID", "SAME") for pads in around for g in (1, 2)),
        *(
            _channels_first("conv", g, s, d, p)
            for g in (1, 2, 4)
            for s, d in ((1, 1), (2, 1), (1, 2))
            for p in ("SAME", "VALID", "EXPLICIT")
        ),
        *(
            _channels_first("depthwise", 1, s, d, p)
            for s, d in ((1, 1), (2, 1), (1, 2))
            for p in ("SAME", "EXPLICIT")
        ),
        *(_channels_first(kind, 1, s) for kind in ("max", "mean", "transposed") for s in (1, 2)),
        _channels_first("depth to space"),
        *(
            _normalized(kind, a, e)
            for kind in ("instance", "layer", "batched layer")
            for a in ("", "relu", "leaky")
            for e in (1e-6, 1e-3, 1e-1)
        ),
        *(_attention(port, 0.5) for port in (0, 1)),
        *(_gated(gate) for gate in ("sigmoid", "softplus")),
        *(_sequence(groups) for groups in (1, 2, 4)),
        *(_dynamic(g, d) for g in (1, 2) for d in (1, 2)),
        *(
            Network(f"{a} alone", (5, 4, 4), lambda x, w, a=a: activated(a, x))
            for a in ("mish", "hard_swish")
        ),
        Network("norm and relu", (5, 4, 4), lambda x, w: tf.nn.relu(shifted("norm", tf.sin(x), w))),
    ]


def every() -> list[Network]:
    """All patterns."""
    return [*others(), *(convolution.network() for convolution in convolutions())]


def quick() -> list[Network]:
    """One network for each thing that one of the two sets of kernels lacked or got wrong."""
    networks = [*wrong("Eigen"), *wrong("oneDNN")]
    return list({network.name: network for network in networks}.values())


def wrong(kernels: str) -> list[Network]:
    """One network for each thing that a set of kernels, "Eigen" or "oneDNN", lacked or got wrong.

    exporter/FUSIONS.md says of each what fails.
    """
    by_name = {network.name: network for network in others()}
    both = [
        # What is written for Eigen's sake is made one op by oneDNN.
        Convolution(groups=2, shift="bias", activation="relu").network(),
        Convolution(depthwise=True, dilation=2, shift="bias").network(),
        by_name["volume of 2 groups, dilation 1, SAME, bias, relu"],
        by_name["channels first: depth to space of 1 groups, stride 1, dilation 1, SAME"],
    ]
    if kernels == "oneDNN":
        chosen = (
            Convolution(shift="norm", activation="tanh"),
            Convolution(shift="bias", residual=True, activation="leaky"),
            Convolution(shift="sum", residual=True, activation="leaky"),
            Convolution(depthwise=True, padding="EXPLICIT", shift="bias", activation="relu"),
        )
        names = (
            "turned product, bias, residual",
            "volume of 1 groups, dilation 1, SAME, bias, residual, leaky",
            "padded volume, SAME, [[0, 0], [1, 1], [0, 2], [1, 0], [0, 0]], int32",
            "attention, mask 1",
            "gated by sigmoid",
        )
    else:
        chosen = (
            Convolution(groups=2, stride=2, padding="EXPLICIT", shift="bias"),
            Convolution(groups=4, dilation=2, padding="VALID", shift="sum", activation="leaky"),
            Convolution(groups=2, shift="norm", activation="relu6"),
            Convolution(groups=2, shift="bias", residual=True, activation="relu"),
            Convolution(dilation=2, shift="bias", activation="elu"),
        )
        names = (
            "volume of 1 groups, dilation 2, SAME, bias, relu",
            "channels first: conv of 2 groups, stride 2, dilation 1, EXPLICIT",
            "channels first: conv of 1 groups, stride 1, dilation 2, SAME",
            "channels first: depthwise of 1 groups, stride 1, dilation 1, SAME",
            "channels first: max of 1 groups, stride 2, dilation 1, SAME",
            "channels first: mean of 1 groups, stride 1, dilation 1, SAME",
            "channels first: transposed of 1 groups, stride 2, dilation 1, SAME",
            "sequence of 2 groups",
            "dynamic conv of 2 groups, dilation 2",
        )
    return [*both, *(convolution.network() for convolution in chosen), *(by_name[name] for name in names)]


def failures(
    networks: Sequence[Network],
    dtype: str = "float32",
    *,
    bare: bool = False,
    known: dict[str, list[np.ndarray]] | None = None,
) -> Iterator[str]:
    """What differs or fails, one line each; networks are run together, and apart where that fails.

    `known` has what is expected of networks by their names; what is not in it is computed and added.
    """
    known = {} if known is None else known
    for start in range(0, len(networks), _AT_ONCE):
        some = networks[start : start + _AT_ONCE]
        # What is not defined, such as an op without a kernel of that type on any device, is no pattern.
        known |= {network.name: _expected(network) for network in some if network.name not in known}
        expected = {network.name: known[network.name] for network in some}
        try:
            yield from _compare(some, dtype, expected, bare)
        except tf.errors.OpError:
            for network in some:
                try:
                    yield from _compare([network], dtype, expected, bare)
                except tf.errors.OpError as error:
                    yield f"{network.name}, {dtype}: {type(error).__name__}: {error.message[-300:]}"


def _images(network: Network) -> np.ndarray:
    return np.random.default_rng(7).normal(size=(2, *network.shape)).astype(np.float32)


def _answers(scores: tf.Tensor, x: tf.Tensor) -> list[tf.Tensor]:
    seed = tf.one_hot([0, 1], 2, dtype=scores.dtype)
    return [scores, tf.gradients(scores, x, grad_ys=seed)[0]]


def _expected(network: Network) -> list[np.ndarray]:
    """Scores and gradients of the network itself, from XLA, which has kernels of its own for everything."""
    for dtype in (tf.float64, tf.float32):
        call, _ = network.function(dtype)
        try:
            with tf.device("/CPU:0"):
                run = tf.function(
                    lambda x, call=call: _answers(call(x), x), jit_compile=True, autograph=False
                )
                return [value.numpy() for value in run(tf.constant(_images(network), dtype))]
        except (TypeError, ValueError, tf.errors.OpError):
            if dtype == tf.float32:
                raise
    raise AssertionError


def _compare(
    networks: Sequence[Network], dtype: str, expected: dict[str, list[np.ndarray]], bare: bool
) -> Iterator[str]:
    replays = []
    for network in networks:
        call, weights = network.function(tf.as_dtype(dtype))
        # The variables are made here, and nothing is run.
        tf.function(call, autograph=False).get_concrete_function(
            tf.TensorSpec((None, *network.shape), tf.float32)
        )
        source = SimpleNamespace(
            name=network.name, call=call, input_shape=network.shape, variables=tuple(weights.made), kept=None
        )
        graph = trace(source, score="output")
        rules = lowering_rules("cpu", compiled=False)
        replays.append((network, "as it is", Forward(graph), {}))
        replays.append((network, "lowered", Forward(fold(graph)), rules))

    @tf.function(autograph=False)
    def run(*images: tf.Tensor) -> list[list[tf.Tensor]]:
        results = []
        for (_, _, forward, rules), x in zip(replays, images, strict=True):
            # Predictions alone, and gradients: what else reads a tensor decides what is made one op.
            alone, with_gradient = (forward.scores(x, rules=rules, compiled=bare) for _ in range(2))
            results.append([alone, *_answers(with_gradient, x)])
        return results

    specs = [tf.TensorSpec((None, *network.shape), tf.float32) for network, *_ in replays]
    run = run.get_concrete_function(*specs)
    answers = run(*(tf.constant(_images(network)) for network, *_ in replays))
    for (network, how, _, _), got in zip(replays, answers, strict=True):
        scores, gradients = expected[network.name]
        wanted = {"predictions": scores, "scores": scores, "gradients": gradients}
        for (what, want), have in zip(wanted.items(), got, strict=True):
            bound = TOLERANCES[dtype][what == "gradients"]
            size = np.linalg.norm if tf.as_dtype(dtype).size == 2 else _largest
            error = size(np.ravel(have.numpy() - want)) / max(size(np.ravel(want)), 1e-6)
            if not error <= bound:
                yield f"{network.name}, {dtype}, {how}: {what} differ by {error:.2g} of their size"


def _largest(values: np.ndarray) -> float:
    return float(np.abs(values).max())


def main(words: Sequence[str]) -> int:
    """Run what the words name and print what fails."""
    runs: list[tuple[list[Network], str]] = []
    bare = "bare" in words
    kept = next(
        (Path(word.removeprefix("expected=")) for word in words if word.startswith("expected=")), None
    )
    known = _read(kept) if kept is not None and kept.exists() else {}
    words = [word for word in words if word != "bare" and not word.startswith("expected=")]
    if not words:
        runs = [(quick(), "float32")]
    elif words == ["here"]:
        runs = [(wrong("oneDNN" if IsMklEnabled() else "Eigen"), "float32")]
    elif words == ["all"]:
        networks = every()
        runs = [(networks, "float32")]
        runs += [
            ([*quick(), *networks[start::23]], d) for start, d in enumerate(TOLERANCES) if d != "float32"
        ]
    else:
        runs = [([network for network in every() if any(w in network.name for w in words)], "float32")]
    count = 0
    for networks, dtype in runs:
        for line in failures(networks, dtype, bare=bare, known=known):
            count += 1
            print(line, flush=True)
        print(f"{len(networks)} patterns in {dtype}: {count} differences or failures up to here", flush=True)
    if kept is not None and not kept.exists():
        np.savez(
            kept, **{f"{name}|{i}": value for name, pair in known.items() for i, value in enumerate(pair)}
        )
    return 1 if count else 0


def _read(path: Path) -> dict[str, list[np.ndarray]]:
    with np.load(path) as arrays:
        names = dict.fromkeys(key.rpartition("|")[0] for key in arrays)
        return {name: [arrays[f"{name}|{i}"] for i in range(2)] for name in names}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
