"""explain_many of both clients."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import threading
import time
from contextlib import aclosing, closing

import grpc
import numpy as np
import pytest
from scripted_server import CLASSES, MODEL, LinearModel, from_proto, serving
from waiting import until

from saliency_client import (
    AsyncSaliencyClient,
    Cancelled,
    DeadlineExceeded,
    InputError,
    InvalidArgument,
    ItemError,
    OptionError,
    QueueFull,
    RetryPolicy,
    SaliencyError,
    Unavailable,
)

QUEUE_FULL = "The batch scheduling queue to which this task was submitted is full; currently 10 enqueued"


def pictures(count: int) -> np.ndarray:
    """Each with its number as its first value."""
    images = np.zeros((count, LinearModel.height, LinearModel.width, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(count)
    return images


def batches(server) -> list[list[int]]:
    """The numbers of the pictures in each request, in order of their first."""
    return sorted(from_proto(request.inputs["images"])[:, 0, 0, 0].tolist() for request in server.requests)


def test_results_come_in_order_whatever_order_the_answers_come_in(server, client):
    released = threading.Event()
    server.script.append(lambda request, context: released.wait(10) and None)

    def images():
        for number, image in enumerate(pictures(40)):
            if number == 15:  # by now the first request is held, and later ones are answered
                released.set()
            yield image

    results = list(client.explain_many(images(), batch_size=2, class_index=itertools.cycle(range(CLASSES))))

    assert [result.index for result in results] == list(range(40))
    assert [result.explanation.class_index.tolist() for result in results] == [
        [n % CLASSES] for n in range(40)
    ]
    assert all(result.error is None and result.seconds > 0 for result in results)


def test_batches_are_as_large_as_asked_but_for_the_last(server, client):
    results = list(client.explain_many(pictures(11), batch_size=4))

    assert batches(server) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert [result.explanation.saliency.shape for result in results] == [(1, 6, 5)] * 11


def test_nothing_is_read_before_the_first_result_is_wanted_and_little_beyond_what_is_taken(client):
    read = []

    def images():
        for image in pictures(200):
            read.append(len(read))
            yield image

    results = client.explain_many(images(), batch_size=2, max_in_flight=3)
    assert read == []
    with closing(results):
        for taken in range(1, 21):
            next(results)
            # 2 · max_in_flight batches of two may be read and not yet returned, and half the one before.
            assert len(read) <= taken + 2 * 3 * 2 + 1


def test_no_more_requests_are_under_way_than_asked(server, client):
    everyone = threading.Barrier(3, timeout=30)
    server.script.extend([lambda request, context: everyone.wait() and None] * 9)

    list(client.explain_many(pictures(9), batch_size=1, max_in_flight=3))

    assert server.most_running == 3


def test_one_image_of_the_wrong_size_fails_alone(server, client):
    images = [*pictures(5)]
    images[2] = np.zeros((9, 9, 3), np.uint8)

    results = list(client.explain_many(images, batch_size=5))

    assert [result.error is None for result in results] == [True, True, False, True, True]
    assert isinstance(results[2].error, InputError)
    assert "[B,6,5,3]" in str(results[2].error)
    assert (results[2].index, results[2].explanation) == (2, None)


def test_one_image_of_another_dtype_is_not_cast_by_its_neighbours(connect):
    with serving(LinearModel(dtype="float32")) as server:
        images = [*pictures(3).astype(np.float32)]
        images[1] = images[1].astype(np.uint8)

        results = list(connect(server).explain_many(images, batch_size=3))

        assert [type(result.error) for result in results] == [type(None), InputError, type(None)]
        assert "images is uint8; the model takes float32" in str(results[1].error)


def test_one_value_that_the_server_refuses_fails_alone(server, client):
    results = list(client.explain_many(pictures(8), batch_size=8, class_index=[0, 1, 2, 3, 0, 99, 2, 3]))

    assert [result.index for result in results if result.error] == [5]
    assert isinstance(results[5].error, InvalidArgument)
    assert "class_index 99" in results[5].error.details
    assert [result.explanation.class_index.item() for result in results if result.explanation] == [
        0, 1, 2, 3, 0, 2, 3,
    ]  # fmt: skip
    # 8 → 4 + 4 → (second half) 2 + 2 → 1 + 1: one image is found in seven requests.
    assert len(server.requests) == 7


def test_a_batch_too_large_for_the_servers_batching_is_sent_in_parts(server, client):
    def at_most_two(request, context):
        size = request.inputs["images"].tensor_shape.dim[0].size
        if size > 2:
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"Task size {size} is larger than maximum input batch size 2",
            )

    server.script.extend([at_most_two] * 50)

    results = list(client.explain_many(pictures(8), batch_size=8))

    assert [result.error for result in results] == [None] * 8


def test_an_image_that_cannot_be_read_is_its_own_failure_and_the_rest_go_on(client):
    def load(number: int) -> np.ndarray:
        if number == 3:
            raise OSError("truncated file")
        return pictures(number + 1)[number]

    results = list(client.explain_many(map(load, range(10)), batch_size=4))

    assert [result.index for result in results if result.error] == [3]
    assert isinstance(results[3].error, ItemError)
    assert "image 3 could not be read: OSError: truncated file" in str(results[3].error)
    assert isinstance(results[3].error.__cause__, OSError)
    with pytest.raises(ItemError):
        results[3].unwrap()
    assert results[4].unwrap() is results[4].explanation


def test_a_generator_that_raises_ends_the_results_with_its_error_after_those_before_it(client):
    def images():
        yield from pictures(5)
        raise OSError("disk is gone")

    results = client.explain_many(images(), batch_size=2)

    assert [next(results).index for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(OSError, match="disk is gone"):
        next(results)


def test_parameters_may_run_with_the_images_and_too_few_are_an_error_of_those_left(client):
    results = list(client.explain_many(pictures(4), batch_size=2, class_index=iter([3, 2])))

    assert [result.explanation.class_index.item() for result in results[:2]] == [3, 2]
    assert "class_index gave 2 values for more images" in str(results[2].error)
    assert isinstance(results[3].error, InputError)


def test_a_failing_server_fails_each_image_and_not_the_loop(server, connect):
    client = connect(server, retry=RetryPolicy(attempts=2, initial_backoff=0.01))
    server.fail(grpc.StatusCode.UNAVAILABLE, "going away", times=2)

    results = list(client.explain_many(pictures(6), batch_size=3, max_in_flight=1))

    assert [type(result.error) for result in results] == [Unavailable] * 3 + [type(None)] * 3


def test_while_the_queue_is_full_requests_wait_beyond_the_attempts_of_a_single_call(server, connect):
    client = connect(server, retry=RetryPolicy(attempts=1, initial_backoff=0.01, max_backoff=0.05))
    server.fail(grpc.StatusCode.UNAVAILABLE, QUEUE_FULL, times=12)

    results = list(client.explain_many(pictures(4), batch_size=1, max_in_flight=2))

    assert [result.error for result in results] == [None] * 4
    assert len(server.requests) == 16


def test_a_queue_that_stays_full_ends_with_the_timeout(server, connect):
    client = connect(server, retry=RetryPolicy(attempts=1, initial_backoff=0.01, max_backoff=0.05))
    client.methods()
    server.fail(grpc.StatusCode.UNAVAILABLE, QUEUE_FULL, times=10_000)

    (result,) = client.explain_many(pictures(1), timeout=0.5)

    assert isinstance(result.error, QueueFull | DeadlineExceeded)
    assert result.error.attempts > 1


def test_the_timeout_is_that_of_each_request(server, client):
    client.methods()
    server.hang()

    results = list(client.explain_many(pictures(3), batch_size=1, max_in_flight=1, timeout=1))

    assert [type(result.error) for result in results] == [DeadlineExceeded, type(None), type(None)]


def answer_only_the_first(server) -> None:
    """Answer for picture 0 when four requests have come; hold the others until the client lets go of them."""

    def first_or_wait(request, context) -> None:
        if from_proto(request.inputs["images"])[0, 0, 0, 0] != 0:
            server.wait_for_the_client_to_leave(request, context)
        else:
            until(lambda: server.running == 4)

    server.script.extend([first_or_wait] * 50)


def test_leaving_the_loop_ends_what_is_under_way(server, client):
    answer_only_the_first(server)

    with closing(client.explain_many(pictures(30), batch_size=1, max_in_flight=4, timeout=60)) as results:
        next(results)

    until(lambda: not server.running)
    assert server.abandoned >= 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("explain_many")]


def test_waiting_for_a_retry_is_cut_short_when_the_loop_is_left(server, connect):
    client = connect(server, retry=RetryPolicy(attempts=9, initial_backoff=50, max_backoff=50), timeout=None)
    server.script.append(lambda request, context: None)
    server.fail(grpc.StatusCode.UNAVAILABLE, "going away", times=3)
    started = time.monotonic()

    with closing(client.explain_many(pictures(8), batch_size=1, max_in_flight=1)) as results:
        next(results)
        until(lambda: len(server.requests) > 1 and not server.running)

    assert time.monotonic() - started < 40


def test_an_error_in_the_loops_body_ends_what_is_under_way(server, client):
    answer_only_the_first(server)

    def loop() -> None:
        for _ in client.explain_many(pictures(30), batch_size=1, max_in_flight=4, timeout=60):
            raise KeyError("in the body")

    with pytest.raises(KeyError):
        loop()

    until(lambda: not server.running)


def test_results_left_lying_do_not_hold_up_the_end_of_the_program(server):
    answer_only_the_first(server)
    code = f"""
import numpy as np
from saliency_client import SaliencyClient
client = SaliencyClient({server.target!r}, model={MODEL!r}, timeout=60)
images = np.zeros((9, 6, 5, 3), np.uint8)
images[:, 0, 0, 0] = range(9)
results = client.explain_many(images, batch_size=1, max_in_flight=4)
next(results)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)

    until(lambda: not server.running)


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"max_in_flight": 0}, {"batch_size": 2.5}, {"batch_size": True}]
)
def test_bounds_below_one_are_refused_when_called(client, wrong):
    with pytest.raises(OptionError, match="must be a whole number, 1 or above"):
        client.explain_many(pictures(1), **wrong)


def test_no_images_give_no_results(client):
    assert list(client.explain_many([])) == []


def test_something_that_is_not_iterable_is_refused_when_called(client):
    with pytest.raises(TypeError, match="not iterable"):
        client.explain_many(7)


def test_images_that_are_no_arrays_fail_one_by_one(client):
    results = list(client.explain_many([[[1, 2], [3]], "cat.jpg", None, pictures(1)[0]], batch_size=4))

    assert [isinstance(result.error, SaliencyError) for result in results] == [True, True, True, False]


def test_async_results_come_while_an_asynchronous_source_still_waits(server):
    async def main() -> list[int]:
        more = asyncio.Event()

        async def images():
            yield pictures(1)[0]
            await more.wait()
            yield pictures(1)[0]

        async with AsyncSaliencyClient(server.target, model=MODEL) as client:
            order = []
            async for result in client.explain_many(images(), batch_size=1):
                order.append(result.index)
                more.set()
            return order

    assert asyncio.run(main()) == [0, 1]


def test_an_asynchronous_generator_that_raises_ends_the_results_after_those_before_it(server):
    async def images():
        for image in pictures(3):
            yield image
        raise OSError("queue is gone")

    async def main() -> list[int]:
        async with AsyncSaliencyClient(server.target, model=MODEL) as client:
            results = client.explain_many(images(), batch_size=2)
            taken = [(await anext(results)).index for _ in range(3)]
            with pytest.raises(OSError, match="queue is gone"):
                await anext(results)
        return taken

    assert asyncio.run(main()) == [0, 1, 2]


def test_cancelling_the_task_ends_its_requests_and_leaves_no_task(server):
    for _ in range(4):
        server.hang()

    async def main() -> set[asyncio.Task]:
        async with AsyncSaliencyClient(server.target, model=MODEL) as client:

            async def consume() -> None:
                async with aclosing(client.explain_many(pictures(20), batch_size=1)) as results:
                    async for _ in results:
                        pass

            task = asyncio.create_task(consume())
            await asyncio.to_thread(until, lambda: server.running == 4)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(main()) == set()
    until(lambda: not server.running)
    assert server.abandoned == 4


def test_cancelling_one_asynchronous_call_ends_its_request(server):
    server.hang()

    async def main() -> None:
        async with AsyncSaliencyClient(server.target, model=MODEL) as client:
            task = asyncio.create_task(client.explain(pictures(1)))
            await asyncio.to_thread(until, lambda: server.running)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    until(lambda: not server.running)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tasks cannot tell before Python 3.11")
def test_closing_the_asynchronous_client_ends_a_call_under_way_and_not_its_task(server):
    server.hang()

    async def main() -> type[BaseException]:
        client = AsyncSaliencyClient(server.target, model=MODEL)
        task = asyncio.create_task(client.explain(pictures(1)))
        await asyncio.to_thread(until, lambda: server.running)
        await client.close()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
        return type(ended)

    assert asyncio.run(main()) is Cancelled


def test_one_asynchronous_client_serves_event_loops_one_after_another(server):
    client = AsyncSaliencyClient(server.target, model=MODEL)

    async def call() -> tuple[str, ...]:
        return await client.methods()

    assert [asyncio.run(call()) for _ in range(3)] == [("gradients", "smooth")] * 3


def test_one_client_serves_many_threads_at_once(server):
    from saliency_client import SaliencyClient

    with SaliencyClient(server.target, model=MODEL) as client:
        answers: list[int] = []

        def call(number: int) -> None:
            for _ in range(10):
                answers.append(client.explain(pictures(1), class_index=number).class_index.item() - number)

        threads = [threading.Thread(target=call, args=[number]) for number in range(CLASSES)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

    assert answers == [0] * 40
