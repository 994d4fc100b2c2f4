"""What a benchmark starts ends with it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PROGRAM = f"""
import subprocess, sys, time
sys.path.insert(0, {str(BENCHMARKS)!r})
from measuring import ending_with_this_process
child = subprocess.Popen(["sleep", "60"], preexec_fn=ending_with_this_process(lambda: None))
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own signal at a parent's end is Linux's")
def test_a_child_ends_with_a_benchmark_that_is_killed():
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as benchmark:
        child = int(benchmark.stdout.readline())
        assert is_running(child)
        benchmark.kill()
    end = time.monotonic() + 10
    while is_running(child) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_running(child)


def is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
