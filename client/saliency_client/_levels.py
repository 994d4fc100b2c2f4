"""Samples of more than 8 bits, or real ones, to 8 bits: which value is black and which is white.

A file that declares its range is followed. One that does not is read by the depth that its values take, and
a note says so: 12 bits stored in 16 would be black otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[Any]

# Of a declared depth, values that stay below this part of it are of a smaller depth: two bits fewer.
_USED = 4
_ROWS_OF_PIXELS = 2**15


@dataclass(frozen=True)
class Declared:
    """What a file says of its samples.

    Attributes:
        bits: of a sample.
        kind: "u" unsigned, "i" signed, "f" real.
        range: the values of black and white, if the file gives them.
        source: what gave them, for a note where following it may cut values off; empty: no note.
        inverted: white is the smallest value (TIFF's WhiteIsZero).
        missing: the value of pixels that have none.
    """

    bits: int
    kind: Literal["u", "i", "f"]
    range: tuple[float, float] | None = None
    source: str = ""
    inverted: bool = False
    missing: float | None = None


@dataclass(frozen=True)
class Extent:
    """The smallest and the largest value of samples, and how many have none (NaN, infinite, no data)."""

    low: float
    high: float
    missing: int = 0


@dataclass(frozen=True)
class Scale:
    """The values of black and of white.

    Attributes:
        black: shown as 0.
        white: shown as 255.
        notes: what a person should know of the choice.
    """

    black: float
    white: float
    inverted: bool = False
    missing: float | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)

    def levels(self, samples: Samples) -> npt.NDArray[np.float64]:
        """Samples as 0 (black) to 1 (white); those without a value are black."""
        values = samples.astype(np.float64)
        absent = _absent(values, self.missing)
        black, span = self.black, self.white - self.black
        if math.isinf(span):  # the ends of float64 are farther apart than it can hold
            values, black, span = values / 2, black / 2, self.white / 2 - black / 2
        levels = np.clip((values - black) / span if span else np.zeros_like(values), 0, 1)
        if self.inverted:
            levels = 1 - levels
        levels[absent] = 0
        return levels

    def bytes(self, samples: Samples, curve: npt.NDArray[np.uint8] | None = None) -> npt.NDArray[np.uint8]:
        """Samples as uint8; through a curve [65536] if one is given."""
        levels = self.levels(samples)
        if curve is not None:
            return curve[np.rint(levels * 65535).astype(np.uint16)]
        # 12 bits that a decoder shifted up to 16 end at 65520: 254.94.
        return np.rint(levels * 255).astype(np.uint8)


def bands_of_rows(height: int, width: int) -> Iterator[slice]:
    """Rows by bands: the floats of a whole picture would take many times its memory."""
    step = max(1, _ROWS_OF_PIXELS // max(1, width))
    return (slice(top, min(top + step, height)) for top in range(0, height, step))


def extent(parts: Iterator[Samples], missing: float | None = None) -> Extent:
    """The extent of samples that come in parts; low and high are NaN where none has a value."""
    low, high, absent = math.inf, -math.inf, 0
    for part in parts:
        gone = _absent(part, missing)
        kept = part[~gone] if gone.any() else part
        absent += int(gone.sum())
        if kept.size:
            low, high = min(low, float(kept.min())), max(high, float(kept.max()))
    return Extent(low, high, absent) if low <= high else Extent(math.nan, math.nan, absent)


def choose_scale(used: Extent, declared: Declared) -> Scale:
    """Which values are black and white.

    Args:
        used: the extent of the samples; at least one has a value.
        declared: what the file says.
    """
    black, white, note = _range(used, declared)
    notes = [note] if note else []
    if used.missing:
        value = "" if declared.missing is None else f" ({declared.missing:g})"
        notes.append(f"{used.missing} pixels have no value{value} and are black")
    return Scale(black, white, declared.inverted, declared.missing, tuple(notes))


def declared_by_significant_bits(parts: Iterator[Samples], declared: Declared, bits: int) -> Declared:
    """What PNG's sBIT says of samples: by the standard (ISO/IEC 15948, 13.12) they span the whole depth.

    A file whose writer forgot to scale them up is told by the low bits, which neither are 0 nor repeat the
    high ones.

    Args:
        parts: the samples.
        declared: what else is known of them.
        bits: how many bits are significant, fewer than those of a sample.
    """
    whole, most = 2**declared.bits - 1, 2**bits - 1
    values = np.unique(np.concatenate([np.unique(part) for part in parts])).astype(np.int64)
    high = values >> (declared.bits - bits)
    shifted = high << (declared.bits - bits)
    repeated = np.rint(high * (whole / most))
    if (values == shifted).all() or (np.abs(values - repeated) <= 1).all() or values.max() > most:
        return replace(declared, range=(0, whole))
    return replace(declared, range=(0, most), source="by the significant bits that the file declares")


def _range(used: Extent, declared: Declared) -> tuple[float, float, str]:
    low, high = used.low, used.high
    # A range that repeats the extremes is a statistic (TIFF 6.0 of MaxSampleValue) and declares nothing.
    if declared.range is not None and declared.range[1] != high:
        black, white = declared.range
        if declared.source:
            return black, white, f"{_shown(black)} is black and {_shown(white)} is white, {declared.source}"
        return black, white, ""
    if declared.kind == "f":
        black, white, silent = _range_of_reals(low, high)
    else:
        black, white, silent = _range_of_integers(low, high, declared)
    if silent:
        return black, white, ""
    stored = "real numbers" if declared.kind == "f" else f"{declared.bits} bits"
    ends = "white", "black"
    if not declared.inverted:
        ends = "black", "white"
    return (
        black,
        white,
        f"gray values from {_shown(low)} to {_shown(high)}, stored as {stored}: "
        f"{_shown(black)} is taken as {ends[0]} and {_shown(white)} as {ends[1]}",
    )


def _range_of_reals(low: float, high: float) -> tuple[float, float, bool]:
    """Black, white, and whether that is the usual reading, 0 to 1."""
    if low == high == 0 or (low >= 0 and 1 / _USED <= high <= 1):
        return 0, 1, True
    if low >= 0 and 256 / _USED <= high <= 255:
        return 0, 255, False
    return (*_used(low, high, high), False)


def _range_of_integers(low: float, high: float, declared: Declared) -> tuple[float, float, bool]:
    """Black, white, and whether that is the declared depth."""
    signed = declared.kind == "i"
    full = 2 ** (declared.bits - signed) - 1
    if low == high == 0:
        return 0, full, True
    if low >= 0 and high > full // _USED:
        return 0, full, not signed
    depth = 2 ** int(high).bit_length() - 1 if high > 0 else 0
    return (*_used(low, high, depth), False)


def _used(low: float, high: float, white: float) -> tuple[float, float]:
    """Black is 0, unless values are negative, or crowd in less than a quarter below white."""
    if low < 0 or (low < high and high - low < white / _USED):
        return low, high
    return 0, white


def _absent(samples: Samples, missing: float | None) -> npt.NDArray[np.bool_]:
    absent = np.zeros(samples.shape, bool)
    if samples.dtype.kind == "f":
        absent |= ~np.isfinite(samples)
    if missing is not None:
        absent |= samples == (np.asarray(missing, samples.dtype) if samples.dtype.kind == "f" else missing)
    return absent


def _shown(value: float) -> str:
    return f"{value:.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:.6g}"
