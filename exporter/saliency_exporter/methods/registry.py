"""The methods by name: the exporter's own, and those of installed packages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import replace
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from saliency_exporter.errors import ExportError, brief
from saliency_exporter.methods.expressions import Expression, parse

if TYPE_CHECKING:
    from saliency_exporter.methods.declarations import Method

OWN = (
    "gradients",
    "guided",
    "smooth",
    "gradient_x_input",
    "integrated_gradients",
    "grad_cam",
    "hires_cam",
    "layer_cam",
    "grad_cam_plus_plus",
    "guided_grad_cam",
    "occlusion",
    "rise",
)
"""Modules of this package that declare a METHOD, in the order in which they are shown."""

DEFAULT = ("gradients", "guided", "smooth", "integrated_gradients", "grad_cam")
"""What is exported where nothing else is asked for, as far as it is defined for a model."""

DEMONSTRATED = (*DEFAULT, "gradient_x_input", "guided_grad_cam", "occlusion(patch=56, stride=28)")
"""What the demonstration exports and shows; with patches so large that two cores hide them in a second."""

SHOWN_IN_DETAIL = "smooth"
"""What the demonstration draws a panel of."""

ON_VERTEX = {
    "integrated_gradients_attribution": "integrated_gradients",
    "xrai_attribution": "integrated_gradients",
    "sampled_shapley_attribution": "occlusion",
}
"""What stands for the methods of Vertex Explainable AI, by their names there; the first is its default."""

ALL = "all"
"""Asks for every method, as far as it is defined for a model."""

GROUP = "saliency_exporter.methods"
"""The entry points of other packages: method name to `module:object`."""


def method_names() -> tuple[str, ...]:
    """All names that can be asked for, the exporter's own first. Imports no method, and no TensorFlow."""
    return (*OWN, *sorted(_plug_ins().keys() - set(OWN)))


def find_methods(names: Iterable[str]) -> tuple[Method, ...]:
    """The methods that are asked for, in the order of `method_names`, each once.

    Args:
        names: `all`, or methods as `expressions.parse` reads them: `guided`, `smooth(guided)`.

    Raises:
        ExportError: there is no such method, it cannot be loaded, or it does not take what it is given.
    """
    known = method_names()
    wanted = [one for name in names for one in (known if name == ALL else [name])]
    asked = list(dict.fromkeys(map(str, checked_expressions(wanted))))
    asked.sort(key=lambda text: known.index(parse(text).name))
    methods = [_made(parse(text)) for text in asked]
    for number, method in enumerate(methods):
        if method.name in (other.name for other in methods[:number]):
            raise ExportError(
                f"{asked[number]} would have the name of another method that is asked for, {method.name}",
                hint="ask for one of the two; another export can have the other",
            )
    return tuple(methods)


def checked_expressions(texts: Iterable[str]) -> list[Expression]:
    """Methods as they are asked for, read and held to the names that exist. Imports no method.

    Raises:
        ExportError: one is not understood, or there is no such method.
    """
    known = method_names()
    expressions = []
    for text in texts:
        near = difflib.get_close_matches(text.strip().lower().replace("-", "_"), known, n=1)
        try:
            expressions.append(parse(text))
        except ExportError as error:
            if not near or "(" in text:
                raise
            raise ExportError(
                f"there is no method {text!r}; did you mean {near[0]}?",
                hint=f"the methods are {', '.join(known)}",
            ) from error
    stack = list(expressions)
    while stack:
        expression = stack.pop()
        stack.extend(expression.of)
        if expression.name not in known:
            near = difflib.get_close_matches(expression.name, known, n=1)
            raise ExportError(
                f"there is no method {expression.name!r}" + (f"; did you mean {near[0]}?" if near else ""),
                hint=f"the methods are {', '.join(known)}",
            )
    return expressions


def _made(expression: Expression) -> Method:
    """The method of an expression, which knows it, since its own name is another.

    Raises:
        ExportError: it does not take what is in its parentheses.
    """
    method = _load(expression.name)
    if not expression.of and not expression.options:
        return method
    return replace(_with_what_is_in_parentheses(method, expression), asked=str(expression))


def _with_what_is_in_parentheses(method: Method, expression: Expression) -> Method:
    if expression.options:
        _check_options(method, expression)
        if method.with_options is not None:
            method = method.with_options(expression.options)
    if not expression.of:
        return method
    if method.over is None or len(expression.of) > 1:
        takes = "takes one other method" if method.over is not None else "is not made of another method"
        raise ExportError(
            f"{expression}: {method.name} {takes}",
            hint=f"the methods that take another are {', '.join(_combinators())}",
        )
    return method.over(_made(expression.of[0]))


def _check_options(method: Method, expression: Expression) -> None:
    options = {option.name: option for option in method.options}
    known = ", ".join(options)
    for name, value in expression.options.items():
        option = options.get(name)
        if option is None:
            raise ExportError(
                f"{expression}: {method.name} has no option {name}",
                hint=f"its options are {known}" if options else f"write {method.name} without one",
            )
        if value < option.low or (option.high is not None and value > option.high):
            bounds = f"at least {option.low}" + ("" if option.high is None else f" and at most {option.high}")
            raise ExportError(
                f"{expression}: {name} is {value}; it must be {bounds}", hint=f"{name} is {option.help}"
            )


def _combinators() -> list[str]:
    return [name for name in method_names() if _load(name).over is not None]


def checked(method: object, origin: str) -> Method:
    """A method that another package, or a user, declares.

    Raises:
        ExportError: it is something else.
    """
    from saliency_exporter.methods.declarations import Method

    if not isinstance(method, Method):
        raise ExportError(
            f"{origin} is a {type(method).__name__}, not a saliency_exporter.methods.declarations.Method",
            hint="name the object that Method(…) made",
        )
    return method


def _load(name: str) -> Method:
    if name in OWN:
        own: Method = import_module(f"saliency_exporter.methods.{name}").METHOD
        return own
    entry = _plug_ins()[name]
    try:
        loaded = entry.load()
    except Exception as error:
        raise ExportError(
            f"method {name!r} cannot be loaded from {entry.value}: {brief(error)}",
            hint="mend or remove the package that brings it",
        ) from error
    method = checked(loaded, entry.value)
    if method.name != name:
        raise ExportError(
            f"{entry.value} declares the method {method.name!r} and its entry point is named {name!r}",
            hint="give both one name",
        )
    return method


def _plug_ins() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
