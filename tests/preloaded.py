"""Commands in processes of their own that begin with TensorFlow imported.

Importing it takes most of the time of most commands that tests run. Here `multiprocessing`'s server of forks
imports it once, starts nothing, and forks for every command: each has a process id, streams, a folder,
variables and signals of its own, and runs as `python -m` runs it. So does the verification that an export
starts. What a new interpreter does (what it imports, and what TensorFlow decides while it is imported) is
shown by tests that start one.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import SimpleNamespace
from typing import IO

MODULES = ("saliency_exporter", "saliency_client")
"""What can be run: `python -m MODULE`."""

READ_AT_START = ("TF_", "XLA_", "KERAS_", "CUDA_", "SALIENCY_DEBUG", "PYTHON")
"""What names of variables begin with that TensorFlow, Keras and Python read while they start."""


class Process:
    """`python -m MODULE ARGUMENTS` as a fork, with the members of `subprocess.Popen` that tests use."""

    def __init__(self, module: str, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> None:
        self.args = [sys.executable, "-m", module, *arguments]
        forks = multiprocessing.get_context("forkserver")
        given, err = self._given(forks), self._said(forks)
        out = forks.Pipe(duplex=False)
        theirs = (given[0], out[1], err[1])
        command = (module, list(arguments), str(cwd), dict(env), *theirs)
        # A daemon is ended with the tests, as they end.
        self._process = forks.Process(target=_run_here, args=command, daemon=True)
        with ExitStack() as stack:
            for pipe in theirs:
                stack.enter_context(pipe)
            self._process.start()
        self.stdin = given[1] and _text(given[1], "w")
        self.stdout, self.stderr = _text(out[0]), err[0] and _text(err[0])
        self.pid = self._process.pid

    def _given(self, forks: ForkServerContext) -> tuple[Connection, Connection | None]:
        """Its stdin, of which it reads one end: here there is nothing to read."""
        return Connection(os.open(os.devnull, os.O_RDONLY), writable=False), None

    def _said(self, forks: ForkServerContext) -> tuple[Connection | None, Connection]:
        """Its stderr, of which it writes the other end."""
        return forks.Pipe(duplex=False)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, given: str = "", timeout: float | None = None) -> tuple[str, str]:
        """All that it writes, and its end."""
        written = {"err": ""}
        readers = [
            threading.Thread(target=lambda name, stream: written.update({name: stream.read()}), args=pair)
            for pair in (("out", self.stdout), ("err", self.stderr))
            if pair[1] is not None
        ]
        for reader in readers:
            reader.start()
        if self.stdin is not None:
            with suppress(BrokenPipeError), self.stdin:
                self.stdin.write(given)
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
        return written["out"], written["err"]


class _Verification(Process):
    """What an export that is a fork is verified by: a fork beside it, which writes to the same stderr."""

    def __init__(self, command: Sequence[str], **_: object) -> None:
        # A fork looks for this module, which the command itself shall not see.
        sys.path.append(str(Path(__file__).parent))
        try:
            super().__init__(command[2], command[3:], cwd=Path.cwd(), env=_started_with)
        finally:
            sys.path.pop()

    def _given(self, forks: ForkServerContext) -> tuple[Connection, Connection]:
        return forks.Pipe(duplex=False)

    def _said(self, forks: ForkServerContext) -> tuple[None, Connection]:
        return None, Connection(os.dup(2), readable=False)


_started_with: dict[str, str] = {}
"""The variables that a fork was started with, before anything changed them for TensorFlow."""


def start(
    command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Process | subprocess.Popen[str]:
    """Starts [sys.executable, "-m", MODULE, …], its output in pipes of text; a fork wherever one will do."""
    variables = dict(os.environ if env is None else env)
    if _can_be_a_fork(command, variables):
        return Process(command[2], command[3:], cwd=Path(cwd or Path.cwd()), env=variables)
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=cwd, env=variables, stdout=pipe, stderr=pipe, text=True)


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


def _can_be_a_fork(command: Sequence[str], variables: Mapping[str, str]) -> bool:
    if sys.platform != "linux" or list(command[:2]) != [sys.executable, "-m"] or command[2] not in MODULES:
        return False
    _, started_with = _server()
    names = {name for name in (*variables, *started_with) if name.startswith(READ_AT_START)}
    return all(variables.get(name) == started_with.get(name) for name in names)


@cache
def _server() -> tuple[ForkServerContext, dict[str, str]]:
    """What forks, started where it is first asked for, and the variables that it was started with."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["tensorflow_imported"])
    variables = dict(os.environ)
    # It looks for what it shall import where a new interpreter looks, and nowhere else.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parent), before)))
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(variables)
    return forks, variables


def _text(pipe: Connection, mode: str = "r") -> IO[str]:
    with pipe:
        return os.fdopen(os.dup(pipe.fileno()), mode, encoding="utf-8")


def _run_here(
    module: str,
    arguments: list[str],
    cwd: str,
    env: dict[str, str],
    given: Connection,
    out: Connection,
    err: Connection,
) -> None:
    """Becomes the command: what an interpreter takes from its surroundings is taken anew."""
    from tensorflow_imported import PATH

    with given, out, err:
        for number, stream in enumerate((given, out, err)):
            os.dup2(stream.fileno(), number)
    sys.stdin = sys.__stdin__ = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(
        2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False
    )
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[:] = [cwd, *(entry for entry in PATH[1:] if entry != str(Path(__file__).parent))]
    sys.argv = [module, *arguments]
    _verify_in_forks(env)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        # A fork ends without them.
        atexit._run_exitfuncs()


def _verify_in_forks(env: Mapping[str, str]) -> None:
    """Lets this fork, which may be an export, start its verification as a fork of the same server."""
    from saliency_exporter.cli import verifier

    _started_with.update(env)
    forkserver._forkserver.ensure_running = lambda: None  # this is one of its forks
    multiprocessing.current_process()._config["daemon"] = False  # which has no children
    verifier.subprocess = SimpleNamespace(Popen=_Verification, PIPE=subprocess.PIPE)
