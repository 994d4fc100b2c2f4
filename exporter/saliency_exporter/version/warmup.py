"""Warmup records: the requests that a server runs before it says a version is AVAILABLE.

The file is assets.extra/tf_serving_warmup_requests, a TFRecord of PredictionLog, as the server reads it
(tensorflow_serving/servables/tensorflow/saved_model_warmup_util.cc).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.python.lib.io.tf_record import tf_record_random_reader
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from saliency_client._files import write_whole
from saliency_exporter.errors import ExportError
from saliency_exporter.runtime.servable import Servable, ServableError
from saliency_exporter.runtime.tensor_protos import to_proto

MAX_RECORDS = 1000


def warmup_path(version_dir: Path | str) -> Path:
    """Where a version directory keeps its warmup records."""
    return Path(version_dir) / "assets.extra" / "tf_serving_warmup_requests"


class WarmupRecord(NamedTuple):
    """One request that a server runs before it says AVAILABLE.

    Attributes:
        signature: name of the signature.
        inputs: arrays by alias.
        outputs: the output filter; empty for all outputs.
    """

    signature: str
    inputs: Mapping[str, np.ndarray]
    outputs: Sequence[str] = ()


def write_warmup(
    version_dir: Path | str,
    records: Iterable[WarmupRecord | tuple[str, Mapping[str, np.ndarray]]],
    model_name: str,
) -> int:
    """Writes the warmup file, whole or not at all; the same records give the same bytes.

    Args:
        version_dir: the version directory.
        records: what to run, in this order; a pair of signature and inputs asks for all outputs.
        model_name: the name that the requests carry.

    Returns:
        How many records were written.

    Raises:
        ExportError: there are more than 1000, which TensorFlow Serving refuses at load.
    """
    path = warmup_path(version_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0

    def write(file: BinaryIO) -> None:
        nonlocal count
        # By name: what writes TensorFlow's records opens its file itself.
        with tf.io.TFRecordWriter(file.name) as writer:
            for record in records:
                count += 1
                if count > MAX_RECORDS:
                    raise ExportError(
                        f"more than {MAX_RECORDS} warmup records, which TensorFlow Serving refuses to load",
                        hint="export fewer batch sizes or fewer methods",
                    )
                writer.write(_prediction_log(model_name, WarmupRecord(*record)))

    write_whole(path, write, overwrite=True)
    return count


def read_warmup(version_dir: Path | str) -> Iterator[predict_pb2.PredictRequest]:
    """Reads the requests of a version directory; none where it has no warmup file.

    Raises:
        ServableError: the file is damaged, holds more than 1000 records or another kind than Predict.
    """
    path = warmup_path(version_dir)
    if not path.exists():
        return
    for count, record in enumerate(_records(path), start=1):
        if count > MAX_RECORDS:
            raise ServableError(
                tf.errors.INVALID_ARGUMENT,
                f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}",
            )
        log = prediction_log_pb2.PredictionLog()
        try:
            log.ParseFromString(record)
        except DecodeError as error:
            raise ServableError(
                tf.errors.INVALID_ARGUMENT, f"Failed to parse warmup record {count} from {path}"
            ) from error
        match log.WhichOneof("log_type"):
            case "predict_log":
                yield log.predict_log.request
            case None:
                continue
            case other:
                raise ServableError(tf.errors.UNIMPLEMENTED, f"Unsupported log_type for warmup: {other}")


def count_warmup(version_dir: Path | str) -> int:
    """How many warmup records a version directory has.

    Raises:
        ServableError: the file is damaged.
    """
    path = warmup_path(version_dir)
    return sum(1 for _ in _records(path)) if path.exists() else 0


def replay_warmup(
    servable: Servable,
    version_dir: Path | str | None = None,
    progress: Callable[[predict_pb2.PredictRequest], None] | None = None,
    threads: int = 1,
) -> int:
    """Runs the warmup records through a loaded servable; a failing one fails the load.

    Args:
        servable: what runs them.
        version_dir: where the records are; by default the servable's own directory.
        progress: called with each request before it runs, in the order of the file, by one thread at a time.
        threads: how many records run side by side, as TensorFlow Serving's num_model_warmup_threads.

    Returns:
        How many records ran.

    Raises:
        ServableError: of a record that failed, after which no further one begins, or of a damaged file.
    """
    requests = read_warmup(version_dir or servable.version_dir)
    taking = threading.Lock()
    failed = threading.Event()

    def take() -> predict_pb2.PredictRequest | None:
        with taking:
            request = None if failed.is_set() else next(requests, None)
            if request is not None and progress is not None:
                progress(request)
            return request

    def run() -> int:
        count = 0
        try:
            while (request := take()) is not None:
                servable.predict(request.model_spec.signature_name, request.inputs, request.output_filter)
                count += 1
        except BaseException:
            failed.set()
            raise
        return count

    if threads == 1:
        return run()
    with ThreadPoolExecutor(threads, thread_name_prefix="warmup") as pool:
        running = [pool.submit(run) for _ in range(threads)]
    return sum(future.result() for future in running)


def _prediction_log(model_name: str, record: WarmupRecord) -> bytes:
    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = model_name
    request.model_spec.signature_name = record.signature
    request.output_filter.extend(record.outputs)
    for alias, value in record.inputs.items():
        request.inputs[alias].CopyFrom(to_proto(value))
    return log.SerializeToString(deterministic=True)


def _records(path: Path) -> Iterator[bytes]:
    # Not by tf.data, whose iterators now and then wait for ten seconds at their end.
    offset = 0
    try:
        reader = tf_record_random_reader(str(path))
        while True:
            record, offset = reader.read(offset)
            yield record
    except IndexError:  # there is no further record
        return
    except tf.errors.DataLossError as error:
        raise ServableError(
            tf.errors.DATA_LOSS,
            f"{path} is damaged. Please verify your warmup data is in TFRecord format.",
        ) from error
