"""Who may import whom: the exporter's floors, the client that stands alone, and no circle anywhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXPORTER = ROOT / "exporter" / "saliency_exporter"
CLIENT = ROOT / "client" / "saliency_client"

# From the bottom up: a module imports from its own floor and from those below it.
FLOORS = (
    "errors",
    "runtime",
    "sources",
    "graph",
    "rules",
    "methods",
    "contract",
    "version",
    "evaluation",
    "serving",
    "cli",
)
LOCAL = {"cli.connection"}
"""The client's module behind `--local`, which starts the exporter's server inside the command."""


def modules(package: Path) -> dict[str, Path]:
    """Dotted name, without the package's own, to file; a package is named by its folder."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, *, at_import: bool = False) -> Iterator[str]:
    """Dotted names that a file imports, of `from a import b` a.b; relative ones are refused.

    With `at_import`, those alone that run when the module is imported.
    """
    stack: list[ast.AST] = [ast.parse(path.read_text())]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif (at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)) or (
            at_import and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ):
            continue
        stack.extend(ast.iter_child_nodes(node))


def own(package: Path, known: dict[str, Path], name: str, **options: bool) -> set[str]:
    """The modules of its own package that a module imports."""
    start = f"{package.name}."
    named = {
        target.removeprefix(start) for target in imports(known[name], **options) if target.startswith(start)
    }
    return {target if target in known else target.rpartition(".")[0] for target in named} - {name}


def test_every_module_of_the_exporter_stands_on_a_floor() -> None:
    top = {name.partition(".")[0] for name in modules(EXPORTER)} - {"", "__main__"}
    assert top == set(FLOORS)


@pytest.mark.parametrize("name", [name for name in modules(EXPORTER) if name not in ("", "__main__")])
def test_an_arrow_never_runs_up(name: str) -> None:
    floor = FLOORS.index(name.partition(".")[0])
    above = {
        other
        for other in own(EXPORTER, modules(EXPORTER), name)
        if FLOORS.index(other.partition(".")[0]) > floor
    }
    assert not above


@pytest.mark.parametrize("package", [EXPORTER, CLIENT], ids=["exporter", "client"])
def test_there_is_no_circle(package: Path) -> None:
    known = modules(package)
    arrows = {name: own(package, known, name, at_import=True) for name in known}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " → ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in sorted(arrows[name]):
                visit(other, (*way, name))
            done.add(name)

    for name in known:
        visit(name, ())


@pytest.mark.parametrize("name", modules(CLIENT))
def test_the_client_imports_the_exporter_behind_local_alone(name: str) -> None:
    path = modules(CLIENT)[name]
    taken = {target.partition(".")[0] for target in imports(path)}
    at_import = {target.partition(".")[0] for target in imports(path, at_import=True)}
    assert "tensorflow" not in taken
    assert "saliency_exporter" not in at_import
    assert "saliency_exporter" not in taken or name in LOCAL
