"""Programs that freeze an application, such as PyInstaller, follow import statements: they see all of it."""

from __future__ import annotations

import ast
from pathlib import Path

import saliency_client
from saliency_client import cli

PACKAGE = Path(saliency_client.__file__).parent
NOT_OF_A_PROGRAM = {
    "saliency_client.__main__",
    "saliency_client._proto.generate",
    # PyInstaller's own process asks these.
    "saliency_client._pyinstaller",
    "saliency_client._pyinstaller.hook-saliency_client",
}


def modules() -> dict[str, Path]:
    """Every module of the client by its name."""
    paths = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return paths


def imported(path: Path) -> set[str]:
    """All that a module's import statements name, wherever they stand: modules, or names in them."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def seen_from(*roots: str) -> set[str]:
    paths, seen, left = modules(), set(), list(roots)
    while left:
        name = left.pop()
        if name in paths and name not in seen:
            seen.add(name)
            left += [*imported(paths[name]), name.rpartition(".")[0]]
    return seen


def test_every_module_is_seen_from_the_command_line() -> None:
    # A program that writes galleries, or runs in an engine, imports the library's own module for it.
    engines = [f"saliency_client.bulk.{engine}" for engine in ("beam", "ray", "spark")]
    seen = seen_from("saliency_client.cli", "saliency_client.gallery", *engines)
    assert set(modules()) - seen == NOT_OF_A_PROGRAM


def test_every_command_that_is_imported_by_its_name_is_seen() -> None:
    homes = {home.partition(":")[0] for home in cli.main.homes.values()}

    assert homes <= seen_from("saliency_client.cli")


def test_every_name_of_the_library_that_is_imported_by_its_name_is_seen() -> None:
    homes = {f"saliency_client.{home}" for home in saliency_client._HOMES}

    assert homes <= seen_from("saliency_client")
