"""Many images at a time, answers in order; what a batch amounts to in the end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from saliency_client._threads import finished
from saliency_client.cli.errors import FAILURE, describe, exit_code
from saliency_client.cli.inputs import Input, missing
from saliency_client.cli.printer import Printer

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def in_order(
    function: Callable[[ItemT], ResultT], items: Iterable[ItemT], *, workers: int
) -> Generator[tuple[ItemT, Future[ResultT]], None, None]:
    """Run a function over items in threads; gives each item and its finished future, in order.

    Items are taken as there is room, so that no more than twice `workers` of them wait or have results that
    are not taken yet. When the iterator is left early, what has not begun is dropped.
    """
    pool = ThreadPoolExecutor(workers)
    window: deque[tuple[ItemT, Future[ResultT]]] = deque()
    try:
        for item in items:
            window.append((item, pool.submit(function, item)))
            if len(window) >= 2 * workers:
                yield _finished(window)
        while window:
            yield _finished(window)
    finally:
        # What is running ends by itself, or when its client is closed.
        pool.shutdown(wait=False, cancel_futures=True)


def batch_exit_code(errors: list[Exception], total: int) -> int:
    """0 without errors; the RPC's code if a single image was all there was; else 1."""
    if not errors:
        return 0
    return exit_code(errors[0]) if total == 1 else FAILURE


def without_missing(
    items: Sequence[ItemT], image: Callable[[ItemT], Input], printer: Printer, *, alone: bool
) -> tuple[list[ItemT], list[Exception]]:
    """Tell of images that are not there, before a server is asked; gives the others, and the errors."""
    there: list[ItemT] = []
    errors: list[Exception] = []
    for item in items:
        error = missing(image(item))
        if error is None:
            there.append(item)
        else:
            tell_failure(image(item), error, printer, alone=alone)
            errors.append(error)
    return there, errors


def tell_failure(one: Input, error: Exception, printer: Printer, *, alone: bool) -> None:
    """Tell that an image failed: on stderr, and as its JSON line."""
    if printer.mode == "json":
        message, hint = describe(error)
        code = getattr(getattr(error, "code", None), "name", None)
        record = {"image": one.source, "status": "failed", "error": message, "hint": hint, "code": code}
        printer.result(record, str)
    printer.error(error, about=None if alone else one.shown)


def _finished(window: deque[tuple[ItemT, Future[ResultT]]]) -> tuple[ItemT, Future[ResultT]]:
    item, future = window.popleft()
    return item, finished(future)
