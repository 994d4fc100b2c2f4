"""`saliency-exporter sanity`."""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from saliency_client.cli.errors import UsageError
from saliency_client.cli.sections import command, option
from saliency_client.cli.text import printable, printable_json
from saliency_exporter.cli.export import export
from saliency_exporter.cli.params import DIRECTORY, METHODS
from saliency_exporter.errors import NotWritten

if TYPE_CHECKING:
    from saliency_exporter.evaluation.card import Card

DEPTHS, SAMPLES = 8, 20
_OF_THE_MODEL = ("Model", "Input")
"""Sections of the options of `export` that say what the model is."""


@command("sanity", short_help="Test whether maps depend on what the model has learned.")
@click.argument("model", metavar="MODEL|VERSION_DIR")
@option(
    "--images",
    multiple=True,
    metavar="PATH",
    section="Test",
    help="Photos, .npy files or folders of them to make maps of. Repeatable.  "
    "[default: four photos of scikit-image, or what an export is verified with]",
)
@option(
    "--methods",
    type=METHODS,
    section="Test",
    help="The methods to test.  [default: all that VERSION_DIR has, or what export chooses for MODEL]",
)
@option(
    "--depths",
    type=click.IntRange(min=1),
    default=DEPTHS,
    show_default=True,
    metavar="N",
    section="Test",
    help="At how many depths maps are made, at most. Every layer becomes random all the same.",
)
@option(
    "--samples",
    type=click.IntRange(min=1),
    default=SAMPLES,
    show_default=True,
    metavar="N",
    section="Test",
    help="How many samples or steps a map is made of, and ten times as many masks, if its default is more.",
)
@option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, section="Test", help="Of the draw."
)
@option(
    "-o",
    "--out",
    type=DIRECTORY,
    section="Output",
    help="The folder of sanity.json and sanity.png.  [default: VERSION_DIR/assets.extra; of a MODEL, none]",
)
@option(
    "--json",
    "as_json",
    is_flag=True,
    section="Output",
    help="Print the outcome as JSON to stdout, the verdicts to stderr.",
)
def sanity(
    model: str,
    images: tuple[str, ...],
    methods: tuple[str, ...] | None,
    depths: int,
    samples: int,
    seed: int,
    out: Path | None,
    as_json: bool,
    **of_the_model: Any,
) -> None:
    """Make layer after layer of MODEL random, and see whether its maps change.

    The randomisation test of Adebayo et al. 2018: from the class scores down, each layer's weights are put
    in a random order, and maps are compared with those of the trained model. A method whose maps stay as
    they are, as those of guided backpropagation do, shows the image, and not what the model has learned.

    Of a version that `export` made, the outcome is kept beside it, and `inspect` shows it. Any other
    MODEL is what `export` takes, with its options.

    \b
    saliency-exporter sanity models/lite0/1
    saliency-exporter sanity models/lite0/1 --images photos/ --methods gradients,guided
    saliency-exporter sanity my-model.keras --preprocessing tf -o sanity/
    """
    is_version = (Path(model) / "assets.extra" / "saliency.json").is_file()
    if is_version:
        _refuse_options_of_models()
    from saliency_exporter.cli.steps import Steps
    from saliency_exporter.runtime.memory import enough_memory
    from saliency_exporter.runtime.quiet import import_tensorflow

    with ExitStack() as stack:
        stack.enter_context(enough_memory("end what runs beside it, or give fewer --images"))
        folder: Path | None
        if is_version:
            version_dir = Path(model)
            folder = out or version_dir / "assets.extra"
        else:
            temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="saliency-sanity-")))
            version_dir = _exported(model, temporary, methods, of_the_model)
            folder = out
        say = stack.enter_context(Steps())
        say("starting TensorFlow")
        import_tensorflow()
        names = () if methods is None or not is_version else _names(methods)
        card = run(version_dir, say, images=images, methods=names, depths=depths, samples=samples, seed=seed)
        if folder is not None:
            write(folder, card)
    if as_json:
        click.echo(printable_json(card.to_json()))
    show(card, folder, stream=sys.stderr if as_json else sys.stdout)


sanity.params[-1:-1] = [one for one in export.params if getattr(one, "section", "") in _OF_THE_MODEL]


def run(
    version_dir: Path,
    say: Callable[[str], None],
    *,
    images: Sequence[str] = (),
    methods: Sequence[str] = (),
    depths: int = DEPTHS,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Card:
    """The test of a version directory on the images of files, or on those at hand, which is said."""
    from saliency_exporter.cli.evaluated_images import images_at_hand, named_images
    from saliency_exporter.evaluation.sanity import check_sanity
    from saliency_exporter.version.manifest import read_manifest

    manifest = read_manifest(version_dir)
    if images:
        chosen = named_images(images, manifest)
    else:
        chosen, what = images_at_hand(manifest)
        say(f"taking {what}")
    arrays = {name: image.array for name, image in chosen.items()}
    return check_sanity(
        version_dir, arrays, methods=methods, depths=depths, samples=samples, seed=seed, progress=say
    )


def write(folder: Path, card: Card) -> None:
    """Writes the card to a folder, which is made where it is not there."""
    from saliency_exporter.evaluation.card import write_card

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotWritten(
            f"{folder} cannot be made: {error.strerror}", hint="-o FOLDER names another place"
        ) from error
    write_card(folder, card)


def show(card: Card, folder: Path | None, *, stream: TextIO) -> None:
    """Prints the verdicts for people.

    Args:
        card: the outcome.
        folder: where it was written, or None.
        stream: of the verdicts; what else is to know goes to stderr.
    """
    from rich.table import Table
    from rich.text import Text

    from saliency_client.cli.console import console
    from saliency_exporter.evaluation.card import JSON, PICTURE, sentence

    colors = {"passes": "green", "fails": "red", "unclear": "yellow"}
    for name in card.methods:
        # A table for each: rich would pad all lines of one to the width of the longest.
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=max(map(len, card.methods)), no_wrap=True)
        table.add_column(overflow="fold")
        table.add_row(name, Text(sentence(card, name), colors[card.verdict(name)]))
        console(stream).print(table)
    for layer in card.unchanged:
        click.echo(
            f"note: the weights of {printable(layer)} are all equal: their order changes nothing", err=True
        )
    where = f"; {JSON} and {PICTURE} are in {folder}" if folder is not None else ""
    click.echo(
        f"{_counted(card.layers, 'layer')}, {_counted(card.depths, 'depth')}, "
        f"{_counted(card.images, 'image')} in "
        f"{card.seconds:.0f} s{where}",
        err=True,
    )


def _counted(things: Sequence[object], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _exported(model: str, folder: Path, methods: tuple[str, ...] | None, options: dict[str, Any]) -> Path:
    """A version of the model in a folder, uncompiled: the device does not matter."""
    values = {**options, "model": model, "model_dir": folder / "model", "methods": methods}
    values |= {"compile_": "none", "target": "cpu", "batch_sizes": (1, 4), "verify_": False}
    with redirect_stdout(io.StringIO()) as printed:
        click.get_current_context().invoke(export, **values)
    return Path(printed.getvalue().strip())


def _refuse_options_of_models() -> None:
    context = click.get_current_context()
    for one in context.command.params:
        given = context.get_parameter_source(one.name or "") == click.core.ParameterSource.COMMANDLINE
        if given and getattr(one, "section", "") in _OF_THE_MODEL:
            raise UsageError(
                f"{one.opts[0]} says how a model is loaded; {context.params['model']} is an exported version",
                hint="leave it out",
            )


def _names(expressions: Sequence[str]) -> tuple[str, ...]:
    """Names of signatures' methods, of what was asked for."""
    from saliency_exporter.methods.registry import ALL, find_methods

    if ALL in expressions:
        return ()
    return tuple(method.name for method in find_methods(expressions))
