"""Modules, classes and functions that a model file needs and that the user names: ``--import``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from saliency_exporter.errors import ExportError
from saliency_exporter.sources.python_object import import_module, load_reference


def under_registered_names(objects: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Objects, and those whose name a file has as ``package>name`` under that one, too.

    Args:
        objects: as `import_objects` gives them.
        names: the names of the file.
    """
    registered = {name: name.rpartition(">")[2] for name in names if ">" in name}
    return {**objects, **{name: objects[own] for name, own in registered.items() if own in objects}}


def import_objects(references: Sequence[str]) -> dict[str, Any]:
    """Imports what ``--import`` names.

    Args:
        references: ``module``, which may register its classes (keras.saving.register_keras_serializable), or
            ``module:name``; the current directory is importable.

    Returns:
        The object of each ``module:name`` by its name, without the part before a dot.

    Raises:
        ExportError: a module cannot be imported, has no such name, or is no module's name.
    """
    objects = {}
    for reference in references:
        if ":" in reference:
            objects[reference.rpartition(":")[2].rpartition(".")[2]] = load_reference(reference)
        elif all(part.isidentifier() for part in reference.split(".")) and not reference.endswith(".py"):
            import_module(reference)
        else:
            raise ExportError(
                f"--import {reference}: it is not the name of a Python module",
                hint="write my_layers for the file my_layers.py in this directory, or my_layers:MyLayer",
            )
    return objects
