"""The methods by name: the exporter's own, and those of installed packages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from saliency_exporter.errors import ExportError, brief

if TYPE_CHECKING:
    from saliency_exporter.methods.declarations import Method

OWN = ("gradients", "guided", "smooth")
"""Modules of this package that declare a METHOD, in the order in which they are shown: the default."""

GROUP = "saliency_exporter.methods"
"""The entry points of other packages: method name to `module:object`."""


def method_names() -> tuple[str, ...]:
    """All names that can be asked for, the exporter's own first. Imports no method, and no TensorFlow."""
    return (*OWN, *sorted(_plug_ins().keys() - set(OWN)))


def find_methods(names: Iterable[str]) -> tuple[Method, ...]:
    """The methods of the given names, in the order of `method_names`, each once.

    Raises:
        ExportError: there is no such method, or it cannot be loaded.
    """
    wanted = set(names)
    known = method_names()
    for name in sorted(wanted - set(known)):
        near = difflib.get_close_matches(name, known, n=1)
        raise ExportError(
            f"there is no method {name!r}" + (f"; did you mean {near[0]}?" if near else ""),
            hint=f"the methods are {', '.join(known)}",
        )
    return tuple(_load(name) for name in known if name in wanted)


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
