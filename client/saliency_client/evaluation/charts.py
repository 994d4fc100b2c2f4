"""Curves and means with intervals as pictures. Every function is pure."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

COLORS = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (148, 103, 189),
    (240, 180, 20),
    (140, 86, 75),
)
"""Of methods, as they are asked for; first those that any colour vision tells apart (Okabe, Ito 2008)."""
CONTROL_COLORS = ((150, 150, 150), (100, 100, 100))
_INK, _FAINT, _GRID, _PAPER = (34, 34, 34), (110, 110, 110), (228, 228, 228), (255, 255, 255)
_SCALE = 2
"""Pictures are drawn at this size and made smaller, so that lines are smooth."""

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Row:
    """One method: a mean and its interval; NaN where there is none."""

    name: str
    color: Color
    mean: float
    low: float
    high: float


def colors(methods: Sequence[str]) -> dict[str, Color]:
    """A color for each method; controls are grey."""
    controls = [name for name in methods if name.startswith("control:")]
    others = [name for name in methods if name not in controls]
    found = {name: COLORS[number % len(COLORS)] for number, name in enumerate(others)}
    return found | {name: CONTROL_COLORS[number % 2] for number, name in enumerate(controls)}


def curves(
    title: str,
    subtitle: str,
    lines: Mapping[str, tuple[Color, Sequence[tuple[float, float]]]],
    *,
    across: str,
    up: str,
) -> Image.Image:
    """Mean curves of methods over the share of pixels, with a legend at the right.

    Args:
        title: above.
        subtitle: below it.
        lines: color and points (share 0..1, quantity) of each method, the best first.
        across: what the share is of.
        up: what the quantity is.
    """
    width, height = 920, 500
    left, right, top, bottom = 80, 640, 96, 430
    picture, draw = _blank(width, height)
    _heading(draw, title, subtitle, width)
    heights = [y for _, points in lines.values() for _, y in points]
    ticks = nice_ticks(min([0.0, *heights]), max(heights, default=1.0))
    low, high = ticks[0], ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        return left + x * (right - left), bottom - (y - low) / (high - low) * (bottom - top)

    for tick in ticks:
        _line(draw, [place(0, tick), place(1, tick)], _GRID, 1)
        _text(draw, (left - 10, place(0, tick)[1]), f"{tick:g}", 14, _FAINT, "rm")
    for share in (0, 0.25, 0.5, 0.75, 1):
        _text(draw, (place(share, 0)[0], bottom + 10), f"{share:.0%}", 14, _FAINT, "ma")
    _text(draw, ((left + right) / 2, bottom + 36), across, 15, _INK, "ma")
    _text(draw, (24, top - 28), up, 15, _INK, "la")
    for name, (color, points) in reversed(list(lines.items())):
        thick = 2 if name.startswith("control:") else 3
        _line(draw, [place(x, y) for x, y in points], color, thick)
    for number, (name, (color, _)) in enumerate(lines.items()):
        at = top + 8 + number * 26
        _line(draw, [(right + 26, at), (right + 54, at)], color, 4)
        _text(draw, (right + 64, at), _cut(name.removeprefix("control:"), 200, 15), 15, _INK, "lm")
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def ranking(title: str, subtitle: str, rows: Sequence[Row]) -> Image.Image:
    """Means with their intervals, one row for each method, the best at the top."""
    width, step, top = 920, 34, 96
    height = top + step * max(len(rows), 1) + 52
    left, right = 270, 800
    picture, draw = _blank(width, height)
    _heading(draw, title, subtitle, width)
    ends = [value for row in rows for value in (row.mean, row.low, row.high) if math.isfinite(value)]
    ticks = nice_ticks(min([0.0, *ends]), max([0.0, *ends]))
    low, high = ticks[0], ticks[-1]

    def across(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    bottom = top + step * len(rows)
    for tick in ticks:
        _line(draw, [(across(tick), top - 4), (across(tick), bottom)], _GRID, 1)
        _text(draw, (across(tick), bottom + 10), f"{tick:g}", 14, _FAINT, "ma")
    for number, row in enumerate(rows):
        at = top + step * number + step / 2
        ink = _FAINT if row.name.startswith("control:") else _INK
        _text(draw, (left - 16, at), _cut(row.name.removeprefix("control:"), 240, 16), 16, ink, "rm")
        if not math.isfinite(row.mean):
            _text(draw, (left + 8, at), "undefined", 15, _FAINT, "lm")
            continue
        if math.isfinite(row.low):
            _line(draw, [(across(row.low), at), (across(row.high), at)], row.color, 4)
        _dot(draw, (across(row.mean), at), 7, row.color)
        _text(draw, (right + 24, at), f"{row.mean:.4g}", 16, ink, "lm")
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def nice_ticks(low: float, high: float) -> list[float]:
    """Four to nine round numbers whose first is at or below `low` and whose last is at or above `high`."""
    if high <= low:
        high = low + 1
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(one * power for one in (1, 2, 2.5, 5, 10) if one * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _blank(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("RGB", (width * _SCALE, height * _SCALE), _PAPER)
    return picture, ImageDraw.Draw(picture)


def _heading(draw: ImageDraw.ImageDraw, title: str, subtitle: str, width: int) -> None:
    _text(draw, (24, 16), _cut(title, width - 48, 22), 22, _INK, "la")
    _text(draw, (24, 46), _cut(subtitle, width - 48, 14), 14, _FAINT, "la")


def _line(draw: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], color: Color, width: int) -> None:
    draw.line([(x * _SCALE, y * _SCALE) for x, y in points], color, width * _SCALE, joint="curve")


def _dot(draw: ImageDraw.ImageDraw, at: tuple[float, float], radius: float, color: Color) -> None:
    x, y = at[0] * _SCALE, at[1] * _SCALE
    reach = radius * _SCALE
    draw.ellipse((x - reach, y - reach, x + reach, y + reach), color, _PAPER, 2 * _SCALE)


def _text(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, color: Color, anchor: str
) -> None:
    draw.text((at[0] * _SCALE, at[1] * _SCALE), _plain(text), color, _font(size * _SCALE), anchor=anchor)


def _cut(text: str, width: float, size: int) -> str:
    plain, font = _plain(text), _font(size)
    while plain and font.getlength(plain) > width:
        plain = plain.removesuffix("...")[:-1].rstrip() + "..."
    return plain


def _plain(text: str) -> str:
    """What the built-in font can draw: its glyphs are those of ASCII."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
