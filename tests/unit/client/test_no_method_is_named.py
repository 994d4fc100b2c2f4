"""No module of the client knows a method by name: what there is comes from the server's metadata."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import saliency_client

ROOT = Path(saliency_client.__file__).parent
METHODS = {"gradients", "guided", "smooth", "integrated_gradients", "grad_cam", "rise", "occlusion"}
ALLOWED = {
    ("_contract.py", "gradients"): "a kind of map of the contract",
    ("_explanation.py", "gradients"): "the output of that name",
    ("render.py", "gradients"): "an argument of that name",
    ("client.py", "gradients"): "the documented default",
    ("aio.py", "gradients"): "the documented default",
    ("cli/explain.py", "gradients"): "the documented default",
    ("cli/bench.py", "gradients"): "the documented default",
    ("cli/job.py", "gradients"): "the documented default",
    ("bulk/step.py", "gradients"): "the documented default",
}


def names_in_code(path: Path) -> Iterator[str]:
    """The methods that a module names in a string that is no documentation."""
    tree = ast.parse(path.read_text())
    documentation = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            words = set(node.value.replace("explain_", " ").replace(",", " ").replace(":", " ").split())
            yield from METHODS & words


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_names_no_method(path: Path) -> None:
    module = path.relative_to(ROOT).as_posix()
    assert {name for name in names_in_code(path) if (module, name) not in ALLOWED} == set()
