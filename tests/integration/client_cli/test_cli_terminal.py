"""People at a terminal get colors and progress; pipes get plain lines; an interrupt leaves nothing."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from cli_harness import Cli
from covering import covering
from PIL import Image
from scripted_server import ScriptedServer

from saliency_client.cli import main

SECONDS = 60


def on_terminal(
    command: list[str],
    folder: Path,
    environment: dict[str, str],
    columns: int = 100,
    watch: Callable[[str], None] = lambda written: None,
) -> tuple[int, str]:
    """Run a command on a pseudo-terminal; its exit code and all that it wrote there.

    `watch` sees what has been written so far, each time that something comes.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    variables = {**os.environ, "TERM": "xterm-256color", **environment}
    process = subprocess.Popen(command, cwd=folder, env=variables, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    deadline, written = time.monotonic() + SECONDS, b""
    try:
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 0.5)[0]:
                continue
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # Linux: the other side is closed
                break
            if not chunk:
                break
            written += chunk
            watch(written.decode(errors="ignore"))
        return process.wait(10), written.decode()
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def shown_on_terminal(
    cli: Cli,
    *arguments: str,
    columns: int = 100,
    watch: Callable[[str], None] = lambda written: None,
    **environment: str,
) -> tuple[int | str | None, str]:
    """A command in this process with a pseudo-terminal for its streams; its exit code and what it wrote.

    `watch` sees what has been written so far, each time that something comes.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    os.write(ours, b"\x04")  # whoever reads from it comes to the end at once
    written = bytearray()

    def read() -> None:
        with suppress(OSError):  # Linux: the other side is closed
            while chunk := os.read(ours, 65536):
                written.extend(chunk)
                watch(written.decode(errors="ignore"))

    reader = threading.Thread(target=read)
    kept = [os.dup(number) for number in range(3)]
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(cli.folder)
        # A worker of several has other files for its standard streams when rich looks where these are.
        terminal = {"TERM": "xterm-256color", "COLUMNS": str(columns)}
        for name, value in {**terminal, **cli.environment, **environment}.items():
            patched.setenv(name, value)
        for number, (name, mode) in enumerate([("stdin", "r"), ("stdout", "w"), ("stderr", "w")]):
            os.dup2(theirs, number)
            patched.setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
        os.close(theirs)
        reader.start()
        try:
            with pytest.raises(SystemExit) as ended:
                main(list(arguments), prog_name="saliency-client")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in enumerate(kept):
                os.dup2(descriptor, number)
                os.close(descriptor)
            reader.join(SECONDS)
            os.close(ours)
    return ended.value.code, written.decode()


def on_pipe(
    command: list[str], folder: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def copies(photo: Path, count: int) -> list[str]:
    names = [f"photo-{number}.png" for number in range(count)]
    for name in names:
        photo.with_name(name).write_bytes(photo.read_bytes())
    return names


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def test_a_terminal_gets_colors_and_progress_and_all_results(
    cli: Cli, photo: Path, environment: dict[str, str], program: list[str], server: ScriptedServer
) -> None:
    names = copies(photo, 3)
    shown = threading.Event()
    # The last photo is answered when the progress of those before it has been seen.
    server.script.extend([lambda *_: None, lambda *_: None, lambda *_: shown.wait(SECONDS) and None])
    code, written = on_terminal(
        [*program, "explain", *names, "--concurrency", "1", "--batch-size", "1"],
        cli.folder,
        environment,
        watch=lambda written: shown.set() if re.search(r"[12]/3", written) else None,
    )
    assert code == 0, written
    assert "\x1b[1m" in written or "\x1b[32m" in written
    assert "explaining" in written
    assert re.search(r"[12]/3", written)
    for name in names:
        assert re.search(rf"{name} +class 2 .* ms +{name[:-4]}-gradients\.png", plain(written))
    assert "3 explained" in written
    assert written.rstrip().endswith(" s")


def test_no_color_is_honored_on_a_terminal(cli: Cli, photo: Path) -> None:
    for arguments in (
        ["explain", "cat.png", "--overwrite"],
        ["predict", "cat.png"],
        ["status"],
        ["explain", "gone.png"],
    ):
        _, written = shown_on_terminal(cli, *arguments, NO_COLOR="1")
        assert written
        assert not re.search(r"\x1b\[[0-9;]*m", written), arguments


def test_a_pipe_gets_no_escape_sequences_and_no_progress(
    cli: Cli, photo: Path, environment: dict[str, str], program: list[str]
) -> None:
    names = copies(photo, 3)
    done = on_pipe([*program, "explain", *names, "missing.png"], cli.folder, environment)
    assert done.returncode == 1
    assert "\x1b" not in done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 3
    assert done.stderr.splitlines()[0] == "error: missing.png does not exist"
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "cat.png"], ["class 2", "class 1", "%"]),
        (["status"], ["version", "AVAILABLE"]),
        (["signatures"], ["explain_smooth", "uint8[?,20,20,3]", "0.15"]),
        (
            ["bench", "--requests", "4", "--concurrency", "2"],
            ["requests", "2 at a time", "throughput", "latency p50", "latency p99"],
        ),
    ],
    ids=lambda value: value[0],
)
def test_other_commands_show_the_same_on_a_terminal_and_on_a_pipe(
    cli: Cli,
    photo: Path,
    arguments: list[str],
    words: list[str],
) -> None:
    code, written = shown_on_terminal(cli, *arguments)
    assert code == 0, written
    assert "\x1b[" in written
    piped = cli(*arguments)
    assert "\x1b" not in piped.out + piped.err
    for word in words:
        assert word in plain(written)
        assert word in piped.out
    _, written = shown_on_terminal(cli, *arguments, "--json")
    (line,) = [line for line in plain(written).splitlines() if line.startswith("{")]
    assert set(json.loads(line)) == set(cli(*arguments, "--json").record)


@pytest.mark.parametrize(
    "command", ["predict cat.png", "status", "signatures", "signatures -v", "explain cat.png"]
)
def test_no_line_ends_in_blanks(cli: Cli, photo: Path, command: str) -> None:
    piped = cli(*command.split(), "--overwrite" if command.startswith("explain") else "--verbose").out
    _, written = shown_on_terminal(cli, *command.split(), *(["--overwrite"] if "explain" in command else []))
    for text in (piped, plain(written)):
        lines = [line.rpartition("\r")[2] for line in text.replace("\r\n", "\n").split("\n")]
        assert len(lines) > 1
        assert [line for line in lines if line != line.rstrip()] == []


def test_long_paths_are_not_broken_on_a_narrow_terminal(cli: Cli, photo: Path) -> None:
    folder = "a-folder-with-a-name-that-is-longer-than-the-terminal-is-wide"
    _, written = shown_on_terminal(cli, "explain", "cat.png", "-o", f"{folder}/", columns=40)
    assert f"{folder}/cat-gradients.png" in plain(written)


def test_a_picture_is_not_written_to_a_terminal(cli: Cli, photo: Path) -> None:
    code, written = shown_on_terminal(cli, "explain", "cat.png", "-o", "-")
    assert code == 2
    assert "-o - would write a picture's bytes to the terminal" in plain(written)


def test_an_image_is_not_read_from_a_terminal(cli: Cli) -> None:
    code, written = shown_on_terminal(cli, "explain", "-")
    assert code == 2
    assert "nothing is piped in" in plain(written)


def test_ctrl_c_is_130_and_leaves_no_half_of_a_file(
    cli: Cli, photo: Path, environment: dict[str, str], program: list[str], server: ScriptedServer
) -> None:
    names = copies(photo, 4)
    reached, ended = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        reached.set()
        ended.wait(SECONDS)

    server.script.extend([lambda *_: None, hang, hang])
    # Where the tests run as a shell's background job, SIGINT is ignored, and would be by this process too.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from saliency_client.cli import main; main(sys.argv[1:])"
    )
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            code,
            "explain",
            *names,
            "--concurrency",
            "1",
            "--batch-size",
            "1",
            "-o",
            "maps/",
        ],
        cwd=cli.folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert reached.wait(SECONDS)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
        process.wait()
        ended.set()
    assert process.returncode == 130, err
    assert time.monotonic() - started < 25  # the request hangs for 30
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert {path.name for path in (cli.folder / "maps").iterdir()} <= {"photo-0-gradients.png"}


def handed_over(photo: Path, pipe: Path) -> None:
    with suppress(BrokenPipeError):
        pipe.write_bytes(photo.read_bytes())


@pytest.mark.parametrize("mode", [[], ["--json"], ["-q"]])
def test_a_reader_that_leaves_early_ends_the_command_quietly(
    cli: Cli, photo: Path, environment: dict[str, str], program: list[str], mode: list[str]
) -> None:
    names = copies(photo, 30)
    # What it waits for until the reader has left: all lines may fit into the pipe before that.
    last = cli.folder / "last.png"
    os.mkfifo(last)
    process = subprocess.Popen(
        [*program, "explain", *names, last.name, *mode],
        cwd=cli.folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.readline()
    process.stdout.close()
    # The command may notice before it opens this, or while it reads: neither may hold up the test.
    threading.Thread(target=handed_over, args=(photo, last), daemon=True).start()
    err = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(SECONDS) == 1
    assert err == ""


def test_status_waits_for_a_server_that_comes_up_later(cli: Cli) -> None:
    code, written = shown_on_terminal(cli, "status", "--wait", "30")
    assert code == 0
    assert "AVAILABLE" in written


HEAVY = ("grpc", "numpy", "PIL", "rich", "google.protobuf", "cmap", "tensorflow", "concurrent.futures")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["explain", "--help"], ["explain"], ["explain", "--nope"]]
)
def test_help_and_usage_errors_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from saliency_client.cli import main\n"
        f"try: main({arguments!r}, prog_name='saliency-client')\n"
        "except SystemExit: pass\n"
        f"print('loaded:', *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS, check=True
    )
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_the_package_runs_as_a_module_and_tells_its_version(program: list[str]) -> None:
    done = subprocess.run(
        [*program, "--version"], capture_output=True, text=True, timeout=SECONDS, check=True
    )
    assert re.fullmatch(r"saliency-client \d+\.\d+\.\d+\n", done.stdout)


@pytest.mark.parametrize(
    ("arguments", "closed"),
    covering(
        [["status"], ["explain", "cat.png", "-o", "out.png"]], [">&-", "2>&-", ">&- 2>&-", ">&- 2>&- <&-"]
    ),
)
def test_a_stream_that_is_closed_fails_nothing_and_gets_into_no_file(
    cli: Cli, photo: Path, program: list[str], arguments: list[str], closed: str
) -> None:
    line = f"{shlex.join([*program, *arguments])} {closed}"
    done = subprocess.run(
        ["sh", "-c", line],
        cwd=cli.folder,
        env={**os.environ, **cli.environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) == (">&-" not in closed.split())
    if "out.png" in arguments:
        with Image.open(cli.folder / "out.png") as picture:
            assert picture.size == (60, 40)


def test_a_picture_for_a_closed_stdout_is_a_usage_error(cli: Cli, photo: Path, program: list[str]) -> None:
    line = f"{shlex.join([*program, 'explain', 'cat.png', '-o', '-'])} >&-"
    done = subprocess.run(
        ["sh", "-c", line],
        cwd=cli.folder,
        env={**os.environ, **cli.environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )

    assert done.returncode == 2
    assert "-o - writes to stdout, and stdout is closed" in done.stderr


@pytest.mark.slow
def test_the_command_runs_frozen_by_pyinstaller_without_options(cli: Cli, photo: Path) -> None:
    pytest.importorskip("PyInstaller")
    (cli.folder / "frozen.py").write_text("from saliency_client.cli import main\nmain()\n")
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level", "WARN", "frozen.py"]
    subprocess.run(command, cwd=cli.folder, check=True, capture_output=True, timeout=280)
    program = str(cli.folder / "dist" / "frozen" / "frozen")
    gallery = ["gallery", "cat.png", "-o", "page"]
    explain = ["explain", "cat.png"]
    for arguments in (["--help"], ["status"], ["signatures"], ["predict", "cat.png"], explain, gallery):
        done = subprocess.run(
            [program, *arguments],
            cwd=cli.folder,
            env={**os.environ, **cli.environment},
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stderr
