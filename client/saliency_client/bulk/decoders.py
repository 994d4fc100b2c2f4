"""Pictures are decoded beside the event loop: in processes, so that several cores do it, or in threads."""

from __future__ import annotations

import asyncio
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType, TracebackType
from typing import Any

from saliency_client._errors import ItemError, OptionError, SaliencyError
from saliency_client.bulk.decoding import DecodedBatch, Decoding, Image, decode_all

_ENDED_FROM_THE_START = 4
"""So many pictures that end a process, before one was decoded, are not to blame."""


class Decoders:
    """Decodes batches of images; use it as a context manager.

    A picture that ends its process, by a fault of a decoder or for want of memory, is found and becomes an
    error of its own; the processes are made anew.

    The processes start with the block, so that they are ready when the first pictures are.

    Args:
        processes: how many; 0: in threads of this process.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._pool: ProcessPoolExecutor | None = None
        self._one_at_a_time = asyncio.Lock()
        self._worked = False
        self._ended = 0

    async def decode(self, decoding: Decoding, images: Sequence[Image | SaliencyError]) -> DecodedBatch:
        """Of each image its model input, or its error.

        Args:
            decoding: what the model takes.
            images: encoded.
        """
        if not self._processes:
            return await asyncio.to_thread(decode_all, decoding, images)
        if self._pool is None:
            self._pool = _pool(self._processes)
        pool = self._pool
        try:
            return await self._in(pool, decoding, images)
        except BrokenProcessPool:
            if self._pool is pool:
                self._pool = None
                pool.shutdown(wait=False)
        decoded = DecodedBatch()
        for index, image in enumerate(images):
            alone = await self._alone(decoding, image)
            decoded += alone
            if alone.notes:
                decoded.notes[index] = alone.notes[0]
        return decoded

    async def _alone(self, decoding: Decoding, image: Image | SaliencyError) -> DecodedBatch:
        """Decode one image in a process of its own."""
        async with self._one_at_a_time:
            with _pool(1) as pool:
                try:
                    return await self._in(pool, decoding, [image])
                except BrokenProcessPool as error:
                    self._ended += 1
                    if not self._worked and self._ended >= _ENDED_FROM_THE_START:
                        raise OptionError(
                            "processes that decode pictures end before they have decoded one",
                            hint="decoders=0 (--decoders 0) decodes in threads",
                        ) from error
                    lost = DecodedBatch()
                    lost.append(
                        ItemError(
                            "the process that decoded the image ended: the file is damaged, or there is too "
                            "little memory"
                        )
                    )
                    return lost

    async def _in(
        self, pool: ProcessPoolExecutor, decoding: Decoding, images: Sequence[Image | SaliencyError]
    ) -> DecodedBatch:
        loop = asyncio.get_running_loop()
        decoded = await loop.run_in_executor(pool, decode_all, decoding, list(images))
        self._worked = True
        return decoded

    def __enter__(self) -> Decoders:
        if self._processes:
            self._pool = _pool(self._processes)
            for _ in range(self._processes):
                # A pool starts a process for a call that finds none without work.
                self._pool.submit(os.getpid)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


class _Process(SpawnProcess):
    """A new interpreter that does not run the program's main module again.

    What it does lies in this package. A script without `if __name__ == "__main__"` would begin its job once
    more in each.
    """

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            return SpawnProcess._Popen(process_obj)
        finally:
            sys.modules["__main__"] = main


class _Context(SpawnContext):
    """Forking a process with gRPC's threads can hang."""

    Process = _Process


def _pool(processes: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(processes, mp_context=_Context(), initializer=_begin)


def _begin() -> None:
    """Leave an interrupt to the parent, and end when it has ended, however that was."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch() -> None:
            multiprocessing.connection.wait([parent.sentinel])
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
    import saliency_client.images  # noqa: F401 - imported before the first picture
