"""One AsyncSaliencyClient in several event loops, as asynchronous views of Flask and Django make them."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections import Counter
from pathlib import Path

import grpc
import numpy as np
import pytest
from scripted_server import MODEL, LinearModel
from waiting import until

from saliency_client import AsyncSaliencyClient, Cancelled, ClientClosed, OptionError, SaliencyClient

IMAGE = np.zeros((LinearModel.height, LinearModel.width, 3), np.uint8)
THREADS, RUNS = 6, 20


def in_threads(work, count: int = THREADS) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


def test_short_loops_in_several_threads_all_get_their_answers(server):
    client = AsyncSaliencyClient(server.target, model=MODEL, timeout=20)
    seen: Counter[str] = Counter()

    async def view() -> str:
        return str((await client.explain(IMAGE)).label[0])

    def requests() -> None:
        for _ in range(RUNS):
            try:
                seen[asyncio.run(view())] += 1
            except Exception as error:
                seen[repr(error)] += 1

    in_threads(requests)

    assert seen == {"class 0": THREADS * RUNS}
    asyncio.run(client.close())


def test_loops_that_live_side_by_side_keep_their_channels(server):
    client = AsyncSaliencyClient(server.target, model=MODEL, timeout=20)
    loops = [asyncio.new_event_loop() for _ in range(3)]
    opened = []
    for _ in range(3):
        for loop in loops:
            loop.run_until_complete(client.explain(IMAGE))
            opened.append(client._channels._opened[loop].channels[server.target])
    assert len(set(opened)) == 3
    for loop in loops:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    assert client._channels._opened == {}


def test_the_channels_of_a_loop_are_closed_with_it(server):
    client = AsyncSaliencyClient(server.target, model=MODEL, timeout=20)
    closed = []

    async def view() -> grpc.aio.Channel:
        await client.explain(IMAGE)
        channel = client._channels._opened[asyncio.get_running_loop()].channels[server.target]
        close = channel.close

        async def noted(grace):
            closed.append(asyncio.get_running_loop())
            await close(grace)

        channel.close = noted
        return channel

    async def called_again(channel: grpc.aio.Channel) -> None:
        with pytest.raises(grpc.aio.UsageError, match="closed"):
            await channel.unary_unary("/x/y")(b"")

    channel = asyncio.run(view())

    assert len(closed) == 1
    assert client._channels._opened == {}
    asyncio.run(called_again(channel))
    asyncio.run(view())
    assert len(closed) == 2


def test_a_loop_that_was_closed_without_a_word_leaves_nothing_behind(server):
    client = AsyncSaliencyClient(server.target, model=MODEL, timeout=20)
    for _ in range(3):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(client.explain(IMAGE))
        loop.close()
    assert len(client._channels._opened) == 1


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc")
def test_many_loops_leave_no_open_files(server):
    client = AsyncSaliencyClient(server.target, model=MODEL, timeout=20)

    def some(count: int) -> int:
        for _ in range(count):
            asyncio.run(client.explain(IMAGE))
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    before = some(5)
    assert some(30) <= before + 5


def test_closing_in_one_loop_ends_the_calls_of_the_others(server):
    client = AsyncSaliencyClient(server.target, model=MODEL, timeout=20)
    asyncio.run(client.methods())
    server.hang()
    seen: list[object] = []

    def hangs() -> None:
        try:
            asyncio.run(client.explain(IMAGE))
        except Exception as error:
            seen.append(error)

    thread = threading.Thread(target=hangs)
    thread.start()
    until(lambda: server.running == 1)
    asyncio.run(client.close())
    thread.join(20)

    assert [type(error) for error in seen] == [Cancelled]
    with pytest.raises(ClientClosed):
        asyncio.run(client.methods())


def test_a_ready_made_channel_in_another_loop_is_told_at_once(server):
    async def made() -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(server.target)

    client = AsyncSaliencyClient(model=MODEL, channel=asyncio.run(made()))
    with pytest.raises(OptionError, match="belongs to another event loop") as caught:
        asyncio.run(client.methods())

    assert "give a target" in caught.value.hint


@pytest.mark.parametrize("kind", [SaliencyClient, AsyncSaliencyClient])
def test_a_client_is_neither_pickled_nor_copied_and_says_what_to_do(kind):
    import copy
    import pickle

    from saliency_client import CopyError, SaliencyError

    client = kind("localhost:8500", model=MODEL, token="sekret-7d1f")
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy, lambda one: copy.deepcopy({"a": [one]})):
        with pytest.raises(CopyError, match="cannot be pickled or copied") as caught:
            attempt(client)
        assert isinstance(caught.value, (SaliencyError, TypeError))
        assert f"make {kind.__name__}(…)" in caught.value.hint
        assert "sekret" not in f"{caught.value}{caught.value.hint}"
