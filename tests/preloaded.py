"""Commands in processes of their own that begin with TensorFlow imported.

Importing it takes most of the time of most commands that tests run. Here one process imports it, starts
nothing, and forks for every command: each has a process id, streams, a folder, variables and signals of its
own, runs as `python -m` runs it, and ends as an interpreter ends. What a new interpreter does (what it
imports, and what TensorFlow decides while it is imported) is shown by tests that start one.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

MODULES = ("saliency_exporter", "saliency_exporter.serving", "saliency_client")
"""What can be run: `python -m MODULE`."""

# TensorFlow reads these while it is imported.
_DECIDED_AT_IMPORT = ("TF_", "XLA_", "KERAS_", "CUDA_", "SALIENCY_DEBUG", "PYTHON")


class Process:
    """`python -m MODULE ARGUMENTS` as a fork, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, module: str, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> None:
        out, theirs_out = os.pipe()
        err, theirs_err = os.pipe()
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._connection.connect(_address())
        asked = {"module": module, "arguments": list(arguments), "cwd": str(cwd), "env": dict(env)}
        message = json.dumps(asked).encode()
        socket.send_fds(self._connection, [len(message).to_bytes(8, "big")], [theirs_out, theirs_err])
        self._connection.sendall(message)
        os.close(theirs_out)
        os.close(theirs_err)
        self.args = [sys.executable, "-m", module, *arguments]
        self.stdout: IO[str] = os.fdopen(out, encoding="utf-8")
        self.stderr: IO[str] = os.fdopen(err, encoding="utf-8")
        self._answers = self._connection.makefile("rb")
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        if self._ended(timeout) is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that it writes, and its end."""
        written: dict[str, str] = {}
        readers = [
            threading.Thread(target=lambda name, stream: written.update({name: stream.read()}), args=pair)
            for pair in (("out", self.stdout), ("err", self.stderr))
        ]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
        return written["out"], written["err"]

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._connection], [], [], timeout)[0]:
            self.returncode = int(self._answers.readline())
            self._answers.close()
            self._connection.close()
        return self.returncode


def start(
    command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Process | subprocess.Popen[str]:
    """Starts [sys.executable, "-m", MODULE, …], its output in pipes of text; a fork wherever one will do."""
    variables = dict(os.environ if env is None else env)
    if _is_forked(command, variables):
        return Process(command[2], command[3:], cwd=Path(cwd or Path.cwd()), env=variables)
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=cwd, env=variables, **streams)


def run(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 240,
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, as `start` does."""
    process = start(command, cwd=cwd, env=env)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    for stream in (process.stdout, process.stderr):
        stream.close()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _is_forked(command: Sequence[str], variables: Mapping[str, str]) -> bool:
    if sys.platform != "linux" or list(command[:2]) != [sys.executable, "-m"] or command[2] not in MODULES:
        return False
    names = {name for name in (*variables, *_started_with()) if name.startswith(_DECIDED_AT_IMPORT)}
    return all(variables.get(name) == _started_with().get(name) for name in names - {"PYTHONPATH"})


# --- the process that forks --------------------------------------------------------------------------------

_server: tuple[subprocess.Popen[bytes], str, dict[str, str]] | None = None


def _running() -> tuple[subprocess.Popen[bytes], str, dict[str, str]]:
    """The process that forks, started when it is first needed; it ends with this process."""
    global _server
    if _server is None:
        address = str(Path(tempfile.mkdtemp(prefix="forks-")) / "socket")
        variables = dict(os.environ)
        process = subprocess.Popen(
            [sys.executable, __file__, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables
        )
        assert process.stdout.readline() == b"ready\n"
        _server = (process, address, variables)
    return _server


def _address() -> str:
    return _running()[1]


def _started_with() -> dict[str, str]:
    return _running()[2]


def _serve(address: str) -> dict[str, Any]:
    """Forks for whoever connects; returns what is asked in the child, and never in the parent."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(address)
    listener.listen(64)
    woken, wake = os.pipe()
    for descriptor in (woken, wake):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    running: dict[int, socket.socket] = {}
    print("ready", flush=True)
    while True:
        connections = list(running.values())
        readable, _, _ = select.select([listener, woken, sys.stdin, *connections], [], [])
        if sys.stdin in readable:
            break
        if woken in readable:
            os.read(woken, 4096)
            while running and (found := os.waitpid(-1, os.WNOHANG))[0]:
                connection = running.pop(found[0])
                _tell(connection, os.waitstatus_to_exitcode(found[1]))
                connection.close()
        for pid, connection in running.items():
            if connection in readable:  # nobody writes to it: who asked has gone
                os.kill(pid, signal.SIGKILL)
        if listener in readable:
            connection, _ = listener.accept()
            length, streams, _, _ = socket.recv_fds(connection, 8, 2)
            asked = json.loads(_received(connection, int.from_bytes(length, "big")))
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                for other in (listener, connection, *connections):
                    other.close()
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                for number, stream in enumerate(streams, 1):
                    os.dup2(stream, number)
                for descriptor in (woken, wake, *streams):
                    os.close(descriptor)
                return asked
            for stream in streams:
                os.close(stream)
            running[pid] = connection
            _tell(connection, pid)
    for pid in running:
        os.kill(pid, signal.SIGKILL)
    os._exit(0)


def _received(connection: socket.socket, length: int) -> bytes:
    parts = b""
    while len(parts) < length:
        parts += connection.recv(length - len(parts))
    return parts


def _tell(connection: socket.socket, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):
        connection.sendall(f"{number}\n".encode())


def _main(address: str) -> None:
    from saliency_exporter.quiet import import_tensorflow

    import_tensorflow()
    import keras  # noqa: F401
    from tensorflow.python.eager import context

    import saliency_client.cli  # noqa: F401
    import saliency_exporter.cli
    import saliency_exporter.saved_model
    import saliency_exporter.serving.server
    import saliency_exporter.sources
    import saliency_exporter.verify  # noqa: F401

    # Threads of TensorFlow's would not be in a fork.
    assert context.context()._context_handle is None, "TensorFlow has been started, not only imported"
    asked = _serve(address)
    # What the interpreter found out about its streams at its start was of others.
    sys.stdin = sys.__stdin__ = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(
        2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False
    )
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    sys.path[0] = asked["cwd"]
    sys.argv = [asked["module"], *asked["arguments"]]
    import runpy

    runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main(sys.argv[1])
