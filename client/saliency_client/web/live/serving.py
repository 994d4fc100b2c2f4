"""The socket and the web server of the page."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

import uvicorn

from saliency_client.aio import AsyncSaliencyClient
from saliency_client.cli.errors import CommandError
from saliency_client.web.live.admission import Address
from saliency_client.web.live.app import Settings, application
from saliency_client.web.live.model import Served

_GRACE_SECONDS = 3
_MOST_CONNECTIONS = 256


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens at an address; port 0 takes a free one.

    Raises:
        CommandError: the address cannot be used.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        opened = socket.socket(family, kind, protocol)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(place)
            opened.listen(128)
        except BaseException:
            opened.close()
            raise
    except OSError as error:
        raise CommandError(
            f"the page cannot listen at {host}, port {port}: {error.strerror or error}",
            hint="leave --port out for a free one, and --host for 127.0.0.1",
        ) from error
    return opened


def web_server(
    settings: Settings, address: Address, connect: Callable[[int | None, str | None], AsyncSaliencyClient]
) -> uvicorn.Server:
    """What answers at the page's address; not started. Arguments as for `serve`."""
    connection = settings.connection
    served = Served(connect, version=connection.version, label=connection.label, names=settings.names)
    config = uvicorn.Config(
        application(settings, served, address),
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    return uvicorn.Server(config)


def serve(
    opened: socket.socket,
    address: Address,
    settings: Settings,
    connect: Callable[[int | None, str | None], AsyncSaliencyClient],
) -> None:
    """Serve the page until an interrupt, which ends it without an error.

    Args:
        opened: what listens; closed at the end.
        address: where that is.
        settings: of the command.
        connect: makes a client for a version, or a label, or neither.
    """
    # What goes wrong inside is told by it to this log, with a traceback.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    try:
        web_server(settings, address, connect).run(sockets=[opened])
    except KeyboardInterrupt:
        pass
    finally:
        opened.close()
