"""What people see of results: rich text, made of printable words alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from saliency_client._contract import STANDARD_ERROR
from saliency_client.cli.accuracy import in_words
from saliency_client.cli.text import printable

ERROR_IN_WORDS = (
    "± is the relative error of a map: how far it is from the average over endlessly many samples, as a part "
    "of that; 30 % is settled, above 100 % the map is mostly noise"
)
_NAME_WIDTH = 36
_LABEL_WIDTH = 24
_METHOD_WIDTH = 20


@dataclass(frozen=True)
class Line:
    """One explained class of one image.

    Attributes:
        name: the image's name, printable.
        record: the fields of its JSON line.
        width: of the column of names.
        alone: the only result, which has room for more.
        names_method: one of several methods' lines.
    """

    name: str
    record: Mapping[str, Any]
    width: int
    alone: bool
    names_method: bool = False

    def render(self) -> Text:
        """The text to print."""
        return self._block() if self.alone else self._row()

    def _row(self) -> Text:
        record = self.record
        parts = [(column(self.name, self.width), "")]
        if record["rank"] is not None:
            parts.append((f"{record['rank']:>2}", "dim"))
        if self.names_method:
            parts.append((column(printable(record["method"]), _METHOD_WIDTH), "cyan"))
        parts += [
            (column(class_name(record, with_index=True), _LABEL_WIDTH), "bold"),
            (f"{percent(record['probability']):>7}", "green"),
            (f"{record['milliseconds']:7.0f} ms", "dim"),
        ]
        if record["relative_error"] is not None:
            parts.append((f"±{_percents(record['relative_error'])}", "yellow"))
        parts.append((self._files(), "cyan"))
        return Text("  ").join(Text(text, style) for text, style in parts)

    def _block(self) -> Text:
        record = self.record
        version = f" version {record['version']}" if record["version"] else ""
        facts = [f"{record['method']} of {printable(record['model'])}{version}"]
        if record["score"] is not None:
            facts.append(f"score {record['score']:.2f}")
        facts += map(printable, number_texts(record))
        facts.append(f"{record['milliseconds']:.0f} ms")
        text = Text().append(class_name(record, with_index=True), "bold")
        if record["probability"] is not None:
            text.append(f"  {percent(record['probability'])}", "green")
        text.append("\n")
        text.append(", ".join(facts) + "\n", "dim")
        text.append(self._files(), "cyan")
        return text

    def _files(self) -> str:
        return "  ".join(printable(path) for path in self.record["files"]) or "stdout"


def has_error(line: Line) -> bool:
    """Whether a line shows a relative error by its sign, ±."""
    return not line.alone and line.record["relative_error"] is not None


def skipped(name: str) -> Text:
    """An image that was done before."""
    return Text(f"{name}  is done, skipped", "dim")


def class_name(record: Mapping[str, Any], *, with_index: bool = False) -> str:
    """The class's label, or its index where it has none."""
    index, label = record["class_index"], record["label"]
    if not label:
        return f"class {index}"
    return f"{printable(label)} ({index})" if with_index else printable(label)


def percent(probability: float | None) -> str:
    """A probability for people."""
    return "" if probability is None else f"{100 * probability:.1f} %"


def number_texts(facts: Mapping[str, Any]) -> list[str]:
    """What a method gives for an image beside what all methods give, as in `relative error 0.07`."""
    error = facts.get("relative_error")
    told = [] if error is None else [f"relative error {in_words(error)}"]
    return told + [
        f"{name.replace('_', ' ')} {value if isinstance(value, int) else f'{value:.2f}'}"
        for name, value in facts.get("outputs", {}).items()
        if value is not None and name != STANDARD_ERROR  # for programs alone
    ]


def _percents(error: float) -> str:
    return "∞" if math.isinf(error) else f"{100 * error:.0f} %"


def column(text: str, width: int) -> str:
    """Text as wide as a column; what does not fit is cut in the middle."""
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    half = (width - 1) // 2
    # Turned round for its end: a character may be two cells wide.
    end = set_cell_size(text[::-1], half)[::-1]
    return set_cell_size(text, width - 1 - half) + "…" + end


def name_width(names: list[str]) -> int:
    """The width of a column of names."""
    return min(max((cell_len(name) for name in names), default=0), _NAME_WIDTH)


def bar(share: float | None, cells: int, encoding: str) -> str:
    """A bar of a length that tells a share of 1, in eighths of a cell where the terminal can show them."""
    if share is None:
        return ""
    if not encoding.lower().startswith("utf"):
        return "#" * round(share * cells)
    whole, part = divmod(round(share * cells * 8), 8)
    return "█" * whole + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[part]
