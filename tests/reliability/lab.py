"""What the campaigns share: models, servers, memory figures, and a table that says what held.

A campaign is a module with a function `campaign(lab, *, count=…, seconds=…) -> Outcome`; its keyword
arguments become the options of the script. Everything listens on loopback and everything is bounded.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))  # the scripts run on their own, too

import numpy as np  # noqa: E402
from exports import export_classifier  # noqa: E402
from rounding import assert_same_answers  # noqa: E402
from server_process import ServerProcess  # noqa: E402

from saliency_client._proto import saliency_client_tfs_pb2 as tfs  # noqa: E402
from saliency_client._tensors import serialized  # noqa: E402

MODEL = "classifier"
METHODS = ("gradients", "guided", "smooth")
SIZE = (32, 32, 3)


def encode(array: np.ndarray) -> tfs.TensorProto:
    """The message that the client sends for an array."""
    return tfs.TensorProto.FromString(b"".join(serialized(array)))


@dataclass
class Outcome:
    """What a campaign found: facts, and bounds that held or did not."""

    name: str
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def fact(self, what: str, value: object) -> None:
        """Record a figure without a bound."""
        self.rows.append((what, str(value), ""))

    def check(self, what: str, value: object, bound: str, held: bool) -> None:
        """Record a figure that has a bound."""
        self.rows.append((what, str(value), bound if held else f"{bound}: VIOLATED"))
        if not held:
            self.violations.append(f"{self.name}: {what} is {value}, and the bound is: {bound}")

    def table(self) -> str:
        """The rows as a Markdown table."""
        rows = [(self.name, "figure", "bound"), *self.rows]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows
        ]
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        return "\n".join(lines)


class Lab:
    """Models on disk, exported when first wanted.

    Args:
        directory: where exports go, and stay.
        uncompiled: a version directory made with --compile none, if there is one already.
        compiled: a version directory compiled for batch sizes 1 and 4, if there is one already.
    """

    def __init__(self, directory: Path, uncompiled: Path | None = None, compiled: Path | None = None) -> None:
        self.directory = directory
        if uncompiled is not None:
            self.uncompiled = uncompiled
        if compiled is not None:
            self.compiled = compiled

    @cached_property
    def uncompiled(self) -> Path:
        """The small classifier, exported with --compile none."""
        return self._export("uncompiled", "--compile", "none", "--no-verify")

    @cached_property
    def compiled(self) -> Path:
        """The small classifier, compiled by XLA for batch sizes 1 and 4."""
        return self._export("compiled", "--xla-cache", str(self.xla_cache))

    @cached_property
    def other(self) -> Path:
        """The same architecture with other weights, not compiled."""
        return self._export("other", "--compile", "none", "--no-verify", model="models:other_classifier")

    @property
    def xla_cache(self) -> Path:
        """Compiled programs, kept between campaigns."""
        return self.directory / "xla-cache"

    @contextlib.contextmanager
    def server(self, version: Path, *options: str | Path) -> Iterator[ServerProcess]:
        """A server of one model base path, as a process; killed at the end if it still runs."""
        process = ServerProcess(f"{MODEL}={version.parent}", "--no-warmup", *options)
        try:
            process.wait_for("^listening on", 300)
            yield process
        finally:
            process.process.kill()
            process.process.wait(10)
            process.process.stderr.close()

    def _export(self, name: str, *options: str, model: str = "models:classifier") -> Path:
        version = self.directory / name / "1"
        if not version.is_dir():
            print(f"exporting the {name} model …", file=sys.stderr, flush=True)
            export_classifier(version.parent, *options, model=model)
        return version


def images(count: int, seed: int = 0) -> np.ndarray:
    """Pictures of noise, uint8 [count, 32, 32, 3]; the same for the same seed."""
    return np.random.default_rng(seed).integers(0, 256, (count, *SIZE), dtype=np.uint8)


def resident_mib(pid: int | None = None) -> float:
    """Resident memory of a process, MiB."""
    status = Path(f"/proc/{pid or os.getpid()}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def open_files(pid: int | None = None) -> int:
    """How many files and sockets a process holds."""
    return len(os.listdir(f"/proc/{pid or os.getpid()}/fd"))


def threads(pid: int | None = None) -> int:
    """How many threads a process has, native ones included."""
    return len(os.listdir(f"/proc/{pid or os.getpid()}/task"))


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """Whether two answers are equal: to float32 rounding their floats, else altogether."""
    try:
        assert_same_answers(one, other)
    except AssertionError:
        return False
    return True


def percentiles(seconds: list[float]) -> str:
    """The median, the 95th and 99th percentile and the maximum of some times, in milliseconds."""
    if not seconds:
        return "none"
    middle, high, higher = np.percentile(seconds, [50, 95, 99]) * 1000
    return f"{middle:.1f} / {high:.1f} / {higher:.1f} / {max(seconds) * 1000:.1f} ms"


def main(campaign: Callable[..., Outcome]) -> None:
    """Run one campaign as a script: its options from the command line, its table to stdout."""
    parser = argparse.ArgumentParser(description=inspect.getdoc(inspect.getmodule(campaign)))
    for name, parameter in list(inspect.signature(campaign).parameters.items())[1:]:
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=type(parameter.default), default=parameter.default)
    parser.add_argument("--models", type=Path, help="where exported models are kept [default: nowhere]")
    parser.add_argument("--json", type=Path, help="write the outcome here, too")
    options: dict[str, Any] = vars(parser.parse_args())
    record, models = options.pop("json"), options.pop("models")
    with tempfile.TemporaryDirectory() as scratch:
        started = time.monotonic()
        outcome = campaign(Lab(models or Path(scratch)), **options)
        load = f"load of the machine in the last 5 minutes {os.getloadavg()[1]:.1f}"
        outcome.fact("took", f"{time.monotonic() - started:.0f} s, {load}")
    print(outcome.table(), flush=True)
    if record is not None:
        record.write_text(json.dumps(vars(outcome)))
    sys.exit("\n".join(outcome.violations) or 0)
