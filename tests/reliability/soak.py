"""Mixed methods, batches, classes and seeds at saturation: no error, flat memory, the same answers."""

from __future__ import annotations

import random
import statistics
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from lab import METHODS, MODEL, Lab, Outcome, images, main, percentiles, resident_mib, same

from saliency_client import SaliencyClient, SaliencyError

CLIENTS = 4
# Compiled sizes, one that is padded and one that is sliced.
BATCHES = (1, 4, 3, 9)
CASES = 48
GROWTH = 0.02


@dataclass(frozen=True)
class Case:
    """One call and the answer that an unloaded server gave to it."""

    pictures: np.ndarray
    options: dict[str, Any]
    answer: dict[str, np.ndarray]


class Times:
    """Times of calls, in memory that is taken before the first of them: measuring must not grow either."""

    def __init__(self) -> None:
        self._seconds = np.full(500_000, -1.0)
        self._lock = threading.Lock()
        self.count = 0

    def add(self, seconds: float) -> None:
        """Note one; those beyond the room are counted only."""
        with self._lock:
            if self.count < len(self._seconds):
                self._seconds[self.count] = seconds
            self.count += 1

    def seconds(self) -> list[float]:
        """Those noted."""
        return self._seconds[: self.count].tolist()


def campaign(lab: Lab, *, seconds: float = 600.0, seed: int = 7) -> Outcome:
    """Ask for so many seconds; the first fifth, two minutes at most, is for warming up."""
    outcome = Outcome("soak")
    with lab.server(lab.compiled, "--xla-cache", lab.xla_cache) as server:
        cases = _cases(server.target, random.Random(seed))
        _ask(outcome, server, cases, seconds, random.Random(seed + 1))
        with SaliencyClient(server.target, model=MODEL, timeout=120) as client:
            equal = all(_answer(client, case.pictures, case.options, case.answer) for case in cases)
        outcome.check("afterwards, unloaded answers equal to rounding", equal, "True", equal)
        alive = server.process.poll() is None
        outcome.check("the server lives", alive, "True", alive)
    return outcome


def _cases(target: str, rng: random.Random) -> list[Case]:
    cases = []
    with SaliencyClient(target, model=MODEL, timeout=600) as client:
        for number in range(CASES):
            size = BATCHES[number % len(BATCHES)]
            method = METHODS[number // len(BATCHES) % len(METHODS)]
            options: dict[str, Any] = {
                "method": method,
                "class_index": [rng.randrange(-1, 5) for _ in range(size)],
                "outputs": rng.choice([None, "all", "gradients"]),
            }
            if method == "smooth":
                options["num_samples"] = [rng.choice([1, 2, 10]) for _ in range(size)]
                options["seed"] = [rng.randrange(2**31) for _ in range(size)]
            pictures = images(size, seed=number)
            answer = client.explain(pictures, **options).outputs
            cases.append(Case(pictures, options, {name: np.array(value) for name, value in answer.items()}))
    return cases


def _answer(client: SaliencyClient, pictures: np.ndarray, options: Any, expected: Any) -> bool:
    return same(client.explain(pictures, **options).outputs, expected)


def _ask(outcome: Outcome, server: Any, cases: list[Case], seconds: float, rng: random.Random) -> None:
    stop = threading.Event()
    errors: list[str] = []
    took = {method: Times() for method in METHODS}

    def ask(seed: int) -> None:
        order = random.Random(seed)
        with SaliencyClient(server.target, model=MODEL, timeout=120) as client:
            while not stop.is_set():
                case = order.choice(cases)
                started = time.monotonic()
                try:
                    if not _answer(client, case.pictures, case.options, case.answer):
                        errors.append(f"another answer for {case.options}")
                except SaliencyError as error:
                    errors.append(f"{type(error).__name__}: {error}")
                took[case.options["method"]].add(time.monotonic() - started)

    threads = [threading.Thread(target=ask, args=(rng.random(),)) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    warm_up = min(seconds / 5, 120)
    _sample(server.process.pid, warm_up)
    early = _sample(server.process.pid, (seconds - warm_up) / 4)
    _sample(server.process.pid, (seconds - warm_up) / 2)
    late = _sample(server.process.pid, (seconds - warm_up) / 4)
    stop.set()
    for thread in threads:
        thread.join(300)
    count = sum(times.count for times in took.values())
    outcome.fact("requests, a second", f"{count}, {count / seconds:.0f}")
    outcome.check("errors and other answers", errors[:3] or "none", "none", not errors)
    for method, times in took.items():
        outcome.fact(f"{method}: median / p95 / p99 / max", percentiles(times.seconds()))
    for side, first, last in (("server", early[0], late[0]), ("client", early[1], late[1])):
        growth = last / first - 1
        outcome.check(
            f"{side}: resident memory {first:.0f} MiB, last quarter",
            f"{growth:+.1%}",
            f"within {GROWTH:.0%}" + ("" if seconds >= 300 else ", judged from 300 s on"),
            growth <= GROWTH or seconds < 300,
        )


def _sample(server: int, seconds: float) -> tuple[float, float]:
    """The medians of the server's and this process's memory over so many seconds."""
    both: list[tuple[float, float]] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        both.append((resident_mib(server), resident_mib()))
        time.sleep(min(1.0, seconds / 5))
    print(f"server {both[-1][0]:.0f} MiB, client {both[-1][1]:.0f} MiB", file=sys.stderr)
    return statistics.median(one for one, _ in both), statistics.median(one for _, one in both)


if __name__ == "__main__":
    main(campaign)
