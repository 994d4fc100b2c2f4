"""The local server as a process that tests start, watch and stop."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import preloaded

START_SECONDS = 60


class ServerProcess:
    """`saliency-exporter serve` on a free port.

    Attributes:
        forked: whether it may begin with TensorFlow imported (tests/preloaded.py).
    """

    forked = False

    def __init__(self, *arguments: str | Path, env: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "saliency_exporter", "serve", *map(str, arguments)]
        if "--port" not in arguments:
            command += ["--port", "0"]
        variables = {**os.environ, **(env or {})}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = (
            preloaded.start(command, env=variables)
            if self.forked
            else subprocess.Popen(command, env=variables, **streams)
        )
        self.lines: list[str] = []
        self._arrived = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def wait_for(self, pattern: str, seconds: float = START_SECONDS) -> re.Match[str]:
        """The first line of stdout that matches; fails when the process ends without one."""
        deadline = time.monotonic() + seconds
        with self._arrived:
            while True:
                for line in self.lines:
                    if match := re.search(pattern, line):
                        return match
                if self.lines[-1:] == [""] or time.monotonic() > deadline:
                    raise AssertionError(f"no line matches {pattern!r} in {self.lines}")
                self._arrived.wait(1)

    @property
    def target(self) -> str:
        return self.wait_for(r"^listening on (\S+)")[1]

    @property
    def rest_url(self) -> str:
        return self.wait_for(r"^REST on (\S+)/v1/models$")[1]

    def stop(self, signal_number: int = signal.SIGTERM, seconds: float = 30) -> tuple[int, str]:
        """Sends the signal; returns the exit code and what was written to stderr."""
        self.process.send_signal(signal_number)
        return self.process.wait(seconds), self.process.stderr.read()

    def _read(self) -> None:
        for line in self.process.stdout:
            with self._arrived:
                self.lines.append(line.rstrip("\n"))
                self._arrived.notify_all()
        with self._arrived:
            self.lines.append("")
            self._arrived.notify_all()
