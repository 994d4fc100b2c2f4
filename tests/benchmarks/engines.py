"""The plain job, Apache Beam and Ray Data with two workers: the same photos, the same server, in turn.

    python tests/benchmarks/engines.py [--images 2000] [--rounds 3] [--server HOST:PORT --model lite0]
        [--beam-python .venv-beam/bin/python] [--ray-python .venv-ray/bin/python]

Each is a whole process: photos in, Parquet out, by the examples that the documentation shows. Engines take
seconds to begin, which does not grow with the photos; so each runs over a few photos too, and throughput is
that of the others: (all − few) ⁄ (seconds of all − seconds of few). Memory is that of all processes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.dataset

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).parent)]

from job import BATCH, a_folder, family, load, local_server, resident, say, write_photos  # noqa: E402
from measuring import machine  # noqa: E402

EXAMPLES = ROOT / "tests" / "examples"
FEW = 100


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--server", help="one that runs already, in place of an export")
    parser.add_argument("--model", default="lite0")
    parser.add_argument("--model-dir", type=Path, help="an export that is there already")
    parser.add_argument("--beam-python", default=str(ROOT / ".venv-beam" / "bin" / "python"))
    parser.add_argument("--ray-python", default=str(ROOT / ".venv-ray" / "bin" / "python"))
    given = parser.parse_args()
    given.pinned = False
    with a_folder() as folder:
        write_photos(folder / "all", given.images)
        write_photos(folder / "few", FEW)
        with local_server(given, folder) as (target, _, model):
            runs = measured(given, folder, target, model)
    print(
        json.dumps(
            {"machine": machine(), "load of the machine": load(), **told(runs, given.images)}, indent=1
        )
    )


Command = Callable[[Path, Path], list[str]]


def commands(given: argparse.Namespace, target: str, model: str) -> dict[str, Command]:
    """What each runs, of a folder of photos and one of the output; two workers where there are workers."""
    server = ["--server", target, "--model", model]
    beam = ["--runner=FnApiRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    return {
        "job": lambda photos, out: [
            *(sys.executable, "-m", "saliency_client", "job", str(photos), "-o", str(out), *server),
            *("--batch-size", str(BATCH)),
        ],
        "Beam": lambda photos, out: [
            *(given.beam_python, str(EXAMPLES / "beam_photos.py"), f"{photos}/*/*.jpg", str(out / "rows")),
            *(*server, "--batch-size", str(BATCH), *beam),
        ],
        "Ray": lambda photos, out: [
            *(given.ray_python, str(EXAMPLES / "ray_photos.py"), str(photos), str(out), *server),
            *("--actors", "2", "2", "--cpus", "2"),
        ],
    }


def measured(
    given: argparse.Namespace, folder: Path, target: str, model: str
) -> dict[str, list[dict[str, Any]]]:
    """Of each, its runs: the few and all, in turn with the others."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for number in range(given.rounds):
        for name, command in commands(given, target, model).items():
            if not Path(command(folder, folder)[0]).exists():
                say(f"{name}: {command(folder, folder)[0]} does not exist")
                continue
            run = {"few": one(command, folder, "few", FEW), "all": one(command, folder, "all", given.images)}
            runs.setdefault(name, []).append(run)
            say(f"round {number}, {name}: {run}, load {load()}")
    return runs


def one(command: Command, folder: Path, photos: str, count: int) -> dict[str, float]:
    """Seconds of a run, and MiB of its processes at a half and at the end of its time."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    log = folder / "log.txt"
    held: list[float] = []
    begun = time.monotonic()
    with log.open("w") as stream:
        process = subprocess.Popen(
            command(folder / photos, out),
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(ROOT / "client")},
        )
        while process.poll() is None:
            try:
                held.append(sum(resident(pid) for pid in family(process.pid)))
            except (FileNotFoundError, ProcessLookupError):
                continue
            time.sleep(0.25)
    seconds = time.monotonic() - begun
    if process.returncode:
        raise SystemExit(log.read_text()[-4000:])
    table = pyarrow.dataset.dataset(out, format="parquet").to_table(columns=["path", "error"])
    paths = set(table.column("path").to_pylist())
    assert (table.num_rows, len(paths)) == (count, count), (table.num_rows, len(paths))
    assert table.column("error").null_count == count
    middle = held[len(held) // 2 :]
    return {
        "seconds": round(seconds, 2),
        "MiB at a half": round(statistics.median(middle[:5]), 1),
        "MiB, most": round(max(held), 1),
        "MiB at the end": round(statistics.median(middle[-9:-4] or middle), 1),
    }


def told(runs: dict[str, list[dict[str, Any]]], images: int) -> dict[str, Any]:
    """Medians, and ratios to the job of the same round."""
    rates = {
        name: [(images - FEW) / (run["all"]["seconds"] - run["few"]["seconds"]) for run in each]
        for name, each in runs.items()
    }
    return {
        "images": images,
        "rows a second": {name: [round(rate, 1) for rate in each] for name, each in rates.items()},
        "over the job's": {
            name: round(statistics.median(a / b for a, b in zip(each, rates["job"], strict=True)), 3)
            for name, each in rates.items()
        },
        "runs": runs,
    }


if __name__ == "__main__":
    main()
