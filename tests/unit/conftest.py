"""Unit tests run in this process.

One that starts another, binds a socket, serves or exports fails: it belongs to tests/integration.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import grpc
import pytest

STARTS = ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec")
EXPORTS = {"exported_model", "exported_version", "uncompiled_version"}
_watching = False


def _refuse(what: str) -> None:
    pytest.fail(f"{what}: such a test belongs to tests/integration", pytrace=False)


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if _watching and (event in STARTS or (event == "socket.bind" and arguments[0].family != socket.AF_UNIX)):
        _refuse(f"{event} in a unit test")


sys.addaudithook(_audit)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    global _watching
    if used := EXPORTS & set(item.fixturenames):
        _refuse(f"{min(used)} in a unit test")
    _watching = True
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    global _watching
    _watching = False
    return (yield)


@pytest.fixture(autouse=True)
def _no_server_and_no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (grpc, grpc.aio):
        monkeypatch.setattr(module, "server", lambda *_, **__: _refuse("a gRPC server in a unit test"))
    if "saliency_exporter.version.write" in sys.modules:  # not imported for the sake of this
        target = "saliency_exporter.version.write.slim"
        monkeypatch.setattr(target, lambda *_, **__: _refuse("an export in a unit test"))


@pytest.fixture
def module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[[str], str]:
    """Write a Python module into the current directory; gives its name, one of its own for every test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(source: str) -> str:
        name = "user_module_" + "".join(c if c.isalnum() else "_" for c in request.node.name)
        (tmp_path / f"{name}.py").write_text(dedent(source))
        return name

    return write


@pytest.fixture(scope="session")
def signatures_of() -> Callable[..., object]:
    """Builds the signatures of a function of tensors: `signatures_of(call, input_shape, **settings)`."""
    # Not above: tests of the client run without TensorFlow.
    from built_signatures import signatures_of

    return signatures_of
