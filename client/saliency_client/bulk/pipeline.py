"""The way of images through a job: read, decoded, asked about; several batches at a time, in their order."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

from saliency_client._bulk import ItemResult
from saliency_client._errors import ItemError, SaliencyError
from saliency_client.bulk.decoding import DecodedBatch
from saliency_client.bulk.pictures import PictureReader
from saliency_client.bulk.plan import Entry, Unit
from saliency_client.bulk.shards import ShardName
from saliency_client.bulk.sources.records import Damaged, Fields, reader
from saliency_client.bulk.storage import Place, StorageError

_MOST_HELD = 512 << 20
"""Bytes of encoded images at a time, about: a batch that brings more begins when there is no other."""
_FIRST_GUESS = 1 << 20


@dataclass(frozen=True)
class Waiting:
    """An image on its way.

    Attributes:
        shard: where its row goes.
        path: of its file.
        row: its number in that file.
        key: in that file.
        image: its bytes, or why it has none; None: its file is still to be read.
        ends: it is the last row of its unit.
        read: bytes of its file that have been read by then, of a file whose images are not counted.
        no_row: there is no image: it says alone that the unit has ended.
        notes: what a person may want to know of how its picture was read.
    """

    shard: ShardName
    path: str
    row: int
    key: str | None
    image: bytes | SaliencyError | None
    ends: bool = False
    read: int = 0
    no_row: bool = False
    notes: tuple[str, ...] = ()


def images_of(unit: Unit, fields: Fields, shard_rows: int, first_chunk: int) -> Iterator[Waiting]:
    """The images of a unit from a chunk on; the last one says so, or one without a row does.

    Raises:
        StorageError: a store cannot be read any more.
    """
    count = first_chunk * shard_rows
    if unit.entries[0].kind == "picture":
        for entry in unit.entries[count:]:
            count += 1
            yield Waiting(_shard(unit, count - 1, shard_rows), entry.path, 0, None, None, count == unit.rows)
        return
    entry = unit.entries[0]
    known = False
    for path, row, key, image, read in _records(entry, fields, count):
        count += 1
        # A file that turns out damaged has fewer rows than it said.
        known = count == unit.rows
        yield Waiting(_shard(unit, count - 1, shard_rows), path, row, key, image, known, read or 0)
    if not known:
        yield Waiting(_shard(unit, count, shard_rows), entry.path, count, None, None, True, no_row=True)


def _shard(unit: Unit, index: int, shard_rows: int) -> ShardName:
    return ShardName(unit.number, index // shard_rows)


def _records(
    entry: Entry, fields: Fields, start: int
) -> Iterator[tuple[str, int, str | None, bytes | SaliencyError, int | None]]:
    """The images of a file of many; where it is damaged, an error in place of those behind."""
    place = Place(entry.path)
    row = entry.first_row + start
    try:
        for record in reader(entry.kind)(place, fields, start, entry.groups):
            yield entry.path, row, record.key, record.image, record.read
            row += 1
    except Damaged as error:
        yield entry.path, row, None, ItemError(f"{error}; the images behind that are not explained"), None
    except StorageError as error:
        if not place.is_local:
            raise
        yield entry.path, row, None, ItemError(f"{error}; the images behind that are not explained"), None


@dataclass
class Flow:
    """What happens meanwhile, for whoever watches.

    Attributes:
        in_flight: requests that the server has.
        waiting_for_server: seconds in which batches were decoded and had no place at the server.
        waiting_for_images: seconds in which the server had room and no batch was ready.
    """

    in_flight: int = 0
    waiting_for_server: float = 0.0
    waiting_for_images: float = 0.0


Explained = list[tuple[Waiting, ItemResult | None]]
Decode = Callable[[Sequence[bytes | SaliencyError]], Awaitable[DecodedBatch]]
Explain = Callable[[DecodedBatch], Awaitable[list[ItemResult]]]


class Pipeline:
    """Takes images through reading, decoding and the server.

    Args:
        decode: encoded images to model inputs, each or its error.
        explain: model inputs to results; called for `concurrency` batches at a time, at most.
        batch_size: images in a batch.
        concurrency: batches that are at the server.
        ahead: batches that are read or decoded meanwhile, or wait for those before them.
    """

    def __init__(
        self, decode: Decode, explain: Explain, *, batch_size: int, concurrency: int, ahead: int
    ) -> None:
        self._decode, self._explain = decode, explain
        self._batch_size, self._most = batch_size, concurrency + ahead
        self._concurrency = concurrency
        self._places = asyncio.Semaphore(concurrency)
        self._held = 0
        self._let_go = asyncio.Event()
        self._usual = _FIRST_GUESS
        self._pictures = PictureReader()
        self.flow = Flow()

    async def run(self, images: Iterator[Waiting]) -> AsyncGenerator[Explained, None]:
        """Batches of images and their results, in the order of the images.

        Raises:
            SaliencyError: what is not an image's fault; batches before it have been given.
        """
        window: deque[asyncio.Task[Explained]] = deque()
        next_batch: asyncio.Future[list[Waiting]] | None = None
        ended = False
        loop = asyncio.get_running_loop()
        # In a thread of its own: what Arrow's and C's allocators keep, they keep for each thread.
        taker = ThreadPoolExecutor(1)
        starving = asyncio.create_task(self._watch())
        let_go: asyncio.Task[bool] | None = None
        try:
            while not ended or window:
                self._let_go.clear()
                room = len(window) < self._most and (self._held < _MOST_HELD or not window)
                if next_batch is None and not ended and room:
                    next_batch = loop.run_in_executor(taker, self._take, images)
                if let_go is None or let_go.done():
                    let_go = asyncio.create_task(self._let_go.wait())
                waits = [task for task in (next_batch, let_go, *islice(window, 1)) if task is not None]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                if next_batch is not None and next_batch.done():
                    batch, next_batch = next_batch.result(), None
                    ended = not batch
                    if batch:
                        window.append(asyncio.create_task(self._through(batch)))
                while window and window[0].done():
                    yield window.popleft().result()
        finally:
            left = [task for task in (starving, let_go, next_batch, *window) if task is not None]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            taker.shutdown(wait=False)

    def _take(self, images: Iterator[Waiting]) -> list[Waiting]:
        batch: list[Waiting] = []
        for image in images:
            batch.append(image)
            if len(batch) >= self._batch_size:
                break
        return batch

    async def _through(self, batch: list[Waiting]) -> Explained:
        rows = [one for one in batch if not one.no_row]
        # What a file of its own will take is not known before it is read.
        reserved = sum(len(one.image) if isinstance(one.image, bytes) else self._usual for one in rows)
        self._held += reserved
        try:
            encoded = await asyncio.gather(*(self._read(one) for one in rows))
            taken = sum(len(one) for one in encoded if isinstance(one, bytes))
            self._held, reserved = self._held + taken - reserved, taken
            if rows:
                self._usual = max(self._usual // 2, taken // len(rows))
            decoded = await self._decode(encoded)
            notes = dict(decoded.notes)
            del encoded
        finally:
            self._held -= reserved
            self._let_go.set()
        started = time.monotonic()
        async with self._places:
            self.flow.waiting_for_server += time.monotonic() - started
            self.flow.in_flight += 1
            try:
                results = iter(await self._explain(decoded))
            finally:
                self.flow.in_flight -= 1
        # Bytes that nobody needs any more are not kept until the batches before this one are done.
        indices = itertools.count()
        return [
            (replace(one, image=None), None)
            if one.no_row
            else (replace(one, image=None, notes=tuple(notes.get(next(indices), ()))), next(results))
            for one in batch
        ]

    async def _read(self, one: Waiting) -> bytes | SaliencyError:
        if one.image is not None:
            return one.image
        return await asyncio.to_thread(self._pictures.read, one.path)

    async def _watch(self) -> None:
        """Count the time in which the server has room."""
        before = time.monotonic()
        while True:
            await asyncio.sleep(0.1)
            now = time.monotonic()
            free = 1 - self.flow.in_flight / self._concurrency
            self.flow.waiting_for_images += (now - before) * max(0.0, free)
            before = now
