"""`ExplainBatch` in Apache Beam: a transform of images into rows, and a handler for `RunInference`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from saliency_client._errors import (
    DeadlineExceeded,
    ModelNotFound,
    OptionError,
    ResourceExhausted,
    TLSError,
    Unavailable,
)
from saliency_client.bulk.arrow import schema

try:
    import apache_beam as beam
    from apache_beam.ml.inference.base import PredictionResult, RateLimitExceeded, RemoteModelHandler
    from apache_beam.utils.windowed_value import WindowedValue
except ImportError as error:
    raise ImportError(
        f"Apache Beam 2.72 or later cannot be imported: {error}; pip install 'saliency-serving[bulk-beam]'"
    ) from error

if TYPE_CHECKING:
    from saliency_client.bulk.decoding import Image
    from saliency_client.bulk.rows import Row
    from saliency_client.bulk.step import ExplainBatch

__all__ = ["ExplainHandler", "ExplainImages", "may_pass", "parquet_schema"]

_KEY: Any = beam.typehints.TypeVariable("Key")
_KEYED_IMAGE: Any = beam.typehints.Tuple[_KEY, bytes | np.ndarray]
_KEYED_ROW: Any = beam.typehints.Tuple[_KEY, dict[str, Any]]
_ROW: Any = dict[str, Any]
_SHORT_PATIENCE = 2.0
"""Seconds for which a request of a handler waits for the server itself: Beam's back-off does the rest."""


class ExplainImages(beam.PTransform):
    """Explain the images of a PCollection, in batches of `step.batch_size` within each bundle.

    Each worker connects at its first batch, and closes the connection at its end. Rows keep the timestamp and
    the window of their image. The counters `ExplainImages/rows` and `ExplainImages/failed` say how many rows
    there are, and how many of them hold an `error`. What is not an image's fault fails the bundle, after
    `step.patience` seconds, and whether the bundle is tried again is up to the runner.

    Takes:
        (key, image): the image as encoded bytes, those of an .npy file, or an array [H, W, C].

    Gives:
        (key, row), or with `key_column` the row alone, with the key in that column: see `parquet_schema`.

    Args:
        step: what is asked, and where.
        key_column: of the row, that holds the key.

    Raises:
        OptionError: the row has that column already; the pipeline's runner is one that would lose rows.

    Example:
        >>> import apache_beam as beam
        >>> from saliency_client.bulk import ExplainBatch
        >>> from saliency_client.bulk.beam import ExplainImages
        >>> step = ExplainBatch("localhost:8500", "efficientnet-lite0", method="smooth")
        >>> with beam.Pipeline() as pipeline:
        ...     photos = pipeline | beam.Create([("cat.jpg", open("cat.jpg", "rb").read())])
        ...     _ = photos | ExplainImages(step) | beam.MapTuple(lambda path, row: print(path, row["label"]))
    """

    def __init__(self, step: ExplainBatch, key_column: str | None = None) -> None:
        super().__init__()
        self._step = step
        self._key_column = key_column
        _check_key_column(step, key_column)

    def expand(self, images: Any) -> Any:
        """Apply the transform; Beam calls this."""
        if type(images.pipeline.runner).__name__ == "DaskRunner" and self._step.batch_size > 1:
            raise OptionError(
                "Beam's DaskRunner loses what is emitted at the end of a bundle: with batch_size "
                f"{self._step.batch_size} the last images of each",
                hint="batch_size=1 is safe there; other runners take any",
            )
        explain = beam.ParDo(_Explain(self._step, self._key_column)).with_input_types(_KEYED_IMAGE)
        return images | explain.with_output_types(_KEYED_ROW if self._key_column is None else _ROW)


class _Explain(beam.DoFn):
    """Images wait until there are enough for a request, or the bundle ends."""

    def __init__(self, step: ExplainBatch, key_column: str | None) -> None:
        self._step = step
        self._key_column = key_column
        self._rows = beam.metrics.Metrics.counter("ExplainImages", "rows")
        self._failed = beam.metrics.Metrics.counter("ExplainImages", "failed")

    def setup(self) -> None:
        # A connection of its own, which teardown may close whoever else uses the step in this process.
        self._connected = replace(self._step)

    def start_bundle(self) -> None:
        # A bundle that failed is begun again, perhaps by the same object.
        self._waiting: list[tuple[Any, Image, Any, Any]] = []

    def process(
        self,
        element: tuple[Any, Image],
        timestamp: Any = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> Iterator[Any]:
        key, image = element
        self._waiting.append((key, image, timestamp, window))
        if len(self._waiting) >= self._step.batch_size:
            yield from self._explained()

    def finish_bundle(self) -> Iterator[Any]:
        yield from self._explained()

    def teardown(self) -> None:
        self._connected.close()

    def _explained(self) -> Iterator[Any]:
        waiting, self._waiting = self._waiting, []
        rows = self._connected.rows([image for _, image, _, _ in waiting])
        self._rows.inc(len(rows))
        self._failed.inc(_failures(rows))
        for (key, _, timestamp, window), row in zip(waiting, rows, strict=True):
            value = (key, row) if self._key_column is None else {self._key_column: key, **row}
            yield WindowedValue(value, timestamp, (window,))


class ExplainHandler(RemoteModelHandler):
    """Explain images with Beam's `RunInference`.

    Beam waits longer and longer, and sends less, while the server is overloaded or away: `may_pass` says
    which errors that holds for. Others fail the bundle. An image that cannot be read or is refused gives a
    row with its `error`. The counter `ExplainHandler/failed` says how many.

    Takes:
        images: encoded bytes, those of an .npy file, or arrays [H, W, C]; in a `KeyedModelHandler` also
        (key, image).

    Gives:
        PredictionResult: `example` the image, `inference` the row, `model_id` 'model/version'.

    Args:
        step: what is asked, and where. Its patience is 2 s here, where it is longer.
        **options: of `RemoteModelHandler`, as `num_retries`, `throttle_delay_secs` and `rate_limiter`.

    Example:
        >>> from apache_beam.ml.inference.base import KeyedModelHandler, RunInference
        >>> from saliency_client.bulk import ExplainBatch
        >>> from saliency_client.bulk.beam import ExplainHandler
        >>> step = ExplainBatch("localhost:8500", "efficientnet-lite0", method="smooth")
        >>> explain = RunInference(KeyedModelHandler(ExplainHandler(step)))
    """

    def __init__(self, step: ExplainBatch, **options: Any) -> None:
        super().__init__(**{"namespace": "ExplainHandler", "retry_filter": may_pass, **options})
        self._step = replace(step, patience=min(step.patience, _SHORT_PATIENCE))

    def create_client(self) -> ExplainBatch:
        """A step with a connection of its own; Beam calls this once a worker."""
        return replace(self._step)

    def request(
        self, batch: Sequence[Image], model: ExplainBatch, inference_args: dict[str, Any] | None = None
    ) -> list[Any]:
        """Explain a batch; Beam calls this, and again where `may_pass` says so."""
        rows = model.rows(batch)
        beam.metrics.Metrics.counter("ExplainHandler", "failed").inc(_failures(rows))
        return [
            PredictionResult(image, row, f"{model.model}/{row['version']}")
            for image, row in zip(batch, rows, strict=True)
        ]

    def batch_elements_kwargs(self) -> dict[str, Any]:
        """How Beam batches: `step.batch_size` images, or what the bundle has left."""
        return {"min_batch_size": self._step.batch_size, "max_batch_size": self._step.batch_size}


def may_pass(error: Exception) -> bool:
    """Whether an error is one that waiting helps: an overloaded server, one that is away or loading, a limit.

    Example:
        >>> from saliency_client import InvalidArgument, QueueFull
        >>> from saliency_client.bulk.beam import may_pass
        >>> may_pass(QueueFull("the queue is full")), may_pass(InvalidArgument("class_index is 99"))
        (True, False)
    """
    if isinstance(error, TLSError):
        return False
    passing = (Unavailable, ResourceExhausted, DeadlineExceeded, ModelNotFound, RateLimitExceeded)
    return isinstance(error, passing)


def parquet_schema(step: ExplainBatch, key_column: str, key_type: Any = None) -> Any:
    """The `pyarrow.Schema` of the rows of `ExplainImages(step, key_column)`, for `WriteToParquet`.

    Args:
        step: whose rows they are.
        key_column: of the key.
        key_type: of the key, as pyarrow has it; None: string.

    Raises:
        OptionError: the row has that column already.

    Example:
        >>> from saliency_client.bulk import ExplainBatch
        >>> from saliency_client.bulk.beam import parquet_schema
        >>> parquet_schema(ExplainBatch("localhost:8500", "efficientnet-lite0"), "path").names[:3]
        ['path', 'class_index', 'label']
    """
    import pyarrow

    _check_key_column(step, key_column)
    key = pyarrow.field(key_column, key_type or pyarrow.string())
    return pyarrow.schema([key, *schema(step.declared_kinds())])


def _check_key_column(step: ExplainBatch, key_column: str | None) -> None:
    if key_column in step.columns.kinds:
        raise OptionError(
            f"key_column is {key_column!r}, which every row has", hint="another name, as 'path'"
        )


def _failures(rows: Sequence[Row]) -> int:
    return sum(row["error"] is not None for row in rows)
