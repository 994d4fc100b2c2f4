"""`saliency-client explain`."""

from __future__ import annotations

import functools
from typing import Any, Literal

import click

from saliency_client.cli.completion import complete_color_maps, complete_files
from saliency_client.cli.connection import Connection
from saliency_client.cli.errors import UsageError
from saliency_client.cli.options import explaining_options
from saliency_client.cli.param_types import FiniteRange
from saliency_client.cli.parameters import Number, parameter_options
from saliency_client.cli.printer import Printer
from saliency_client.cli.sections import command, option

_explanation = functools.partial(option, section="Explanation")
_picture = functools.partial(option, section="Picture")
_files = functools.partial(option, section="Files")
_CLASSES = {"--class": "class_name", "--class-index": "class_index", "--top": "top"}


@command(short_help="Explain what a model sees in images.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", shell_complete=complete_files)
@_explanation(
    "-M",
    "--method",
    "--methods",
    "method",
    default="gradients",
    show_default=True,
    metavar="NAME[,NAME…]",
    help="A method of the model, or several, drawn side by side; `saliency-client signatures` lists them.",
)
@_explanation(
    "--class",
    "class_name",
    metavar="NAME|INDEX",
    help="The class to explain; -1 is the predicted class.  [default: the predicted class]",
)
@_explanation(
    "--class-index",
    type=click.IntRange(min=-1),
    metavar="N",
    help="The class to explain, by its index. -1 is the predicted class.",
)
@_explanation("--top", type=click.IntRange(min=1), metavar="K", help="Explain the K most probable classes.")
@parameter_options("Explanation")
@_explanation(
    "--baseline",
    "baselines",
    multiple=True,
    metavar="LEVEL[,…]",
    help="What a method with a baseline compares the image with: black, white, gray (127.5) or a number. "
    "The map is the average over several.  [default: the model's; with --regions black,white]",
)
@_explanation(
    "--regions",
    is_flag=True,
    help="Draw regions instead of pixels (XRAI), the best ones outlined. Needs saliency-serving[regions].",
)
@_explanation(
    "--top-regions",
    type=FiniteRange(0, 100, min_open=True),
    metavar="PERCENT",
    help="With --regions, the best ones are those that cover so much of the image.  [default: 30]",
)
@_picture(
    "--style",
    "styles",
    type=click.Choice(["overlay", "heatmap", "masked", "outlines", "panel"]),
    multiple=True,
    default=["overlay"],
    show_default=True,
    help="What a picture shows. Repeat it for several pictures of one request.",
)
@_picture(
    "--signed",
    is_flag=True,
    help="Draw the sign: red where more of a channel raises the score, blue where it lowers it. "
    "Short for --polarity both.",
)
@_picture(
    "--polarity",
    type=click.Choice(["positive", "negative", "both"]),
    help="Draw what raises the score, what lowers it, or both, of the sum over a pixel's channels.",
)
@_picture(
    "--colormap",
    metavar="NAME",
    shell_complete=complete_color_maps,
    help="A color map, such as viridis or jet.  [default: inferno; with --signed RdBu_r]",
)
@_picture(
    "--opacity",
    type=FiniteRange(0, 1),
    metavar="F",
    help="In an overlay, the opacity of the hottest color.  [default: 0.9]",
)
@_picture(
    "--clip",
    type=FiniteRange(0, 100, min_open=True),
    default=99.0,
    show_default=True,
    metavar="PERCENTILE",
    help="The percentile of the map that gets the hottest color.",
)
@_picture(
    "--clip-low",
    type=FiniteRange(0, 100, max_open=True),
    metavar="PERCENTILE",
    help="The percentile of the map up to which nothing is shown.  [default: 0; of outlines 90]",
)
@_picture("--photo-colors", is_flag=True, help="In an overlay, keep the photo's colors.")
@_files(
    "-o",
    "--out",
    metavar="PATH",
    shell_complete=complete_files,
    help="A file, a folder (a name without a suffix, or with / at its end), or - for stdout.  "
    "[default: the current folder]",
)
@_files(
    "-f",
    "--format",
    "formats",
    type=click.Choice(["png", "jpg", "npy", "npz"]),
    multiple=True,
    help="npy has the map [H, W]; npz has all outputs. Repeatable.  [default: png]",
)
@_files("--overwrite", is_flag=True, help="Replace files that exist.")
@_files(
    "--skip-existing",
    is_flag=True,
    help="Skip images whose files exist; make anew those that another version or other options made.",
)
@explaining_options
def explain(
    images: tuple[str, ...],
    connection: Connection,
    printer: Printer,
    *,
    overwrite: bool,
    skip_existing: bool,
    parameters: dict[str, Number],
    signed: bool,
    **options: Any,
) -> int:
    """Explain what a model sees in images. IMAGE is a file, a folder, a pattern, or - for stdin.

    Writes a picture for each image, at the photo's own size, and prints the class, its probability and the
    file. If the model saw only a part of the photo, the rest is pale.

    A map shows to which pixels the score is sensitive, not which objects the model knows. A guided map
    depends little on the upper layers, and so little on the class (Adebayo et al. 2018).

    An average over samples comes with its relative error: the distance to the average over endlessly many,
    over the size of that; lines of several images show 0.3 as ±30 %. 0.3 is settled; above 1 the map is
    mostly noise, and a note says how many samples 0.5 takes. --target-error 0.3 takes as many as that needs,
    --num-samples at most. At a terminal, a single picture is asked for in slices, and the error is seen to
    fall.

    \b
    What a method's map answers, by what the method returns (`saliency-client signatures`):
      gradients      to which pixels the score is sensitive; not what the score is made of
      attributions   each pixel's share of the score beside a baseline; nothing without the baseline
      cam            which places count, coarsely; not which of their pixels

    Regions (XRAI, Kapishnikov et al. 2019) are segments of the photo, ranked by the mean of the map over
    each. They follow edges of the photo, not of objects: what a region shows is that the map is strong in it.

    \b
    saliency-client explain cat.jpg
    saliency-client explain cat.jpg --method smooth --num-samples 200 --style panel -o cat-panel.png
    saliency-client explain cat.jpg --method smooth --target-error 0.3 --num-samples 1000 -o settled.png
    saliency-client explain photos/ --recursive -o maps/ --skip-existing --json
    saliency-client explain cat.jpg --top 3 --format png --format npy -o maps/
    saliency-client explain cat.jpg --class 'tiger cat' --signed
    saliency-client explain cat.jpg --method gradients,smooth -o methods.png
    saliency-client explain cat.jpg --method integrated_gradients --regions --style panel -o regions.png
    saliency-client explain cat.jpg --style outlines --polarity positive --clip-low 95
    cat cat.jpg | saliency-client explain - -o - > map.png
    saliency-client explain cat.jpg --local models/efficientnet-lite0/1

    \b
    --json prints one line for each picture and method:
      image, status      always; status is "ok", "skipped" or "failed"
      file, files        ok, skipped: the first, and all of the files
      method, model, version, rank, class_index, label, probability, score,
      relative_error, outputs, baselines, milliseconds, notes
                         ok; null where unknown; rank counts from 1 with --top; outputs has the
                         numbers that the method gives beside these, by name; baselines are the
                         gray levels that were averaged over
      error, hint, code  failed; code is the gRPC code's name or null
    """
    from saliency_client.cli.baselines import listed
    from saliency_client.cli.classes import PREDICTED, given_index
    from saliency_client.cli.explain_run import run
    from saliency_client.cli.explainer import ExplainOptions

    options["method"] = ",".join(dict.fromkeys(options["method"].split(",")))
    options["baselines"] = listed(options["baselines"])
    if signed and options["polarity"] not in (None, "both"):
        raise UsageError(f"--signed and --polarity {options['polarity']} exclude one another")
    if signed:
        options["polarity"] = "both"
    if overwrite and skip_existing:
        raise UsageError("--overwrite and --skip-existing exclude one another")
    given = [option for option, name in _CLASSES.items() if options[name] is not None]
    if len(given) > 1:
        raise UsageError("--class, --class-index and --top exclude one another", hint="give one of them")
    if "class_index" in parameters:
        if given:
            raise UsageError(f"class_index is given twice, by --param and by {given[0]}", hint="give it once")
        options["class_index"] = _class_index(parameters.pop("class_index"))
    index = given_index(options["class_name"])
    if index is not None:
        options["class_name"], options["class_index"] = None, index
    if options["class_index"] == PREDICTED:
        options["class_index"] = None
    existing: Literal["refuse", "overwrite", "skip"] = (
        "overwrite" if overwrite else "skip" if skip_existing else "refuse"
    )
    return run(
        ExplainOptions(
            images=images, connection=connection, existing=existing, parameters=parameters, **options
        ),
        printer,
    )


def _class_index(value: Number) -> int:
    if isinstance(value, float) or value < -1:
        raise UsageError(f"class_index is {value}; it takes whole numbers from -1 on")
    return value
