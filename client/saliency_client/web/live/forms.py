"""A method's parameters as fields of a form, and what was typed there back to parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from saliency_client._contract import COUNTS, FIRST_SAMPLE, TARGET_ERROR
from saliency_client._errors import InputError
from saliency_client._requests import check_bounds
from saliency_client._slices import takes_slices
from saliency_client.cli.parameters import SHORTHANDS
from saliency_client.cli.signatures import default_of
from saliency_client.web.live import words

if TYPE_CHECKING:
    from saliency_client import Signature

CLASS = "class_index"
"""The parameter that has a field of its own, with names."""

_LEAST = {**dict.fromkeys(COUNTS, 1), FIRST_SAMPLE: 0, TARGET_ERROR: 0}
_INTEGER = re.compile(r"u?int(8|16|32|64)")
_REFUSED = re.compile(
    r"(?P<name>\w+) (?:is )?\S+; it must be (?:a finite number, )?"
    r"(?:in \[(?P<low>[-+.\de]+), (?P<high>[-+.\de]+)\]|at least (?P<least>[-+.\de]+)"
    r"|at most (?P<most>[-+.\de]+))"
)


def fields(signature: Signature) -> list[dict[str, Any]]:
    """The fields of a method's form, in the order in which a person thinks of them.

    Each has `name`, `label` (what the page calls it), `kind` ("whole" or "real"), `default` (a number, or
    None where it has to be given), `least` and `most` (numbers; None: no bound), `range` (both in words,
    or None) and `help`. The server's metadata tell names, types, defaults and bounds. An export of a release
    that did not tell bounds names them in its refusals, which `learned` reads. Parameters that are no numbers
    are left to their defaults.
    """
    known = list(SHORTHANDS)
    names = [name for name in signature.parameters if name != CLASS and _kind(signature, name)]
    if takes_slices(signature):
        names = [name for name in names if name != FIRST_SAMPLE]  # the page asks for the slices itself
    names.sort(key=lambda name: known.index(name) if name in known else len(known))
    return [_field(signature, name) for name in names]


def parameters(given: Mapping[str, Any], signature: Signature) -> dict[str, int | float]:
    """Numbers by name, as a browser sent them: whole ones for parameters that take whole numbers.

    Raises:
        InputError: a value is no finite number, no whole one where it has to be, or outside its bounds.
    """
    numbers: dict[str, int | float] = {}
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise InputError(
                f"{words.label(name)} is {value!r}; it takes a finite number", signature=signature.name
            )
        if _is_whole(signature, name) and not float(value).is_integer():
            raise InputError(
                f"{words.label(name)} is {value}; it takes whole numbers", signature=signature.name
            )
        numbers[name] = int(value) if _is_whole(signature, name) else value
        check(signature, name, numbers[name])
    return numbers


def check(signature: Signature, name: str, value: float) -> None:
    """Hold a number against the bounds that the model tells.

    Raises:
        InputError: it is outside.
    """
    try:
        check_bounds(signature, name, value)
    except InputError as error:
        raise InputError(error.message, signature=signature.name) from error  # the field shows the next step


def learned(details: str | None) -> dict[str, Any] | None:
    """The field of a refusal, a server's or the client's, with the bounds that it names; None: none."""
    match = _REFUSED.search(details or "")
    if match is None:
        return None
    low, high = match["low"] or match["least"], match["high"] or match["most"]
    try:
        return {"name": match["name"], "least": low and float(low), "most": high and float(high)}
    except ValueError:
        return None


def _field(signature: Signature, name: str) -> dict[str, Any]:
    _, text = SHORTHANDS.get(name, ("", ""))
    known = name in signature.bounds
    least, most = signature.bounds[name] if known else (_LEAST.get(name), None)
    return {
        "name": name,
        "label": words.label(name),
        "kind": _kind(signature, name),
        "default": default_of(signature, name),
        "least": least,
        "most": most,
        "range": _range(least, most) if known else None,
        "help": text or f"{signature.inputs[name].dtype}; the method's documentation says what it does.",
    }


def _range(least: float | None, most: float | None) -> str | None:
    """Bounds for a person."""
    low, high = (None if bound is None else f"{bound:,}".removesuffix(".0") for bound in (least, most))
    if low is not None and high is not None:
        return f"from {low} to {high}"
    return f"at least {low}" if low is not None else f"at most {high}" if high is not None else None


def _kind(signature: Signature, name: str) -> str | None:
    if _is_whole(signature, name):
        return "whole"
    dtype = signature.inputs[name].dtype
    return "real" if dtype.startswith(("float", "half", "bfloat")) else None


def _is_whole(signature: Signature, name: str) -> bool:
    return name in signature.inputs and _INTEGER.fullmatch(signature.inputs[name].dtype) is not None
