"""`saliency-client gallery`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import click

from saliency_client.cli.completion import complete_files
from saliency_client.cli.connection import Connection
from saliency_client.cli.errors import UsageError
from saliency_client.cli.options import explaining_options
from saliency_client.cli.param_types import FILE, FiniteRange
from saliency_client.cli.parameters import parameter_options
from saliency_client.cli.printer import Printer
from saliency_client.cli.sections import command, option

_explanation = functools.partial(option, section="Explanation")
_page = functools.partial(option, section="Page")


@command(short_help="Make a page of photos and their maps, to look at.")
@click.argument("images", nargs=-1, metavar="[IMAGE]...", shell_complete=complete_files)
@_explanation(
    "-M",
    "--methods",
    "--method",
    "methods",
    metavar="NAME[,NAME…]",
    help="The methods; `saliency-client signatures` lists them.  [default: all]",
)
@_explanation(
    "--class",
    "class_name",
    metavar="NAME|INDEX",
    help="The class to explain; -1 is the predicted class.  [default: the predicted class of each image]",
)
@_explanation("--top", type=click.IntRange(min=1), metavar="K", help="Explain the K most probable classes.")
@parameter_options("Explanation")
@_explanation(
    "--from",
    "explained",
    type=FILE,
    help="Take the maps that an earlier `saliency-client explain --format npz --json` made, whose lines are "
    "in this file, and ask no server.",
)
@_page(
    "-o",
    "--out",
    required=True,
    metavar="PATH",
    shell_complete=complete_files,
    help="The folder of the page; with --single-file the HTML file.",
)
@_page(
    "--single-file", is_flag=True, help="Write one HTML that holds all pictures: for some dozens of photos."
)
@_page("--title", metavar="TEXT", help="The page's title.  [default: the model's name]")
@_page(
    "--truth",
    type=FILE,
    help="A file with the class of each photo, as cat.jpg,282 or cat.jpg,tabby: the page says what is right.",
)
@_page(
    "--evaluation",
    type=click.Path(exists=True, path_type=Path),
    metavar="PATH",
    help="What `saliency-client evaluate` measured, its folder or its JSON lines: shown beside the maps.",
)
@_page(
    "--clip",
    type=FiniteRange(0, 100, min_open=True),
    default=99.0,
    show_default=True,
    metavar="PERCENTILE",
    help="The percentile of a map that gets the hottest color.",
)
@_page("--overwrite", is_flag=True, help="Replace a gallery that exists.")
@explaining_options
def gallery(
    images: tuple[str, ...], connection: Connection, printer: Printer, methods: str | None, **options: Any
) -> int:
    """Make a page of photos and their maps, to look at. IMAGE is a file, a folder, a pattern, or - for stdin.

    The page is a folder that works from disk, without a server and without a network. Open its index.html: a
    grid of all photos, to be searched, filtered and sorted by class, probability, error and measures; and of
    each photo its maps side by side, over the photo or alone, on a scale of their own or on one for all,
    absolute or signed, with their numbers and the command that makes them again. --truth adds what is
    right, and --evaluation what `evaluate` measured.

    A gallery appears whole, at the end, or not at all. Work of hours is better done by `explain`, which goes
    on where it ended, and shown by --from.

    \b
    saliency-client gallery photos/ --methods gradients,smooth -o page/
    saliency-client gallery photos/ --recursive --top 3 --title 'All photos' -o page/
    saliency-client gallery cat.jpg photos/ --single-file -o page.html

    \b
    --json prints one line: kind (gallery), file, photos, failed, methods, model, version, seconds
    An image that fails has the line of `explain`: image, status, error, hint, code.
    """
    from saliency_client.cli.classes import PREDICTED, given_index
    from saliency_client.cli.gallery_run import GalleryOptions, run

    listed = None if methods is None else tuple(dict.fromkeys(name for name in methods.split(",") if name))
    if listed == ():
        raise UsageError("--methods names none", hint="`saliency-client signatures` lists them")
    if "class_index" in options["parameters"]:
        raise UsageError("class_index is no parameter here", hint="give --class")
    if options["class_name"] is not None and options["top"] is not None:
        raise UsageError("--class and --top exclude one another", hint="give one of them")
    index = given_index(options["class_name"])
    if index is not None:
        options["class_name"] = None
    options["class_index"] = None if index == PREDICTED else index
    return run(GalleryOptions(images=images, connection=connection, methods=listed, **options), printer)
