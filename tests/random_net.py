"""Small networks in NumPy float64: scores, the backward pass written out, and what float32 may make of both.

It shares no code with TensorFlow, Keras or the exporter: what they compute is held against it. Every
number carries a bound of the error that float32 arithmetic can have put into it, in any order of summation
(running error analysis: Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., sections 3.1 and
3.3). With the unit roundoff u = 2⁻²⁴ and γ(n) = nu/(1 − nu):

- a linear map y = Wx + b with n terms: |ŷ − y| ≤ |W|·E(x) + γ(n + 8)·(|W|(|x| + E(x)) + |b|). The 8 is for
  weights that were rounded before: a batch normalization in a convolution is a handful of roundings;
- an activation: |ŷ − y| ≤ l·E(x) + 16u·(|x| + |y|), with l = |f′(x)| + sup|f″|·E(x) for the slope at x and
  near it; its formula is a few operations on numbers no larger than 1 + |x|, each within a few u (exp, erf
  and tanh are within 4 units);
- the way back through it: |d̂ − f′(x)·s| ≤ l·E(s) + sup|f″|·E(x)·|s| + 16u·κ(x)·(|s| + E(s)), where κ, the
  size of the formula's terms, is 1 + |x| (the cubic inside the tanh form of GELU: (1 + |x|)³).

The derivative jumps at a kink, and no bound holds across one: an input whose float32 value may lie on the
other side of a kink than its exact value is `ambiguous`, and so is a maximum that two positions may win.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

Array = np.ndarray
U = 2.0**-24


def gamma(n: int) -> float:
    return n * U / (1 - n * U)


class Value(NamedTuple):
    """Numbers of one example and the bound of what float32 may differ by."""

    value: Array
    error: Array


def plus(a: Value, b: Value) -> Value:
    total = a.value + b.value
    return Value(total, a.error + b.error + U * (np.abs(total) + a.error + b.error))


@dataclass
class Trace:
    """What a forward pass met: on which side of each kink, and whether float32 may see another side."""

    sides: list[Array] = field(default_factory=list)
    ambiguous: bool = False

    def same_sides(self, other: Trace) -> bool:
        return all(np.array_equal(a, b) for a, b in zip(self.sides, other.sides, strict=True))


class Mode(NamedTuple):
    """How to go back: guided or plainly; to which position of a maximum.

    Where float32 cannot tell several positions from the largest, to the first of them or the last; `exact`,
    to the one that is the largest in float64.
    """

    guided: bool = False
    last: bool = False
    exact: bool = False


Back = Callable[[Value, Mode], Value]


@dataclass
class Linear:
    """y = Wx + b: what every layer without activation is at inference."""

    def apply(self, x: Array, absolute: bool) -> Array:
        raise TypeError

    def transpose(self, signal: Array, shape: tuple[int, ...], absolute: bool) -> Array:
        raise TypeError

    @property
    def terms(self) -> tuple[int, int]:
        """Largest number of terms of one output, and of one input on the way back."""
        raise TypeError

    def offset(self) -> tuple[Array | float, Array | float]:
        """b, and the size of the terms that it is computed from."""
        return 0.0, 0.0

    def forward(self, x: Value, trace: Trace) -> tuple[Value, Back]:
        offset, size = self.offset()
        value = self.apply(x.value, False) + offset
        spread = self.apply(x.error, True)
        error = spread + gamma(self.terms[0] + 8) * (self.apply(np.abs(x.value), True) + spread + size)

        def back(signal: Value, mode: Mode) -> Value:
            shape = x.value.shape
            spread = self.transpose(signal.error, shape, True)
            sizes = self.transpose(np.abs(signal.value), shape, True)
            error = spread + gamma(self.terms[1] + 8) * (sizes + spread)
            return Value(self.transpose(signal.value, shape, False), error)

        return Value(value, error), back


def padding_of(size: int, kernel: int, stride: int, dilation: int, padding: str) -> tuple[int, int, int]:
    """(output size, padding before, padding after) of one axis, as TensorFlow defines VALID and SAME."""
    reach = (kernel - 1) * dilation + 1
    if padding == "valid":
        return (size - reach) // stride + 1, 0, 0
    out = -(-size // stride)
    total = max((out - 1) * stride + reach - size, 0)
    return out, total // 2, total - total // 2


@dataclass
class Windows:
    """The windows of a convolution or a pooling over one picture."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: int
    padding: str

    def taps(self, shape: tuple[int, ...]) -> tuple[list[tuple[slice, slice]], list[tuple[int, int]]]:
        """For each position in the window where it reads the padded picture; and the padding of both axes."""
        axes = [
            padding_of(n, k, s, self.dilation, self.padding)
            for n, k, s in zip(shape[:2], self.kernel, self.strides, strict=True)
        ]

        def reads(axis: int, position: int) -> slice:
            start, stride = position * self.dilation, self.strides[axis]
            return slice(start, start + stride * (axes[axis][0] - 1) + 1, stride)

        taps = [(reads(0, i), reads(1, j)) for i in range(self.kernel[0]) for j in range(self.kernel[1])]
        return taps, [axis[1:] for axis in axes]

    def stack(self, x: Array, fill: float) -> Array:
        """[taps, rows, columns, channels]"""
        taps, padding = self.taps(x.shape)
        padded = np.pad(x, [*padding, (0, 0)], constant_values=fill)
        return np.stack([padded[tap] for tap in taps])

    def unstack(self, stacked: Array, shape: tuple[int, ...]) -> Array:
        """The transpose of `stack`: what each position gets from all windows that read it."""
        taps, padding = self.taps(shape)
        (top, bottom), (left, right) = padding
        padded = np.zeros((shape[0] + top + bottom, shape[1] + left + right, shape[2]))
        for tap, signal in zip(taps, stacked, strict=True):
            padded[tap] += signal
        return padded[top : top + shape[0], left : left + shape[1]]


@dataclass
class Conv(Linear):
    """A convolution, kernel [rows, columns, channels in a group, channels out]."""

    windows: Windows
    weight: Array = field(repr=False)
    bias: Array = field(repr=False)
    groups: int = 1
    kind: str = "conv"
    use_bias: bool = True

    @property
    def flat(self) -> Array:
        """[taps, channels in a group, groups, channels out of a group]"""
        rows, columns, inner, outer = self.weight.shape
        return self.weight.reshape(rows * columns, inner, self.groups, outer // self.groups)

    def apply(self, x: Array, absolute: bool) -> Array:
        flat = np.abs(self.flat) if absolute else self.flat
        stacked = self.windows.stack(x, 0.0)
        stacked = stacked.reshape(*stacked.shape[:3], self.groups, -1)
        out = np.einsum("trcgi,tigo->rcgo", stacked, flat, optimize=True)
        return out.reshape(*out.shape[:2], -1)

    def transpose(self, signal: Array, shape: tuple[int, ...], absolute: bool) -> Array:
        flat = np.abs(self.flat) if absolute else self.flat
        grouped = signal.reshape(*signal.shape[:2], self.groups, -1)
        stacked = np.einsum("rcgo,tigo->trcgi", grouped, flat, optimize=True)
        return self.windows.unstack(stacked.reshape(*stacked.shape[:3], -1), shape)

    @property
    def terms(self) -> tuple[int, int]:
        taps, inner, _, outer = self.flat.shape
        return taps * inner + 1, taps * outer

    def offset(self) -> tuple[Array, Array]:
        return self.bias, np.abs(self.bias)


@dataclass
class AveragePool(Linear):
    """The mean of what of each window lies inside the picture; the whole picture where `windows` is None."""

    windows: Windows | None

    def _over(self, shape: tuple[int, ...]) -> Windows:
        return self.windows or Windows(shape[:2], (1, 1), 1, "valid")

    def apply(self, x: Array, absolute: bool) -> Array:
        windows = self._over(x.shape)
        out = windows.stack(x, 0.0).sum(0) / windows.stack(np.ones_like(x), 0.0).sum(0)
        self.count = windows.kernel[0] * windows.kernel[1]
        return out if self.windows else out.ravel()

    def transpose(self, signal: Array, shape: tuple[int, ...], absolute: bool) -> Array:
        windows = self._over(shape)
        inside = windows.stack(np.ones(shape), 0.0)
        counts = inside.sum(0)
        return windows.unstack(inside * (signal.reshape(counts.shape) / counts), shape)

    @property
    def terms(self) -> tuple[int, int]:
        return self.count, self.count


@dataclass
class BatchNorm(Linear):
    """gamma · (x − mean) / √(variance + 1e-3) + beta"""

    gamma: Array = field(repr=False)
    beta: Array = field(repr=False)
    mean: Array = field(repr=False)
    variance: Array = field(repr=False)

    @property
    def scale(self) -> Array:
        return self.gamma / np.sqrt(self.variance + 1e-3)

    def apply(self, x: Array, absolute: bool) -> Array:
        return x * (np.abs(self.scale) if absolute else self.scale)

    def transpose(self, signal: Array, shape: tuple[int, ...], absolute: bool) -> Array:
        return self.apply(signal, absolute)

    terms = (8, 8)

    def offset(self) -> tuple[Array, Array]:
        return self.beta - self.mean * self.scale, np.abs(self.beta) + np.abs(self.mean * self.scale)


@dataclass
class Dense(Linear):
    """Scores of the flattened features."""

    weight: Array = field(repr=False)
    bias: Array = field(repr=False)

    def apply(self, x: Array, absolute: bool) -> Array:
        return x.ravel() @ (np.abs(self.weight) if absolute else self.weight)

    def transpose(self, signal: Array, shape: tuple[int, ...], absolute: bool) -> Array:
        return ((np.abs(self.weight) if absolute else self.weight) @ signal).reshape(shape)

    @property
    def terms(self) -> tuple[int, int]:
        return self.weight.shape[0] + 1, self.weight.shape[1]

    def offset(self) -> tuple[Array, Array]:
        return self.bias, np.abs(self.bias)


@dataclass
class MaxPool:
    """The maximum of each window; of the whole picture where `windows` is None."""

    windows: Windows | None

    def forward(self, x: Value, trace: Trace) -> tuple[Value, Back]:
        windows = self.windows or Windows(x.value.shape[:2], (1, 1), 1, "valid")
        values = windows.stack(x.value, -math.inf)
        errors = windows.stack(x.error, 0.0)
        first = values.argmax(0)
        trace.sides.append(first)
        error = errors.max(0)
        # Whatever may have won in float32.
        candidates = values + errors >= (values - errors).max(0)
        last = len(values) - 1 - candidates[::-1].argmax(0)
        earliest = candidates.argmax(0)

        def back(signal: Value, mode: Mode) -> Value:
            winner = first if mode.exact else last if mode.last else earliest
            won = np.arange(len(values))[:, None, None, None] == winner
            spread = signal.error.reshape(first.shape)
            sent = signal.value.reshape(first.shape)
            error = windows.unstack(won * spread, x.value.shape)
            sizes = windows.unstack(won * np.abs(sent), x.value.shape)
            error = error + gamma(len(values)) * (sizes + error)
            return Value(windows.unstack(won * sent, x.value.shape), error)

        out = Value(values.max(0), error)
        return (out if self.windows else Value(out.value.ravel(), out.error.ravel())), back


def sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(x / 2))


def softplus(x: Array) -> Array:
    return np.logaddexp(0, x)


_phi = lambda x: np.exp(-x * x / 2) / math.sqrt(2 * math.pi)  # noqa: E731
_Phi = np.vectorize(lambda x: 0.5 * math.erfc(-x / math.sqrt(2)), otypes=[float])
_C, _D = math.sqrt(2 / math.pi), 0.044715


def _gelu_tanh_slope(x: Array) -> Array:
    t = np.tanh(_C * (x + _D * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * _C * (1 + 3 * _D * x * x)


def _mish_slope(x: Array) -> Array:
    t = np.tanh(softplus(x))
    return t + x * (1 - t * t) * sigmoid(x)


@dataclass(frozen=True)
class Function:
    """An activation: values, derivative, where the derivative jumps, and the region that guided passes.

    `region` is None for what is no rectifier: the guided way back through it is the plain one.
    """

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    kinks: tuple[float, ...]
    region: tuple[float, float] | None
    exact: bool = False
    condition: Callable[[Array], Array] = lambda x: 1 + np.abs(x)

    @cached_property
    def bend(self) -> float:
        """sup |f″| between kinks, from a grid of step 10⁻³ and 2 % above what it shows."""
        grid = np.linspace(-15, 15, 30001)
        slopes = self.slope(grid)
        jumps = np.zeros(len(grid) - 1, bool)
        for kink in self.kinks:
            jumps |= (grid[:-1] <= kink) & (kink <= grid[1:])
        bends = np.where(jumps, 0, np.abs(np.diff(slopes)) / 1e-3)
        return 1.02 * float(bends.max())


def relu(slope: float = 0.0, upper: float = math.inf, threshold: float = 0.0) -> Function:
    """`upper` for x ≥ upper, x for threshold ≤ x < upper, slope · (x − threshold) below."""
    kinks = tuple(k for k in (threshold, upper) if math.isfinite(k))
    return Function(
        lambda x: np.where(x >= threshold, np.minimum(x, upper), slope * (x - threshold)),
        lambda x: np.where(x >= threshold, np.where(x < upper, 1.0, 0.0), slope),
        kinks,
        (threshold, upper),
        exact=not slope,
    )


def swish(beta: float) -> Function:
    def slope(x: Array) -> Array:
        s = sigmoid(beta * x)
        return s + beta * x * s * (1 - s)

    return Function(lambda x: x * sigmoid(beta * x), slope, (0.0,), (0.0, math.inf))


def elu(alpha: float, scale: float = 1.0) -> Function:
    return Function(
        lambda x: scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
        lambda x: scale * np.where(x > 0, 1.0, alpha * np.exp(np.minimum(x, 0))),
        (0.0,),
        (0.0, math.inf),
    )


def _hard_sigmoid(x: Array) -> Array:
    return np.clip((x + 3) / 6, 0, 1)


FUNCTIONS: dict[str, Function] = {
    "relu": relu(),
    "relu6": relu(upper=6.0),
    "relu_max": relu(upper=1.5),
    "leaky": relu(slope=0.3),
    "thresholded": relu(threshold=0.5),
    "relu_all": relu(slope=0.1, upper=2.0, threshold=0.25),
    "swish": swish(1.0),
    "swish_beta": swish(1.7),
    "gelu": Function(lambda x: x * _Phi(x), lambda x: _Phi(x) + x * _phi(x), (0.0,), (0.0, math.inf)),
    "gelu_tanh": Function(
        lambda x: 0.5 * x * (1 + np.tanh(_C * (x + _D * x**3))),
        _gelu_tanh_slope,
        (0.0,),
        (0.0, math.inf),
        condition=lambda x: (1 + np.abs(x)) ** 3,
    ),
    "mish": Function(lambda x: x * np.tanh(softplus(x)), _mish_slope, (0.0,), (0.0, math.inf)),
    "softplus": Function(softplus, sigmoid, (0.0,), (0.0, math.inf)),
    "elu": elu(1.0),
    "elu_alpha": elu(0.5),
    "selu": elu(1.6732632423543772, 1.0507009873554805),
    "hard_swish": Function(
        lambda x: x * _hard_sigmoid(x),
        lambda x: np.where(x >= 3, 1.0, np.where(x > -3, (2 * x + 3) / 6, 0.0)),
        (-3.0, 0.0, 3.0),
        (0.0, math.inf),
    ),
    "hard_sigmoid": Function(_hard_sigmoid, lambda x: np.where(np.abs(x) < 3, 1 / 6, 0.0), (-3.0, 3.0), None),
    "sigmoid": Function(sigmoid, lambda x: sigmoid(x) * (1 - sigmoid(x)), (), None),
    "tanh": Function(np.tanh, lambda x: 1 - np.tanh(x) ** 2, (), None),
}


@dataclass
class Activation:
    """An activation; `slopes` are those of a PReLU, one for each channel or element."""

    name: str
    way: str = "layer"
    slopes: Array | None = field(default=None, repr=False)

    @property
    def function(self) -> Function:
        if self.slopes is None:
            return FUNCTIONS[self.name]
        slopes = self.slopes
        return Function(
            lambda x: np.where(x > 0, x, slopes * x),
            lambda x: np.where(x > 0, 1.0, slopes),
            (0.0,),
            (0.0, math.inf),
        )

    def forward(self, x: Value, trace: Trace) -> tuple[Value, Back]:
        f = self.function
        bend = f.bend if self.slopes is None else 0.0
        steepest = np.abs(f.slope(x.value)) + bend * x.error
        side = np.searchsorted(np.asarray(f.kinks), x.value, side="right")
        trace.sides.append(side)
        near = [np.abs(x.value - kink) <= x.error for kink in f.kinks]
        trace.ambiguous |= bool(np.any([n & (x.error > 0) for n in near]))
        value = f.value(x.value)
        flat = f.slope(x.value) == 0 if f.exact else np.zeros(x.value.shape, bool)
        rounding = U * np.abs(value) if f.exact else 16 * U * (np.abs(x.value) + np.abs(value))
        error = np.where(flat, 0.0, steepest * x.error + rounding)

        def back(signal: Value, mode: Mode) -> Value:
            s = signal.value
            open_ = np.ones(s.shape, bool)
            if mode.guided and f.region is not None:
                open_ = (x.value > f.region[0]) & (x.value < f.region[1])
                s = np.maximum(s, 0)
            slope = f.slope(x.value)
            rounding = 16 * U * f.condition(x.value) * (np.abs(s) + signal.error)
            error = steepest * signal.error + bend * x.error * (np.abs(s) + signal.error) + rounding
            return Value(np.where(open_, slope * s, 0), np.where(open_ & ~flat, error, 0))

        return Value(value, error), back


@dataclass
class Chain:
    """Layers one after the other; `nested`: as a model of its own."""

    layers: Sequence[object]
    nested: bool = False

    def forward(self, x: Value, trace: Trace) -> tuple[Value, Back]:
        backs: list[Back] = []
        for layer in self.layers:
            x, back = layer.forward(x, trace)
            backs.append(back)

        def all_back(signal: Value, mode: Mode) -> Value:
            for back in reversed(backs):
                signal = back(signal, mode)
            return signal

        return x, all_back


@dataclass
class Residual:
    """x + inner(x)"""

    inner: Chain

    def forward(self, x: Value, trace: Trace) -> tuple[Value, Back]:
        y, back = self.inner.forward(x, trace)
        return plus(x, y), lambda signal, mode: plus(signal, back(signal, mode))


@dataclass
class Concatenation:
    """The channels of x and of inner(x)."""

    inner: Chain

    def forward(self, x: Value, trace: Trace) -> tuple[Value, Back]:
        y, back = self.inner.forward(x, trace)
        channels = x.value.shape[-1]

        def both(signal: Value, mode: Mode) -> Value:
            direct = Value(signal.value[..., :channels], signal.error[..., :channels])
            inner = Value(signal.value[..., channels:], signal.error[..., channels:])
            return plus(direct, back(inner, mode))

        joined = (np.concatenate(pair, axis=-1) for pair in zip(x, y, strict=True))
        return Value(*joined), both


@dataclass
class Net:
    """A chain that ends in scores, and the answers that an export must give."""

    input_shape: tuple[int, int, int]
    chain: Chain

    def run(self, x: Array) -> tuple[Value, Back, Trace]:
        trace = Trace()
        scores, back = self.chain.forward(Value(x, np.zeros_like(x)), trace)
        return scores, back, trace

    def signal(self, back: Back, scores: Value, c: int, mode: Mode) -> Value:
        """What reaches the input from class c."""
        one = np.zeros_like(scores.value)
        one[c] = 1.0
        return back(Value(one, np.zeros_like(one)), mode)

    def directional_difference(self, x: Array, direction: Array, c: int) -> tuple[float, float] | None:
        """Central difference of score c along a direction, and a bound of its error.

        With no kink between x − 2h and x + 2h the score is smooth there: the difference D(h) is
        S′ + h²S‴/6 + O(h⁴), so D(2h) − D(h) is three times its error; rounding adds at most
        4·2⁻⁵³·n·|S|/h with n = 10⁴ operations on the way. None where there is a kink however small h is.
        """
        _, _, here = self.run(x)
        for h in (1e-4, 1e-5, 1e-6):
            points = [self.run(x + k * h * direction) for k in (-2, -1, 1, 2)]
            if all(trace.same_sides(here) for _, _, trace in points):
                s = [scores.value[c] for scores, _, _ in points]
                one, two = (s[2] - s[1]) / (2 * h), (s[3] - s[0]) / (4 * h)
                return one, abs(two - one) + 4e4 * 2.0**-53 * (1 + abs(s[1])) / h
        return None
