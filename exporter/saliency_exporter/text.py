"""Text for terminals: nothing that a model, a manifest or a file name says may act on them."""

from __future__ import annotations

import json
from typing import Any

from saliency_client.cli import text as line_text

one_line = line_text.one_line


def printable(text: str) -> str:
    """Replace control characters, direction marks and broken characters by escapes; line breaks stay."""
    return "\n".join(map(line_text.printable, text.split("\n")))


def printable_json(value: Any) -> str:
    """Indented JSON, whose strings keep every character that can be shown and escape the others."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
