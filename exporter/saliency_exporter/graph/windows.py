"""Index arithmetic of windows that slide over the height and width of an NHWC tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from weakref import WeakKeyDictionary

import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.graph.nodes import attribute


@dataclass(frozen=True)
class Axis:
    """A window sliding along one axis: output o reads input o·stride + tap·dilation − before, for each tap.

    All values are in elements; `before` is the padding in front of the axis.
    """

    size: int
    taps: int
    stride: int
    dilation: int
    before: int
    outputs: int

    @property
    def after(self) -> int:
        """Padding behind the axis that the last window needs; negative where input is left unread."""
        last = (self.outputs - 1) * self.stride + (self.taps - 1) * self.dilation
        return last + 1 - self.size - self.before

    @property
    def phase_size(self) -> int:
        """Number of inputs h = a·stride + phase of the longest phase."""
        return -(-self.size // self.stride)

    @property
    def reach(self) -> tuple[int, int]:
        """The least and the largest offset of any reader of any phase."""
        offsets = [offset for phase in range(self.stride) for _, offset in self.readers(phase)]
        return min(offsets), max(offsets)

    def readers(self, phase: int) -> list[tuple[int, int]]:
        """(tap, offset) of each window that reads input a·stride + phase: through tap, output a + offset."""
        pairs = []
        for tap in range(self.taps):
            offset, remainder = divmod(phase + self.before - tap * self.dilation, self.stride)
            if remainder == 0:
                pairs.append((tap, offset))
        return pairs


def axes(node: NodeDef, height: int, width: int, taps: tuple[int, int]) -> tuple[Axis, Axis]:
    """Height and width axes of a windowed NHWC op, from its strides, dilations and padding attributes."""
    strides = attribute(node, "strides").list.i
    dilations = attribute(node, "dilations").list.i or (1, 1, 1, 1)
    padding = attribute(node, "padding").s
    explicit = attribute(node, "explicit_paddings").list.i
    result = []
    for axis, size, window in ((1, height, taps[0]), (2, width, taps[1])):
        stride, dilation = strides[axis], dilations[axis]
        extent = (window - 1) * dilation + 1
        if padding == b"SAME":
            outputs = -(-size // stride)
            before = max((outputs - 1) * stride + extent - size, 0) // 2
        else:
            before, after = explicit[2 * axis : 2 * axis + 2] if padding == b"EXPLICIT" else (0, 0)
            outputs = (before + size + after - extent) // stride + 1
        result.append(Axis(size, window, stride, dilation, before, outputs))
    return result[0], result[1]


def gather(x: tf.Tensor, rows: Axis, columns: Axis, fill: float) -> dict[tuple[int, int], tf.Tensor]:
    """What each tap reads for all outputs: {(row tap, column tap): [B, outputs, outputs, …]}, row-major.

    x is [B, H, W, …]; a tap that falls outside of it reads `fill`.
    """
    padded = once(_pad(x, (rows.before, max(rows.after, 0)), (columns.before, max(columns.after, 0)), fill))
    taps = product(range(rows.taps), range(columns.taps))
    return {(i, j): _window(padded, _read(rows, i), _read(columns, j)) for i, j in taps}


def scatter(
    signals: Sequence[tf.Tensor],
    rows: Axis,
    columns: Axis,
    contribution: Callable[..., tf.Tensor],
) -> tf.Tensor:
    """Adjoint of `gather`, written as a gather: [B, H, W, …], each input adding up what its windows send.

    signals are [B, outputs, outputs, …]. contribution((row tap, column tap), *parts) is what the windows
    behind `parts`, a shifted piece of each signal, send through that tap; it must be 0 where all parts are 0.
    Inputs of one phase (equal modulo the stride) are read by the same taps: phases are computed apart and
    interleaved.
    """
    low_row, high_row = _margins(rows)
    low_column, high_column = _margins(columns)
    padded = [once(_pad(signal, (low_row, high_row), (low_column, high_column), 0)) for signal in signals]

    def phase(row_phase: int, column_phase: int) -> tf.Tensor | None:
        sent = []
        for (i, p), (j, q) in product(rows.readers(row_phase), columns.readers(column_phase)):
            row_piece, column_piece = _piece(rows, p + low_row), _piece(columns, q + low_column)
            parts = [_window(signal, row_piece, column_piece) for signal in padded]
            sent.append(contribution((i, j), *parts))
        return add(sent) if sent else None

    phases = [[phase(p, q) for q in range(columns.stride)] for p in range(rows.stride)]
    return _interleave(phases, rows, columns)


def once(x: tf.Tensor) -> tf.Tensor:
    """x, computed once and kept in memory where it is read shifted.

    A compiler that sees a slice of padded values reads the values themselves where it can, and where they
    are fused it computes them again for that slice. A maximum with the least value hides the padding.
    """
    least = float("-inf") if x.dtype.is_floating else x.dtype.min
    return tf.maximum(x, tf.constant(least, x.dtype))


def add(parts: Sequence[tf.Tensor]) -> tf.Tensor:
    """Sum, in this order: one op, of which a compiler makes a chain of additions, fused into one loop."""
    return tf.add_n(parts)


def _pad(x: tf.Tensor, rows: tuple[int, int], columns: tuple[int, int], fill: float) -> tf.Tensor:
    rest = [(0, 0)] * (x.shape.rank - 3)
    return tf.pad(x, [(0, 0), rows, columns, *rest], constant_values=fill)


def _window(x: tf.Tensor, rows: slice, columns: slice) -> tf.Tensor:
    """x[:, rows, columns], whose three constants are made once in a graph: a third of the time of tracing."""
    begin, end, strides = (
        _constant(x.graph, (whole, getattr(rows, name), getattr(columns, name)))
        for name, whole in (("start", 0), ("stop", 0), ("step", 1))
    )
    return tf.strided_slice(x, begin, end, strides, begin_mask=1, end_mask=1)


def _constant(graph: tf.Graph, values: tuple[int, ...]) -> tf.Tensor:
    made = _constants.setdefault(graph, {})
    if values not in made:
        with graph.as_default(), tf.control_dependencies(None):
            made[values] = tf.constant(values)
    return made[values]


_constants: WeakKeyDictionary[tf.Graph, dict[tuple[int, ...], tf.Tensor]] = WeakKeyDictionary()


def _read(axis: Axis, tap: int) -> slice:
    start = tap * axis.dilation
    return slice(start, start + (axis.outputs - 1) * axis.stride + 1, axis.stride)


def _piece(axis: Axis, start: int) -> slice:
    return slice(start, start + axis.phase_size, 1)


def _margins(axis: Axis) -> tuple[int, int]:
    """Zeros in front of and behind the outputs, so that every reader's offset is a valid index."""
    first, last = axis.reach
    return max(0, -first), max(0, axis.phase_size - 1 + last - (axis.outputs - 1))


def _interleave(phases: list[list[tf.Tensor | None]], rows: Axis, columns: Axis) -> tf.Tensor:
    """[B, H, W, …] whose element (a·stride + p, b·stride + q) is phases[p][q][a, b]; None is zero."""
    present = next(part for line in phases for part in line if part is not None)
    zeros = tf.zeros_like(present)
    filled = [[zeros if part is None else part for part in line] for line in phases]
    if rows.stride == columns.stride == 1:
        return filled[0][0]
    lines = [tf.stack(line, axis=3) for line in filled]
    together = tf.stack(lines, axis=2)
    shape = [-1, rows.phase_size * rows.stride, columns.phase_size * columns.stride, *present.shape[3:]]
    return tf.reshape(together, shape)[:, : rows.size, : columns.size]
