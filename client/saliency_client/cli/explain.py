"""`saliency-client explain`."""

from __future__ import annotations

import functools
from typing import Any, Literal

import click

from saliency_client.cli.connection import Connection
from saliency_client.cli.errors import UsageError
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
from saliency_client.cli.output import Output
from saliency_client.cli.sections import command, option

_explanation = functools.partial(option, section="Explanation")
_picture = functools.partial(option, section="Picture")
_files = functools.partial(option, section="Files")


@command(short_help="Explain what a model sees in images.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@_explanation(
    "-M",
    "--method",
    default="gradients",
    show_default=True,
    metavar="NAME",
    help="gradients, guided, smooth, or another that the model offers.",
)
@_explanation("--class", "class_name", metavar="NAME|INDEX", help="Class; default: the predicted one.")
@_explanation(
    "--class-index",
    type=click.IntRange(min=-1),
    metavar="N",
    help="The same, by index alone; -1: the predicted one.",
)
@_explanation("--top", type=click.IntRange(min=1), metavar="K", help="The K most probable classes.")
@_explanation("--num-samples", type=click.IntRange(min=1), metavar="N", help="smooth: noisy samples.")
@_explanation(
    "--noise-level",
    type=click.FloatRange(0, 1),
    metavar="F",
    help="smooth: noise, as a part of the value range.",
)
@_explanation("--seed", type=int, metavar="N", help="smooth: seed of the noise.")
@_picture(
    "--style",
    "styles",
    type=click.Choice(["overlay", "heatmap", "masked", "panel"]),
    multiple=True,
    default=["overlay"],
    show_default=True,
    help="What a picture shows; repeatable, of one request.",
)
@_picture("--signed", is_flag=True, help="Red where more raises the score, blue where it lowers it.")
@_picture("--colormap", metavar="NAME", help="As viridis or jet; default: inferno, signed: RdBu_r.")
@_picture(
    "--opacity", type=click.FloatRange(0, 1), metavar="F", help="overlay: of the hottest color; default: 0.9."
)
@_picture(
    "--clip",
    type=click.FloatRange(0, 100, min_open=True),
    default=99.0,
    show_default=True,
    metavar="PERCENTILE",
    help="Shown as the hottest color.",
)
@_files(
    "-o",
    "--out",
    metavar="PATH",
    help="File, folder (a name without suffix or ending in /), or - for stdout; default: the current folder.",
)
@_files(
    "-f",
    "--format",
    "formats",
    type=click.Choice(["png", "jpg", "npy", "npz"]),
    multiple=True,
    help="Repeatable. npy: the map [H, W]; npz: all outputs. Default: png.",
)
@_files("--overwrite", is_flag=True, help="Replace files that are there.")
@_files("--skip-existing", is_flag=True, help="Leave out images whose files are there.")
@recursive_option
@photo_options
@labels_option
@fail_fast_option
@concurrency_option
@connection_options
@local_option
@output_options
def explain(
    images: tuple[str, ...],
    connection: Connection,
    output: Output,
    *,
    overwrite: bool,
    skip_existing: bool,
    **options: Any,
) -> int:
    """Explain what a model sees in images. IMAGE is a file, a folder, a pattern, or - for stdin.

    Writes a picture for each image, at the photo's own size, and prints the class, its probability and the
    file. Where the model looked at a part of the photo, the rest is shown pale.

    A map tells which pixels the score is sensitive to, not which objects the model knows. A guided map
    depends little on the upper layers, and so little on the class (Adebayo et al. 2018). A smooth map comes
    with its relative error: well below 1 it is settled, else raise --num-samples.

    \b
    saliency-client explain cat.jpg
    saliency-client explain cat.jpg --method smooth --num-samples 200 --style panel -o cat-panel.png
    saliency-client explain photos/ --recursive -o maps/ --skip-existing --json
    saliency-client explain cat.jpg --top 3 --format png --format npy -o maps/
    saliency-client explain cat.jpg --class 'tiger cat' --signed
    cat cat.jpg | saliency-client explain - -o - > map.png
    saliency-client explain cat.jpg --local models/efficientnet-lite0/1

    \b
    --json prints one line for each picture:
      image, status      always; status is "ok", "skipped" or "failed"
      file, files        ok, skipped: the first, and all of the files
      method, model, version, rank, class_index, label, probability, score,
      relative_error, milliseconds, notes
                         ok; null where unknown; rank counts from 1 with --top
      error, hint, code  failed; code is the gRPC code's name or null
    """
    from saliency_client.cli.explain_run import run
    from saliency_client.cli.explainer import Request

    if overwrite and skip_existing:
        raise UsageError("--overwrite and --skip-existing exclude one another")
    if sum(options[name] is not None for name in ("class_name", "class_index", "top")) > 1:
        raise UsageError("--class, --class-index and --top exclude one another", hint="give one of them")
    if options["class_index"] == -1:
        options["class_index"] = None
    existing: Literal["refuse", "overwrite", "skip"] = (
        "overwrite" if overwrite else "skip" if skip_existing else "refuse"
    )
    return run(Request(images=images, connection=connection, existing=existing, **options), output)
