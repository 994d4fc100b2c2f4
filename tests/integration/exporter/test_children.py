from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import until

from saliency_exporter.children import Children, Interrupted

SLEEPER = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
# Ignores what asks it to end, and starts a child of its own before it says that it runs.
STUBBORN = """
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(60)
"""


def runs(pid: int) -> bool:
    """Whether a process exists and is not merely waiting to be collected."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def written(path: Path) -> Callable[[], bool]:
    return lambda: path.exists() and path.read_text() != ""


_started: list[subprocess.Popen] = []


def _start_and(action: Callable[[Children], object]) -> None:
    with Children() as children:
        _started.append(children.start(SLEEPER))
        action(children)


def test_a_command_is_run_to_its_end() -> None:
    with Children() as children:
        done = children.run(
            [sys.executable, "-S", "-c", "print('out'); raise SystemExit(3)"], stdout=subprocess.PIPE
        )
    assert (done.returncode, done.stdout) == (3, "out\n")


def test_no_child_is_left_when_the_block_ends() -> None:
    with Children() as children:
        process = children.start(SLEEPER)
        assert runs(process.pid)
    assert not runs(process.pid)
    assert process.returncode == -signal.SIGTERM


def test_no_child_is_left_after_an_exception() -> None:
    with pytest.raises(ZeroDivisionError):
        _start_and(lambda children: 1 / 0)
    assert not runs(_started[-1].pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_block_and_the_children(number: signal.Signals) -> None:
    # What starts the tests may have it ignored, as nohup does with SIGHUP.
    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(Interrupted) as interrupted:
            _start_and(lambda children: (os.kill(os.getpid(), number), children.run(SLEEPER)))
        assert interrupted.value.signal_number == number
        assert not runs(_started[-1].pid)
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)


def test_a_command_that_is_waited_for_is_ended_by_a_signal(tmp_path: Path) -> None:
    grandchild = tmp_path / "pid"
    threading.Thread(
        target=lambda: (until(written(grandchild)), os.kill(os.getpid(), signal.SIGTERM)), daemon=True
    ).start()
    command = [sys.executable, "-c", STUBBORN, str(grandchild)]
    with Children() as children, pytest.raises(Interrupted):
        children.run(command, stdout=subprocess.PIPE, grace=0.2)
    until(lambda: not runs(int(grandchild.read_text())))


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Children() as children:
            os.kill(os.getpid(), signal.SIGHUP)
            children.check()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_child_gets_the_signal_that_it_was_started_for() -> None:
    with Children() as children:
        process = children.start(SLEEPER, stop_signal=signal.SIGINT)
    assert process.returncode == -signal.SIGINT


def test_a_child_that_does_not_end_is_killed_with_its_own_children(tmp_path: Path) -> None:
    grandchild = tmp_path / "pid"
    with Children() as children:
        process = children.start([sys.executable, "-c", STUBBORN, str(grandchild)], grace=0.2)
        until(written(grandchild))
    assert process.returncode == -signal.SIGKILL
    until(lambda: not runs(int(grandchild.read_text())))


def test_what_a_finished_command_left_is_killed(tmp_path: Path) -> None:
    left = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL).pid)"
    with Children() as children:
        done = children.run([sys.executable, "-c", left, *SLEEPER], stdout=subprocess.PIPE)
        until(lambda: not runs(int(done.stdout)))


def test_a_signal_that_comes_while_a_child_is_started_does_not_lose_it(monkeypatch) -> None:
    started: list[subprocess.Popen] = []

    class Interrupting(subprocess.Popen):
        def __init__(self, *arguments, **options) -> None:
            super().__init__(*arguments, **options)
            started.append(self)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupting)
    with pytest.raises(Interrupted), Children() as children:
        children.start(SLEEPER)
    assert not runs(started[0].pid)


def test_a_second_signal_does_not_stop_the_ending(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = f"""
import sys, time
from pathlib import Path
from saliency_exporter.children import Children
with Children() as children:
    slow = children.start([sys.executable, "-c", {STUBBORN!r}, {str(tmp_path / "grandchild")!r}], grace=1.0)
    other = children.start({SLEEPER!r})
    while not Path({str(tmp_path / "grandchild")!r}).exists():
        time.sleep(0.01)
    open({str(pids)!r}, "w").write(f"{{slow.pid}} {{other.pid}}")
    children.run({SLEEPER!r})
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    try:
        until(written(pids))
        left = [int(pid) for pid in pids.read_text().split()]
        parent.send_signal(signal.SIGINT)
        until(lambda: not runs(left[1]))
        parent.send_signal(signal.SIGINT)
        assert b"Interrupted: SIGINT" in parent.communicate(timeout=30)[1]
    finally:
        parent.kill()
    assert not any(runs(pid) for pid in left)
    until(lambda: not runs(int((tmp_path / "grandchild").read_text())))
