"""`saliency-client page`."""

from __future__ import annotations

import functools
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from saliency_client.cli.connection import Connection
from saliency_client.cli.errors import UsageError
from saliency_client.cli.options import connection_options, labels_option, local_option, photo_options
from saliency_client.cli.printer import Printer
from saliency_client.cli.sections import command, option

if TYPE_CHECKING:
    from saliency_client.images import Resize

_page = functools.partial(option, section="Page")


@command(short_help="Serve a page in which photos are explained.")
@_page("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@_page(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="N",
    help="The port to listen at; 0 picks a free one.  [default: 0]",
)
@_page(
    "--concurrency",
    type=click.IntRange(1, 256),
    default=4,
    show_default=True,
    metavar="N",
    help="How many requests to the server run at a time, of all who use the page.",
)
@_page(
    "--waiting",
    type=click.IntRange(0, 4096),
    default=16,
    show_default=True,
    metavar="N",
    help="How many may wait; whoever asks beyond is told that the page is busy.",
)
@photo_options
@labels_option
@connection_options
@local_option
def page(
    connection: Connection,
    host: str,
    port: int,
    concurrency: int,
    waiting: int,
    resize: Resize,
    max_pixels: int | None,
    labels: Path | None,
) -> None:
    """Serve a page on this machine, in which you drop or paste a photo and see its map.

    The page asks the model for its methods and their parameters. A mean over samples is drawn as samples
    come in, with its error. Two methods, or two versions of the model, can be compared; picture, array,
    command and Python lines of a map can be downloaded or copied. It serves until you interrupt it.

    Whoever reaches its address can ask the model and see nothing of this machine: it listens on loopback
    unless --host says otherwise. Photos and maps are kept in memory for half an hour, and nowhere else.

    Needs pip install 'saliency-serving[page]'.

    \b
    saliency-client page --server localhost:8500 --model efficientnet-lite0
    saliency-client page --port 8600 --label stable
    saliency-client page --local models/efficientnet-lite0/1
    """
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        raise UsageError(
            "the page needs two packages that are not installed: starlette and uvicorn",
            hint="pip install 'saliency-serving[page]' (in a clone: pip install -e '.[page]')",
        )
    from saliency_client.aio import AsyncSaliencyClient
    from saliency_client.cli import classes
    from saliency_client.cli.connection import client_options
    from saliency_client.cli.photos import allow_pixels
    from saliency_client.images import DEFAULT_MAX_PIXELS
    from saliency_client.web.live.admission import Address
    from saliency_client.web.live.app import Settings
    from saliency_client.web.live.serving import listening, serve

    names = classes.names_of_file(labels)
    with client_options(connection) as options, allow_pixels(max_pixels):

        def connect(version: int | None, label: str | None) -> AsyncSaliencyClient:
            return AsyncSaliencyClient(version=version, label=label, **options)

        connect(connection.version, connection.label)  # options that cannot work are told here
        opened = listening(host, port)
        address = Address(host, opened.getsockname()[1])
        if not address.is_loopback:
            Printer().note(
                f"warning: others can reach the page at {host}; it does not ask who they are, and whoever "
                "opens it may use the model"
            )
        settings = Settings(
            connection,
            options["model"],
            names,
            resize,
            max_pixels or DEFAULT_MAX_PIXELS,
            concurrency,
            waiting,
        )
        click.echo(f"the page is at {address.url}")
        Printer().note("Ctrl-C ends it")
        serve(opened, address, settings, connect)
