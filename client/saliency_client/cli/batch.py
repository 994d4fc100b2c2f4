"""Many images at a time, answers in order; what a batch amounts to in the end."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from saliency_client._threads import finished
from saliency_client.cli.errors import FAILURE, describe, exit_code
from saliency_client.cli.folders import LeftOut
from saliency_client.cli.inputs import Input, missing
from saliency_client.cli.printer import Printer

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
_OF_SERVER = frozenset(
    {"UNAVAILABLE", "DEADLINE_EXCEEDED", "UNAUTHENTICATED", "PERMISSION_DENIED", "NOT_FOUND", "UNIMPLEMENTED"}
)
_OF_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
_MOST_ALIKE = 3
"""Requests in a row that fail alike before a command gives up, and images that are told one by one."""


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


def in_halves(
    ask: Callable[[Sequence[ItemT]], Sequence[ResultT]], items: Sequence[ItemT]
) -> list[ResultT | Exception]:
    """Ask about items together; of those that are refused together, about each half, so that one fails alone.

    What a server says of itself, as that it is not there, is not asked again.
    """
    if not items:
        return []
    try:
        return list(ask(items))
    except Exception as error:
        if len(items) == 1 or is_of_server(error):
            return [error] * len(items)
    middle = len(items) // 2
    return in_halves(ask, items[:middle]) + in_halves(ask, items[middle:])


def is_of_server(error: Exception) -> bool:
    """Whether an error is not about an image: the next image would meet it too."""
    return getattr(getattr(error, "code", None), "name", None) in _OF_SERVER


def is_of_disk(error: Exception) -> bool:
    """Whether an error is about the disk that results go to: the next image would meet it too."""
    return getattr(error.__cause__, "errno", None) in _OF_DISK


def batch_exit_code(errors: Sequence[Exception], total: int) -> int:
    """0 without errors; the RPC's code if a single image was all there was; else 1."""
    if not errors:
        return 0
    return exit_code(errors[0]) if total == 1 else FAILURE


@dataclass
class Failures:
    """The images that failed, each told once; by one sentence many that met no server, or a full disk.

    Attributes:
        printer: to tell them.
        alone: there is a single image, which need not be named.
        errors: of all.
    """

    printer: Printer
    alone: bool
    errors: list[Exception] = field(default_factory=list)
    _alike: list[tuple[Input, Exception]] = field(default_factory=list)
    _requests: int = 0

    def add(self, one: Input, error: Exception) -> None:
        """Take in that an image failed."""
        self.errors.append(error)
        if not (is_of_server(error) or is_of_disk(error)):
            self.tell()
            tell_failure(one, error, self.printer, alone=self.alone)
            return
        if self._alike and type(self._alike[-1][1]) is not type(error):
            self.tell()
        self._alike.append((one, error))

    def end_request(self, *, succeeded: bool) -> bool:
        """Take in that the images of a request were taken in; gives whether to give up."""
        if succeeded:
            self.tell()
        self._requests = self._requests + 1 if self._alike else 0
        return self._requests >= _MOST_ALIKE

    def tell(self) -> None:
        """Tell of those that failed alike."""
        alike, self._alike, self._requests = self._alike, [], 0
        if len(alike) <= _MOST_ALIKE:
            for one, error in alike:
                tell_failure(one, error, self.printer, alone=self.alone)
            return
        for one, error in alike:
            _tell_json(one, error, self.printer)
        first, error = alike[0]
        self.printer.error(error, about=f"{first.shown} and {len(alike) - 1} others")


def without_missing(
    items: Sequence[ItemT], image: Callable[[ItemT], Input], failures: Failures
) -> list[ItemT]:
    """Tell of images that are not there, before a server is asked; gives the others."""
    there: list[ItemT] = []
    for item in items:
        error = missing(image(item))
        if error is None:
            there.append(item)
        else:
            failures.add(image(item), error)
    return there


def tell_left_out(left_out: LeftOut, failures: Failures) -> None:
    """Tell of what was found and not taken: notes, and what cannot be read, as failures."""
    for note in left_out.notes():
        failures.printer.note(note)
    for path, error in left_out.errors:
        failures.add(Input(path), error)


def tell_failure(one: Input, error: Exception, printer: Printer, *, alone: bool) -> None:
    """Tell that an image failed: on stderr, and as its JSON line."""
    _tell_json(one, error, printer)
    printer.error(error, about=None if alone else one.shown)


def _tell_json(one: Input, error: Exception, printer: Printer) -> None:
    if printer.mode == "json":
        message, hint = describe(error)
        code = getattr(getattr(error, "code", None), "name", None)
        record = {"image": one.source, "status": "failed", "error": message, "hint": hint, "code": code}
        printer.result(record, str)


def _finished(window: deque[tuple[ItemT, Future[ResultT]]]) -> tuple[ItemT, Future[ResultT]]:
    item, future = window.popleft()
    return item, finished(future)
