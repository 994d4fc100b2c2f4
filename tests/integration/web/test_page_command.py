"""`saliency-client page` as a command: what it prints, how it ends, and what it needs."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result
from scripted_server import MODEL, LinearModel, ScriptedServer, serving

from saliency_client.cli import main


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with serving(LinearModel()) as running:
        yield running


def run(*arguments: str, patch: pytest.MonkeyPatch) -> Result:
    """The command in this process, which ends as soon as it would serve."""
    patch.setattr("uvicorn.Server.run", lambda self, sockets: None)
    return CliRunner().invoke(main, ["page", *arguments])


def test_it_serves_at_the_address_that_it_prints_until_it_is_interrupted(server):
    command = [sys.executable, "-m", "saliency_client", "page", "--server", server.target, "--model", MODEL]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        address = re.fullmatch(r"the page is at (http://127\.0\.0\.1:\d+/)\n", line)
        assert address, line
        with urllib.request.urlopen(address[1], timeout=20) as answer:
            assert MODEL in answer.read().decode()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr.read() == "Ctrl-C ends it\n"
    finally:
        process.kill()
        process.communicate()


def test_without_its_packages_it_says_how_to_install_them(monkeypatch, server):
    monkeypatch.setattr("saliency_client.cli.page.find_spec", lambda name: None)
    done = run("--server", server.target, "--model", MODEL, patch=monkeypatch)
    assert done.exit_code == 2
    assert "starlette and uvicorn" in done.output
    assert "pip install 'saliency-serving[page]'" in done.output


def test_no_other_command_imports_them():
    code = (
        "import sys; from saliency_client.cli import main, page, explain, explain_run; "
        "assert not {'starlette', 'uvicorn', 'anyio'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_address_that_others_reach_is_warned_about(monkeypatch, server):
    done = run("--server", server.target, "--model", MODEL, "--host", "0.0.0.0", patch=monkeypatch)
    assert done.exit_code == 0
    assert "warning: others can reach the page at 0.0.0.0" in done.output
    assert "warning" not in run("--server", server.target, "--model", MODEL, patch=monkeypatch).output


@pytest.mark.parametrize(
    "arguments", [("--host", "no.such.host.invalid"), ("--host", "192.0.2.1"), ("--port", "TAKEN")]
)
def test_an_address_that_cannot_be_used_is_told(monkeypatch, server, arguments):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        given = [str(taken.getsockname()[1]) if one == "TAKEN" else one for one in arguments]
        done = run("--server", server.target, "--model", MODEL, *given, patch=monkeypatch)
    assert done.exit_code == 1
    assert "the page cannot listen at" in done.output
    assert "Traceback" not in done.output


def test_without_a_server_it_is_wrong_usage(monkeypatch):
    monkeypatch.delenv("SALIENCY_SERVER", raising=False)
    done = run("--model", MODEL, patch=monkeypatch)
    assert done.exit_code == 2
    assert "no server is given" in done.output
