"""A new version every second under load: no error, and every answer is entirely of one version.

Versions alternate between two sets of weights, and an answer says which version it is of: all of its outputs
have to be, to float32 rounding, those of that version's weights.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
from lab import MODEL, Lab, Outcome, images, main, percentiles, same

from saliency_client import SaliencyClient

CLIENTS = 4


def campaign(lab: Lab, *, seconds: float = 60.0, every: float = 1.0) -> Outcome:
    """Swap for so many seconds; old versions are removed, so that the server unloads them, too."""
    outcome = Outcome("version swaps under load")
    weights = (lab.uncompiled, lab.other)
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch, MODEL)
        _publish(weights[1], base, 1)
        with lab.server(base / "1", "--poll", "0.1") as server:
            _swap(outcome, server.target, base, weights, seconds, every)
            loaded = sum("available after" in line for line in server.lines)
            unloaded = sum(line.endswith(": unloaded") for line in server.lines)
    outcome.fact("versions loaded, unloaded", f"{loaded}, {unloaded}")
    return outcome


def _publish(version: Path, base: Path, number: int) -> None:
    """Put a copy under its number, whole at once, as the exporter does."""
    base.mkdir(exist_ok=True)
    partial = base / f".copy-{number}"
    shutil.copytree(version, partial)
    partial.rename(base / str(number))


def _swap(
    outcome: Outcome, target: str, base: Path, weights: tuple[Path, Path], seconds: float, every: float
) -> None:
    picture = images(1)
    known: dict[int, dict[str, np.ndarray]] = {}
    stop = threading.Event()
    lock = threading.Lock()
    errors: list[str] = []
    seen: Counter[int] = Counter()
    took: list[float] = []

    def ask() -> None:
        with SaliencyClient(target, model=MODEL, timeout=60) as client:
            while not stop.is_set():
                started = time.monotonic()
                try:
                    answer = client.explain(picture, outputs="all")
                except Exception as error:
                    errors.append(f"{type(error).__name__}: {error}")
                    continue
                took.append(time.monotonic() - started)
                with lock:
                    seen[answer.version] += 1
                    # Odd versions have one set of weights, even ones the other.
                    expected = known.get(answer.version % 2)
                if expected is not None and not same(answer.outputs, expected):
                    errors.append(f"an answer of version {answer.version} has outputs of another")

    with SaliencyClient(target, model=MODEL, timeout=60) as client:
        client.wait_ready(120)
        known[1] = client.explain(picture, outputs="all").outputs
        _publish(weights[0], base, 2)
        deadline = time.monotonic() + 60
        while client.explain(picture).version != 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        known[0] = client.explain(picture, outputs="all").outputs
    differ = not same(known[0], known[1])
    outcome.check("the two sets of weights answer differently", differ, "True", differ)
    threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    end, number = time.monotonic() + seconds, 2
    while time.monotonic() < end:
        time.sleep(every)
        number += 1
        _publish(weights[number % 2], base, number)
        if number > 4:
            shutil.rmtree(base / str(number - 4), ignore_errors=True)
    stop.set()
    for thread in threads:
        thread.join(120)
    outcome.fact("versions published", number)
    outcome.fact("answers, of versions", f"{sum(seen.values())}, {len(seen)}")
    outcome.check("errors and mixed answers", errors[:3] or "none", "none", not errors)
    outcome.check("versions seen by clients", len(seen), "≥ 2", len(seen) >= 2)
    outcome.fact("latency, median / p95 / p99 / max", percentiles(took))


if __name__ == "__main__":
    main(campaign)
