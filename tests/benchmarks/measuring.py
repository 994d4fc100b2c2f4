"""What the benchmarks share: interleaved times, spreads, and which machine it was."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path


def interleaved(functions: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, list[float]]:
    """Milliseconds of each function, called in turn, so that a busy machine slows all alike."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repetitions):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(1e3 * (time.perf_counter() - start))
    return times


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median and quartiles; of fewer than three values, the values."""
    if len(values) < 3:
        return ", ".join(f"{value:.{digits}f}" for value in values)
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def machine() -> str:
    """Processor, number of cores, Python."""
    return f"{_cpu_name()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def versions(names: Iterable[str] = ("tensorflow", "keras", "grpcio", "protobuf", "numpy")) -> str:
    """Installed versions of packages in one line."""
    return ", ".join(f"{name} {version(name)}" for name in names)


def memory_mib(pid: int, field: str) -> float:
    """Memory of a process in MiB: VmRSS what it holds, VmHWM the most that it has held."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1]) / 1024


def forget_peak(pid: int) -> None:
    """Start VmHWM again from what the process holds now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
