"""--baseline: gray levels by name or number, and the average over several."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from saliency_client import baselines
from saliency_client.baselines import LEVELS, PARAMETER
from saliency_client.cli.errors import UsageError
from saliency_client.cli.methods import parameters_of

if TYPE_CHECKING:
    from saliency_client import Explanation, SaliencyClient, Signature
    from saliency_client.cli.explainer import ExplainOptions

_OF_REGIONS = ("black", "white")
"""What regions are made from, as in PAIR's XRAI, unless --baseline says otherwise."""


def listed(given: Sequence[str]) -> tuple[str, ...]:
    """The baselines of an option that is repeated or has commas, each once, in order.

    Raises:
        UsageError: one is neither a name nor a finite number.
    """
    names = [name.strip().lower() for text in given for name in text.split(",")]
    for name in names:
        if name not in LEVELS and not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,2})?", name):
            raise UsageError(
                f"--baseline is {name!r}; it takes black, white, gray or a number",
                hint="as in --baseline black,white",
            )
    return tuple(dict.fromkeys(names))


def levels(
    signature: Signature,
    asked: Sequence[Signature],
    signatures: Mapping[str, Signature],
    options: ExplainOptions,
) -> tuple[float, ...]:
    """The gray levels that a method is asked with, one request for each; none: the method's own default.

    Args:
        signature: of the method.
        asked: the signatures of all methods that are asked for together.
        signatures: all that the model has.
        options: of the command.

    Raises:
        UsageError: none of the methods has a baseline, a name is given for images that are no bytes, or the
            baseline is given by --param as well.
    """
    given = options.baselines
    if given and PARAMETER in options.parameters:
        raise UsageError(f"{PARAMETER} is given twice, by --param and by --baseline", hint="give it once")
    takes = bool(parameters_of(signature, {PARAMETER: 0.0} if given else {}, asked, signatures))
    dtype = signature.inputs["images"].dtype
    if not given:
        wants = options.regions and PARAMETER not in options.parameters and dtype == "uint8"
        return baselines.gray_levels(_OF_REGIONS) if wants and PARAMETER in signature.parameters else ()
    named = [name for name in given if name in LEVELS]
    if named and dtype != "uint8":
        raise UsageError(
            f"--baseline {named[0]} is a gray level of photos, and the model takes {dtype} values",
            hint="give a number in the unit of the model's input",
        )
    return baselines.gray_levels(_number(name) for name in given) if takes else ()


def explain(
    client: SaliencyClient, images: Any, gray_levels: Sequence[float], **arguments: Any
) -> Explanation:
    """Ask once, or once for each gray level and average."""
    if not gray_levels:
        return client.explain(images, **arguments)
    return baselines.explain(client, images, baselines=gray_levels, **arguments)


def _number(name: str) -> str | float:
    return name if name in LEVELS else float(name)
