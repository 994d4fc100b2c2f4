"""The way of images through a job: how much is under way, in which order it ends, and what holds it back."""

from __future__ import annotations

import asyncio

import pytest

from saliency_client._bulk import ItemResult
from saliency_client._errors import Unavailable
from saliency_client.bulk import pipeline as pipelines
from saliency_client.bulk.decoding import DecodedBatch
from saliency_client.bulk.pipeline import Pipeline, Waiting
from saliency_client.bulk.shards import ShardName

BATCH, CONCURRENCY, AHEAD = 4, 3, 2


class Server:
    """Takes batches and answers them when it is told to, in any order."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.answers: dict[int, asyncio.Future[None]] = {}

    async def decode(self, encoded):
        decoded = DecodedBatch()
        decoded += [int(one) for one in encoded]
        return decoded

    async def explain(self, decoded):
        number = decoded[0] // BATCH
        self.asked.append(number)
        self.answers[number] = asyncio.get_running_loop().create_future()
        await self.answers[number]
        return [ItemResult(index, None, None) for index in decoded]


class Source:
    """Encoded images, counted as they are taken."""

    def __init__(self, count: int) -> None:
        self.count, self.taken = count, 0

    def __iter__(self):
        for index in range(self.count):
            self.taken = index + 1
            yield Waiting(ShardName(0, 0), "a.tar", index, None, str(index).encode())


def pipeline(server: Server) -> Pipeline:
    return Pipeline(server.decode, server.explain, batch_size=BATCH, concurrency=CONCURRENCY, ahead=AHEAD)


async def settled() -> None:
    """Until nothing moves any more: threads that take images have a moment for each batch."""
    for _ in range(50):
        await asyncio.sleep(0.002)


def test_as_many_requests_are_under_way_as_asked_and_no_more_is_read_than_is_ahead():
    async def run():
        server, source = Server(), Source(100)
        batches = pipeline(server).run(iter(source))
        first = asyncio.ensure_future(anext(batches))
        await settled()

        assert server.asked == [0, 1, 2]
        assert source.taken == (CONCURRENCY + AHEAD) * BATCH

        server.answers[0].set_result(None)
        rows = await first
        assert [waiting.row for waiting, _ in rows] == [0, 1, 2, 3]
        assert [result.index for _, result in rows] == [0, 1, 2, 3]
        # The place that is free now is taken before anybody asks for the next batch.
        await settled()
        assert server.asked == [0, 1, 2, 3]
        await batches.aclose()

    asyncio.run(run())


def test_batches_come_in_the_order_of_their_images_whatever_order_the_answers_come_in():
    async def run():
        server = Server()
        batches = pipeline(server).run(iter(Source(3 * BATCH + 1)))
        first = asyncio.ensure_future(anext(batches))
        await settled()
        for number in (2, 1):
            server.answers[number].set_result(None)
        await settled()
        assert not first.done()
        server.answers[0].set_result(None)
        server.answers[3].set_result(None)

        rows = [await first, *[batch async for batch in batches]]
        assert [[waiting.row for waiting, _ in batch] for batch in rows] == [
            [0, 1, 2, 3],
            [4, 5, 6, 7],
            [8, 9, 10, 11],
            [12],
        ]

    asyncio.run(run())


def test_images_of_many_bytes_are_not_held_beside_each_other(monkeypatch):
    monkeypatch.setattr(pipelines, "_MOST_HELD", 4)

    async def run():
        server, source = Server(), Source(100)
        held = asyncio.Event()

        async def decode(encoded):
            # Encoded images are held until they are decoded.
            await held.wait()
            return await server.decode(encoded)

        running = Pipeline(decode, server.explain, batch_size=BATCH, concurrency=CONCURRENCY, ahead=AHEAD)
        batches = running.run(iter(source))
        first = asyncio.ensure_future(anext(batches))
        await settled()
        # One batch is read, and one is taken beside it before its bytes are counted.
        assert source.taken <= 2 * BATCH
        held.set()
        await settled()
        assert source.taken == (CONCURRENCY + AHEAD) * BATCH
        server.answers[0].set_result(None)
        await first
        await batches.aclose()

    asyncio.run(run())


def test_what_is_not_an_images_fault_comes_behind_the_batches_before_it_and_ends_the_rest():
    async def run():
        server = Server()
        batches = pipeline(server).run(iter(Source(100)))
        first = asyncio.ensure_future(anext(batches))
        await settled()
        server.answers[1].set_exception(Unavailable("the server is away"))
        server.answers[0].set_result(None)

        assert [waiting.row for waiting, _ in await first] == [0, 1, 2, 3]
        with pytest.raises(Unavailable, match="the server is away"):
            await anext(batches)
        await settled()
        assert server.answers[2].cancelled()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())
