"""Clients and fork(), each case in a process of its own against a server on a real socket."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from scripted_server import MODEL, ScriptedServer

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork() here")

METHODS = "('gradients', 'smooth')"
CRASHED = 77


def run_and_fork(
    server: ScriptedServer,
    before: str,
    in_child: str,
    environment: dict[str, str] | None = None,
    *,
    crashes: bool = False,
) -> str:
    """What the child process prints; the parent then checks that its own client still works.

    `input()` in `before` returns when a call has reached the server. `crashes`: gRPC's own threads may crash
    the child at any moment (`_forks.py`); then another child is asked.
    """
    code = f"""
import os, sys
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
_, status = os.waitpid(child, 0)
assert str(make().methods()) == {METHODS!r}
sys.exit({CRASHED} if os.WIFSIGNALED(status) else status)
"""
    for _ in range(10 if crashes else 1):
        output, errors, status = _run(server, code, environment or {})
        if status != CRASHED:
            break
    assert status == 0, errors
    return output.strip()


def _run(server: ScriptedServer, code: str, environment: dict[str, str]) -> tuple[str, str, int]:
    pipe = subprocess.PIPE
    # Calls are told by their arrival: a call of a process that crashed may still be counted as running.
    arrived = len(server.requests)
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
    ) as process:
        try:
            if "input()" in code:
                until = time.monotonic() + 30
                while len(server.requests) == arrived and process.poll() is None and time.monotonic() < until:
                    time.sleep(0.005)
            output, errors = process.communicate("\n", timeout=30)
        finally:
            process.kill()
    return output, errors, process.returncode


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


BUSY = """
import asyncio, threading
from contextlib import suppress
from saliency_client import AsyncSaliencyClient
import numpy as np
image = np.zeros((6, 5, 3), np.uint8)
def calls():
    with suppress(Exception):
        {call}
client.methods()
thread = threading.Thread(target=calls, daemon=True)
thread.start()
"""
CALLS = {
    "explain": "client.explain(image)",
    "intercepted": "SaliencyClient(TARGET, model=MODEL, interceptors=[Nothing()]).explain(image)",
    "explain_many": "list(client.explain_many([image]))",
    "asyncio": "asyncio.run(AsyncSaliencyClient(TARGET, model=MODEL).explain(image))",
}
NOTHING = """
import grpc
class Nothing(grpc.UnaryUnaryClientInterceptor):
    def intercept_unary_unary(self, continuation, details, request):
        return continuation(details, request)
"""


@pytest.mark.parametrize(
    ("call", "client"), [*((call, "client") for call in CALLS), ("explain", "make()"), ("asyncio", "make()")]
)
def test_a_child_that_is_forked_while_a_call_is_under_way_is_told_so(server, call, client):
    server.script.extend([server.wait_for_the_client_to_leave] * 10)
    before = (
        f"TARGET, MODEL = {server.target!r}, {MODEL!r}\n{NOTHING}\n{BUSY.format(call=CALLS[call])}\ninput()"
    )
    said = run_and_fork(
        server,
        before,
        f"{client}.status()",
        {"GRPC_ENABLE_FORK_SUPPORT": "1"},
        crashes=call == "asyncio",
    )

    assert said.startswith("the process was forked while a call was under way")
    assert "fork when no call is under way" in said


OPEN = """
import asyncio, threading
from saliency_client import AsyncSaliencyClient
async def hold():
    held = AsyncSaliencyClient({target!r}, model={model!r})
    await held.methods()
    {then}
    ready.set()
    await asyncio.sleep(60)
ready = threading.Event()
client.methods()
threading.Thread(target=lambda: asyncio.run(hold()), daemon=True).start()
ready.wait()
"""


@pytest.mark.parametrize("client", ["client", "make()"], ids=["its parent's client", "a new client"])
def test_a_child_that_is_forked_while_an_asyncio_client_is_open_is_told_so(server, client):
    before = OPEN.format(target=server.target, model=MODEL, then="pass")
    said = run_and_fork(server, before, f"{client}.status()", {"GRPC_ENABLE_FORK_SUPPORT": "1"}, crashes=True)

    assert said.startswith("the process was forked while an asyncio client was open")
    assert "asyncio clients are closed" in said


def test_a_child_that_is_forked_after_the_asyncio_client_was_closed_connects_anew(server):
    before = OPEN.format(target=server.target, model=MODEL, then="await held.close()")
    calls = f"asyncio.run(AsyncSaliencyClient({server.target!r}, model={MODEL!r}).methods())"

    assert run_and_fork(server, before, calls, {"GRPC_ENABLE_FORK_SUPPORT": "1"}) == METHODS


def test_a_child_that_is_forked_after_the_calls_connects_anew(server):
    before = BUSY.format(call="client.explain(image)") + "thread.join()"
    calls = "client.explain(image).saliency.shape"

    assert run_and_fork(server, before, calls, {"GRPC_ENABLE_FORK_SUPPORT": "1"}) == "(1, 6, 5)"


def test_fork_support_that_is_asked_for_too_late_is_none(server):
    """gRPC reads the variable when it is imported; in a child, to believe it later might hang."""
    before = "client.methods(); os.environ['GRPC_ENABLE_FORK_SUPPORT'] = '1'"

    said = run_and_fork(server, before, "make().methods()", {"GRPC_ENABLE_FORK_SUPPORT": ""})

    assert said.startswith("a client connected before fork(), and gRPC may hang")
