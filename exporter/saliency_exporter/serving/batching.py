"""TensorFlow Serving's request batching, small enough to read in one sitting.

Calls of different clients are merged along dimension 0, run as one, and split again. Semantics and texts
follow tensorflow_serving/batching/batching_session.cc and TensorFlow's shared_batch_scheduler.h: one queue
per set of inputs and outputs, so another output_filter is another queue; padding to the next allowed size
with row 0 of the last call; no splitting of large calls, no padding of other dimensions.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

from saliency_exporter.errors import ExportError
from saliency_exporter.runtime.servable import ServableError, SessionRun

QueueKey = tuple[frozenset[str], frozenset[str]]


@dataclass(frozen=True)
class BatchingParameters:
    """TensorFlow Serving's BatchingParameters with its defaults.

    Attributes:
        max_batch_size: rows that one run takes at most.
        batch_timeout_micros: how long an unfilled batch waits for more calls.
        max_enqueued_batches: batches in one queue, the one still being filled included.
        num_batch_threads: batches that run side by side; 0 means one per core.
        allowed_batch_sizes: increasing, the last one equal to max_batch_size; empty means no padding.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = 0
    allowed_batch_sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        sizes = self.allowed_batch_sizes
        if min(self.max_batch_size, self.max_enqueued_batches) < 1:
            raise ExportError("max_batch_size and max_enqueued_batches must be at least 1")
        if list(sizes) != sorted(set(sizes)) or (sizes and sizes[0] < 1):
            raise ExportError(f"allowed_batch_sizes must be positive and increasing, got {sizes}")
        if sizes and sizes[-1] != self.max_batch_size:
            raise ExportError(
                "Last entry in allowed_batch_sizes must match max_batch_size; last entry was "
                f"{sizes[-1]}; expected {self.max_batch_size}"
            )


@dataclass
class _Task:
    feeds: Mapping[str, np.ndarray]
    size: int
    deadline: float
    result: Future[dict[str, np.ndarray]] = field(default_factory=Future)


@dataclass
class _Batch:
    tasks: list[_Task] = field(default_factory=list)
    opened: float = 0.0

    @property
    def size(self) -> int:
        return sum(task.size for task in self.tasks)


class BatchingSession:
    """A session run that merges concurrent calls; call it like the run it wraps."""

    def __init__(self, run: SessionRun, parameters: BatchingParameters) -> None:
        self._run = run
        self._parameters = parameters
        # Each queue ends with the batch that is still open, possibly empty.
        self._queues: dict[QueueKey, deque[_Batch]] = {}
        self._changed = threading.Condition()
        self._closed = False
        for index in range(parameters.num_batch_threads or os.cpu_count() or 1):
            threading.Thread(target=self._work, name=f"batching-{index}", daemon=True).start()

    def __call__(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], timeout: float | None = None
    ) -> list[np.ndarray]:
        """Queues one call and waits for its part of a batch's outputs.

        Raises:
            ServableError: INVALID_ARGUMENT for a call that cannot be batched, UNAVAILABLE for a full queue,
                RESOURCE_EXHAUSTED if nobody in its batch waited any more when its turn came, else what the
                batch's run raised.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        task = _Task(feeds, _batch_size(feeds), deadline)
        if task.size == 0:
            return self._run(feeds, fetches)
        self._schedule((frozenset(feeds), frozenset(fetches)), task)
        outputs = task.result.result()
        return [outputs[name] for name in fetches]

    def close(self) -> None:
        """Ends the batch threads; call it when no call is under way."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _schedule(self, key: QueueKey, task: _Task) -> None:
        limit = self._parameters.max_batch_size
        if task.size > limit:
            raise _invalid(f"Task size {task.size} is larger than maximum input batch size {limit}")
        with self._changed:
            queue = self._queues.setdefault(key, deque([_Batch()]))
            if queue[-1].size + task.size > limit:
                if len(queue) >= self._parameters.max_enqueued_batches:
                    raise ServableError(
                        tf.errors.UNAVAILABLE,
                        "The batch scheduling queue to which this task was submitted is full; currently "
                        f"{len(queue)} batches enqueued and max_enqueued_batches is "
                        f"{self._parameters.max_enqueued_batches}",
                    )
                queue.append(_Batch())
            if not queue[-1].tasks:
                queue[-1].opened = time.monotonic()
            queue[-1].tasks.append(task)
            self._changed.notify()

    def _work(self) -> None:
        while (ready := self._next_batch()) is not None:
            key, batch = ready
            try:
                outputs = self._process(key, batch)
            except BaseException as error:
                for task in batch.tasks:
                    task.result.set_exception(error)
            else:
                for task, task_outputs in zip(batch.tasks, outputs, strict=True):
                    task.result.set_result(task_outputs)

    def _next_batch(self) -> tuple[QueueKey, _Batch] | None:
        """Waits for a batch that is full or whose time is up; None when the session is closed."""
        timeout = self._parameters.batch_timeout_micros / 1e6
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                waits = []
                for key, queue in self._queues.items():
                    first = queue[0]
                    due = first.opened + timeout - now
                    full = len(queue) > 1 or first.size >= self._parameters.max_batch_size
                    if first.tasks and (full or due <= 0):
                        queue.popleft()
                        if not queue:
                            queue.append(_Batch())
                        # The queue goes to the end of the line, so that no queue starves another.
                        self._queues[key] = self._queues.pop(key)
                        return key, first
                    if first.tasks:
                        waits.append(due)
                self._changed.wait(min(waits, default=None))
        return None

    def _process(self, key: QueueKey, batch: _Batch) -> list[dict[str, np.ndarray]]:
        if max(task.deadline for task in batch.tasks) <= time.monotonic():
            raise ServableError(
                tf.errors.RESOURCE_EXHAUSTED, "Run() timeout exceeded while waiting in batching queue"
            )
        padding = _padding(self._parameters.allowed_batch_sizes, batch.size)
        feeds = {name: _merge(name, batch.tasks, padding) for name in sorted(key[0])}
        fetches = sorted(key[1])
        outputs = dict(zip(fetches, self._run(feeds, fetches), strict=True))
        for output in outputs.values():
            _check_output(output, batch.size + padding)
        ends = np.cumsum([task.size for task in batch.tasks]).tolist()
        return [
            {name: output[end - task.size : end] for name, output in outputs.items()}
            for task, end in zip(batch.tasks, ends, strict=True)
        ]


def _batch_size(feeds: Mapping[str, np.ndarray]) -> int:
    if not feeds:
        raise _invalid("Batching Run() must have at least one input tensor")
    if any(array.ndim == 0 for array in feeds.values()):
        raise _invalid("Batching Run() input tensors must have at least one dimension")
    sizes = {len(array) for array in feeds.values()}
    if len(sizes) > 1:
        raise _invalid("Batching Run() input tensors must have equal 0th-dimension size")
    return sizes.pop()


def _padding(allowed_batch_sizes: Sequence[int], size: int) -> int:
    return next((allowed - size for allowed in allowed_batch_sizes if allowed >= size), 0)


def _merge(name: str, tasks: Sequence[_Task], padding: int) -> np.ndarray:
    arrays = [task.feeds[name] for task in tasks]
    if any(array.shape[1:] != arrays[0].shape[1:] for array in arrays):
        raise ServableError(
            tf.errors.FAILED_PRECONDITION,
            f"Tensors with name '{name}' from different tasks have different shapes and padding is turned "
            "off. Set pad_variable_length_inputs to true, or ensure that all tensors with the same name have "
            "equal dimensions starting with the first dim.",
        )
    if any(array.dtype != arrays[0].dtype for array in arrays):
        raise ServableError(tf.errors.INTERNAL, "Tensor concat operation failed: dtypes differ")
    return np.concatenate([*arrays, *[arrays[-1][:1]] * padding])


def _check_output(output: np.ndarray, expected: int) -> None:
    if output.ndim == 0:
        raise ServableError(tf.errors.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions")
    if len(output) != expected:
        raise ServableError(
            tf.errors.FAILED_PRECONDITION,
            "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the "
            "input tensors",
        )


def _invalid(message: str) -> ServableError:
    return ServableError(tf.errors.INVALID_ARGUMENT, message)
