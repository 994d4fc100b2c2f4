"""A method's parameters as options: --param NAME=VALUE for any, and shorthands for frequent ones."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from saliency_client._contract import TARGET_ERROR
from saliency_client.cli.errors import UsageError
from saliency_client.cli.sections import option

if TYPE_CHECKING:
    from saliency_client import Signature

Command = TypeVar("Command", bound=Callable[..., Any])
Number = int | float

SHORTHANDS: Mapping[str, tuple[str, str]] = {
    "num_samples": ("N", "Samples of a mean over noise, at most."),
    "num_masks": ("N", "Masks of a mean over masks, at most."),
    "num_steps": ("N", "Steps of an integral, at most."),
    "target_error": (
        "R",
        "Take no more of them than bring the map's relative error to R, such as 0.3; of an integral, its "
        "completeness error.",
    ),
    "noise_level": ("F", "Standard deviation of the noise, over the range of the model's input."),
    "seed": ("N", "The same seed gives the same noise, or masks."),
}
"""Parameters that have an option of their own: what its value is called, and its help."""


def parameter_options(section: str) -> Callable[[Command], Command]:
    """--param and its shorthands; the command gets `parameters`, numbers by name."""

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_parameters(*arguments: Any, param: tuple[str, ...], **options: Any) -> Any:
            given = [_pair(text) for text in param]
            given += [(name, text) for name in SHORTHANDS for text in options.pop(name)]
            return command(*arguments, parameters=_once(given), **options)

        decorated: Any = with_parameters
        for name, (metavar, text) in reversed(list(SHORTHANDS.items())):
            decorated = option(
                option_name(name), name, section=section, multiple=True, metavar=metavar, help=text
            )(decorated)
        with_all: Command = option(
            "--param",
            section=section,
            multiple=True,
            metavar="NAME=VALUE",
            help="A parameter of the method; repeatable. Default: the model's.",
        )(decorated)
        return with_all

    return decorate


def check(
    parameters: Mapping[str, Number], signature: Signature, signatures: Mapping[str, Signature]
) -> None:
    """Hold parameters against what a method takes, as the server's metadata say.

    Raises:
        UsageError: there is no such parameter, it takes whole numbers, or the value is outside its bounds.
    """
    from saliency_client import InputError, UnknownParameter
    from saliency_client._requests import check_bounds
    from saliency_client._signatures import check_parameters

    try:
        check_parameters(signature, parameters, signatures)
    except UnknownParameter as error:
        hint = error.hint or "`saliency-client signatures` shows what each method takes"
        if TARGET_ERROR in parameters and not any(TARGET_ERROR in one.inputs for one in signatures.values()):
            hint = (
                f"no method of this export takes {TARGET_ERROR}; those that average over samples do, in "
                "exports of this release"
            )
        raise UsageError(str(error), hint=hint) from error
    for name, value in parameters.items():
        if isinstance(value, float) and "int" in signature.inputs[name].dtype:
            raise UsageError(f"{name} is {value}; it takes whole numbers", hint=f"as in {_typed(name)}1")
        try:
            check_bounds(signature, name, value)
        except InputError as error:
            raise UsageError(
                error.message, hint="`saliency-client signatures` shows the bounds of all parameters"
            ) from error


def option_name(parameter: str) -> str:
    """The option of a parameter that has one, as `--num-samples`."""
    return f"--{parameter.replace('_', '-')}"


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise UsageError(f"--param {text!r} is not NAME=VALUE", hint="as in --param seed=1")
    return name, value


def _once(given: Iterable[tuple[str, str]]) -> dict[str, Number]:
    parameters: dict[str, Number] = {}
    for name, text in given:
        if name in parameters:
            raise UsageError(f"{name} is given twice", hint="give it once, by --param or by its own option")
        parameters[name] = _number(name, text)
    return parameters


def _number(name: str, text: str) -> Number:
    """A number as Python writes it: whole where it has no point and no exponent."""
    if re.fullmatch(r"[+-]?[0-9]{1,20}", text):
        return int(text)
    try:
        number = float(text)
    except ValueError:
        raise UsageError(f"{name} is {text!r}; it takes a number", hint=f"as in {_typed(name)}1") from None
    if not math.isfinite(number):
        raise UsageError(f"{name} is {text!r}; it takes a finite number", hint=f"as in {_typed(name)}1")
    return number


def _typed(name: str) -> str:
    """A parameter's option as it was typed, up to its value: `--noise-level `, or `--param noise_level=`."""
    source = click.get_current_context().get_parameter_source(name) if name in SHORTHANDS else None
    if source is click.core.ParameterSource.COMMANDLINE:
        return f"{option_name(name)} "
    return f"--param {name}="
