"""Ten times the server's capacity: refused fast, what was taken is served, soon over; and nobody starves."""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import AbstractContextManager
from typing import Any

import grpc
import numpy as np
from lab import MODEL, Lab, Outcome, encode, images, main, percentiles
from server_process import ServerProcess

from saliency_client import RetryPolicy, SaliencyClient, SaliencyError
from saliency_client._proto import saliency_client_tfs_pb2 as tfs
from saliency_client._requests import PREDICT

RUNNING, WAITING = 2, 8
FACTOR = 10
REFUSED_WITHIN = 0.05
RECOVERED_WITHIN = 1.0
# What a server takes, it serves, also when the flood is over: so much work, and a new request's own, fit into
# the time to recover.
TAKEN_SECONDS = RECOVERED_WITHIN / 2
# Images in a large request: what a server takes so many seconds for, at least what it calls large.
LARGE_SECONDS = 2.0
LARGE_AT_LEAST = 5
# Channels of one process to one target share their connection, and the server tells clients by theirs.
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


def request(samples: int, size: int = 1) -> bytes:
    message = tfs.PredictRequest()
    message.model_spec.name = MODEL
    message.model_spec.signature_name = "explain_smooth"
    message.inputs["images"].CopyFrom(encode(images(size)))
    message.inputs["num_samples"].CopyFrom(encode(np.array(samples, np.int32)))
    return message.SerializeToString()


def campaign(lab: Lab, *, seconds: float = 20.0) -> Outcome:
    """Overload for so many seconds, then bulk work beside single requests for as long."""
    outcome = Outcome("overload")
    with _server(lab, WAITING) as roomy:
        rate = _capacity(roomy.target)
        waiting = waiting_within(TAKEN_SECONDS, rate)
        outcome.fact("places: running, waiting", f"{RUNNING}, {waiting}: {TAKEN_SECONDS:g} s of {rate:.0f}/s")
        with _server(lab, waiting) as server:
            _overload(outcome, server.target, seconds, rate)
        _bulk_beside_others(outcome, roomy.target, seconds, rate)
    return outcome


def _server(lab: Lab, waiting: int) -> AbstractContextManager[ServerProcess]:
    return lab.server(lab.uncompiled, "--running", str(RUNNING), "--waiting", str(waiting))


def waiting_within(seconds: float, rate: float) -> int:
    """The `--waiting` with which a server that answers `rate` a second holds so many seconds of work."""
    return max(0, int(rate * seconds) - RUNNING)


def _capacity(target: str) -> float:
    """Answers a second at full use."""
    with grpc.insecure_channel(target) as channel:
        call, payload = channel.unary_unary(PREDICT), request(200)
        for _ in range(5):
            call(payload, timeout=300)
        return max(_rate(call, payload) for _ in range(2))


def _overload(outcome: Outcome, target: str, seconds: float, rate: float) -> None:
    with (
        grpc.insecure_channel(target, OWN_CONNECTION) as one,
        grpc.insecure_channel(target, OWN_CONNECTION) as two,
    ):
        calls = [channel.unary_unary(PREDICT) for channel in (one, two)]
        payload = request(200)
        calls[0](payload, timeout=300)  # the first prepares a graph
        before = [_first_answer(calls[0], payload, 60) for _ in range(10)]
        interval = 1 / (FACTOR * rate)
        answers: list[tuple[float, grpc.StatusCode]] = []
        under_way: deque[Any] = deque()
        lock = threading.Lock()

        def done(call: Any, started: float) -> None:
            with lock:
                answers.append((time.monotonic() - started, call.code()))

        late: list[float] = []
        end = due = time.monotonic()
        end += seconds
        while due < end:
            time.sleep(max(0.0, due - time.monotonic()))
            started = time.monotonic()
            late.append(started - due)
            call = calls[len(under_way) % 2].future(payload, timeout=120)
            call.add_done_callback(lambda call, started=started: done(call, started))
            under_way.append(call)
            due += interval
        first = _first_answer(calls[0], payload, 60)
        for call in under_way:
            call.exception()
        after = [_first_answer(calls[0], payload, 60) for _ in range(10)]
        while len(answers) < len(under_way):
            time.sleep(0.01)
    refused = [took for took, code in answers if code is grpc.StatusCode.UNAVAILABLE]
    served = [took for took, code in answers if code is grpc.StatusCode.OK]
    other = len(answers) - len(refused) - len(served)
    outcome.fact("capacity, offered", f"{rate:.0f}/s, {len(answers) / seconds:.0f}/s")
    outcome.fact("served, refused", f"{len(served)}, {len(refused)}")
    outcome.check("neither served nor refused", other, "0", other == 0)
    outcome.check("refused", len(refused), "> 0", bool(refused))
    kept = len(served) / seconds / rate
    outcome.check("served, of the capacity", f"{kept:.0%}", "≥ 50 %", kept >= 0.5)
    high = float(np.percentile(refused, 95)) if refused else 0.0
    # What the machine itself does to who waits for a moment; beside it the times below are to be read.
    outcome.fact("the flood's own sender late by, median / p95 / p99 / max", percentiles(late))
    outcome.fact("time to be served, median / p95 / p99 / max", percentiles(served))
    outcome.fact("time to be refused, median / p95 / p99 / max", percentiles(refused))
    outcome.check("95 % are refused within", f"{high * 1000:.1f} ms", "50 ms", high <= REFUSED_WITHIN)
    outcome.check(
        "recovered: first new answer after the flood", f"{first:.2f} s", "≤ 1 s", first <= RECOVERED_WITHIN
    )
    outcome.fact("one alone before, median / p95 / p99 / max", percentiles(before))
    outcome.fact("one alone afterwards, median / p95 / p99 / max", percentiles(after))


def _rate(call: Any, payload: bytes) -> float:
    """Answers a second at full use, without a refusal."""
    started, count = time.monotonic(), 40
    under_way: deque[Any] = deque()
    for _ in range(count):
        under_way.append(call.future(payload, timeout=120))
        if len(under_way) >= RUNNING:
            under_way.popleft().result()
    while under_way:
        under_way.popleft().result()
    return count / (time.monotonic() - started)


def _first_answer(call: Any, payload: bytes, seconds: float) -> float:
    """Seconds from now until a request is served, sent again for as long as it is refused."""
    started = time.monotonic()
    end = started + seconds
    while time.monotonic() < end:
        try:
            call(payload, timeout=seconds)
            break
        except grpc.RpcError:
            time.sleep(0.01)
    return time.monotonic() - started


def _bulk_beside_others(outcome: Outcome, target: str, seconds: float, rate: float) -> None:
    """One client with many large requests under way, another with one small request at a time."""
    # So that one takes some seconds on any machine, and all that wait before it stay far below the timeout.
    size = max(LARGE_AT_LEAST, int(LARGE_SECONDS * rate))
    stop = threading.Event()
    large: list[float] = []
    small: list[float] = []
    errors: list[str] = []

    def bulk() -> None:
        with SaliencyClient(target, model=MODEL, timeout=300) as client:
            pictures = images(size)
            while not stop.is_set():
                started = time.monotonic()
                try:
                    client.explain(pictures, method="smooth", num_samples=200)
                except SaliencyError as error:
                    if "The server is full" not in (error.details or ""):
                        errors.append(str(error))
                large.append(time.monotonic() - started)

    once = RetryPolicy(attempts=1)
    with SaliencyClient(
        target, model=MODEL, timeout=300, retry=once, channel_options=dict(OWN_CONNECTION)
    ) as client:
        picture = images(1)
        client.explain(picture)
        alone = []
        for _ in range(50):
            started = time.monotonic()
            client.explain(picture)
            alone.append(time.monotonic() - started)
        threads = [threading.Thread(target=bulk) for _ in range(RUNNING + WAITING)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            started = time.monotonic()
            try:
                client.explain(picture)
            except SaliencyError as error:
                errors.append(str(error))
            small.append(time.monotonic() - started)
        stop.set()
        for thread in threads:
            thread.join(600)
    high, one = float(np.percentile(small, 95)), float(np.median(large)) / len(threads)
    outcome.fact("large requests beside small ones", f"{len(large)}, each about {one:.2f} s of the server")
    outcome.fact("small ones alone, median / p95 / p99 / max", percentiles(alone))
    outcome.fact("small ones beside, median / p95 / p99 / max", percentiles(small))
    outcome.check("errors of either", errors[:3] or "none", "none", not errors)
    outcome.check("small ones do not wait for large ones: p95", f"{high:.2f} s", f"< {one:.2f} s", high < one)


if __name__ == "__main__":
    main(campaign)
