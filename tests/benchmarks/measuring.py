"""What the benchmarks share: interleaved times, spreads, and which machine it was."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
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
    """Processor, its instruction sets, number of cores, Python."""
    sets = "/".join(_instruction_sets()) or "no AVX2"
    return f"{_cpu_name()} ({sets}), {os.cpu_count()} cores, Python {platform.python_version()}"


def kernels_text(kernels: str) -> str:
    """Whose kernels run what is not compiled, in words."""
    return {"onednn": "oneDNN's kernels on", "eigen": "oneDNN's kernels off (Eigen's run)"}[kernels]


def versions(names: Iterable[str] = ("tensorflow", "keras", "grpcio", "protobuf", "numpy")) -> str:
    """Installed versions of packages in one line."""
    return ", ".join(f"{name} {version(name)}" for name in names)


def ending_with_this_process(also: Callable[[], None] | None = None) -> Callable[[], None]:
    """A `preexec_fn` of a child that ends when this process does, killed or not (Linux).

    Args:
        also: what else the child does before it begins.
    """
    prctl, parent = ctypes.CDLL(None, use_errno=True).prctl, os.getpid()

    def begin() -> None:
        if also is not None:
            also()
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        # It may have ended before that.
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)

    return begin


def memory_mib(pid: int, field: str) -> float:
    """Memory of a process in MiB: VmRSS what it holds, VmHWM the most that it has held."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1]) / 1024


def forget_peak(pid: int) -> None:
    """Start VmHWM again from what the process holds now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_INSTRUCTION_SETS = {
    "avx2": "AVX2",
    "avx_vnni": "AVX-VNNI",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "amx_tile": "AMX",
}
"""What kernels are chosen by, as /proc/cpuinfo names it and as people do."""


def _instruction_sets() -> list[str]:
    flags = _cpu_info("flags").split()
    return [name for flag, name in _INSTRUCTION_SETS.items() if flag in flags]


def _cpu_name() -> str:
    return _cpu_info("model name") or platform.processor()


def _cpu_info(field: str) -> str:
    """A field of the first processor in /proc/cpuinfo, "" where there is none."""
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.startswith(field):
            return line.split(":", 1)[1].strip()
    return ""
