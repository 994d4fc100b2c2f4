"""How far a job is, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from saliency_client._errors import OptionError
from saliency_client.bulk.job import Progress

_PREFIX = "saliency_job"


class _Collector:
    """Reads a progress whenever it is asked for; prometheus_client calls it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        progress, flow = self._progress, self._progress.flow
        counters = {
            "rows": (progress.rows, "Images that were explained by this process, or have an error."),
            "failed_rows": (progress.failed, "Of these, those with an error."),
            "shards": (progress.shards, "Shards that this process has written."),
            "seconds_waiting_for_server": (
                flow.waiting_for_server,
                "Seconds in which decoded batches waited for a place at the server, summed over batches.",
            ),
            "seconds_waiting_for_images": (
                flow.waiting_for_images,
                "Seconds in which places at the server were free, as a part of all places.",
            ),
        }
        for name, (value, text) in counters.items():
            yield CounterMetricFamily(f"{_PREFIX}_{name}", text, value=value)
        gauges = {
            "rows_before": (progress.before, "Images that were done when this process began."),
            "requests_in_flight": (flow.in_flight, "Requests that the server has."),
            "rows_planned": (progress.planned, "Images of this worker, those done before included."),
            "seconds_left": (progress.seconds_left, "At the rate so far."),
        }
        for name, (known, text) in gauges.items():
            if known is not None:
                yield GaugeMetricFamily(f"{_PREFIX}_{name}", text, value=known)


@contextmanager
def served(progress: Progress, host: str, port: int) -> Iterator[str]:
    """Serve a progress as Prometheus text, at `/metrics`; gives the address.

    Raises:
        OptionError: the port cannot be opened, or prometheus_client is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError as error:
        raise OptionError(
            f"prometheus_client cannot be imported: {error}", hint="pip install 'saliency-serving[bulk]'"
        ) from error
    registry = CollectorRegistry()
    registry.register(_Collector(progress))
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise OptionError(
            f"no metrics on {host}:{port}: {error.strerror or error}",
            hint="name a port that is free; 0 takes one, and the command prints it",
        ) from error
    try:
        yield f"http://{host}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
