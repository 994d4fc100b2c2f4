"""The process that an export is verified in: a fresh one, as a server starts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from saliency_exporter.errors import ExportError

if TYPE_CHECKING:
    from saliency_exporter.version.manifest import Verification

FROM_STDIN = "-"
"""In place of VERSION_DIR: its path is a line on stdin, which is read when TensorFlow is imported."""


@contextmanager
def verifier(
    xla_cache: Path | None,
    *,
    at_once: bool,
    compiled: bool = True,
    before: Callable[[], None] = lambda: None,
) -> Iterator[Callable[[Path], Verification]]:
    """Verification in a process of its own: nothing of the export's own state helps it.

    Args:
        xla_cache: directory for compiled programs.
        at_once: start the process now: importing TensorFlow takes seconds, which another core has while the
            export traces. Else it is started when there is something to verify.
        compiled: whether XLA compiles what is verified, for the next step.
        before: called before the process writes to stderr.

    Yields:
        What checks a finished directory and returns what the manifest records of it; it raises ExportError
        where the directory fails, or the process.
    """
    command = [sys.executable, "-m", "saliency_exporter", "verify", FROM_STDIN, "--json"]
    if xla_cache is not None:
        command += ["--xla-cache", str(xla_cache)]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    processes = [start()] if at_once else []

    def verify_directory(directory: Path) -> Verification:
        before()
        if not processes:
            processes.append(start())
        (process,) = processes
        output, _ = process.communicate(f"{directory.resolve()}\n")
        return _verification(output, process.returncode, _SUSPECT if compiled else _SUSPECT_UNCOMPILED)

    try:
        yield verify_directory
    finally:
        for process in processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):
                        pipe.close()


_SUSPECT = "--compile none shows whether XLA is the reason"
_SUSPECT_UNCOMPILED = "--no-lowering shows whether it is what the exporter rewrites"


def _verification(output: str, code: int, suspect: str) -> Verification:
    """What a finished process found.

    Args:
        output: what it wrote to stdout: one JSON object.
        code: how it ended.
        suspect: the next step where it fails.

    Raises:
        ExportError: it was ended before it had found anything, or the directory fails.
    """
    import msgspec

    from saliency_exporter.version.manifest import Verification

    if code == -signal.SIGKILL:
        raise ExportError(
            "the verification was killed, most likely because the memory was too small; nothing was exported",
            hint="end what runs beside it, or give smaller --batch-sizes",
        )
    if code < 0:
        raise ExportError(
            f"the verification was ended by {signal.Signals(-code).name}; nothing was exported",
            hint=suspect,
        )
    try:
        report = json.loads(output)
    except ValueError:
        raise ExportError(f"the verification ended with exit code {code}; nothing was exported") from None
    if code != 0:
        raise ExportError(
            f"the export failed its verification: {report['problems'][0]}",
            hint=f"nothing was exported; {suspect}",
        )
    return msgspec.convert(report, Verification)
