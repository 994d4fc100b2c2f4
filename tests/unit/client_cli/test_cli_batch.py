"""Many images go at a time, come back in order, and stop when nobody wants them any more."""

from __future__ import annotations

import threading

import pytest

from saliency_client.cli.batch import in_order

SECONDS = 10


def test_results_are_in_order_and_as_many_run_as_there_are_workers() -> None:
    together = threading.Barrier(3)

    def square(number: int) -> int:
        together.wait(SECONDS)
        return number * number

    results = [(item, future.result()) for item, future in in_order(square, range(9), workers=3)]
    assert results == [(number, number * number) for number in range(9)]


def test_items_are_read_only_as_there_is_room() -> None:
    read: list[int] = []

    def items() -> object:
        for number in range(100):
            read.append(number)
            yield number

    results = in_order(lambda number: number, items(), workers=2)
    next(results)
    assert len(read) <= 4
    results.close()


def test_an_error_is_its_items_alone() -> None:
    def invert(number: int) -> float:
        return 1 / number

    futures = [future for _, future in in_order(invert, [1, 0, 2], workers=2)]
    assert futures[0].result() == 1
    assert futures[2].result() == 0.5
    with pytest.raises(ZeroDivisionError):
        futures[1].result()


def test_what_has_not_begun_is_dropped_when_the_results_are_left() -> None:
    before = set(threading.enumerate())
    begun: list[int] = []
    both_busy, go_on = threading.Barrier(3), threading.Event()

    def work(number: int) -> None:
        begun.append(number)
        if number > 0:
            both_busy.wait(SECONDS)
            go_on.wait(SECONDS)

    results = in_order(work, range(100), workers=2)
    next(results)
    both_busy.wait(SECONDS)  # 1 and 2 run, 3 waits for a worker
    results.close()
    go_on.set()
    for worker in set(threading.enumerate()) - before:
        worker.join(SECONDS)
    assert begun == [0, 1, 2]
