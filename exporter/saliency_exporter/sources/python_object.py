"""``module:name`` on the command line to the Python object that it names."""

from __future__ import annotations

import importlib
import os
import sys

from saliency_exporter.errors import ExportError, brief


def load_reference(reference: str) -> object:
    """Imports the object that ``module:name`` names; the current directory is importable.

    Args:
        reference: ``package.module:name``, where name may be dotted (``module:factory.make``).

    Raises:
        ExportError: the module cannot be found or fails while it is imported, or has no such name.
    """
    module_name, _, path = reference.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *path.split(".")]):
        raise ExportError(
            f"{reference!r} is not of the form module:name",
            hint="write for example my_package.my_module:make_model",
        )
    target: object = import_module(module_name)
    for name in path.split("."):
        if not hasattr(target, name):
            raise ExportError(
                f"{reference!r}: {getattr(target, '__name__', type(target).__name__)} has no {name!r}",
                hint=f"names that it has: {_public_names(target)}",
            )
        target = getattr(target, name)
    return target


def import_module(module_name: str) -> object:
    """Imports a module by its dotted name; the current directory is importable.

    Raises:
        ExportError: there is no such module, or it fails while it is imported.
    """
    directory = os.getcwd()
    # As `python -m` does. It stays: what is imported may itself import more when it is called.
    if directory not in sys.path:
        sys.path.insert(0, directory)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name + ".").startswith(error.name + "."):
            raise ExportError(
                f"there is no Python module {error.name!r}",
                hint=f"modules are looked for in {directory} and in the installed packages",
            ) from error
        raise ExportError(
            f"module {module_name!r} needs {error.name!r}, which is not installed",
            # It is a part of setuptools, up to 80; tensorflow-hub asks for it.
            hint="pip install 'setuptools<81'"
            if error.name == "pkg_resources"
            else f"install {error.name!r} in this Python environment",
        ) from error
    except Exception as error:
        raise ExportError(
            f"importing module {module_name!r} failed: {brief(error)}",
            hint=f'python -c "import {module_name}" shows where',
        ) from error


def _public_names(target: object) -> str:
    names = [name for name in dir(target) if not name.startswith("_")]
    return ", ".join(names[:20]) + (", …" if len(names) > 20 else "") if names else "none"
