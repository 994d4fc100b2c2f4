"""Requests are full while others run, and their number is bounded."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError

import pytest

from saliency_client.evaluation.merging import Merger


def test_items_of_many_threads_go_in_full_requests_of_one_kind() -> None:
    sizes: list[tuple[str, int]] = []
    first = threading.Event()

    def ask(kind: str, items: Sequence[int]) -> list[int]:
        sizes.append((kind, len(items)))
        first.wait(5)
        return [10 * item for item in items]

    with Merger(ask, batch_size=4, concurrency=1) as merger:
        lone = merger.submit("a", [0])
        while not sizes:
            time.sleep(0.001)
        rest = [future for start in range(1, 9) for future in merger.submit("a", [start])]
        other = merger.submit("b", [7])
        first.set()
        assert [future.result(5) for future in (*lone, *rest)] == [10 * item for item in range(9)]
        assert other[0].result(5) == 70
    assert sizes == [("a", 1), ("a", 4), ("a", 4), ("b", 1)]


def test_a_part_of_a_batch_waits_while_another_request_runs() -> None:
    running, release = threading.Semaphore(0), threading.Event()
    sizes: list[int] = []

    def ask(kind: str, items: Sequence[int]) -> Sequence[int]:
        sizes.append(len(items))
        running.release()
        release.wait(5)
        return items

    with Merger(ask, batch_size=4, concurrency=3) as merger:
        futures = merger.submit("a", [1])
        running.acquire(timeout=5)
        futures += merger.submit("a", [2, 3])
        assert not running.acquire(timeout=0.05)
        futures += merger.submit("a", [4, 5])
        assert running.acquire(timeout=5)
        release.set()
        assert [future.result(5) for future in futures] == [1, 2, 3, 4, 5]
    assert sizes == [1, 4]


def test_an_error_is_that_of_its_item_alone() -> None:
    def ask(kind: str, items: Sequence[int]) -> list[object]:
        return [ValueError("odd") if item % 2 else item for item in items]

    with Merger(ask, batch_size=4, concurrency=2) as merger:
        even, odd = merger.submit("a", [2, 3])
        assert even.result(5) == 2
        with pytest.raises(ValueError, match="odd"):
            odd.result(5)


def test_the_load_says_how_long_the_server_had_something_to_do() -> None:
    def ask(kind: str, items: Sequence[int]) -> Sequence[int]:
        time.sleep(0.05)
        return items

    with Merger(ask, batch_size=2, concurrency=2) as merger:
        for future in merger.submit("a", range(4)):
            future.result(5)
        time.sleep(0.1)
        merger.submit("a", [1])[0].result(5)
        load = merger.load()
    assert load.requests == 3
    assert load.items == {"a": 5}
    assert 0.1 <= load.busy_seconds <= load.seconds - 0.1


def test_what_waits_when_it_closes_is_not_asked() -> None:
    begun, release = threading.Event(), threading.Event()

    def ask(kind: str, items: Sequence[int]) -> Sequence[int]:
        begun.set()
        release.wait(5)
        return items

    with Merger(ask, batch_size=1, concurrency=1) as merger:
        running, waiting = merger.submit("a", [1, 2])
        begun.wait(5)
    release.set()
    assert running.result(5) == 1
    with pytest.raises(CancelledError):
        waiting.result(5)
