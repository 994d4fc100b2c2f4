"""Text for terminals: nothing that a model, a manifest or a file name says may act on them."""

from __future__ import annotations

import json
from typing import Any


def printable(text: str) -> str:
    """Replace control characters, direction marks and broken characters by escapes; line breaks stay."""
    return "".join(c if _shown(c) else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """The same, with line breaks and runs of blanks as one blank."""
    return printable(" ".join(text.split()))


def printable_json(value: Any) -> str:
    """Indented JSON, whose strings keep every character that can be shown and escape the others."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return "".join(c if _shown(c) else json.dumps(c)[1:-1] for c in text)


def _shown(character: str) -> bool:
    return character.isprintable() or character == "\n"
