"""`saliency-client job`."""

from __future__ import annotations

import functools
from typing import Any

import click

from saliency_client.cli.completion import complete_files
from saliency_client.cli.connection import Connection
from saliency_client.cli.errors import UsageError
from saliency_client.cli.options import (
    batch_size_option,
    concurrency_option,
    connection_options,
    local_option,
    output_options,
    photo_options,
)
from saliency_client.cli.param_types import SECONDS
from saliency_client.cli.parameters import Number, parameter_options
from saliency_client.cli.printer import Printer
from saliency_client.cli.sections import command, option

_explanation = functools.partial(option, section="Explanation")
_images = functools.partial(option, section="Images")
_files = functools.partial(option, section="Files")
_work = functools.partial(option, section="Work")
_server = functools.partial(option, section="Server")


def _worker(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, int]:
    index, slash, count = value.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise UsageError(f"--worker {value!r} is not I/N with I from 0 to N - 1", hint="as in --worker 0/16")
    return int(index), int(count)


def _address(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, int] | None:
    if value is None:
        return None
    host, colon, port = value.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"--metrics {value!r} is not [HOST:]PORT", hint="as in --metrics 0.0.0.0:9100")
    return (host if colon else "127.0.0.1"), int(port)


@command(short_help="Explain a whole data set, into Parquet.")
@click.argument("inputs", nargs=-1, metavar="[INPUT]...", shell_complete=complete_files)
@_explanation(
    "-M",
    "--method",
    default="gradients",
    show_default=True,
    metavar="NAME",
    help="A method of the model; `saliency-client signatures` lists them.",
)
@_explanation(
    "--class",
    "class_name",
    metavar="NAME|INDEX",
    help="The class to explain, in every image; -1 is the class predicted for each.  [default: the class "
    "predicted for each]",
)
@_explanation(
    "--class-index",
    type=click.IntRange(min=-1),
    metavar="N",
    help="The class to explain, by its index. -1 is the class predicted for each image.",
)
@parameter_options("Explanation")
@_files(
    "-o",
    "--out",
    required=True,
    metavar="FOLDER",
    shell_complete=complete_files,
    help="A new folder, or its address, as s3://bucket/maps.",
)
@_files(
    "--map",
    "map_name",
    default="saliency",
    show_default=True,
    metavar="NAME",
    help="The output to store as the map, such as cam or gradients; none stores numbers alone.",
)
@_files(
    "--map-format",
    type=click.Choice(["float16", "uint8", "png"]),
    default="float16",
    show_default=True,
    help="How a map is stored: float16 keeps 11 bits of each value; uint8 and png 255 steps.",
)
@_files(
    "--shard-rows",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    metavar="N",
    help="Images in a file of the output. What is not in a whole file is done again after a kill.",
)
@_files("--resume", is_flag=True, help="Go on with the job in the folder, if there is one.")
@_files("--redo-failed", is_flag=True, help="With --resume, make files anew in which images have an error.")
@_images(
    "--list",
    "lists",
    multiple=True,
    metavar="FILE",
    shell_complete=complete_files,
    help="A file with one path or address of an image on each line; paths count from its folder. - is what is"
    " piped in, whose paths count from here.",
)
@_images(
    "--input-format",
    "kind",
    type=click.Choice(["picture", "parquet", "tfrecord", "tar"]),
    help="What the input files hold.  [default: by their names]",
)
@_images(
    "--image-column",
    metavar="NAME",
    help="The column of Parquet, or the feature of TFRecords, with the images.  [default: by usual names]",
)
@_images(
    "--key-column",
    metavar="NAME",
    help="The column or feature that names an image.  [default: by usual names]",
)
@_images(
    "--draft", is_flag=True, help="Decode large JPEGs at a part of their size: faster, and a few levels off."
)
@photo_options
@_work(
    "--decoders",
    type=click.IntRange(0, 256),
    metavar="N",
    help="Processes that decode pictures; 0 decodes in threads.  [default: one for each core, 8 at most]",
)
@_work(
    "--worker",
    default="0/1",
    show_default=True,
    metavar="I/N",
    callback=_worker,
    help="Do share I of N, counted from 0: as many processes, on as many machines, share a job.",
)
@_work("--any-version", is_flag=True, help="Let rows of several versions of the model stand side by side.")
@_work("--allow-failures", is_flag=True, help="Exit with 0 although some images have an error.")
@_work(
    "--metrics",
    metavar="[HOST:]PORT",
    callback=_address,
    help="Serve the progress as Prometheus text at http://HOST:PORT/metrics.",
)
@concurrency_option
@batch_size_option
@_server(
    "--wait",
    type=SECONDS,
    default=300.0,
    metavar="SECONDS",
    help="How long the server may be away, or loading, before the job stops.  [default: 300]",
)
@connection_options
@local_option
@output_options
def job(
    inputs: tuple[str, ...],
    connection: Connection,
    printer: Printer,
    *,
    parameters: dict[str, Number],
    lists: tuple[str, ...],
    class_name: str | None,
    class_index: int | None,
    **options: Any,
) -> int:
    """Explain a whole data set. INPUT is a folder, a file, a pattern, or an address of these.

    Pictures are found in folders and all folders below; Parquet (a column of encoded images, or Hugging
    Face's structs), TFRecord (tf.train.Example) and tar (webdataset) hold many. They may lie behind any
    address that fsspec knows, as s3:// and gs://, and so may the output.

    Each image becomes a row of Parquet: path, row, key, class_index, label, probability, score, the method's
    numbers, error, version, and the map: bytes, map_scale and map_shape. A value of the map is what is stored
    times map_scale; `saliency_client.bulk.read_map` reads it. An image that cannot be read, or that the
    server refuses, has its error in its row.

    Files appear whole, or not at all. The folder _job has what was asked, the plan, and what is done. After
    any end, kill -9 too, the same command with --resume goes on: no row is lost, and none is there twice. All
    rows are of the version that the job began with, unless --any-version lets them mix.

    Needs saliency-serving[bulk]; s3:// needs s3fs, gs:// gcsfs.

    \b
    saliency-client job photos/ -o maps/ --method smooth --target-error 0.3 --num-samples 200
    saliency-client job photos/ -o maps/ --method smooth --target-error 0.3 --num-samples 200 --resume
    saliency-client job 's3://bucket/train-*.tar' -o s3://bucket/maps --map-format png --concurrency 32
    saliency-client job --list names.txt -o maps/ --map none --metrics 9100
    saliency-client job data.parquet --image-column image --key-column id -o maps/ --worker 3/16

    \b
    Exit codes:
      0        every image has its row
      1        so too, and some rows have an error
      2        wrong usage, or what the model does not offer
      3        stopped: files cannot be read or written, or another version of the model answers
      64 + n   stopped: the server or the network failed, gRPC code n
      130      interrupted
    """
    from saliency_client.cli.classes import given_index
    from saliency_client.cli.job_run import JobOptions, run

    if options["redo_failed"] and not options["resume"]:
        raise UsageError("--redo-failed goes with --resume")
    if not inputs and not lists:
        raise UsageError("no images are given", hint="name a folder or a file, or --list FILE")
    if class_name is not None and class_index is not None:
        raise UsageError("--class and --class-index exclude one another", hint="give one of them")
    index = given_index(class_name)
    if index is not None:
        class_name, class_index = None, index
    if class_name is not None and "class_index" in parameters:
        raise UsageError("class_index is given by --param and by --class", hint="give it once")
    if class_index is not None:
        if "class_index" in parameters:
            raise UsageError("class_index is given by --param and by --class-index", hint="give it once")
        parameters = {**parameters, "class_index": class_index}
    return run(
        JobOptions(
            inputs=inputs,
            lists=lists,
            connection=connection,
            parameters=parameters,
            class_name=class_name,
            **options,
        ),
        printer,
    )
