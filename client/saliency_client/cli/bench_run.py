"""What `saliency-client bench` does."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich.table import Table
from rich.text import Text

from saliency_client import SaliencyError
from saliency_client._threads import finished
from saliency_client.cli.connection import Connection, check_given, connect
from saliency_client.cli.inputs import Input, find_inputs, missing, read_photo
from saliency_client.cli.methods import method_signature
from saliency_client.cli.model_input import ModelInput, model_input, signature_of_predictions
from saliency_client.cli.parameters import check
from saliency_client.cli.photos import allow_pixels
from saliency_client.cli.printer import Printer
from saliency_client.cli.text import printable
from saliency_client.images import DEFAULT_MAX_PIXELS, Resize

if TYPE_CHECKING:
    from saliency_client import SaliencyClient

PREDICT = "predict"
_PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True)
class BenchOptions:
    """The options of the command, as typed."""

    image: str | None
    connection: Connection
    method: str
    parameters: Mapping[str, Any]
    batch_size: int
    concurrency: int
    duration: float | None
    requests: int | None
    warmup: int
    resize: Resize
    max_pixels: int | None


def run(options: BenchOptions, printer: Printer) -> int:
    """Measure; returns the exit code."""
    check_given(options.connection)
    photo = None if options.image is None else _existing(options.image)
    with connect(options.connection) as client, allow_pixels(options.max_pixels):
        call = _call(options, client, photo)
        measured = _Measured(options.duration, options.requests)
        with printer.waiting(f"measuring {printable(options.method)}"):
            _in_threads(options.concurrency, lambda: [call() for _ in range(options.warmup)])
            measured.start()
            _in_threads(options.concurrency, lambda: measured.work(call))
        record = _record(options, client.model, measured)
    printer.result(record, lambda: _table(record), [f"{record['images_per_second']:.2f}"])
    return 1 if measured.errors else 0


def _existing(image: str) -> Input:
    """The first image that an argument means.

    Raises:
        ImageError: there is no such file.
        CommandError: there is no image.
    """
    found = find_inputs([image], recursive=False)
    if not found.inputs:
        raise found.left_out.errors[0][1]
    one = found.inputs[0]
    if (error := missing(one)) is not None:
        raise error
    return one


def _call(options: BenchOptions, client: SaliencyClient, photo: Input | None) -> Callable[[], object]:
    """The request to measure, ready to be sent again and again."""
    signatures = client.signatures()
    if options.method == PREDICT:
        signature = signature_of_predictions(signatures)
    else:
        signature = method_signature(options.method, signatures, beside=(PREDICT,))
    check(options.parameters, signature, signatures)
    images = _images(options, model_input(signature, signatures), photo)
    if options.method == PREDICT:
        return lambda: client.predict(images)
    return lambda: client.explain(images, method=options.method, **options.parameters)


def _images(options: BenchOptions, model: ModelInput, photo: Input | None) -> npt.NDArray[Any]:
    if photo is None:
        noise = np.random.default_rng(0).integers(0, 256, model.shape)
        one = noise.astype(np.uint8) if model.dtype == "uint8" else (noise / 127.5 - 1).astype(model.dtype)
    else:
        bound = options.max_pixels or DEFAULT_MAX_PIXELS
        one = read_photo(photo, model, resize=options.resize, max_pixels=bound, draft=True).array
    return np.repeat(one[None], options.batch_size, axis=0)


def _in_threads(count: int, work: Callable[[], object]) -> None:
    pool = ThreadPoolExecutor(count)
    try:
        for future in [pool.submit(work) for _ in range(count)]:
            finished(future).result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@dataclass
class _Measured:
    """Latencies and errors, collected by several threads until the time or the requests are used up."""

    duration: float | None
    requests: int | None
    latencies: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    started: float = 0.0
    ended: float = 0.0
    _begun: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        self.started = self.ended = time.perf_counter()

    def work(self, call: Callable[[], object]) -> None:
        """Send requests one after another."""
        while self._take():
            begun = time.perf_counter()
            failure = None
            try:
                call()
            except SaliencyError as error:
                failure = error.code.name if error.code is not None else type(error).__name__
            now = time.perf_counter()
            with self._lock:
                if failure is None:
                    self.latencies.append(now - begun)
                else:
                    self.errors[failure] += 1
                self.ended = max(self.ended, now)

    def _take(self) -> bool:
        with self._lock:
            if self.requests is not None and self._begun >= self.requests:
                return False
            if self.duration is not None and time.perf_counter() - self.started >= self.duration:
                return False
            self._begun += 1
            return True


def _record(options: BenchOptions, model: str, measured: _Measured) -> dict[str, Any]:
    seconds = measured.ended - measured.started
    answered = len(measured.latencies)
    rate = answered / seconds if seconds > 0 else 0.0
    return {
        "model": model,
        "method": options.method,
        "batch_size": options.batch_size,
        "concurrency": options.concurrency,
        "seconds": round(seconds, 3),
        "requests": answered,
        "images": answered * options.batch_size,
        "errors": dict(sorted(measured.errors.items())),
        "requests_per_second": round(rate, 3),
        "images_per_second": round(rate * options.batch_size, 3),
        "latency_ms": _latency(measured.latencies),
    }


def _latency(seconds: list[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    milliseconds = np.asarray(seconds) * 1000
    named = {f"p{percent}": float(np.percentile(milliseconds, percent)) for percent in _PERCENTILES}
    values = {"mean": float(milliseconds.mean()), **named, "max": float(milliseconds.max())}
    return {name: round(value, 3) for name, value in values.items()}


def _table(record: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column(justify="right", style="bold")
    table.add_column(style="dim")
    table.add_row(
        "requests",
        str(record["requests"]),
        f"in {record['seconds']:.1f} s, {record['concurrency']} at a time",
    )
    for code, count in record["errors"].items():
        table.add_row(Text("errors", "red"), Text(str(count), "red"), code)
    table.add_row(
        "throughput", f"{record['images_per_second']:.1f}", f"images/s, {record['batch_size']} in a request"
    )
    for name, value in (record["latency_ms"] or {}).items():
        table.add_row(f"latency {name}", f"{value:.1f}", "ms")
    return table
