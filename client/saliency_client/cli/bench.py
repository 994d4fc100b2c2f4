"""`saliency-client bench`."""

from __future__ import annotations

import click

from saliency_client.cli.completion import complete_files
from saliency_client.cli.connection import Connection
from saliency_client.cli.errors import UsageError
from saliency_client.cli.options import connection_options, local_option, output_options, photo_options
from saliency_client.cli.param_types import FINITE_SECONDS
from saliency_client.cli.parameters import parameter_options
from saliency_client.cli.printer import Printer
from saliency_client.cli.sections import command, option


@command(short_help="Measure how fast a server answers.")
@click.argument("image", required=False, shell_complete=complete_files)
@option(
    "-M",
    "--method",
    "--methods",
    "method",
    default="gradients",
    show_default=True,
    metavar="NAME",
    help="The method to measure, or predict.",
)
@parameter_options("Options")
@option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="The number of images in a request.",
)
@option(
    "--concurrency",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    metavar="N",
    help="The number of requests that run at a time.",
)
@option("--duration", type=FINITE_SECONDS, metavar="SECONDS", help="How long to measure.  [default: 10]")
@option(
    "--requests",
    type=click.IntRange(min=1),
    metavar="N",
    help="Send this number of requests, instead of measuring for a time.",
)
@option(
    "--warmup",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    metavar="N",
    help="Requests before the measurement, for each of the concurrent ones.",
)
@photo_options
@connection_options
@local_option
@output_options
def bench(
    image: str | None,
    connection: Connection,
    printer: Printer,
    *,
    duration: float | None,
    requests: int | None,
    **options: object,
) -> int:
    """Measure how fast the server answers, with IMAGE, or with a picture of noise.

    Latency is that of whole requests as this client sees them, retries included. Exits with 1 if any
    request failed.

    \b
    saliency-client bench --duration 2 --concurrency 4
    saliency-client bench cat.jpg --method smooth --num-samples 50 --requests 20 --json
    saliency-client bench --method predict --batch-size 8 --requests 50

    \b
    --json prints one line: model, method, batch_size, concurrency, seconds, requests, images,
    errors (number by gRPC code), requests_per_second, images_per_second, and latency_ms with
    mean, p50, p90, p95, p99 and max, or null if no request was answered.
    """
    from saliency_client.cli.bench_run import BenchOptions, run

    if duration is not None and requests is not None:
        raise UsageError("--duration and --requests exclude one another", hint="give one of them")
    seconds = 10.0 if duration is None and requests is None else duration
    return run(
        BenchOptions(image=image, connection=connection, duration=seconds, requests=requests, **options),  # type: ignore[arg-type]
        printer,
    )
