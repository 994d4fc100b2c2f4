"""Every command and snippet of the main and the exporter's page is run, or checked as far as it can be."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points, metadata
from pathlib import Path

import keras
import preloaded
import pytest
import skimage.data
from PIL import Image
from server_process import ServerProcess

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "exporter/README.md")
BIN = Path(sys.executable).parent
PROGRAMS = {"saliency-exporter": "saliency_exporter", "saliency-client": "saliency_client"}
"""What is installed, and the module that does the same by `python -m`."""

# The flags of tensorflow_model_server that the pages use; each is in the server's list of flags.
SERVER_FLAGS = {
    "--port",
    "--model_name",
    "--model_base_path",
    "--xla_gpu_compilation_enabled",
    "--xla_cpu_compilation_enabled",
}


def blocks(page: str, language: str) -> Iterator[tuple[bool, str]]:
    """(needs docker, text) of each code block of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for match in re.finditer(rf"(<!-- needs docker -->\n)?```{language}\n(.*?)```", text, re.DOTALL):
        yield bool(match[1]), match[2]


def commands(page: str) -> list[str]:
    joined = "".join(text for docker, text in blocks(page, "sh") if not docker).replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a newcomer stands: a Keras model of their own, its labels, a photo."""
    directory = tmp_path_factory.mktemp("newcomer")
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((64, 64, 3)),
            layers.Conv2D(4, 3, strides=2, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model.save(directory / "my-model.keras")
    (directory / "labels.txt").write_text("ant\nbee\ncat\n")
    Image.fromarray(skimage.data.chelsea()).save(directory / "cat.jpg")
    return directory


def run(line: str, folder: Path) -> str:
    """What a command writes to stdout; the package's own begin with TensorFlow imported (preloaded.py)."""
    variables = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    program, *arguments = shlex.split(line)
    if program in PROGRAMS and not set(line) & set("|&;<>$`~*?"):
        command = [sys.executable, "-m", PROGRAMS[program], *arguments]
        done = preloaded.run(command, cwd=folder, env=variables, timeout=280)
    else:
        shell = ["sh", "-c", line]
        done = subprocess.run(shell, cwd=folder, env=variables, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def exported(folder: Path) -> Path:
    """The first of the three lines, as it stands but for XLA, a verification, most batch sizes and methods.

    With these, that command makes `exported_model` and the demonstration; this one is verified by the
    exporter's page.
    """
    (line,) = [c for c in commands("README.md") if c.startswith("saliency-exporter export")]
    options = "--batch-sizes 1 --target cpu --compile none --no-verify --methods gradients,smooth"
    assert run(f"{line} {options}", folder) == "models/my-model/1\n"
    return folder / "models" / "my-model"


@pytest.fixture(scope="module")
def server(exported: Path) -> Iterator[str]:
    assert "saliency-exporter serve my-model=models/my-model" in commands("README.md")
    process = ServerProcess(f"my-model={exported}", "--no-warmup")
    try:
        yield process.target
    finally:
        process.stop()


def test_the_line_that_explains_leaves_a_picture_of_the_size_of_the_photo(server, folder):
    (line,) = [c for c in commands("README.md") if c.startswith("saliency-client explain")]
    assert "localhost:8500" in line
    run(line.replace("localhost:8500", server), folder)
    with Image.open(folder / "map.png") as picture:
        assert picture.size == (451, 300)


def test_the_snippet_for_apps_runs_and_leaves_its_overlay(server, folder):
    ((_, snippet),) = blocks("README.md", "python")
    assert "localhost:8500" in snippet
    code = snippet.replace("localhost:8500", server)
    (folder / "app.py").write_text(code, encoding="utf-8")
    printed = run(f"{sys.executable} app.py", folder)
    assert "(1, 64, 64)" in printed
    assert (folder / "overlay.png").exists()


def test_verify_and_inspect_of_the_exporters_page_run(exported, folder):
    for line in commands("exporter/README.md"):
        if line.split()[1] in ("verify", "inspect"):
            run(line.replace("models/lite0/1", "models/my-model/1"), folder)


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_is_installed_runs_what_its_module_runs(program):
    (installed,) = entry_points(group="console_scripts", name=program)
    assert installed.value == f"{PROGRAMS[program]}.cli:main"


def test_every_other_command_is_one_that_is_tested_elsewhere():
    tested_here = ("saliency-client explain", "saliency-exporter verify", "saliency-exporter inspect")
    elsewhere = (
        "make demo",
        "make test",
        "saliency-exporter export",
        "saliency-exporter serve",
        "saliency-exporter sanity",
        "saliency-exporter compare",
        "saliency-client page",
        "saliency-client gallery",
        "saliency-client job",
        "pip install",
        "curl",
    )
    for page in PAGES:
        for line in commands(page):
            assert line.startswith((*tested_here, *elsewhere)), line


@pytest.mark.parametrize("page", PAGES)
def test_every_option_named_on_a_page_exists(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`(--[a-z-]+)[ `]", text)) | set(
        re.findall(r"`saliency-[a-z]+ .*?(--[a-z-]+)", text)
    )
    helps = "".join(
        subprocess.run([BIN / program, command, "--help"], capture_output=True, text=True, check=True).stdout
        for program, command in (
            ("saliency-exporter", "export"),
            ("saliency-exporter", "serve"),
            ("saliency-exporter", "sanity"),
            ("saliency-exporter", "compare"),
            ("saliency-client", "explain"),
            ("saliency-client", "status"),
            ("saliency-client", "page"),
            ("saliency-client", "job"),
        )
    )
    for option in named - SERVER_FLAGS - {"--help"}:
        assert option in helps, option


def test_the_server_flags_of_the_docker_line_are_the_servers():
    (docker,) = [text for needs, text in blocks("README.md", "sh") if needs]
    after_image = docker.split("tensorflow/serving:")[1]
    assert set(re.findall(r"(--[a-z_]+)", after_image)) <= SERVER_FLAGS


def test_what_pip_installs_exists():
    extras = metadata("saliency-serving").get_all("Provides-Extra")
    for page in PAGES:
        for extra in re.findall(
            r"pip install -?e? ?'(?:saliency-serving|\.)\[(\w+)\]'", (ROOT / page).read_text()
        ):
            assert extra in extras


def test_every_link_of_the_pages_leads_to_a_file():
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for link in re.findall(r"\]\((?!http|#)([^)#]+)", text):
            assert (ROOT / page).parent.joinpath(link).exists(), f"{page}: {link}"
