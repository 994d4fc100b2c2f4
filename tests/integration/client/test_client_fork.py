"""Clients and fork(), each case in a process of its own against a server on a real socket."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from scripted_server import MODEL, ScriptedServer

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork() here")

METHODS = "('gradients', 'smooth')"


def run_and_fork(
    server: ScriptedServer, before: str, in_child: str, environment: dict[str, str] | None = None
) -> str:
    """What the child process prints; the parent then checks that its own client still works."""
    code = f"""
import os
from saliency_client import ClientClosed, SaliencyClient
make = lambda: SaliencyClient({server.target!r}, model={MODEL!r}, timeout=10)
client = make()
{before}
child = os.fork()
if child == 0:
    try:
        print({in_child}, flush=True)
    except ClientClosed as error:
        print(error, error.hint, flush=True)
    os._exit(0)
os.waitpid(child, 0)
assert str(make().methods()) == {METHODS!r}
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("client", ["client", "make()"], ids=["its parent's client", "a new client"])
@pytest.mark.parametrize(
    "before", ["client.methods()", "client.methods(); client.close()"], ids=["open", "closed"]
)
def test_a_child_whose_parent_had_connected_is_told_so_instead_of_hanging(server, before, client):
    said = run_and_fork(server, before, f"{client}.status()")

    if "close" in before and client == "client":
        assert said.startswith("this client is closed")
    else:
        assert said.startswith("a client connected before fork(), and gRPC may hang")
        assert "GRPC_ENABLE_FORK_SUPPORT=1" in said


def test_a_client_made_before_fork_and_first_used_after_it_works(server):
    assert run_and_fork(server, "", "client.methods()") == METHODS


@pytest.mark.parametrize("client", ["client", "make()"], ids=["its parent's client", "a new client"])
def test_with_grpcs_fork_support_a_child_connects_anew(server, client):
    calls = f"(client := {client}).status()[0].available and client.methods()"
    said = run_and_fork(server, "client.methods()", calls, {"GRPC_ENABLE_FORK_SUPPORT": "1"})

    assert said == METHODS
