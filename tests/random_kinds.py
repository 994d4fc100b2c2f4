"""Networks drawn at random of what is more than a chain of layers, and the answers of the originals.

Loops, branches, recurrent layers, gradients of a function's own, half precision, and ops that only move
values, before and after the head. A network is a list of parts; each part is made twice or more with the same
weights: for the exporter, and as the original, which runs eagerly under a GradientTape. For guided
backpropagation the original's rectifiers have another gradient (Springenberg et al. 2014, section 3.4); for
half precision it is also computed in float32, and how far the original is from that says how far an export
may be.

Where an input of a rectifier or of a rounding is near its kink, rounding may decide: `margin` is the smallest
distance, relative to the numbers there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from hypothesis import strategies as st

CLASSES = 3
KINDS = ("shapes", "endings", "loops", "branches", "recurrent", "own gradients", "half precision")
PRECISIONS = {"mixed_float16": 2.0**-11, "mixed_bfloat16": 2.0**-8}
"""Keras's policies, and the unit roundoff of the numbers that they compute with."""

Shape = tuple[int, ...]


class Hooks:
    """How a network rectifies and rounds: as it does, or as guided backpropagation goes back through it.

    Attributes:
        guided: whether a rectifier passes positive signals only.
        margin: where not None, the smallest relative distance of an input from a kink so far.
    """

    def __init__(self, guided: bool = False, margin: float | None = None) -> None:
        self.guided = guided
        self.margin = margin

    def relu(self, x: tf.Tensor, plain: Callable[[tf.Tensor], tf.Tensor] = tf.nn.relu) -> tf.Tensor:
        """A ReLU; `plain` is how the network writes it."""
        self._keep(lambda x: np.abs(x), x)
        return _guided_relu(x) if self.guided else plain(x)

    def round(self, x: tf.Tensor) -> tf.Tensor:
        """The nearest whole number."""
        self._keep(lambda x: np.abs(x - np.floor(x) - 0.5), x)
        return tf.round(x)

    def steps(self, x: tf.Tensor) -> None:
        """Where a layer of 8 bits rounds its input: to 127 steps of each row's largest value."""
        if self.margin is None:
            return
        steps = x * (127 / (tf.reduce_max(tf.abs(x), -1, keepdims=True) + 1e-7))
        # The distance in steps, over ten: rounding of float32 is 1e-4 of a step, and 1e-3 is kept from.
        self._keep(lambda s: np.abs(s - np.floor(s) - 0.5) * np.abs(s).max() / 10, steps)

    def _keep(self, distance: Callable[[np.ndarray], np.ndarray], x: tf.Tensor) -> None:
        if self.margin is None or not hasattr(x, "numpy"):
            return
        values = x.numpy().astype(np.float64)
        self.margin = min(self.margin, float(distance(values).min() / (1e-6 + np.abs(values).max())))


@tf.custom_gradient
def _guided_relu(x: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    return tf.nn.relu(x), lambda signal: tf.where((x > 0) & (signal > 0), signal, tf.zeros_like(signal))


Run = Callable[[Any, Hooks], Any]


@dataclass
class Part:
    """One step of a network.

    Attributes:
        text: what it is, for a reader of a failure.
        make: policy and shape of one example to (its function, its layers); the same weights each time.
    """

    text: str
    make: Callable[[str, Shape], tuple[Run, list[keras.Layer]]] = field(repr=False)


@dataclass
class Ending:
    """From class scores to what the model returns.

    Attributes:
        text: what it is.
        head: what probabilities are of scores.
        run: class scores [B, classes] to the output.
        classes: number of scores.
    """

    text: str
    head: str | None
    run: Callable[[tf.Tensor], tf.Tensor] = field(repr=False)
    classes: int = CLASSES


@dataclass
class Net:
    """Parts, a layer of scores, an ending.

    Attributes:
        shape: of one example.
        parts: in order; the last makes scores [B, classes].
        ending: what the model does with scores.
        policy: Keras's policy of dtypes.
        compilable: whether XLA can compile its gradients.
    """

    shape: Shape
    parts: list[Part]
    ending: Ending
    policy: str = "float32"
    compilable: bool = True

    def build(self, policy: str) -> tuple[Callable[[tf.Tensor, Hooks], tf.Tensor], list[tf.Variable]]:
        """Model input to scores, with this policy, and the variables."""
        runs, layers = [], []
        x = tf.zeros((2, *self.shape))
        for part in self.parts:
            run, made = part.make(policy, tuple(x.shape[1:]))
            x = run(x, Hooks())
            runs.append(run)
            layers += made

        def scores(x: tf.Tensor, hooks: Hooks) -> tf.Tensor:
            for run in runs:
                x = run(x, hooks)
            return x

        return scores, [v.value for layer in layers for v in layer.variables]


@dataclass
class Original:
    """What a network answers by itself.

    Attributes:
        scores: [B, classes].
        probabilities: [B, classes], or None without a head.
        gradients: of the chosen class, [B, *shape].
        guided: the guided signal, of the same shape.
    """

    scores: np.ndarray
    probabilities: np.ndarray | None
    gradients: np.ndarray
    guided: np.ndarray


_HEADS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "softmax": lambda s: (
        np.exp(s - s.max(-1, keepdims=True)) / np.exp(s - s.max(-1, keepdims=True)).sum(-1, keepdims=True)
    ),
    "sigmoid": lambda s: 1 / (1 + np.exp(-s)),
}


def original(net: Net, x: np.ndarray, classes: list[int], policy: str | None = None) -> Original:
    """Runs the network eagerly and differentiates it with TensorFlow's own tape.

    Args:
        net: the network.
        x: [B, *shape], float32.
        classes: which class of each example.
        policy: another one than the network's own.
    """
    scores_of, _ = net.build(policy or net.policy)

    def gradient(hooks: Hooks) -> tuple[np.ndarray, np.ndarray]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            watched = tf.constant(x)
            tape.watch(watched)
            scores = tf.cast(scores_of(watched, hooks), tf.float32)
            chosen = tf.reduce_sum(tf.gather(scores, classes, batch_dims=1))
        return scores.numpy(), tape.gradient(chosen, watched).numpy()

    scores, plain = gradient(Hooks())
    _, guided = gradient(Hooks(guided=True))
    head = _HEADS.get(net.ending.head)
    return Original(scores, head and head(scores.astype(np.float64)), plain, guided)


def margin(net: Net, x: np.ndarray) -> float:
    """The smallest relative distance of an input from the kink of its rectifier or rounding, in float32."""
    hooks = Hooks(margin=math.inf)
    net.build("float32")[0](tf.constant(x), hooks)
    return hooks.margin


# --- drawing -----------------------------------------------------------------------------------------------


class _Draw:
    """Draws parts; weights come from generators of their own."""

    def __init__(self, draw: Callable) -> None:
        self.draw = draw

    def pick(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def seed(self) -> int:
        return self.draw(st.integers(0, 2**32 - 1))

    def layer(self, text: str, factory: Callable[[], keras.Layer], **call: Any) -> Part:
        seed = self.seed()

        def make(policy: str, shape: Shape) -> tuple[Run, list[keras.Layer]]:
            layer = _made(factory, policy, shape, seed)
            return lambda x, hooks: layer(x, **call), [layer]

        return Part(text, make)

    def function(self, text: str, run: Callable[..., Any], *, weights: bool = False) -> Part:
        """A function of tensors; with `weights`, also of a vector as long as the last axis."""
        seed = self.seed()
        nested = self.pick(False, True)

        def make(policy: str, shape: Shape) -> tuple[Run, list[keras.Layer]]:
            vector = np.random.default_rng(seed).uniform(0.5, 1.5, shape[-1])
            extra = (tf.constant(vector, tf.float32),) if weights else ()

            def plain(x: Any, hooks: Hooks) -> Any:
                own = tuple(tf.cast(w, x.dtype) for w in extra)
                return run(x, *own)

            if not nested:
                return plain, []
            inner = tf.function(lambda x: plain(x, Hooks()), autograph=False)
            return lambda x, hooks: inner(x), []

        return Part(f"{text}{' in a function' if nested else ''}", make)

    def hooked(self, text: str, run: Run) -> Part:
        return Part(text, lambda policy, shape: (run, []))


def _made(factory: Callable[[], keras.Layer], policy: str, shape: Shape, seed: int) -> keras.Layer:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        layer = factory()
        layer(tf.zeros((1, *shape)))
    finally:
        keras.config.set_dtype_policy(before)
    rng = np.random.default_rng(seed)
    for variable in layer.trainable_variables:
        fan_in = max(1, math.prod(variable.shape[:-1]))
        variable.assign((rng.normal(size=variable.shape) * (1.2 / fan_in**0.5)).astype(np.float32))
    if hasattr(layer, "quantize") and getattr(factory, "quantized", None):
        layer.quantize(factory.quantized)
    return layer


def rectifier(d: _Draw) -> Part:
    name, plain = d.pick(
        ("tf.nn.relu", tf.nn.relu),
        ("keras.ops.relu", keras.ops.relu),
        ("tf.nn.relu in a function", tf.function(tf.nn.relu)),
    )
    return d.hooked(name, lambda x, hooks: hooks.relu(x, plain))


def smooth(d: _Draw) -> Part:
    name, run = d.pick(("tanh", tf.tanh), ("sigmoid", tf.sigmoid), ("sin", tf.sin))
    return d.function(name, run)


# Each takes and gives any shape.


def shapes(d: _Draw) -> Part:
    def flat(x: tf.Tensor) -> tf.Tensor:
        return tf.reshape(tf.reshape(x, [-1, math.prod(x.shape[1:])]), [-1, *x.shape[1:]])

    def turned(x: tf.Tensor) -> tf.Tensor:
        rank = len(x.shape)
        order = [0, *range(rank - 1, 0, -1)]
        return tf.transpose(tf.transpose(x, order), order)

    name, run = d.pick(
        ("flattened and back", flat),
        ("transposed and back", turned),
        ("expanded and squeezed", lambda x: tf.squeeze(tf.expand_dims(x, 1), 1)),
        ("unstacked and stacked", lambda x: tf.stack(tf.unstack(x, axis=-1), -1)),
        ("split and joined", lambda x: tf.concat(tf.split(x, [1, x.shape[-1] - 1], -1)[::-1], -1)),
        ("reversed", lambda x: tf.reverse(x, [-1])),
        ("gathered", lambda x: tf.gather(x, [*range(x.shape[-1] - 1, -1, -1)], axis=-1)),
        ("padded and cut", lambda x: tf.pad(x, [[0, 0]] * (len(x.shape) - 1) + [[1, 2]])[..., 1:-2]),
        ("reshaped by its own shape", lambda x: tf.reshape(x, tf.shape(x))),
        ("rolled", lambda x: tf.roll(x, 1, -1)),
    )
    return d.function(name, run)


def loops(d: _Draw) -> Part:
    times = d.pick(1, 2, 3)

    def while_loop(x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        _, y = tf.while_loop(
            lambda i, y: i < times,
            lambda i, y: (i + 1, tf.tanh(w * y + tf.cast(i, y.dtype) / 4)),
            (0, x),
            maximum_iterations=times,
        )
        return y

    def gathered(x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """Every step of a loop in a TensorArray."""
        out = tf.TensorArray(x.dtype, size=times, element_shape=x.shape)
        _, _, out = tf.while_loop(
            lambda i, y, out: i < times,
            lambda i, y, out: (i + 1, tf.sin(w * y), out.write(i, tf.tanh(y))),
            (0, x, out),
            maximum_iterations=times,
        )
        return tf.reduce_mean(out.stack(), 0)

    def scanned(x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        order = [1, 0, *range(2, len(x.shape))]
        steps = tf.transpose(x, order)
        return tf.transpose(tf.scan(lambda a, s: tf.tanh(0.5 * a + s * w[0]), steps), order)

    def each(x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(lambda e: tf.tanh(e * w) + tf.reduce_mean(e), x)

    def nested(x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        def outer(i: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            _, z = tf.while_loop(
                lambda j, z: j < 2, lambda j, z: (j + 1, tf.sin(z * w)), (0, y), maximum_iterations=2
            )
            return i + 1, z

        return tf.while_loop(lambda i, y: i < times, outer, (0, x), maximum_iterations=times)[1]

    def written(x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """A Python loop that AutoGraph makes one of TensorFlow."""

        @tf.function
        def run(y: tf.Tensor) -> tf.Tensor:
            for i in tf.range(times):
                if i % 2 == 0:  # noqa: SIM108
                    y = tf.tanh(y * w)
                else:
                    y = tf.sin(y)
            return y

        return run(x)

    name, run = d.pick(
        ("while_loop", while_loop),
        ("TensorArray in a loop", gathered),
        ("scan", scanned),
        ("map_fn", each),
        ("vectorized_map", lambda x, w: tf.vectorized_map(lambda e: tf.tanh(e * w) + tf.reduce_mean(e), x)),
        ("a loop in a loop", nested),
        ("a for of AutoGraph", written),
        ("foldl", lambda x, w: x + tf.foldl(lambda a, s: tf.tanh(a + s), tf.stack([x * w, x, w + x]))),
    )
    return d.function(f"{name}, {times} times", run, weights=True)


def branches(d: _Draw) -> Part:
    def by_mean(x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        return tf.cond(tf.reduce_mean(x) > 0.05, lambda: tf.tanh(x * w), lambda: tf.sin(x) * 0.5)

    def of_each(x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(
            lambda e: tf.cond(tf.reduce_sum(e) > 0, lambda: tf.tanh(e * w), lambda: 0.3 * tf.sin(e)), x
        )

    def by_size(x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """Decided by a shape, and so the same at every call of a batch size."""
        return tf.cond(tf.shape(x)[-1] > 2, lambda: tf.sin(x * w), lambda: tf.tanh(x))

    def switched(x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        index = tf.cast(tf.reduce_mean(x) * 10, tf.int32) % 3
        return tf.switch_case(
            index, [lambda: tf.tanh(x * w), lambda: tf.sin(x), lambda: tf.sigmoid(x + w)], name="choice"
        )

    def chosen(x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        mean = tf.reduce_mean(x)
        pairs = [(mean > 1.0, lambda: tf.sin(x)), (mean > 0.0, lambda: tf.tanh(x * w))]
        return tf.case(pairs, default=lambda: x * w)

    name, run = d.pick(
        ("cond of the mean", by_mean),
        ("cond of each example", of_each),
        ("cond of a size", by_size),
        ("switch_case", switched),
        ("case", chosen),
    )
    return d.function(name, run, weights=True)


def own_gradients(d: _Draw) -> Part:
    factor = d.pick(-1.0, 0.5, 2.0)

    @tf.custom_gradient
    def reversed_(x: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        return tf.identity(x), lambda dy: factor * dy

    def straight(hooks: Hooks) -> Callable:
        @tf.custom_gradient
        def run(x: tf.Tensor) -> tuple[tf.Tensor, Callable]:
            return hooks.round(4 * x) / 4, lambda dy: factor * dy

        return run

    def clipped(x: tf.Tensor) -> tf.Tensor:
        @tf.custom_gradient
        def run(x: tf.Tensor) -> tuple[tf.Tensor, Callable]:
            return tf.identity(x), lambda dy: tf.tanh(dy)

        return run(x)

    @tf.custom_gradient
    def safe_root(x: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        y = tf.sqrt(x * x)
        return y, lambda dy: dy * x / (y + tf.cast(0.5, x.dtype))

    @tf.custom_gradient
    def of_two(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        return x * y, lambda dy: (dy * y, factor * dy)

    def in_a_function(x: tf.Tensor) -> tf.Tensor:
        return tf.function(lambda y: tf.tanh(reversed_(y)), autograph=False)(x)

    @tf.custom_gradient
    def learned(x: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        inner = tf.function(lambda y: tf.sin(y), autograph=False)
        return inner(x), lambda dy: dy * tf.cos(factor * x)

    name, run = d.pick(
        ("gradient reversal", lambda x, hooks: reversed_(x)),
        ("straight-through", lambda x, hooks: straight(hooks)(x)),
        ("grad_pass_through", lambda x, hooks: tf.grad_pass_through(hooks.round)(3 * x) / 3),
        ("stop_gradient", lambda x, hooks: x + tf.stop_gradient(hooks.round(2 * x) / 2 - x)),
        ("a clipped gradient", lambda x, hooks: clipped(x)),
        ("a safe root", lambda x, hooks: safe_root(x)),
        ("of two tensors", lambda x, hooks: of_two(x, tf.sin(x))),
        ("in a function", lambda x, hooks: in_a_function(x)),
        ("of a function", lambda x, hooks: learned(x)),
    )
    return d.hooked(f"own gradient: {name}, {factor:g}", run)


def int8(d: _Draw) -> Part:
    """A Keras layer with weights of 8 bits, whose gradient is that of the layer before."""

    def factory() -> keras.Layer:
        return keras.layers.Dense(4, activation="tanh")

    factory.quantized = "int8"
    layer = d.layer("int8 Dense", factory)

    def make(policy: str, shape: Shape) -> tuple[Run, list[keras.Layer]]:
        quantized, made = layer.make(policy, shape)

        def run(x: tf.Tensor, hooks: Hooks) -> tf.Tensor:
            hooks.steps(x)
            return quantized(x, hooks)

        return run, made

    return Part(layer.text, make)


def recurrent(d: _Draw) -> Part:
    """Of [B, T, F]."""
    kinds = (keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN)
    cells = (keras.layers.LSTMCell, keras.layers.GRUCell, keras.layers.SimpleRNNCell)
    kind, cell, units = d.pick(*kinds), d.pick(*cells), d.pick(2, 3)
    options = {"return_sequences": True, "unroll": d.pick(False, True), "go_backwards": d.pick(False, True)}
    ways = {
        kind.__name__: lambda: kind(units, **options),
        "reset_before GRU": lambda: keras.layers.GRU(units, reset_after=False, **options),
        f"Bidirectional {kind.__name__}": lambda: keras.layers.Bidirectional(
            kind(units, return_sequences=True)
        ),
        f"RNN of two {cell.__name__}": lambda: keras.layers.RNN(
            [cell(units), cell(2)], return_sequences=True
        ),
        "TimeDistributed": lambda: keras.layers.TimeDistributed(keras.layers.Dense(units, activation="tanh")),
    }
    name = d.pick(*ways)
    return d.layer(f"{name} of {units}", ways[name])


def convolutional_rnn(d: _Draw) -> Part:
    """Of [B, T, H, W, C]."""
    return d.layer("ConvLSTM2D", lambda: keras.layers.ConvLSTM2D(2, 2, return_sequences=True, padding="same"))


def conv(d: _Draw, rank: int) -> Part:
    """Of [B, T, F] or [B, H, W, C]."""
    kernel, filters = d.pick(2, 3), d.pick(3, 4)
    layer = keras.layers.Conv1D if rank == 2 else keras.layers.Conv2D
    return d.layer(f"{layer.__name__} {kernel}", lambda: layer(filters, kernel, padding="same"))


def normalized(d: _Draw) -> list[Part]:
    """A rectifier between a normalization, which computes in float32 at any policy, and what comes next."""
    kind = d.pick(keras.layers.BatchNormalization, keras.layers.LayerNormalization)
    return [d.layer(kind.__name__, kind), rectifier(d)]


def dense(d: _Draw) -> Part:
    units = d.pick(3, 4, 5)
    return d.layer(f"Dense {units}", lambda: keras.layers.Dense(units))


def softmax(x: tf.Tensor) -> tf.Tensor:
    return tf.nn.softmax(x)


def endings(d: _Draw, kinds: frozenset[str]) -> Ending:
    plain = [
        Ending("nothing", None, lambda s: s),
        Ending("softmax", "softmax", softmax),
        Ending("Keras's softmax", "softmax", keras.layers.Softmax()),
        Ending("sigmoid", "sigmoid", tf.sigmoid),
    ]
    if "endings" not in kinds:
        return d.pick(*plain)
    c = CLASSES
    return d.pick(
        *plain,
        Ending("log_softmax", "softmax", tf.nn.log_softmax),
        Ending("log of softmax", "softmax", lambda s: keras.ops.log_softmax(s)),
        Ending("softmax, Reshape", "softmax", lambda s: tf.reshape(softmax(s), [-1, c])),
        Ending("softmax, keras Reshape", "softmax", lambda s: keras.layers.Reshape((c,))(softmax(s))),
        Ending("pixel, softmax, Squeeze", "softmax", lambda s: tf.squeeze(softmax(s[:, None, None]), [1, 2])),
        Ending(
            "pixel, softmax, Flatten",
            "softmax",
            lambda s: keras.layers.Flatten()(softmax(tf.reshape(s, [-1, 1, 1, c]))),
        ),
        Ending(
            "slim: flat softmax, Reshape to the logits' shape",
            "softmax",
            lambda s: tf.reshape(softmax(tf.reshape(s, [-1, c])), tf.shape(s)),
        ),
        Ending("step, log_softmax, slice", "softmax", lambda s: tf.nn.log_softmax(s[:, None])[:, 0]),
        Ending("step, softmax, slice", "softmax", lambda s: softmax(tf.expand_dims(s, 1))[:, 0, :]),
        Ending("sigmoid, Reshape", "sigmoid", lambda s: tf.reshape(tf.sigmoid(s), [-1, c])),
        Ending("pixel, sigmoid, Squeeze", "sigmoid", lambda s: tf.squeeze(tf.sigmoid(s[:, None]), 1)),
        Ending(
            "softmax in a function, Identity",
            "softmax",
            lambda s: tf.identity(tf.function(softmax, autograph=False)(s)),
        ),
    )


@st.composite
def nets(draw: Callable, ready: tuple[str, ...] = KINDS) -> Net:
    """An input, parts of at most two kinds among `ready`, scores, an ending."""
    d = _Draw(draw)
    kinds = frozenset(draw(st.lists(st.sampled_from(ready), min_size=1, max_size=2)))
    policy = d.pick(*PRECISIONS) if "half precision" in kinds else "float32"
    # Few units in half precision: that one of many is within rounding of its kink is likely.
    rank = 2 if "recurrent" in kinds else d.pick(1, 2) if policy != "float32" else d.pick(1, 2, 3)
    if "recurrent" in kinds and "half precision" not in kinds and d.pick(False, False, False, True):
        rank = 4
    shape = {1: (5,), 2: (d.pick(3, 4), d.pick(2, 3)), 3: (4, 5, d.pick(1, 2)), 4: (2, 3, 3, 1)}[rank]
    anywhere = {"shapes": shapes, "loops": loops, "branches": branches, "own gradients": own_gradients}

    def first() -> Part:
        if rank == 4:
            return convolutional_rnn(d)
        return dense(d) if rank == 1 else conv(d, rank)

    def special() -> list[Part]:
        chosen = [anywhere[kind](d) for kind in sorted(kinds) if kind in anywhere]
        if "recurrent" in kinds and rank == 2:
            chosen.append(recurrent(d))
        if "own gradients" in kinds and policy == "float32" and d.pick(False, False, True):
            chosen.append(int8(d))
        return chosen

    parts = [*(special() if d.pick(False, True) and rank > 1 else []), first()]
    # At least one rectifier: without one, guided backpropagation is refused.
    early, late = d.pick((True, False), (False, True), (True, True))
    rectify = normalized if policy != "float32" else lambda d: [rectifier(d)]
    parts += [*(rectify(d) if early else [smooth(d)]), *special()]
    parts += [*([dense(d), *rectify(d)] if late else []), *special()]
    if rank > 1:
        parts.append(d.layer("Flatten", keras.layers.Flatten))
    parts.append(d.layer("scores", lambda: keras.layers.Dense(CLASSES)))
    ending = endings(d, kinds)
    if policy != "float32" and d.pick(True, True, False):
        # What Keras advises: the last layers in float32.
        parts.append(d.hooked("float32", lambda x, hooks: tf.cast(x, tf.float32)))
    texts = " ".join(part.text for part in parts)
    return Net(shape, parts, ending, policy, compilable="vectorized" not in texts)
