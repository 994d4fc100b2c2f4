"""Every command that the documentation shows runs as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import click
import pyarrow
import pyarrow.parquet
import pytest
from cli_harness import Cli, known_model
from PIL import Image
from scripted_server import ScriptedServer

from saliency_client.cli import main

PAGE = Path(__file__).parents[3] / "client" / "CLI.md"
BULK = PAGE.with_name("BULK.md")
NAMES = ("Egyptian cat", "tabby", "tiger cat", "lynx")
OF_THE_SHELL = set("|&;<>$`~*?()#\\")
"""A command without any of these is words and quotes alone, which `shlex` reads as a shell does."""


def commands_of_page() -> list[str]:
    text = PAGE.read_text() + BULK.read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if "saliency-client " in line]


def commands_of_help() -> list[str]:
    context = click.Context(main)
    texts = [main.help or ""]
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        texts.append(command.help or "")
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return [line for line in lines if re.match(r"(cat \S+ \| )?saliency-client ", line)]


@pytest.fixture
def folder(tmp_path: Path, uncompiled_version: Path) -> Path:
    """What the commands speak of."""
    Image.new("RGB", (60, 40), (10, 20, 250)).save(tmp_path / "cat.jpg")
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for name in ("photos/a.jpg", "photos/more/b.png"):
        Image.new("RGB", (30, 30), "blue").save(tmp_path / name)
    (tmp_path / "names.txt").write_text("cat.jpg\n")
    (tmp_path / "bucket" / "photos").mkdir(parents=True)
    Image.new("RGB", (30, 30), "red").save(tmp_path / "bucket" / "photos" / "a.jpg")
    with tarfile.open(tmp_path / "bucket" / "train-0.tar", "w") as tar:
        tar.add(tmp_path / "cat.jpg", "cat.jpg")
    encoded = [(tmp_path / "cat.jpg").read_bytes()]
    pyarrow.parquet.write_table(pyarrow.table({"image": encoded, "id": ["n1"]}), tmp_path / "data.parquet")
    (tmp_path / "models" / "efficientnet-lite0").mkdir(parents=True)
    (tmp_path / "models" / "efficientnet-lite0" / "1").symlink_to(uncompiled_version)
    for path in (".local/share/bash-completion/completions", ".zfunc", ".config/fish/completions"):
        (tmp_path / path).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("command", dict.fromkeys(commands_of_page() + commands_of_help()))
def test_a_documented_command_runs(
    command: str,
    folder: Path,
    server: ScriptedServer,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The page would serve until somebody interrupts it.
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: None)
    server.model = known_model()
    server.model.names = NAMES
    server.model.shares = True
    server.model.sampled = True
    here = command.replace("localhost:8500", server.target).replace(
        "--model efficientnet-lite0", "--model linear"
    )
    # A method of that kind is served here under a name that no client knows.
    here = here.replace("--method integrated_gradients", "--method shares")
    # It takes as long as it is told, and a moment shows that it runs.
    here = here.replace("--duration 2", "--duration 0.3")
    # A bucket is a folder here; tests/integration/client/test_bulk_storage.py has a store.
    here = here.replace("s3://bucket", "bucket").replace("--metrics 9100", "--metrics 0")
    run = in_a_shell if set(here) & OF_THE_SHELL else in_this_process
    code, err = run(here, folder, {**environment, "HOME": str(folder)})
    assert code == 0, err
    assert "error:" not in err


def in_a_shell(line: str, folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    scripts = str(Path(sys.executable).parent)
    done = subprocess.run(
        ["sh", "-e", "-c", line],
        cwd=folder,
        env={**os.environ, **environment, "PATH": f"{scripts}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stderr


def in_this_process(line: str, folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    program, *arguments = shlex.split(line)
    assert program == "saliency-client"
    run = Cli(folder, environment)(*arguments)
    return run.code, run.err


def test_there_are_commands_to_test() -> None:
    assert len(commands_of_page()) >= 15
    assert len(commands_of_help()) >= 15


@pytest.mark.parametrize("command", main.list_commands(click.Context(main)))
def test_every_option_has_help_and_every_command_shows_how_it_is_used(command: str) -> None:
    found = main.get_command(click.Context(main), command)
    assert found is not None
    for parameter in found.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
    assert f"saliency-client {command}" in (found.help or "")


def test_the_page_lists_the_fields_of_a_json_line(cli: Cli, photo: Path) -> None:
    record = cli("explain", photo, "--json").record
    table = PAGE.read_text().split("| field | type | meaning |")[1].split("\n\n")[0]
    listed = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert listed == set(record)
