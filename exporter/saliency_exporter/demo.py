"""The command `demo`: a real classifier exported, served and asked for maps of two photos."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen
from typing import Any

import click

from saliency_exporter.children import Children, Interrupted
from saliency_exporter.errors import ExportError
from saliency_exporter.manifest import read_manifest

MODEL = "efficientnet-lite0"
METHODS = ("gradients", "guided", "smooth")
PHOTOS = {"chelsea": 285, "coffee": 967}
"""Photos of scikit-image, and the ImageNet class that each must be found to be."""

BATCH_SIZES = (1, 4)
_SERVER_TIMEOUT = 600.0


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
    def model(self) -> Path:
        return self.root / "models" / MODEL

    @property
    def server_log(self) -> Path:
        return self.root / "server.log"

    @property
    def xla_cache(self) -> list[str]:
        """The option for compiled programs; none where the path cannot be given to TensorFlow."""
        path = self.root / "xla-cache"
        return [] if any(c.isspace() for c in str(path)) else ["--xla-cache", str(path)]


@click.command("demo")
@click.argument("directory", default="demo-output", type=click.Path(file_okay=False, path_type=Path))
def demo_command(directory: Path) -> None:
    """Export a real ImageNet classifier, serve it, and explain two photos by three methods.

    Leaves pictures, maps (.npy) and the model in DIRECTORY [default: demo-output]. It needs no download
    and no GPU; a second run takes what the first one left.

    \b
    saliency-exporter demo
    saliency-exporter demo /tmp/demo
    """
    try:
        with Children() as children:
            results = run(directory, children)
    except Interrupted as interruption:
        click.echo("\ninterrupted; nothing is left running", err=True)
        sys.exit(128 + interruption.signal_number)
    click.echo(table(results))
    check_classes(results)
    click.echo(_what_next(_Paths(directory)))


def run(directory: Path, children: Children) -> list[dict[str, Any]]:
    """Do all of it; one record for each photo and method, as `saliency-client explain --json` prints it.

    Raises:
        ExportError: a step failed, or the packages of the extra `demo` are not installed.
        Interrupted: a signal came.
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
    if is_current(paths.model):
        click.echo(f"{paths.model} is up to date", err=True)
    else:
        export(paths, children)
    with _step("starting the server"):
        target = serve(paths, children)
    results = [
        record for method in METHODS for record in explain(target, method, photos, paths.maps, children)
    ]
    with _step("saliency-client explain --method smooth --style panel"):
        _explain(target, "smooth", photos, paths.maps, ["--style", "panel"], children)
    return results


def check_classes(results: Sequence[Mapping[str, Any]]) -> None:
    """Hold the classes that were found against those that the photos are of.

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
    for name, file in zip(PHOTOS, files, strict=True):
        partial = file.with_suffix(".partial")
        Image.fromarray(getattr(skimage.data, name)()).save(partial, format="png")
        os.replace(partial, file)
    return files


def is_current(model_dir: Path) -> bool:
    """Whether the newest version was exported and verified by the exporter as it is now."""
    if not model_dir.is_dir():
        return False
    versions = [path for path in model_dir.iterdir() if path.name.isdigit()]
    if not versions:
        return False
    version = max(versions, key=lambda path: int(path.name))
    try:
        manifest = read_manifest(version)
    except ExportError:
        return False
    package = Path(__file__).parent
    changed = max(file.stat().st_mtime for file in package.rglob("*.py"))
    return (
        manifest["verification"] is not None
        and manifest["batch_sizes"] == list(BATCH_SIZES)
        and changed < (version / "saved_model.pb").stat().st_mtime
    )


def export(paths: _Paths, children: Children) -> None:
    """Export the classifier; the command says its own steps."""
    command = [
        sys.executable,
        "-m",
        "saliency_exporter",
        "export",
        MODEL,
        str(paths.model),
        "--target",
        "cpu",
    ]
    command += ["--batch-sizes", ",".join(map(str, BATCH_SIZES)), *paths.xla_cache]
    click.echo(f"exporting {MODEL}", err=True)
    done = children.run(command, stdout=PIPE, stop_signal=signal.SIGINT, grace=5.0)
    if done.returncode != 0:
        raise ExportError(f"the export ended with exit code {done.returncode}")


def serve(paths: _Paths, children: Children) -> str:
    """Start the local server on a free loopback port; gives its address when the model is AVAILABLE."""
    port_file = paths.root / "server.port"
    port_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "saliency_exporter", "serve", f"{MODEL}={paths.model}"]
    command += ["--port", "0", "--port-file", str(port_file), *paths.xla_cache]
    with paths.server_log.open("w") as log:
        server = children.start(command, stdout=log, stderr=STDOUT)
    _wait_for(port_file, server, paths.server_log, children)
    target = f"127.0.0.1:{port_file.read_text().strip()}"
    _client(["status", "--server", target, "--model", MODEL, "--wait", "60"], children)
    return target


def explain(
    target: str, method: str, photos: Sequence[Path], folder: Path, children: Children
) -> list[dict[str, Any]]:
    """Run `saliency-client explain` on the photos: an overlay and the map of each; gives its records."""
    with _step(f"saliency-client explain --method {method}"):
        printed = _explain(target, method, photos, folder, ["--format", "png", "--format", "npy"], children)
    return [{"photo": Path(r["image"]).stem, **r} for r in map(json.loads, printed.splitlines())]


def _explain(
    target: str, method: str, photos: Sequence[Path], folder: Path, options: Sequence[str], children: Children
) -> str:
    command = ["explain", *map(str, photos), "--server", target, "--model", MODEL, "--method", method]
    # One at a time: the table's milliseconds are those of a request that has the machine to itself.
    command += ["--concurrency", "1", "--overwrite", "--json", "-o", f"{folder}{os.sep}"]
    return _client([*command, *options], children)


def _client(arguments: Sequence[str], children: Children) -> str:
    done = children.run([sys.executable, "-m", "saliency_client", *arguments], stdout=PIPE, stderr=PIPE)
    if done.returncode != 0:
        raise ExportError(
            f"saliency-client {arguments[0]} ended with exit code {done.returncode}: {done.stderr.strip()}"
        )
    return done.stdout


def _wait_for(port_file: Path, server: Popen[str], log: Path, children: Children) -> None:
    deadline = time.monotonic() + _SERVER_TIMEOUT
    with log.open() as lines:
        while not port_file.exists():
            children.check()
            for line in lines:
                click.echo(click.style(f"  {line.rstrip()}", dim=True), err=True)
            if server.poll() is not None:
                raise ExportError(f"the server ended with exit code {server.returncode}", hint=f"see {log}")
            if time.monotonic() > deadline:
                raise ExportError(
                    f"the model is not AVAILABLE after {_SERVER_TIMEOUT:.0f} s", hint=f"see {log}"
                )
            time.sleep(0.05)


@contextmanager
def _step(what: str) -> Iterator[None]:
    click.echo(f"{what} …", err=True)
    start = time.monotonic()
    yield
    click.echo(click.style(f"  {time.monotonic() - start:.1f} s", dim=True), err=True)


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """One line for each photo and method."""
    rows = [("photo", "method", "class", "probability", "relative error", "ms", "file")]
    for r in results:
        error = r["relative_error"]
        rows.append(
            (
                r["photo"],
                r["method"],
                f"{r['label']} ({r['class_index']})",
                f"{r['probability']:.3f}",
                "" if error is None else f"{error:.2f}",
                f"{r['milliseconds']:.0f}",
                r["file"],
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = (False, False, False, True, True, True, False)
    lines = [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in rows
    ]
    return "\n".join(["", click.style(lines[0], bold=True), *lines[1:]])


def _what_next(paths: _Paths) -> str:
    exporter, client = _script("saliency-exporter"), _script("saliency-client")
    served = shlex.quote(f"{MODEL}={paths.model}")
    return "\n".join(
        [
            "",
            f"The pictures and the maps (.npy) are in {paths.maps}; look at chelsea-smooth-panel.png first.",
            "The relative error says how far a smooth map is from settled: lower it with more --num-samples.",
            "",
            "Your own photo, with the server in a second terminal:",
            f"  {exporter} serve {' '.join([served, *map(shlex.quote, paths.xla_cache)])}",
            f"  {client} explain PHOTO.jpg --server localhost:8500 --model {MODEL} --method smooth",
            "Your own model:",
            f"  {exporter} export model.keras models/mine --preprocessing tf",
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
