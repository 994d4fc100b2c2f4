"""Line charts beside one another, drawn with Pillow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f7f7f")
"""Of Okabe and Ito, which people with any kind of color vision tell apart; more lines begin again, dashed."""

_PAPER, _INK, _FAINT = "#ffffff", "#222222", "#cccccc"
_SCALE = 2
_WIDTH, _HEIGHT, _MARGIN, _LINE = 330, 240, 44, 18


@dataclass(frozen=True)
class Panel:
    """One chart, from 0 to 1 along x.

    Attributes:
        title: above it.
        bounds: of y.
        lines: points (x, y), by name.
        mark: where a level line is drawn, or None.
    """

    title: str
    bounds: tuple[float, float]
    lines: Mapping[str, Sequence[tuple[float, float]]]
    mark: float | None = None


def draw_panels(panels: Sequence[Panel], caption: str) -> Image.Image:
    """The charts in a row, the names of the lines below."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    width = len(panels) * (_WIDTH + _MARGIN) + _MARGIN
    per_row = max(1, (width - 2 * _MARGIN) // 220)
    rows = -(-len(names) // per_row)
    height = _HEIGHT + 2 * _MARGIN + _LINE + rows * _LINE + _LINE
    picture = Image.new("RGB", (width * _SCALE, height * _SCALE), _PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(12 * _SCALE)

    def at(x: float, y: float) -> tuple[float, float]:
        return x * _SCALE, y * _SCALE

    for number, panel in enumerate(panels):
        left, top = _MARGIN + number * (_WIDTH + _MARGIN), _MARGIN
        low, high = panel.bounds

        def place(
            x: float, y: float, left: int = left, low: float = low, high: float = high
        ) -> tuple[float, float]:
            inside = min(max((y - low) / (high - low), 0), 1)
            return at(left + x * _WIDTH, _MARGIN + (1 - inside) * _HEIGHT)

        draw.rectangle((*at(left, top), *at(left + _WIDTH, top + _HEIGHT)), outline=_INK, width=_SCALE)
        draw.text(at(left, top - _LINE), panel.title, _INK, font)
        for value in (low, 0.0, high):
            draw.text(at(left - 4, place(0, value)[1] / _SCALE), f"{value:.1f}", _INK, font, anchor="rm")
        for x in (0, 0.25, 0.5, 0.75, 1):
            draw.text(at(left + x * _WIDTH, top + _HEIGHT + 4), f"{x:g}", _INK, font, anchor="ma")
        for level in filter(None, (panel.mark,)):
            draw.line((*place(0, level), *place(1, level)), _FAINT, _SCALE * 2)
        for index, name in enumerate(names):
            points = [place(x, y) for x, y in panel.lines.get(name, ())]
            draw.line(points, COLORS[index % len(COLORS)], _SCALE * 2, joint="curve")
            for x, y in points:
                radius = (2 + 2 * (index // len(COLORS))) * _SCALE
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), COLORS[index % len(COLORS)])
    below = _MARGIN + _HEIGHT + _LINE + 4
    draw.text(at(_MARGIN, below), caption, _INK, font)
    for index, name in enumerate(names):
        x, y = _MARGIN + (index % per_row) * 220, below + _LINE * (1.5 + index // per_row)
        draw.line((*at(x, y + 7), *at(x + 18, y + 7)), COLORS[index % len(COLORS)], _SCALE * 3)
        draw.text(at(x + 24, y), name, _INK, font)
    return picture
