"""The explanation method that was typed, among those that the model offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from saliency_client._contract import EXPLAIN_PREFIX
from saliency_client.cli.errors import CommandError, UsageError
from saliency_client.cli.parameters import check

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


def parameters_of(
    signature: Signature,
    parameters: Mapping[str, Any],
    asked: Sequence[Signature],
    signatures: Mapping[str, Signature],
) -> dict[str, Any]:
    """Those of the given parameters that a method takes; of several methods, each must be one's.

    Args:
        signature: of the method.
        parameters: as given, by name.
        asked: the signatures of all methods that are asked for together.
        signatures: all that the model has.

    Raises:
        UsageError: none of the methods has a parameter of that name, or it takes whole numbers.
    """
    taken = {name: value for name, value in parameters.items() if name in signature.parameters}
    unknown = {
        name: value for name, value in parameters.items() if not any(name in one.parameters for one in asked)
    }
    check({**taken, **unknown}, signature, signatures)
    return taken
