"""Commands in processes of their own that begin with TensorFlow imported.

Importing it takes most of the time of most commands that tests run. Here `multiprocessing`'s server of forks
imports it once, starts nothing, and forks for every command: each has a process id, streams, a folder,
variables and signals of its own, and runs as `python -m` runs it. What a new interpreter does (what it
imports, and what TensorFlow decides while it is imported) is shown by tests that start one.
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
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

MODULES = ("saliency_exporter", "saliency_client")
"""What can be run: `python -m MODULE`."""

# TensorFlow, Keras and Python read these while they start.
_READ_AT_START = ("TF_", "XLA_", "KERAS_", "CUDA_", "SALIENCY_DEBUG", "PYTHON")


class Process:
    """`python -m MODULE ARGUMENTS` as a fork, with the members of `subprocess.Popen` that tests use."""

    def __init__(self, module: str, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> None:
        forks, _ = _server()
        self.args = [sys.executable, "-m", module, *arguments]
        out, theirs_out = forks.Pipe(duplex=False)
        err, theirs_err = forks.Pipe(duplex=False)
        command = (module, list(arguments), str(cwd), dict(env), theirs_out, theirs_err)
        # A daemon is ended with the tests, as they end.
        self._process = forks.Process(target=_run_here, args=command, daemon=True)
        with theirs_out, theirs_err:
            self._process.start()
        self.stdout, self.stderr = _text(out), _text(err)
        self.pid = self._process.pid

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
    names = {name for name in (*variables, *started_with) if name.startswith(_READ_AT_START)}
    return all(variables.get(name) == started_with.get(name) for name in names)


@cache
def _server() -> tuple[multiprocessing.context.ForkServerContext, dict[str, str]]:
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


def _text(pipe: Connection) -> IO[str]:
    with pipe:
        return os.fdopen(os.dup(pipe.fileno()), encoding="utf-8")


def _run_here(
    module: str, arguments: list[str], cwd: str, env: dict[str, str], out: Connection, err: Connection
) -> None:
    """Becomes the command: what an interpreter takes from its surroundings is taken anew."""
    from tensorflow_imported import PATH

    with out, err, open(os.devnull, encoding="utf-8") as nothing:
        for number, stream in enumerate((nothing, out, err)):
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
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        # A fork ends without them.
        atexit._run_exitfuncs()
