"""Slow, stalled and resetting networks, through a proxy: deadlines hold, retries are bounded, nothing leaks.

Then the client in 32 threads, in 256 asyncio tasks and after fork(), with the server restarted underneath.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
from lab import MODEL, Lab, Outcome, images, main, open_files, resident_mib, threads
from server_process import ServerProcess
from tcp_proxy import TcpProxy

from saliency_client import AsyncSaliencyClient, ClientClosed, RetryPolicy, SaliencyClient, SaliencyError

DEADLINE = 1.0
ATTEMPTS = 3
RETRY = RetryPolicy(attempts=ATTEMPTS, initial_backoff=0.05, max_backoff=0.1)


class CountAttempts(grpc.UnaryUnaryClientInterceptor):
    """Counts what really goes to the wire."""

    def __init__(self) -> None:
        self.attempts = 0

    def intercept_unary_unary(self, continuation, client_call_details, request):
        self.attempts += 1
        return continuation(client_call_details, request)


def campaign(lab: Lab, *, count: int = 20, threads: int = 32, tasks: int = 256) -> Outcome:
    """So many calls through each kind of network; so many threads and tasks."""
    outcome = Outcome("bad networks, many clients")
    with lab.server(lab.uncompiled) as server:
        with TcpProxy(server.target) as proxy:
            _deadlines(outcome, proxy, count)
            _resets(outcome, proxy, count)
            _leaks(outcome, proxy, count)
        _fork(outcome, server.target)
    _restarted(outcome, lab, threads, tasks)
    return outcome


def _deadlines(outcome: Outcome, proxy: TcpProxy, count: int) -> None:
    picture = images(1)
    for mood in ("stall", "slow"):
        late: list[float] = []
        kinds: Counter[str] = Counter()
        # Slow enough at 20 ms for 4 KiB that this batch never makes it.
        batch = picture if mood == "stall" else np.repeat(picture, 400, axis=0)
        for _ in range(max(count // 4, 2)):
            with SaliencyClient(proxy.target, model=MODEL, timeout=DEADLINE, retry=RETRY) as client:
                proxy.mood = "pass"
                client.methods(timeout=30)
                proxy.mood = mood
                started = time.monotonic()
                try:
                    client.explain(batch)
                    kinds["answer"] += 1
                except SaliencyError as error:
                    kinds[type(error).__name__] += 1
                late.append((time.monotonic() - started) / DEADLINE - 1)
        proxy.mood = "pass"
        proxy.cut()
        worst = max(late, key=abs)
        told = set(kinds) == {"DeadlineExceeded"}
        outcome.check(f"{mood} network: results", dict(kinds), "DeadlineExceeded", told)
        outcome.check(
            f"{mood} network: worst miss of the deadline", f"{worst:+.1%}", "±10 %", abs(worst) <= 0.1
        )


def _resets(outcome: Outcome, proxy: TcpProxy, count: int) -> None:
    counter = CountAttempts()
    picture = images(1)
    options = {"model": MODEL, "timeout": 20.0, "retry": RETRY, "interceptors": [counter]}
    with SaliencyClient(proxy.target, **options) as client:
        client.methods()
        kinds: Counter[str] = Counter()
        most = 0
        proxy.mood = "reset"
        for _ in range(count):
            counter.attempts = 0
            try:
                client.explain(picture)
                kinds["answer"] += 1
            except SaliencyError as error:
                kinds[type(error).__name__] += 1
            most = max(most, counter.attempts)
        proxy.mood = "pass"
        outcome.check("resetting network: results", dict(kinds), "Unavailable", set(kinds) == {"Unavailable"})
        outcome.check("resetting network: most attempts", most, f"≤ {ATTEMPTS}", most <= ATTEMPTS)
        # Clients of one process share gRPC's connection and its waits; this one has the default retries.
        with SaliencyClient(proxy.target, model=MODEL) as patient:
            back = patient.explain(picture).saliency is not None
        outcome.check("healed network: the next call answers", back, "True", back)


def _leaks(outcome: Outcome, proxy: TcpProxy, count: int) -> None:
    """Clients of both kinds made, disturbed and closed: what they held is given back."""
    picture = images(1)
    disturbed = np.repeat(picture, 8, 0)

    def one(number: int) -> None:
        if number % 4 > 1:
            asyncio.run(one_asynchronous(number))
            return
        with SaliencyClient(proxy.target, model=MODEL, timeout=30.0) as client:
            proxy.mood = "pass"
            client.explain(picture)  # over a network that was disturbed a moment ago
            proxy.mood = "reset" if number % 2 else "stall"
            with contextlib.suppress(SaliencyError):
                list(client.explain_many(disturbed, batch_size=2, timeout=0.1))
            proxy.cut()

    async def one_asynchronous(number: int) -> None:
        async with AsyncSaliencyClient(proxy.target, model=MODEL, timeout=30.0) as client:
            proxy.mood = "pass"
            await client.explain(picture)
            proxy.mood = "reset" if number % 2 else "stall"
            with contextlib.suppress(SaliencyError):
                [result async for result in client.explain_many(disturbed, batch_size=2, timeout=0.1)]
            proxy.cut()

    def held() -> tuple[int, int, float]:
        proxy.mood = "pass"
        proxy.cut()
        gc.collect()
        time.sleep(1.0)  # gRPC and the proxy end their threads and sockets in their own time
        return threads(), open_files(), resident_mib()

    for number in range(10):
        one(number)
    before = held()
    for number in range(count):
        one(number)
    after = held()
    # gRPC's own pools breathe by a few; a leak grows with the clients made.
    outcome.check(
        f"threads after {count} clients", f"{after[0] - before[0]:+d}", "≤ +4", after[0] - before[0] <= 4
    )
    outcome.check("files and sockets", f"{after[1] - before[1]:+d}", "≤ +4", after[1] - before[1] <= 4)
    grown = after[2] - before[2]
    outcome.check("resident memory", f"{grown:+.1f} MiB", "≤ +8 MiB", grown <= 8)


def _fork(outcome: Outcome, target: str) -> None:
    """A child of a connected parent is told so, at once, instead of hanging."""
    with SaliencyClient(target, model=MODEL, timeout=30) as client:
        client.explain(images(1))
        child = os.fork()
        if child == 0:
            status = 1
            try:
                client.explain(images(1))
            except ClientClosed:
                status = 0
            finally:
                os._exit(status)
        deadline = time.monotonic() + 30
        done, status = 0, -1
        while not done and time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.02)
        if not done:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        told = bool(done) and os.waitstatus_to_exitcode(status) == 0
        outcome.check("forked child", "told" if told else "hung or wrong", "told ClientClosed", told)
        works = client.explain(images(1)).saliency is not None
        outcome.check("the parent goes on", works, "True", works)


def _restarted(outcome: Outcome, lab: Lab, thread_count: int, task_count: int) -> None:
    """Threads and tasks of one client each, while the server is killed and started again."""
    picture = images(1)
    for kind, width in (("threads", thread_count), ("asyncio tasks", task_count)):
        server = ServerProcess(f"{MODEL}={lab.uncompiled.parent}", "--no-warmup", "--waiting", "512")
        try:
            target = server.wait_for(r"^listening on (\S+)", 300)[1]
            seen: Counter[str] = Counter()
            hit, back = threading.Event(), threading.Event()
            run = _in_threads if kind == "threads" else _in_tasks
            worker = threading.Thread(target=run, args=(target, picture, width, seen, hit, back))
            worker.start()
            hit.wait(60)
            server.process.kill()
            server.process.wait(30)
            server.process.stderr.close()
            port = target.rpartition(":")[2]
            server = ServerProcess(
                f"{MODEL}={lab.uncompiled.parent}", "--no-warmup", "--waiting", "512", "--port", port
            )
            server.wait_for("^listening on", 300)
            back.set()
            worker.join(300)
        finally:
            server.process.kill()
            server.process.wait(30)
            server.process.stderr.close()
        typed = {"answer", "Unavailable", "DeadlineExceeded", "Cancelled", "ServerError"}
        strange = {what: n for what, n in seen.items() if what.removesuffix(" afterwards") not in typed}
        told = ", ".join(f"{what} {n}" for what, n in seen.most_common())
        outcome.check(f"{width} {kind}, server restarted: results", told, "typed", not strange)
        answered = seen["answer afterwards"]
        outcome.check(f"{width} {kind}: answered afterwards", answered, f"{width}", answered == width)


def _in_threads(target, picture, width, seen, hit, back) -> None:
    with SaliencyClient(target, model=MODEL, timeout=60) as client:
        client.wait_ready(60)

        def work(_: int) -> None:
            while not back.is_set():
                _count(seen, lambda: client.explain(picture, timeout=10))
                hit.set()
            _count(seen, lambda: client.explain(picture, timeout=120), " afterwards")

        with ThreadPoolExecutor(width) as pool:
            list(pool.map(work, range(width)))


def _in_tasks(target, picture, width, seen, hit, back) -> None:
    async def run() -> None:
        async with AsyncSaliencyClient(target, model=MODEL, timeout=60) as client:
            await client.wait_ready(60)

            async def work() -> None:
                while not back.is_set():
                    await ask("", 10)
                    hit.set()
                await ask(" afterwards", 120)

            async def ask(when: str, timeout: float) -> None:
                try:
                    await client.explain(picture, timeout=timeout)
                    seen["answer" + when] += 1
                except SaliencyError as error:
                    seen[type(error).__name__ + when] += 1

            await asyncio.gather(*(work() for _ in range(width)))

    asyncio.run(run())


def _count(seen: Counter[str], call, when: str = "") -> None:
    try:
        call()
        seen["answer" + when] += 1
    except SaliencyError as error:
        seen[type(error).__name__ + when] += 1


if __name__ == "__main__":
    main(campaign)
