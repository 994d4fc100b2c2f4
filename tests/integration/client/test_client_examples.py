"""The examples in docstrings and in client/README.md, run against a server that knows their model."""

from __future__ import annotations

import asyncio
import doctest
import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripted_server import LinearModel, serving

import saliency_client
from saliency_client import _base
from saliency_client._channel import parse_targets

PUBLIC_MODULES = ["images", "maps", "render", "baselines", "regions", "gallery"]
MODULES = [
    *PUBLIC_MODULES,
    "web.document",
    "web.map_picture",
    "client",
    "aio",
    "_explanation",
    "_bulk",
    "_channel",
    "_retry",
    "_signatures",
    "_requests",
    "_errors",
]
EXAMPLES = [
    pytest.param(example, id=example.name.removeprefix("saliency_client."))
    for module in MODULES
    for example in doctest.DocTestFinder().find(importlib.import_module(f"saliency_client.{module}"))
    if example.examples
]
README = Path(saliency_client.__file__).parents[1] / "README.md"
PAGES = [README.parents[1] / "README.md", README]
TARGET = "localhost:8500"


@pytest.fixture(scope="module")
def example_server():
    with serving(LinearModel(224, 224, name="efficientnet-lite0", bounded=True)) as server:
        yield server


@pytest.fixture
def names(request, example_server, tmp_path, monkeypatch):
    """What examples take for granted: a connected client and two pictures, of class 0 and class 1."""
    monkeypatch.chdir(tmp_path)
    # A method with a baseline, where an example is of one: the others show which methods there are.
    example_server.model.shares = "baselines" in request.node.name or "readme" in request.node.name
    # As new exports sample, where an example is of that.
    of_samples = ("explain_until", "samples_needed", "readme")
    example_server.model.sampled = any(name in request.node.name for name in of_samples)
    certificates = Path(__file__).parent / "certificates"
    for name in ("ca.pem", "client.pem", "client.key"):
        os.symlink(certificates / name, tmp_path / name)
    monkeypatch.setattr(
        _base,
        "parse_targets",
        lambda target: (example_server.target,) if target == TARGET else parse_targets(target),
    )
    signs = np.sign(example_server.model.weights[:2])
    images = (128 + 100 * signs).astype(np.uint8)
    Image.fromarray(images[0]).resize((300, 250)).save(tmp_path / "cat.png")
    with saliency_client.SaliencyClient(example_server.target, model="efficientnet-lite0") as client:
        public = {name: getattr(saliency_client, name) for name in saliency_client.__all__}
        yield {
            **public,
            "client": client,
            "images": images,
            "explanation": client.explain(images),
            "numpy": np,
            "asyncio": asyncio,
        }


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_example_gives_what_it_shows(example: doctest.DocTest, names):
    example.globs = dict(names)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL)

    runner.run(example, out=said.append)

    assert not said, "".join(said)


def test_every_public_name_but_errors_has_an_example():
    shown = {example.values[0].name.split(".")[2] for example in EXAMPLES}
    public = {
        name
        for name in saliency_client.__all__
        if name != "UNSET" and not issubclass(getattr(saliency_client, name), saliency_client.SaliencyError)
    }

    assert public <= shown


@pytest.mark.parametrize("module", PUBLIC_MODULES)
def test_every_public_function_and_class_of_a_public_module_has_an_example(module):
    home = importlib.import_module(f"saliency_client.{module}")
    public = {
        f"{module}.{name}"
        for name, value in vars(home).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == home.__name__
    }

    assert public <= {example.id for example in EXAMPLES}


@pytest.mark.parametrize("client", ["SaliencyClient", "AsyncSaliencyClient", "Explanation"])
def test_every_public_method_has_an_example_or_names_the_one_that_has(client):
    def shown(text: str | None) -> bool:
        return bool(text) and (">>>" in text or re.match(r"As `SaliencyClient\.\w+`", text) is not None)

    methods = {
        name: value.__doc__
        for name, value in vars(getattr(saliency_client, client)).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }

    assert {name for name, text in methods.items() if not shown(text)} == set()


def python_blocks(page: Path = README) -> str:
    """A page's Python, in order, at the lines where it stands."""
    lines, inside = [], False
    for line in page.read_text().splitlines():
        fence = line.startswith("```")
        lines.append(line if inside and not fence else "")
        inside = line == "```python" if fence and not inside else inside and not fence
    return "\n".join(lines)


def test_the_python_of_the_readme_runs_from_top_to_bottom(names, tmp_path, capsys):
    (tmp_path / "token").write_text("secret\n")

    # A method of that kind is served here under a name that no client knows.
    text = python_blocks().replace('"integrated_gradients"', '"shares"')
    exec(compile(text, str(README), "exec"), {})

    written = {path.name for path in tmp_path.iterdir()}
    drawn = {"overlay.png", "regions.png", "xrai.png", "negative.png", "methods.png", "maps.npz"}
    assert drawn | {f"map-{index}.npy" for index in range(20)} <= written
    assert "class_index is 123456; it must be in [0, 3]" in capsys.readouterr().out


def test_the_python_of_the_pages_is_typed(tmp_path: Path) -> None:
    """As strictly as mypy knows how: no attribute may be None, no size unknown."""
    files = {"readme.py": PAGES[0], "client_readme.py": PAGES[1]}
    for name, page in files.items():
        (tmp_path / name).write_text(python_blocks(page))
    # Other packages than these two, which no page uses, would take two thirds of the time.
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = true\nfollow_imports = skip\n"
        "[mypy-saliency_client.*,numpy.*]\nfollow_imports = silent\nignore_errors = true\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-incremental", *files],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(README.parent)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pyright") is None, reason="pyright is not installed")
@pytest.mark.parametrize("page", PAGES, ids=["README.md", "client/README.md"])
def test_the_python_of_a_page_is_typed_as_pyright_sees_it(page: Path, tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(python_blocks(page))
    settings = {"typeCheckingMode": "strict", "extraPaths": [str(README.parent)]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run(
        ["pyright", "--pythonpath", sys.executable, "--project", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readme_lists_every_error_and_what_else_it_is():
    rows = re.findall(
        r"^\| `(\w+)` \| .* \| (.*) ?\|$", README.read_text().split("## Errors")[1], re.MULTILINE
    )
    listed = {name: set(re.findall(r"`(\w+)`", bases)) for name, bases in rows}

    real = {
        kind.__name__: {base.__name__ for base in kind.__bases__} - {"SaliencyError"}
        for kind in map(saliency_client.__getattr__, saliency_client.__all__)
        if inspect.isclass(kind) and issubclass(kind, saliency_client.SaliencyError)
    }
    del real["SaliencyError"]
    assert listed == real


def test_the_readme_lists_every_option():
    table = README.read_text().split("## Connecting")[1].split("```")[0]
    listed = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (.*?) \|", table, re.MULTILINE))))

    assert listed == set(inspect.signature(saliency_client.SaliencyClient).parameters)
