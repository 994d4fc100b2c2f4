"""`saliency-exporter compare`."""

from __future__ import annotations

import math
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from saliency_client._files import Write, write_all
from saliency_client.cli.sections import command, option
from saliency_client.cli.text import one_line, printable_json
from saliency_exporter.cli.params import DIRECTORY
from saliency_exporter.errors import ExportError, NotWritten

if TYPE_CHECKING:
    from saliency_exporter.cli.evaluated_images import EvaluatedImage
    from saliency_exporter.evaluation.comparison import Answers, Comparison, Prediction
    from saliency_exporter.version.manifest import Manifest


_STAYED = 0.005
"""Less of a map's sum than this has not moved: as a percentage it is 0."""


@command("compare", short_help="Compare the maps of two versions of a model.")
@click.argument("first", metavar="VERSION_DIR", type=DIRECTORY)
@click.argument("second", metavar="OTHER_VERSION_DIR", type=DIRECTORY)
@option(
    "--images",
    multiple=True,
    metavar="PATH",
    section="Comparison",
    help="Photos, .npy files or folders of them. Repeatable.  [default: four photos of scikit-image]",
)
@option(
    "--methods",
    metavar="NAME,…",
    section="Comparison",
    help="The methods to compare, by the names that inspect shows.  [default: all that both versions have]",
)
@option(
    "-o",
    "--out",
    type=DIRECTORY,
    section="Output",
    help="The folder for a picture of each image, with both maps of every method.",
)
@option(
    "--json",
    "as_json",
    is_flag=True,
    section="Output",
    help="Print all numbers of all images as JSON to stdout.",
)
def compare(
    first: Path, second: Path, images: tuple[str, ...], methods: str | None, out: Path | None, as_json: bool
) -> None:
    """Show how much the maps of two versions of a model differ.

    Both versions explain the class that the first one predicts. For each method: the rank correlation of
    the maps, their structural similarity, how much of the largest tenth of the pixels they share (of random
    maps, 0.10), and where in the picture the map has moved to. Images whose class changed are listed.

    \b
    saliency-exporter compare models/lite0/1 models/lite0/2 --images photos/
    saliency-exporter compare models/lite0/1 models/lite0/2 --images photos/ -o compared/
    """
    from saliency_exporter.cli.steps import Steps
    from saliency_exporter.runtime.memory import enough_memory
    from saliency_exporter.runtime.quiet import import_tensorflow
    from saliency_exporter.version.manifest import read_manifest

    manifests = read_manifest(first), read_manifest(second)
    chosen = [] if methods is None else [name.strip() for name in methods.split(",")]
    with enough_memory("end what runs beside it, or give fewer --images"), Steps() as say:
        say("starting TensorFlow")
        import_tensorflow()
        comparison, answers, seen = _compared((first, second), manifests, images, chosen, say)
        if out is not None:
            say("drawing")
            _draw(out, comparison, answers, seen)
    if as_json:
        click.echo(printable_json(comparison.to_json()))
    else:
        _show(comparison)
    for note in comparison.notes:
        click.echo(f"note: {one_line(note)}", err=True)


def _compared(
    versions: tuple[Path, Path],
    manifests: tuple[Manifest, Manifest],
    arguments: tuple[str, ...],
    chosen: list[str],
    say: object,
) -> tuple[Comparison, tuple[Answers, Answers], dict[str, EvaluatedImage]]:
    import numpy as np

    from saliency_exporter.cli.evaluated_images import images_at_hand, named_images
    from saliency_exporter.evaluation.comparison import (
        Comparison,
        answers_of,
        common_methods,
        compared,
        constant_notes,
        same_class,
        shared_parameters,
    )

    assert callable(say)
    names, notes = common_methods(*manifests, chosen)
    sizes = [manifest.input.sizes for manifest in manifests]
    if sizes[0] != sizes[1]:
        if not len(sizes[0]) == len(sizes[1]) == 2:
            raise ExportError(
                f"the versions take inputs of {list(sizes[0])} and {list(sizes[1])}: "
                "their maps have no places in common",
                hint="only maps of pictures are compared across sizes",
            )
        notes.append(
            f"the versions take pictures of {sizes[0][0]} × {sizes[0][1]} and {sizes[1][0]} × {sizes[1][1]}: "
            "the smaller maps are enlarged, and fine detail differs for that alone"
        )
    if manifests[0].labels != manifests[1].labels or manifests[0].classes != manifests[1].classes:
        notes.append(_about_classes(*manifests))
    if arguments:
        batches = [named_images(arguments, manifest) for manifest in manifests]
    else:
        at_hand = [images_at_hand(manifest) for manifest in manifests]
        batches = [images for images, _ in at_hand]
        say(f"taking {at_hand[0][1]}")
        if list(batches[0]) != list(batches[1]):
            raise ExportError(
                "one version takes photos and the other arrays: no images at hand are for both",
                hint="compare versions that were exported with one --preprocessing",
            )
    parameters = {
        name: shared_parameters(manifests[0].methods[name], manifests[1].methods[name]) for name in names
    }

    def batch(number: int) -> np.ndarray:
        return np.stack([image.array for image in batches[number].values()])

    def as_in_first(predictions: list[Prediction]) -> list[int]:
        wanted = [same_class(index, *manifests) for index in before.explained]
        return [
            own.class_index if index is None else index
            for index, own in zip(wanted, predictions, strict=True)
        ]

    say(f"explaining {len(batches[0])} images with {versions[0]}")
    before = answers_of(
        versions[0], manifests[0], batch(0), parameters, lambda found: [one.class_index for one in found]
    )
    say(f"explaining {len(batches[0])} images with {versions[1]}")
    after = answers_of(versions[1], manifests[1], batch(1), parameters, as_in_first)
    images = compared(list(batches[0]), manifests, (before, after))
    notes += constant_notes(images)
    comparison = Comparison((str(versions[0]), str(versions[1])), images, tuple(notes))
    return comparison, (before, after), batches[0]


def _about_classes(first: Manifest, second: Manifest) -> str:
    """What is done where two versions do not have one list of classes."""
    if first.labels is not None and second.labels is not None:
        missing = [name for name in first.labels if name not in second.labels]
        some = (
            f"; the second lacks {', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}"
            if missing
            else ""
        )
        return (
            f"the versions have other lists of classes{some}: classes are matched by name, and an image "
            "whose class is not in the second is explained there for the class that it predicts itself"
        )
    if first.classes == second.classes:
        return "one version has no names of classes: they are matched by number"
    return (
        f"the versions have {first.classes} and {second.classes} classes, not both with names: each explains "
        "the class that it predicts itself"
    )


def _show(comparison: Comparison) -> None:
    from rich.table import Table

    from saliency_client.cli.console import console

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("method", no_wrap=True)
    for name in ("rank correlation", "SSIM", "top 10 % shared"):
        table.add_column(name, justify="right")
    table.add_column("least alike", no_wrap=True)
    table.add_column("moved there", overflow="fold")
    for method in comparison.methods:
        least = min(comparison.images, key=lambda one: _or_infinite(one.methods[method].spearman))
        table.add_row(
            method,
            *(_number(comparison.mean(method, name)) for name in ("spearman", "ssim", "top_overlap")),
            "–"
            if least.methods[method].spearman is None
            else f"{one_line(least.image)} {_number(least.methods[method].spearman)}",
            _in_words(least.methods[method].moved),
        )
    printer = console(sys.stdout)
    printer.print(table)
    if all(one.changed is None for one in comparison.images):
        click.echo("whether a class changed is not known")
        return
    changed = [one for one in comparison.images if one.changed]
    click.echo(f"{len(changed)} of {len(comparison.images)} images have another class")
    for one in changed:
        before, after = map(_predicted, one.predictions)
        click.echo(f"  {one_line(one.image)}: {before} → {after}")


def _predicted(one: Prediction) -> str:
    name = one_line(one.label or f"class {one.class_index}")
    return name if one.probability is None else f"{name} {one.probability:.2f}"


def _or_infinite(value: float | None) -> float:
    return math.inf if value is None else value


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.2f}"


def _in_words(moved: dict[str, float]) -> str:
    """Where most came and most went, of a map's sum."""
    if not moved:
        return "–"
    if max(map(abs, moved.values())) < _STAYED:
        return "nowhere"
    most, least = max(moved, key=lambda place: moved[place]), min(moved, key=lambda place: moved[place])
    return f"{most} {moved[most]:+.0%}, {least} {moved[least]:+.0%}"


def _draw(
    folder: Path,
    comparison: Comparison,
    answers: tuple[Answers, Answers],
    seen: dict[str, EvaluatedImage],
) -> None:
    """A picture for each image; all are written, or none.

    Raises:
        ExportError: the maps are no pictures.
        NotWritten: the folder cannot be written.
    """
    from saliency_client import render

    files: dict[Path, Write] = {}
    for number, one in enumerate(comparison.images):
        photo = seen[one.image].photo
        if photo is None:
            raise ExportError(
                "maps of this input are no pictures", hint="leave -o away; --json has the numbers"
            )
        small, box = render.seen_part(photo.picture, photo.box)
        tiles = {"original": small}
        for method in comparison.methods:
            maps = [answer.maps[method][number] for answer in answers]
            tiles |= {
                f"{method}, {n}": render.overlay(small, m, box) for n, m in zip((1, 2), maps, strict=True)
            }
        before, after = one.explained
        name = f"{number:03d}-{Path(one.image).stem}-compared.png"
        sheet = render.sheet(tiles, title=f"{one.image}: {before}", subtitle=f"1 {before}, 2 {after}")
        files[folder / name] = partial(sheet.save, format="png")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_all(files, overwrite=True)
    except OSError as error:
        raise NotWritten(
            f"{error.filename or folder} cannot be written: {error.strerror}",
            hint="-o FOLDER names another place",
        ) from error
