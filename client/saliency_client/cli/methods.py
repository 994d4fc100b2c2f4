"""The explanation method that was typed, among those that the model offers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from saliency_client._contract import EXPLAIN_PREFIX
from saliency_client.cli.errors import CommandError, UsageError

if TYPE_CHECKING:
    from saliency_client import Signature


def method_signature(
    method: str, signatures: Mapping[str, Signature], *, beside: tuple[str, ...] = ()
) -> Signature:
    """The signature of a method.

    Args:
        method: as typed.
        signatures: all that the model has.
        beside: what --method takes beside methods.

    Raises:
        UsageError: the model offers other methods; the hint names one that is spelled like it.
        CommandError: the model offers no method at all.
    """
    signature = signatures.get(f"{EXPLAIN_PREFIX}{method}")
    if signature is not None:
        return signature
    methods = [one.method for one in signatures.values() if one.method]
    message = f"the model offers no method {method!r}; it offers {', '.join(methods) or 'none'}"
    if not methods:
        raise CommandError(message, hint="export it with saliency-exporter")
    from difflib import get_close_matches

    near = get_close_matches(method, [*methods, *beside], n=1)
    choose = " or ".join(["choose one with --method", *beside])
    raise UsageError(message, hint=f"did you mean {near[0]}?" if near else choose)
