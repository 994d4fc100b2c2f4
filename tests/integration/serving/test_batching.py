"""Batching as TensorFlow Serving does it, around a real session whose runs are counted."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tensorflow as tf
from serving_models import WEIGHTS, predict_request
from waiting import until

from saliency_exporter.errors import ExportError
from saliency_exporter.runtime.servable import ServableError, load_servable
from saliency_exporter.serving.batching import BatchingParameters, BatchingSession
from saliency_exporter.serving.batching_file import read_batching_file

MINUTE = 60_000_000
FULL = BatchingParameters(
    max_batch_size=4, batch_timeout_micros=MINUTE, num_batch_threads=2, allowed_batch_sizes=(1, 2, 4)
)
AT_ONCE = BatchingParameters(max_batch_size=4, allowed_batch_sizes=(1, 2, 4))


class Recorder:
    """Passes runs on to a servable's session, and keeps what it fed; can hold them back."""

    def __init__(self, run) -> None:
        self.run = run
        self.feeds: list[dict[str, np.ndarray]] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, feeds, fetches, timeout=None):
        self.feeds.append(dict(feeds))
        assert self.go.wait(30)
        return self.run(feeds, fetches)

    @property
    def sizes(self) -> list[int]:
        return [len(next(iter(feeds.values()))) for feeds in self.feeds]


@pytest.fixture
def batched(saved_versions):
    """Makes a servable whose runs are batched, and the recorder of the runs below."""
    servables = []

    def make(parameters: BatchingParameters):
        servable = load_servable(saved_versions[1])
        recorder = Recorder(servable.session_run)
        session = BatchingSession(recorder, parameters)
        servable.session_run = session
        servable.resources.callback(session.close)
        servables.append(servable)
        return servable, recorder

    yield make
    for servable in servables:
        servable.close()


def images(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 2)).astype(np.float32)


def ask(servable, rows: int, wanted: int, outputs=("gradients",), timeout: float | None = None):
    inputs = {"images": images(rows, wanted), "class_index": np.full(rows, wanted, np.int32)}
    return servable.predict("explain", inputs, outputs, timeout)


def at_once(*calls) -> list:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(60) for future in [pool.submit(call) for call in calls]]


def test_calls_of_different_clients_are_merged_and_each_gets_its_own_rows(batched):
    servable, recorder = batched(FULL)
    answers = at_once(lambda: ask(servable, 1, 0), lambda: ask(servable, 2, 1), lambda: ask(servable, 1, 2))
    assert recorder.sizes == [4]
    for wanted, (rows, answer) in enumerate(zip((1, 2, 1), answers, strict=True)):
        expected = np.broadcast_to(WEIGHTS[:, wanted], (rows, 2))
        np.testing.assert_array_equal(answer["gradients"], expected)


def test_a_batch_is_padded_to_the_next_allowed_size_with_row_0_of_the_last_call(batched):
    servable, recorder = batched(AT_ONCE)
    inputs = {"images": images(3), "class_index": np.array([2, 1, 0], np.int32)}
    answer = servable.predict("explain", inputs, ["class_index"])
    (feeds,) = recorder.feeds
    assert feeds["explain_class_index:0"].tolist() == [2, 1, 0, 2]
    np.testing.assert_array_equal(feeds["explain_images:0"], np.concatenate([images(3), images(3)[:1]]))
    assert answer["class_index"].tolist() == [2, 1, 0]


def test_a_batch_that_is_full_does_not_wait_for_its_time(batched):
    servable, recorder = batched(BatchingParameters(max_batch_size=2, batch_timeout_micros=MINUTE))
    started = time.perf_counter()
    at_once(lambda: ask(servable, 1, 0), lambda: ask(servable, 1, 1))
    assert time.perf_counter() - started < 40
    assert recorder.sizes == [2]


def test_another_output_filter_is_another_queue(batched):
    servable, recorder = batched(
        BatchingParameters(max_batch_size=2, batch_timeout_micros=500_000, num_batch_threads=2)
    )
    at_once(lambda: ask(servable, 1, 0), lambda: ask(servable, 1, 0, ("version",)))
    assert recorder.sizes == [1, 1]


def test_the_order_of_the_output_filter_is_not_another_queue_and_stays_the_callers(batched):
    servable, recorder = batched(BatchingParameters(max_batch_size=2, batch_timeout_micros=MINUTE))
    one, other = at_once(
        lambda: ask(servable, 1, 0, ("gradients", "version")),
        lambda: ask(servable, 1, 0, ("version", "gradients")),
    )
    assert recorder.sizes == [2]
    assert (list(one), list(other)) == (["gradients", "version"], ["version", "gradients"])


def test_a_call_that_does_not_fit_starts_the_next_batch(batched):
    servable, recorder = batched(
        BatchingParameters(max_batch_size=3, batch_timeout_micros=200_000, num_batch_threads=1)
    )
    at_once(lambda: ask(servable, 2, 0), lambda: ask(servable, 2, 1))
    assert recorder.sizes == [2, 2]


def refusal(call) -> tuple[int, str]:
    with pytest.raises(ServableError) as raised:
        call()
    return raised.value.code, raised.value.message


def test_scalars_are_refused(batched):
    servable, _ = batched(AT_ONCE)
    assert refusal(lambda: servable.predict("scalar", {"rank": np.int32(1), "images": images(1)})) == (
        tf.errors.INVALID_ARGUMENT,
        "Batching Run() input tensors must have at least one dimension",
    )


def test_inputs_of_different_lengths_are_refused_a_default_among_them(batched):
    servable, _ = batched(AT_ONCE)
    expected = (
        tf.errors.INVALID_ARGUMENT,
        "Batching Run() input tensors must have equal 0th-dimension size",
    )
    assert refusal(lambda: servable.predict("explain", {"images": images(2)})) == expected


def test_a_call_beyond_the_maximum_is_refused(batched):
    servable, _ = batched(AT_ONCE)
    assert refusal(lambda: servable.predict("", {"images": images(5)})) == (
        tf.errors.INVALID_ARGUMENT,
        "Task size 5 is larger than maximum input batch size 4",
    )


def test_a_full_queue_is_unavailable_at_once(batched):
    servable, recorder = batched(
        BatchingParameters(max_batch_size=1, max_enqueued_batches=2, num_batch_threads=1)
    )
    recorder.go.clear()
    with ThreadPoolExecutor(4) as pool:
        running = pool.submit(ask, servable, 1, 0)
        until(lambda: recorder.feeds)
        queued = [pool.submit(ask, servable, 1, 1) for _ in range(2)]
        until(lambda: len(servable.session_run._queues[queue_key(servable)]) == 2)
        until(lambda: all(batch.tasks for batch in servable.session_run._queues[queue_key(servable)]))
        assert refusal(lambda: ask(servable, 1, 2)) == (
            tf.errors.UNAVAILABLE,
            "The batch scheduling queue to which this task was submitted is full; currently 2 batches "
            "enqueued and max_enqueued_batches is 2",
        )
        recorder.go.set()
        for future in (running, *queued):
            assert future.result(30)["gradients"].shape == (1, 2)


@pytest.fixture
def waiting(batched):
    """Makes calls with these timeouts wait as one batch for the only thread, until `go` is set."""
    servable, recorder = batched(
        BatchingParameters(max_batch_size=4, max_enqueued_batches=4, num_batch_threads=1)
    )
    with ThreadPoolExecutor(8) as pool:

        def wait(*timeouts: float | None) -> tuple[list, Recorder]:
            recorder.go.clear()
            running = pool.submit(ask, servable, 4, 0)
            until(lambda: recorder.feeds)
            calls = [pool.submit(ask, servable, 1, 1, timeout=timeout) for timeout in timeouts]
            until(lambda: len(servable.session_run._queues[queue_key(servable)][0].tasks) == len(timeouts))
            return [running, *calls], recorder

        yield wait
        recorder.go.set()


def test_a_batch_that_nobody_waits_for_any_more_is_not_run(waiting):
    # A timeout of nothing has passed by the time that the batch is looked at.
    (running, *calls), recorder = waiting(0.0, 0.0)
    recorder.go.set()
    for call in calls:
        assert refusal(lambda call=call: call.result(30)) == (
            tf.errors.RESOURCE_EXHAUSTED,
            "Run() timeout exceeded while waiting in batching queue",
        )
    assert running.result(30)["gradients"].shape == (4, 2)
    assert recorder.sizes == [4]


@pytest.mark.parametrize("patience", [None, 30.0])
def test_a_batch_that_one_caller_still_waits_for_is_run_for_all(waiting, patience):
    (_, *calls), recorder = waiting(0.0, patience)
    recorder.go.set()
    for call in calls:
        np.testing.assert_array_equal(call.result(30)["gradients"], [WEIGHTS[:, 1]])
    assert recorder.sizes == [4, 2]


def queue_key(servable):
    (key,) = servable.session_run._queues
    return key


def test_different_shapes_in_one_batch_fail_every_call_of_it(batched):
    servable, _ = batched(FULL)
    calls = [
        lambda width=width: refusal(
            lambda: servable.predict("echo", {"block": np.ones([2, width], np.float32)})
        )
        for width in (3, 4)
    ]
    for code, message in at_once(*calls):
        assert code == tf.errors.FAILED_PRECONDITION
        assert message.startswith(
            "Tensors with name 'echo_block:0' from different tasks have different shapes"
        )


def test_an_output_without_the_batch_dimension_is_refused(batched):
    servable, recorder = batched(BatchingParameters(max_batch_size=4))
    recorder.run = lambda feeds, fetches: [np.float32(1) for _ in fetches]
    assert refusal(lambda: servable.predict("", {"images": images(1)})) == (
        tf.errors.FAILED_PRECONDITION,
        "Batched output tensor has 0 dimensions",
    )


def test_an_error_of_the_run_reaches_every_caller_of_the_batch(batched):
    servable, recorder = batched(FULL)
    calls = [lambda: refusal(lambda: servable.predict("", {"images": np.ones([2, 3], np.float32)}))] * 2
    for code, message in at_once(*calls):
        assert code == tf.errors.INVALID_ARGUMENT
        assert "Matrix size-incompatible: In[0]: [4,3]" in message
    assert recorder.sizes == [4]


def test_the_allowed_sizes_must_end_with_the_maximum():
    with pytest.raises(ExportError, match="last entry was 8; expected 16"):
        BatchingParameters(max_batch_size=16, allowed_batch_sizes=(1, 8))


def test_TensorFlow_Servings_parameters_file_is_read(tmp_path):
    file = tmp_path / "batching.config"
    file.write_text(
        """
        max_batch_size { value: 16 }
        batch_timeout_micros { value: 2000 }
        num_batch_threads { value: 3 }
        thread_pool_name { value: "explain" }
        allowed_batch_sizes: 1
        allowed_batch_sizes: 16
        """
    )
    expected = BatchingParameters(
        max_batch_size=16, batch_timeout_micros=2000, num_batch_threads=3, allowed_batch_sizes=(1, 16)
    )
    assert read_batching_file(file) == read_batching_file(file) == expected
    assert expected.max_enqueued_batches == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size: 4", "cannot read"),
        ("max_batch { value: 4 }", "cannot read"),
        ("enable_large_batch_splitting { value: true }", "asks for enable_large_batch_splitting"),
        ("pad_variable_length_inputs: true", "asks for pad_variable_length_inputs"),
        ("allowed_batch_sizes: 4", "must match max_batch_size; last entry was 4; expected 1000"),
    ],
)
def test_a_parameters_file_that_cannot_be_followed_is_an_error(tmp_path, text, message):
    file = tmp_path / "batching.config"
    file.write_text(text)
    with pytest.raises(ExportError, match=message):
        read_batching_file(file)


def test_closing_ends_the_threads(batched):
    before = threading.active_count()
    servable, _ = batched(BatchingParameters(num_batch_threads=3))
    assert threading.active_count() == before + 3
    servable.close()
    until(lambda: threading.active_count() == before)


def test_concurrent_clients_get_the_same_bits_with_and_without_batching(model_dir, start_local, stubs_to):
    plain = stubs_to(start_local({"small": model_dir}).target)
    parameters = BatchingParameters(
        max_batch_size=8,
        batch_timeout_micros=2000,
        allowed_batch_sizes=(1, 2, 4, 8),
        max_enqueued_batches=100,
    )
    merged = stubs_to(start_local({"small": model_dir}, batching=parameters).target)

    def gradients(stubs, seed: int) -> bytes:
        rows = seed % 3 + 1
        request = predict_request(
            "small", "explain", images=images(rows, seed), class_index=np.full(rows, seed % 3, np.int32)
        )
        return stubs.predict(request, timeout=60).outputs["gradients"].SerializeToString()

    with ThreadPoolExecutor(16) as pool:
        for expected, answer in zip(
            pool.map(lambda seed: gradients(plain, seed), range(60)),
            pool.map(lambda seed: gradients(merged, seed), range(60)),
            strict=True,
        ):
            assert answer == expected


def test_a_queue_that_is_full_is_unavailable_over_the_wire(model_dir, start_local, stubs_to):
    parameters = BatchingParameters(max_batch_size=1, max_enqueued_batches=1, num_batch_threads=1)
    stubs = stubs_to(start_local({"small": model_dir}, batching=parameters).target)
    request = predict_request("small", "busy", seconds=np.array([0.3], np.float32))
    calls = [stubs.predict.future(request, timeout=60) for _ in range(8)]
    errors = [error for call in calls if (error := call.exception(timeout=60)) is not None]
    assert errors
    assert {error.code() for error in errors} == {grpc.StatusCode.UNAVAILABLE}
    assert "batch scheduling queue" in errors[0].details()
