"""How methods are asked for: `gradients`, `smooth(guided)`, `name(option=32)`. Imports no TensorFlow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from saliency_exporter.errors import ExportError

_TOKEN = re.compile(r"\s*([A-Za-z_]\w*|-?\d+|[(),=])\s*")


@dataclass(frozen=True)
class Expression:
    """One method as it is asked for.

    Attributes:
        name: of the method.
        of: the methods in its parentheses.
        options: the whole numbers in its parentheses, by name.
    """

    name: str
    of: tuple[Expression, ...] = ()
    options: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """As it is written."""
        parts = [*map(str, self.of), *(f"{name}={value}" for name, value in self.options.items())]
        return f"{self.name}({', '.join(parts)})" if parts else self.name


def split(text: str) -> list[str]:
    """A list of expressions at the commas that are not inside of parentheses; what is between them stays."""
    parts, depth = [""], 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def parse(text: str) -> Expression:
    """One expression.

    Raises:
        ExportError: it is none.
    """
    tokens, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise _not_understood(text)
        tokens.append(match.group(1))
        position = match.end()
    expression = _expression(tokens, text)
    if tokens:
        raise _not_understood(text)
    return expression


def _expression(tokens: list[str], text: str) -> Expression:
    """The expression that the tokens begin with, which are taken from the list."""
    name = _name(tokens, text)
    if tokens[:1] != ["("]:
        return Expression(name)
    of: list[Expression] = []
    options: dict[str, int] = {}
    while tokens and tokens.pop(0) in ("(", ","):
        if tokens[1:2] == ["="]:
            key = _name(tokens, text)
            if key in options or len(tokens) < 2 or not tokens[1].lstrip("-").isdigit():
                raise _not_understood(text)
            options[key] = int(tokens[1])
            del tokens[:2]
        else:
            of.append(_expression(tokens, text))
        if tokens[:1] == [")"]:
            del tokens[0]
            return Expression(name, tuple(of), options)
    raise _not_understood(text)


def _name(tokens: list[str], text: str) -> str:
    if not tokens or not tokens[0].isidentifier():
        raise _not_understood(text)
    return tokens.pop(0)


def _not_understood(text: str) -> ExportError:
    return ExportError(
        f"{text.strip()!r} is no method",
        hint="a method is a name, a name with options in whole numbers, as in name(option=32), or a name "
        "with another method, as in smooth(guided)",
    )
