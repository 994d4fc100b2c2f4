"""`saliency-client bench`."""

from __future__ import annotations

import click

from saliency_client.cli.connection import Connection
from saliency_client.cli.errors import UsageError
from saliency_client.cli.options import connection_options, local_option, output_options, photo_options
from saliency_client.cli.output import Output
from saliency_client.cli.sections import command, option


@command(short_help="Measure how fast a server answers.")
@click.argument("image", required=False)
@option(
    "-M",
    "--method",
    default="gradients",
    show_default=True,
    metavar="NAME",
    help="Method to explain with, or predict.",
)
@option(
    "--num-samples",
    type=click.IntRange(min=1),
    metavar="N",
    help="smooth: noisy samples; default: the model's.",
)
@option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Images in a request.",
)
@option(
    "--concurrency",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    metavar="N",
    help="Requests on their way at a time.",
)
@option(
    "--duration", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="Default: 10 seconds."
)
@option("--requests", type=click.IntRange(min=1), metavar="N", help="So many requests instead.")
@option(
    "--warmup",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    metavar="N",
    help="Requests before, not counted, on each of the concurrent ways.",
)
@photo_options
@connection_options
@local_option
@output_options
def bench(
    image: str | None,
    connection: Connection,
    output: Output,
    *,
    duration: float | None,
    requests: int | None,
    **options: object,
) -> int:
    """Measure how fast the server answers, with IMAGE or else a picture of noise.

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
    from saliency_client.cli.bench_run import Request, run

    if duration is not None and requests is not None:
        raise UsageError("--duration and --requests exclude one another", hint="give one of them")
    seconds = 10.0 if duration is None and requests is None else duration
    return run(
        Request(image=image, connection=connection, duration=seconds, requests=requests, **options),  # type: ignore[arg-type]
        output,
    )
