from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saliency_exporter.cli.demo import METHODS

COMMAND = [sys.executable, "-m", "saliency_exporter", "demo"]
A_FEW = ("smooth", "grad_cam")
# The same command with two of the eight methods: it takes a quarter of the time.
OF_A_FEW = [
    sys.executable,
    "-c",
    "import sys; from saliency_exporter.cli import demo, main\n"
    f"demo.METHODS, demo.SETTINGS = {A_FEW}, ('--methods', '{','.join(A_FEW)}', *demo.SETTINGS[2:])\n"
    "main(['demo', *sys.argv[1:]], 'saliency-exporter')",
]
pytestmark = pytest.mark.timeout(900)


def processes_of(directory: Path) -> list[str]:
    """The command lines of all processes that work on a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(directory) in command:
                found.append(command)
    return found


def interrupt(directory: Path, when: str, number: signal.Signals) -> subprocess.CompletedProcess[str]:
    """Run the demonstration and send it a signal as soon as it says something."""
    process = subprocess.Popen(
        [*OF_A_FEW, str(directory)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    said = ""
    try:
        while when not in said:
            character = process.stderr.read(1)
            assert character, f"ended before it said {when!r}: {said}"
            said += character
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return subprocess.CompletedProcess(OF_A_FEW, process.returncode, out, said + err)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "out"


@pytest.fixture(scope="module")
def first_run(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*OF_A_FEW, str(directory)], capture_output=True, text=True, timeout=800)


def holds(run: subprocess.CompletedProcess[str], directory: Path, methods: Sequence[str]) -> None:
    """The table names what the photos are of, and pictures, maps and the model are there."""
    assert run.returncode == 0, run.stderr
    lines = [line.split() for line in run.stdout.splitlines()]
    rows = [words for words in lines if words and words[0] in ("chelsea", "coffee")]
    found = {(row[0], row[1]): " ".join(row[2:5]) for row in rows}
    assert set(found) == {(photo, method) for photo in ("chelsea", "coffee") for method in methods}
    for method in methods:
        assert found["chelsea", method] == "Egyptian cat (285)"
        assert found["coffee", method].startswith("espresso (967)")
    assert "saliency-client explain" in run.stdout
    page = directory / "gallery" / "index.html"
    assert f"Open {page}" in run.stdout
    (block,) = re.findall(r'id="page-data">(.*?)</script>', page.read_text(encoding="utf-8"))
    data = json.loads(block)
    assert sorted(data["methods"]) == sorted(methods)
    for photo in data["photos"]:
        ((_, label, *_, maps),) = photo[8]
        assert data["labels"][label] in ("Egyptian cat", "espresso")
        assert len(maps) == len(methods)
    for photo in ("chelsea", "coffee"):
        for method in methods:
            saliency = np.load(directory / "maps" / f"{photo}-{method.replace('_', '-')}.npy")
            assert saliency.shape == (224, 224)
            assert saliency.dtype == np.float32
            assert np.isfinite(saliency).all()
            assert saliency.min() >= 0
            assert saliency.max() > 0
            Image.open(directory / "maps" / f"{photo}-{method.replace('_', '-')}.png").verify()
        Image.open(directory / "maps" / f"{photo}-smooth-panel.png").verify()
        Image.open(directory / "maps" / f"{photo}-methods.png").verify()
    assert (directory / "models" / "efficientnet-lite0" / "1" / "saved_model.pb").exists()
    assert processes_of(directory) == []


def test_it_names_the_cat_and_the_cup_and_leaves_a_page_maps_and_the_model(first_run, directory) -> None:
    holds(first_run, directory, A_FEW)


@pytest.mark.slow
def test_so_it_does_with_all_its_methods(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, str(tmp_path)], capture_output=True, text=True, timeout=800)
    assert len(METHODS) == 8
    holds(done, tmp_path, METHODS)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_serves_leaves_nothing_running(first_run, directory: Path, number) -> None:
    done = interrupt(directory, "loading", number)
    assert "is up to date" in done.stderr
    assert "exporting" not in done.stderr
    assert [path.name for path in (directory / "models" / "efficientnet-lite0").iterdir()] == ["1"]
    assert done.returncode == 128 + number
    assert "nothing is left running" in done.stderr
    assert "Traceback" not in done.stderr
    assert processes_of(directory) == []


# Twenty-five seconds, of which the test above has the first: that nothing is exported again.
@pytest.mark.slow
def test_a_second_run_does_not_export_again_and_nothing_stays_running(first_run, directory: Path) -> None:
    second = subprocess.run([*OF_A_FEW, str(directory)], capture_output=True, text=True, timeout=400)
    assert second.returncode == 0, second.stderr
    assert "is up to date" in second.stderr
    assert "exporting" not in second.stderr
    versions = [path.name for path in (directory / "models" / "efficientnet-lite0").iterdir()]
    assert versions == ["1"]
    assert processes_of(directory) == []


@pytest.mark.slow
def test_a_signal_while_it_explains_leaves_nothing_running(first_run, directory: Path) -> None:
    done = interrupt(directory, "--method smooth", signal.SIGINT)
    assert done.returncode == 130
    assert processes_of(directory) == []


def test_a_signal_while_it_exports_leaves_nothing_running_and_no_half_version(tmp_path: Path) -> None:
    done = interrupt(tmp_path / "out", "tracing", signal.SIGINT)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert processes_of(tmp_path) == []
    assert not (tmp_path / "out" / "models" / "efficientnet-lite0").exists()
