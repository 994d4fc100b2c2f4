"""Options that several commands share.

| decorator            | options                                                          | gives           |
|----------------------|------------------------------------------------------------------|-----------------|
| `connection_options` | --server --model --version --label --timeout                     | `connection`    |
|                      | --tls --ca --cert --key --server-name --token-file --metadata    |                 |
| `local_option`       | --local                                                          | in `connection` |
| `output_options`     | --json -q/--quiet -v/--verbose                                   | `printer`       |
| `photo_options`      | --resize --max-pixels                                            | by their names  |
| `recursive_option`   | -r/--recursive                                                   | `recursive`     |
| `fail_fast_option`   | --fail-fast                                                      | `fail_fast`     |
| `concurrency_option` | --concurrency                                                    | `concurrency`   |
| `batch_size_option`  | --batch-size                                                     | `batch_size`    |
| `wait_option`        | --wait                                                           | `wait`          |
| `labels_option`      | --labels                                                         | `labels`        |
| `explaining_options` | all of these                                                     |                 |
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from saliency_client.cli.connection import DEFAULT_TIMEOUT, Connection
from saliency_client.cli.errors import UsageError
from saliency_client.cli.param_types import FILE, SECONDS
from saliency_client.cli.printer import Printer
from saliency_client.cli.sections import option

Command = TypeVar("Command", bound=Callable[..., Any])

_server = functools.partial(option, section="Server")
_images = functools.partial(option, section="Images")
_output = functools.partial(option, section="Output")

_CONNECTION = (
    _server(
        "-s",
        "--server",
        metavar="HOST:PORT",
        envvar="SALIENCY_SERVER",
        show_envvar=True,
        help="gRPC address of TensorFlow Serving, or several with commas.",
    ),
    _server(
        "-m",
        "--model",
        metavar="NAME",
        envvar="SALIENCY_MODEL",
        show_envvar=True,
        help="The model's name on the server.",
    ),
    _server(
        "--version",
        type=click.IntRange(min=0),
        metavar="N",
        help="The model's version.  [default: the latest]",
    ),
    _server("--label", metavar="LABEL", help="A version label, such as stable, instead of a number."),
    _server(
        "--timeout",
        type=SECONDS,
        default=DEFAULT_TIMEOUT,
        show_default=True,
        metavar="SECONDS",
        help="Time limit of each request, retries included; of one with N images N times as long; inf: none.",
    ),
    _server("--tls", is_flag=True, help="Use TLS; --ca and --cert imply it."),
    _server("--ca", type=FILE, help="PEM file of the authority that signed the server's certificate."),
    _server("--cert", type=FILE, help="PEM file of this client's certificate."),
    _server("--key", type=FILE, help="PEM file of the key of this client's certificate."),
    _server(
        "--server-name", metavar="NAME", help="The name in the server's certificate, if it is not the host's."
    ),
    _server(
        "--token-file",
        type=FILE,
        help="A file with a bearer token, which is read for every request. Or set SALIENCY_TOKEN.",
    ),
    _server(
        "--metadata",
        metavar="KEY=VALUE",
        multiple=True,
        help="Send this metadata with every request. Repeatable.",
    ),
)

local_option = _server(
    "--local",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="VERSION_DIR",
    help="Run an exported version in this process, without a server. Needs TensorFlow.",
)

recursive_option = _images("-r", "--recursive", is_flag=True, help="Also read subfolders.")

fail_fast_option = _images("--fail-fast", is_flag=True, help="Stop at the first image that fails.")

concurrency_option = _images(
    "--concurrency",
    type=click.IntRange(1, 256),
    default=4,
    show_default=True,
    metavar="N",
    help="How many requests are in progress at a time.",
)

batch_size_option = _images(
    "--batch-size",
    type=click.IntRange(1, 1024),
    default=8,
    show_default=True,
    metavar="N",
    help="How many images go together in a request, at most.",
)

wait_option = _server(
    "--wait",
    type=SECONDS,
    metavar="SECONDS",
    help="Wait until the model answers, before the first image and when the server goes away.",
)

labels_option = _images(
    "--labels",
    type=FILE,
    help="A file with the names of all classes, if the model has none: one on each line, or JSON.",
)


def photo_options(command: Command) -> Command:
    """How a photo becomes a model input."""
    from_photo = _images(
        "--resize",
        type=click.Choice(["crop", "stretch", "pad"]),
        default="crop",
        show_default=True,
        help="Fit a photo to the model: cut the largest centered part, stretch, or add gray bars.",
    )
    bound = _images(
        "--max-pixels",
        type=click.IntRange(min=1),
        metavar="N",
        help="Refuse larger photos.  [default: 178956970, as in Pillow]",
    )
    return from_photo(bound(command))


def connection_options(command: Command) -> Command:
    """Which model of which server, and how to reach it."""

    @functools.wraps(command)
    def with_connection(*arguments: Any, **options: Any) -> Any:
        connection = Connection(**{name: options.pop(name, None) for name in Connection.field_names()})
        return command(*arguments, connection=connection, **options)

    for decorate in reversed(_CONNECTION):
        with_connection = decorate(with_connection)
    return with_connection  # type: ignore[return-value]


def output_options(command: Command) -> Command:
    """Who reads the output."""

    @functools.wraps(command)
    def with_output(*arguments: Any, as_json: bool, quiet: bool, verbose: bool, **options: Any) -> Any:
        if as_json + quiet + verbose > 1 and not (as_json and verbose):
            raise UsageError("--json, --quiet and --verbose exclude one another", hint="give one of them")
        printer = Printer("json" if as_json else "quiet" if quiet else "human", verbose)
        return command(*arguments, printer=printer, **options)

    for decorate in (
        _output("-v", "--verbose", is_flag=True, help="Print the details of the work to stderr."),
        _output("-q", "--quiet", is_flag=True, help="Print only the results."),
        _output("--json", "as_json", is_flag=True, help="Print one JSON object on each line."),
    ):
        with_output = decorate(with_output)
    return with_output  # type: ignore[return-value]


def explaining_options(command: Command) -> Command:
    """What every command has that reads images, many at a time, and asks a model for their maps."""
    for decorate in (
        output_options,
        local_option,
        connection_options,
        wait_option,
        batch_size_option,
        concurrency_option,
        fail_fast_option,
        labels_option,
        photo_options,
        recursive_option,
    ):
        command = decorate(command)
    return command
