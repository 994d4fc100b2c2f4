"""Curves and means with intervals as SVG, whose colors a page's stylesheet gives. Every function is pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

COLORS = 8
"""Classes `c0` to `c7` of methods, `k0` and `k1` of controls: a stylesheet has `--color` for each."""
WIDTH = 420
"""Of every chart, in units in which its letters are 13: those of a phone, so they are read there too."""
_LETTERS = 19
"""Of a method's name, that fit beside its mean."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Row:
    """One method: a mean and its interval; NaN where there is none."""

    name: str
    color: str
    mean: float
    low: float
    high: float


def colors(methods: Sequence[str]) -> dict[str, str]:
    """The class of each method's color; controls have their own."""
    controls = [name for name in methods if name.startswith("control:")]
    others = [name for name in methods if name not in controls]
    found = {name: f"c{number % COLORS}" for number, name in enumerate(others)}
    return found | {name: f"k{number % 2}" for number, name in enumerate(controls)}


def curves(words: str, lines: Mapping[str, tuple[str, Points]], *, across: str) -> str:
    """Mean curves of methods over the share of pixels.

    Args:
        words: what is seen, for those who do not see it.
        lines: color and points (share 0..1, quantity) of each method, the best first: it is drawn on top.
        across: what the share is of.
    """
    left, right, top, bottom, height = 44, WIDTH - 16, 10, 230, 274
    heights = [y for _, points in lines.values() for _, y in points]
    ticks = nice_ticks(min([0.0, *heights]), max(heights, default=1.0))

    def place(x: float, y: float) -> tuple[float, float]:
        return left + x * (right - left), bottom - (y - ticks[0]) / (ticks[-1] - ticks[0]) * (bottom - top)

    parts = []
    for tick in ticks:
        at = place(0, tick)[1]
        parts += [_line("grid", [(left, at), (right, at)]), _text(left - 7, at + 4, f"{tick:g}", "end")]
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(_text(place(share, 0)[0], bottom + 18, f"{share:.0%}", "middle"))
    parts.append(_text((left + right) / 2, bottom + 37, across, "middle"))
    for color, points in reversed(list(lines.values())):
        parts.append(_line(f"curve {color}", [place(x, y) for x, y in points]))
    return _svg(words, height, parts)


def ranking(words: str, rows: Sequence[Row]) -> str:
    """Means with their intervals, one row for each method, in the order that is given."""
    left, right, step, top = 160, WIDTH - 62, 26, 8
    bottom = top + step * max(len(rows), 1)
    ends = [value for row in rows for value in (row.mean, row.low, row.high) if math.isfinite(value)]
    ticks = nice_ticks(min([0.0, *ends]), max([0.0, *ends]))

    def across(value: float) -> float:
        return left + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (right - left)

    parts = []
    for tick in ticks:
        parts.append(_line("grid", [(across(tick), top - 4), (across(tick), bottom)]))
        parts.append(_text(across(tick), bottom + 17, f"{tick:g}", "middle"))
    for number, row in enumerate(rows):
        at = top + step * (number + 0.5)
        ink = "" if row.name.startswith("control:") else "ink"
        parts.append(_text(left - 12, at + 4, _cut(row.name.removeprefix("control:")), "end", ink))
        if not math.isfinite(row.mean):
            parts.append(_text(left + 6, at + 4, "undefined", "start"))
            continue
        if math.isfinite(row.low):
            parts.append(_line(f"interval {row.color}", [(across(row.low), at), (across(row.high), at)]))
        parts.append(f"<circle class='{row.color}' cx='{across(row.mean):.1f}' cy='{at:.1f}' r='5'/>")
        parts.append(_text(WIDTH - 2, at + 4, f"{row.mean:.4g}", "end", ink))
    return _svg(words, bottom + 26, parts)


def nice_ticks(low: float, high: float) -> list[float]:
    """Four to nine round numbers whose first is at or below `low` and whose last is at or above `high`."""
    if high <= low:
        high = low + 1
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(one * power for one in (1, 2, 2.5, 5, 10) if one * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _svg(words: str, height: float, parts: Sequence[str]) -> str:
    label = escape(words, quote=True)
    head = f"<svg class='chart' role='img' aria-label='{label}' viewBox='0 0 {WIDTH} {height:g}'>"
    return f"{head}{''.join(parts)}</svg>"


def _line(kind: str, points: Points) -> str:
    return f"<polyline class='{kind}' points='{' '.join(f'{x:.1f},{y:.1f}' for x, y in points)}'/>"


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    ink = f" class='{kind}'" if kind else ""
    return f"<text{ink} x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'>{escape(text)}</text>"


def _cut(name: str) -> str:
    return name if len(name) <= _LETTERS else name[: _LETTERS - 1] + "…"
