"""`saliency-client predict`."""

from __future__ import annotations

import click

from saliency_client.cli.completion import complete_files
from saliency_client.cli.connection import Connection
from saliency_client.cli.options import (
    concurrency_option,
    connection_options,
    fail_fast_option,
    labels_option,
    local_option,
    output_options,
    photo_options,
    recursive_option,
)
from saliency_client.cli.printer import Printer
from saliency_client.cli.sections import command, option


@command(short_help="Print the most probable classes of images.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", shell_complete=complete_files)
@option(
    "--top",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    metavar="K",
    help="The number of classes to show.",
)
@recursive_option
@photo_options
@labels_option
@fail_fast_option
@concurrency_option
@connection_options
@local_option
@output_options
def predict(images: tuple[str, ...], connection: Connection, printer: Printer, **options: object) -> int:
    """Print the most probable classes of images. IMAGE is a file, a folder, a pattern, or - for stdin.

    \b
    saliency-client predict cat.jpg
    saliency-client predict photos/ --top 1 --json
    cat cat.jpg | saliency-client predict -

    \b
    --json prints one line for each image:
      image, status      status is "ok" or "failed"
      model, predictions, milliseconds, notes
                         ok; each prediction has rank, class_index, label, probability, score
      error, hint, code  failed; code is the gRPC code's name or null
    """
    from saliency_client.cli.predict_run import PredictOptions, run

    return run(PredictOptions(images=images, connection=connection, **options), printer)  # type: ignore[arg-type]
