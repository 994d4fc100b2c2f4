"""The command and the lines that make a map again: quoted, without paths of the machine, without secrets."""

from __future__ import annotations

import ast
import shlex
from pathlib import Path

import numpy as np
import pytest
from live_page import connection_to

from saliency_client import Explanation, Signature, TensorSpec
from saliency_client.cli.looks import Look
from saliency_client.web.live import again
from saliency_client.web.live.explaining import Map
from saliency_client.web.live.photos import file_name


def one_map(**parameters: float) -> Map:
    outputs = {"saliency": np.ones((1, 8, 8), np.float32), "class_index": np.array([3], np.int32)}
    explanation = Explanation(outputs, method="smooth", model="m", version=7)
    inputs = {"images": TensorSpec("images", "uint8", (None, 8, 8, 3))}
    inputs["num_samples"] = TensorSpec("num_samples", "int32", None)
    signature = Signature(
        "explain_smooth",
        inputs,
        {"saliency": TensorSpec("saliency", "float32", (None, 8, 8))},
        {"num_samples": np.array(50, np.int32)},
    )
    return Map(explanation, signature, parameters, {}, (), 1.0)


def made(name: str = "cat.jpg", look: Look | None = None, parameters=None, **connection) -> again.Lines:
    given = {"target": "localhost:8500", "model": "my model", **connection}
    source = again.Source(name, False, "crop", 10)
    return again.lines(
        connection_to(given.pop("target"), given.pop("model"), **given),
        "my model",
        source,
        one_map(**(parameters or {})),
        look or Look(),
    )


def words(text: again.Lines) -> list[str]:
    return shlex.split(text.command.replace("\\\n", " "))


def option(text: again.Lines, name: str) -> str:
    found = words(text)
    return found[found.index(name) + 1]


def test_the_version_and_the_class_that_answered_are_named():
    text = made(parameters={"num_samples": 80})
    assert (option(text, "--version"), option(text, "--class-index")) == ("7", "3")
    assert (option(text, "--num-samples"), option(text, "--model")) == ("80", "my model")
    assert "version=7" in text.python
    assert "class_index=3, num_samples=80" in text.python


def test_a_default_is_left_out():
    text = made(parameters={"num_samples": 50})
    assert "--num-samples" not in words(text)


@pytest.mark.parametrize(
    "name",
    [
        "$(touch owned).jpg",
        "; rm -rf ~.jpg",
        "'; import os; '.png",
        '"""\\.png',
        "a\nb.png",
        "\x1b]0;owned\x07.png",
        "<script>alert(1)</script>.jpg",
        "‮gpj.exe",
        "`id`.png",
        "-o.png",
        "--help",
        "中文 😀.png",
    ],
)
def test_a_hostile_name_is_an_argument_and_nothing_else(name):
    text = made(name)
    typed = words(text)[2]
    assert words(text)[:2] == ["saliency-client", "explain"]
    if name.isprintable():
        assert typed.removeprefix("./") == name
    assert typed.isprintable()
    assert not typed.startswith("-")
    assert text.command.replace("\\\n", "").isprintable()
    tree = ast.parse(text.python)
    constants = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert name in constants
    assert Path(option(text, "-o")).name == option(text, "-o")


def test_files_of_the_machine_and_secrets_are_variables_to_fill_in():
    text = made(
        target="unix:/run/user/serving.sock",
        ca=Path("/home/me/ca.pem"),
        cert=Path("/home/me/cert.pem"),
        key=Path("/home/me/key.pem"),
        token_file=Path("/home/me/token"),
        metadata=("x-key=secret",),
    )
    for shown in (text.command, text.python):
        assert "/home" not in shown
        assert "/run" not in shown
        assert "secret" not in shown
    assert set(text.fill_in) == {"SALIENCY_SERVER", "CA", "CERT", "KEY", "TOKEN_FILE", "METADATA"}
    local = made(local=Path("/home/me/models/m/7"))
    assert "/home" not in local.command + local.python
    assert set(local.fill_in) == {"VERSION_DIR"}


def test_a_token_of_the_environment_is_not_shown(monkeypatch):
    monkeypatch.setenv("SALIENCY_TOKEN", "sesame")
    text = made()
    assert "sesame" not in text.command + text.python
    assert 'token=os.environ["SALIENCY_TOKEN"]' in text.python


def test_how_it_is_drawn_is_part_of_the_command():
    look = Look("overlay", "viridis", 0.5, photo_colors=True)
    assert shlex.split("--colormap viridis --opacity 0.5 --photo-colors") == [
        word
        for word in words(made(look=look))
        if word in ("--colormap", "viridis", "--opacity", "0.5", "--photo-colors")
    ]


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("cat.jpg", "cat.jpg"),
        ("..%2F..%2Fetc%2Fpasswd", "passwd"),
        ("C%3A%5CUsers%5Cme%5Ccat.jpg", "cat.jpg"),
        ("%E4%B8%AD.png", "中.png"),
        ("", "photo.png"),
        (None, "photo.png"),
        ("..", "photo.png"),
        ("%FF%FE", "��"),
        ("a" * 500 + ".png", "a" * 196 + ".png"),
    ],
)
def test_a_files_name_is_its_last_part(header, name):
    assert file_name(header) == name
