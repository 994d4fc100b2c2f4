"""The REST port: uvicorn, in a thread of its own, in front of saliency_exporter.serving.rest."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import tensorflow as tf
import uvicorn

from saliency_exporter.errors import ExportError
from saliency_exporter.runtime.servable import ServableError
from saliency_exporter.serving import rest
from saliency_exporter.serving.calls import Calls
from saliency_exporter.serving.rest_json import error_text

MAX_BODY_BYTES = 64 << 20
"""Of a request, also when it was compressed: 64 MiB of JSON are some 2 GB of Python objects."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class RestServer:
    """TensorFlow Serving's REST API on a port.

    Args:
        calls: what it answers with.
        places: requests that may be inside at once; the next is refused with UNAVAILABLE before it is read.
        seconds: how long a request may take, as TensorFlow Serving's --rest_api_timeout_in_ms.
    """

    def __init__(self, calls: Calls, *, places: int, seconds: float) -> None:
        self._calls = calls
        self._places = places
        self._seconds = seconds
        self._inside = 0
        self._threads = ThreadPoolExecutor(max_workers=places, thread_name_prefix="rest")
        config = uvicorn.Config(
            self._application,
            interface="asgi3",
            proxy_headers=False,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
        )
        self._server = uvicorn.Server(config)
        self._thread: threading.Thread | None = None

    def start(self, host: str, port: int) -> int:
        """Opens the port and returns its number, which 0 leaves to the system.

        Raises:
            ExportError: the port cannot be had.
        """
        listener = _listener(host, port)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="rest-port", daemon=True
        )
        self._thread.start()
        number: int = listener.getsockname()[1]
        return number

    def stop(self, grace: float) -> None:
        """Refuses new connections and lets requests under way finish for `grace` seconds."""
        if self._thread is None:
            return
        # uvicorn takes whole seconds, and 0 as no bound.
        self._server.config.timeout_graceful_shutdown = max(1, round(grace))
        self._server.should_exit = True
        self._thread.join(grace + 5)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _application(self, scope: Message, receive: Receive, send: Send) -> None:
        if self._inside >= self._places:
            full = ServableError(
                tf.errors.UNAVAILABLE, f"The server is full: {self._places} requests running or waiting"
            )
            await _reply(send, rest.refusal(full))
            return
        self._inside += 1
        try:
            await self._answer(scope, receive, send)
        except Exception:
            # uvicorn's own log is off: it has a traceback for every call that a stop cuts off.
            logging.getLogger(__name__).exception("request failed")
            raise
        finally:
            self._inside -= 1

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            body = await asyncio.wait_for(_body(scope, receive), self._seconds)
        except asyncio.TimeoutError:
            slow = ServableError(tf.errors.DEADLINE_EXCEEDED, "The request did not arrive in time")
            await _reply(send, rest.refusal(slow))
            return
        except _Refused as refused:
            await _reply(send, refused.answer)
            return
        if body is None:
            return
        waiting = rest.Waiting(_peer(scope), self._seconds)
        watching = asyncio.create_task(_watch(receive, waiting))
        try:
            answer = await asyncio.get_running_loop().run_in_executor(
                self._threads, rest.answer, self._calls, scope["method"], _path(scope), body, waiting
            )
        except asyncio.CancelledError:
            # A stop whose grace is over: what TensorFlow still computes cannot be ended.
            answer = rest.refusal(ServableError(tf.errors.UNAVAILABLE, "The server has stopped"))
        finally:
            watching.cancel()
        await _reply(send, answer)


class _Refused(Exception):
    """A request that is not read to its end."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.answer = rest.Answer(status, error_text(message))


async def _body(scope: Message, receive: Receive) -> bytes | None:
    """The body, whole and uncompressed; None where the caller hung up."""
    headers = {name.lower(): value for name, value in scope["headers"]}
    pieces, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        piece = message.get("body", b"")
        size += len(piece)
        if size > MAX_BODY_BYTES:
            raise _too_large()
        pieces.append(piece)
        if not message.get("more_body"):
            break
    body = b"".join(pieces)
    return _unzipped(body) if b"gzip" in headers.get(b"content-encoding", b"") else body


def _unzipped(body: bytes) -> bytes:
    unzip = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        content = unzip.decompress(body, MAX_BODY_BYTES + 1)
    except zlib.error as error:
        raise _Refused(400, f"The body is not gzip: {error}") from error
    if len(content) > MAX_BODY_BYTES:
        raise _too_large()
    return content


def _too_large() -> _Refused:
    return _Refused(413, f"The body has more than {MAX_BODY_BYTES} bytes: send fewer images, or use gRPC")


async def _watch(receive: Receive, waiting: rest.Waiting) -> None:
    """Notes when the caller hangs up: what is still waiting for its place need not run."""
    while (await receive())["type"] != "http.disconnect":
        pass
    waiting.gone = True


async def _reply(send: Send, answer: rest.Answer) -> None:
    headers = [
        (b"content-type", answer.content_type.encode()),
        (b"content-length", str(len(answer.body)).encode()),
    ]
    with suppress(OSError):
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})


def _path(scope: Message) -> str:
    path, query = scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path


def _peer(scope: Message) -> str:
    return "http:{}:{}".format(*(scope["client"] or ("", 0)))


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ExportError(
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            hint="choose another --rest-port, or 0 for a free one",
        ) from error
    return listener
