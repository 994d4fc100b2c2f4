"""`saliency-client evaluate`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import click

from saliency_client.cli.completion import complete_files
from saliency_client.cli.connection import Connection
from saliency_client.cli.errors import UsageError
from saliency_client.cli.options import explaining_options
from saliency_client.cli.parameters import parameter_options
from saliency_client.cli.printer import Printer
from saliency_client.cli.sections import command, option

_evaluation = functools.partial(option, section="Evaluation")
_files = functools.partial(option, section="Files")


@command(short_help="Measure how good the maps of methods are.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", shell_complete=complete_files)
@_evaluation(
    "-M",
    "--methods",
    "--method",
    "methods",
    metavar="NAME[,NAME…]",
    help="The methods to measure; `saliency-client signatures` lists them.  [default: all]",
)
@_evaluation(
    "--measures",
    default="deletion,insertion",
    show_default=True,
    metavar="NAME[,NAME…]",
    help="The measures; below is the list of them.",
)
@_evaluation(
    "--class",
    "class_name",
    metavar="NAME|INDEX",
    help="The class to explain and to measure; -1 is the predicted class.  [default: the predicted class of "
    "each image]",
)
@_evaluation(
    "--substrate",
    type=click.Choice(["black", "mean", "blur"]),
    help="What stands in place of a removed pixel.  [default: black; of insertion blur]",
)
@_evaluation(
    "--steps",
    type=click.IntRange(min=1),
    metavar="N",
    help="Into how many equal parts deletion and insertion cut the pixels.  [default: 10]",
)
@_evaluation(
    "--setting",
    "settings",
    multiple=True,
    metavar="[MEASURE.]NAME=VALUE",
    help="Any setting of the measures that have it, as in radius=0.2 or road.noise=0; repeatable.",
)
@_evaluation(
    "--controls/--no-controls",
    default=True,
    show_default=True,
    help="Also measure a random map and an edge detector, which know nothing of the model.",
)
@parameter_options("Evaluation")
@_files(
    "-o",
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Keep results and a page with curves here; the same command goes on where it ended.",
)
@explaining_options
def evaluate(
    images: tuple[str, ...], connection: Connection, printer: Printer, measures: str, **options: Any
) -> int:
    """Measure how good the maps of methods are. IMAGE is a file, a folder, a pattern, or - for stdin.

    Every method is measured on the same images, and compared with the others and with the controls in
    pairs. A method that a control equals is named: its map has not been shown to tell of the model.

    \b
    deletion                  area under the class probability while the best pixels are removed:
                              lower is better
    insertion                 the same while they are added: higher is better
    road                      probability after the best pixels are imputed from their neighbors: lower
                              is better; needs saliency-serving[evaluation]
    faithfulness_correlation  of what the map gives to random pixels with what the score loses: higher
    max_sensitivity           largest relative change of the map near the image: lower
    sparseness                Gini index of the map: neither
    completeness_gap          how far attributions are from the score that they share out: lower
    random_logit              how alike the maps of two classes are: lower

    Values depend on substrate, steps and the other settings, which are part of every result: compare within
    one setting alone. Intervals are bootstrap intervals of the mean, at 95 %.

    \b
    saliency-client evaluate photos/ --methods gradients,smooth
    saliency-client evaluate photos/ --measures deletion,insertion,sparseness -o report/
    saliency-client evaluate photos/ --methods gradients --measures max_sensitivity --setting radius=0.05
    saliency-client evaluate photos/ --methods gradients --substrate mean --steps 28 --json

    \b
    --json prints one line for each result as it comes, then the lines of the whole; `kind` says which:
      result    image, status (ok, undefined), method, measure, value, note, class_index, settings,
                map, curve, predictions, explanations, made_with, kept
      summary   measure, method, mean, low, high, images, undefined, better, no_better_than, curve
      pair      measure, methods, difference, low, high, wins, ties, images, better
      load      predictions, explanations, requests, seconds, busy_seconds, kept
    An image that fails has the line of `explain`: image, status, error, hint, code.
    """
    from saliency_client.cli.classes import PREDICTED, given_index
    from saliency_client.cli.evaluate_run import EvaluateOptions, run

    index = given_index(options["class_name"])
    if index is not None:
        options["class_name"] = None
    options["class_index"] = None if index == PREDICTED else index
    options["settings"] = [_setting(text) for text in options["settings"]]
    for name in ("substrate", "steps"):
        value = options.pop(name)
        if value is not None:
            options["settings"].insert(0, (None, name, value))
    if "class_index" in options["parameters"]:
        raise UsageError("class_index is no parameter here", hint="give --class")
    listed = tuple(dict.fromkeys(measures.split(",")))
    return run(EvaluateOptions(images=images, connection=connection, measures=listed, **options), printer)


def _setting(text: str) -> tuple[str | None, str, Any]:
    """The measure, if it is named; the name; and the value: a number, several with commas, or a word."""
    name, separator, value = text.partition("=")
    if not separator or not name or not value:
        raise UsageError(f"--setting {text!r} is not NAME=VALUE", hint="as in --setting radius=0.05")
    measure, dot, setting = name.rpartition(".")
    if "," in value:
        return (measure if dot else None), setting, tuple(_value(part) for part in value.split(","))
    return (measure if dot else None), setting, _value(value)


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
