"""TensorFlow Serving's configuration for one exported version, made from its manifest."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import click

from saliency_client._files import write_all
from saliency_client.cli.sections import command, option
from saliency_client.cli.text import styled
from saliency_exporter.cli.params import DIRECTORY
from saliency_exporter.errors import ExportError
from saliency_exporter.runtime.version_directories import version_number

CONTAINER_MODELS = "/models"
BATCH_TIMEOUT_MICROS = 2000
MAX_ENQUEUED_BATCHES = 4
GPU_BATCH_THREADS = 2


def configuration(version_dir: Path) -> dict[str, str]:
    """The server's configuration files by name: `models.config` and `batching.config`, as text protos.

    Raises:
        ExportError: version_dir is not a numbered version directory that an export wrote.
    """
    from saliency_exporter.version.manifest import read_manifest

    manifest = read_manifest(version_dir)
    directory = version_dir.resolve()
    number = version_number(directory.name)
    if not number:
        raise ExportError(
            f"{version_dir} is not a version directory: its name is not a positive number",
            hint="a server finds versions by their numbers, such as models/my-model/1",
        )
    return {
        "models.config": models_config(manifest.model, directory.parent.name, number),
        "batching.config": batching_config(manifest.batch_sizes, manifest.target),
    }


def models_config(model: str, directory: str, version: int) -> str:
    """A ModelServerConfig that serves one version of one model under the label `stable`.

    Args:
        model: the name that clients ask for.
        directory: the model base path's own name, below /models in the container.
        version: the version to serve.
    """
    return f"""\
# For --model_config_file.
model_config_list {{
  config {{
    name: {_quoted(model)}
    base_path: {_quoted(f"{CONTAINER_MODELS}/{directory}")}
    model_platform: "tensorflow"
    # Versions by number: nothing is served that nobody chose. For a canary add its number here first.
    model_version_policy {{ specific {{ versions: {version} }} }}
    # Clients ask for the label, so that a rollback is a change of this file and of no client.
    version_labels {{ key: "stable" value: {version} }}
  }}
}}
"""


def batching_config(batch_sizes: Sequence[int], target: str) -> str:
    """BatchingParameters that merge requests into the batch sizes that an export was compiled for.

    Args:
        batch_sizes: the compiled batch sizes, ascending.
        target: the device of the export, "gpu" or "cpu".
    """
    sizes = "\n".join(f"allowed_batch_sizes: {size}" for size in batch_sizes)
    threads = f"""
# One batch on the GPU while the next is put together; more would only wait for the same device.
num_batch_threads {{ value: {GPU_BATCH_THREADS} }}
"""
    return (
        f"""\
# For --enable_batching --batching_parameters_file. All models of a server share this file.
# Every request must then send its parameters as vectors of one value an image, as saliency-client does:
# the server refuses scalars, and so the signatures' defaults.

# The largest compiled batch. The server refuses a request of more images.
max_batch_size {{ value: {batch_sizes[-1]} }}
# The compiled batch sizes: the server pads to the next of them, so that no other size is ever run.
{sizes}
# How long a request waits for others: as long as a few maps take, so that it costs little when nobody comes.
batch_timeout_micros {{ value: {BATCH_TIMEOUT_MICROS} }}
# Full batches that may wait, for each signature and set of outputs. Few, so that overload is UNAVAILABLE at
# once, which clients retry elsewhere, and not a deadline that passes in a queue.
max_enqueued_batches {{ value: {MAX_ENQUEUED_BATCHES} }}
{threads.lstrip() if target == "gpu" else "# num_batch_threads is left to the server: one a core."}
""".rstrip()
        + "\n"
    )


def write_serving_config(version_dir: Path, out: Path, *, overwrite: bool = False) -> list[Path]:
    """Writes the configuration files of a version into a directory, each whole or not at all.

    Raises:
        ExportError: a file exists and `overwrite` is not given, or the directory cannot be written.
    """
    files = {out / name: text for name, text in configuration(version_dir).items()}
    existing = [str(path) for path in files if path.exists()]
    if existing and not overwrite:
        raise ExportError(
            f"{' and '.join(existing)} exist already", hint="--overwrite replaces them, edits and all"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_all({path: partial(_write, text.encode()) for path, text in files.items()}, overwrite=overwrite)
    except OSError as error:
        raise ExportError(f"cannot write to {out}: {error.strerror or error}") from error
    return list(files)


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def _quoted(text: str) -> str:
    """A string of a text proto."""
    escaped = "".join(
        "\\" + char if char in '"\\' else char if char >= " " else f"\\{ord(char):03o}" for char in text
    )
    return f'"{escaped}"'


@command("serving-config", short_help="Make TensorFlow Serving's configuration for a version.")
@click.argument("version_dir", type=DIRECTORY)
@option(
    "--out",
    type=DIRECTORY,
    section="Output",
    help="Write models.config and batching.config into this directory instead of showing them.",
)
@option("--overwrite", is_flag=True, section="Output", help="Replace files that exist.")
def serving_config(version_dir: Path, out: Path | None, overwrite: bool) -> None:
    """Make TensorFlow Serving's configuration for VERSION_DIR from its manifest.

    models.config serves this version under the label stable; batching.config merges requests into the batch
    sizes that it was compiled for.

    \b
    saliency-exporter serving-config models/lite0/1
    saliency-exporter serving-config models/lite0/1 --out docker/config --overwrite
    """
    if out is None:
        for name, text in configuration(version_dir).items():
            click.echo(f"{styled(f'## {name}', 'cyan', sys.stdout)}\n{text}")
        return
    for path in write_serving_config(version_dir, out, overwrite=overwrite):
        click.echo(str(path))
