"""`saliency-exporter export`."""

from __future__ import annotations

import difflib
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saliency_client.cli.completion import complete_files
from saliency_client.cli.errors import UsageError
from saliency_client.cli.sections import command, option
from saliency_exporter.cli.params import (
    DIRECTORY,
    HELD,
    METHODS,
    NUMBERS,
    PATH,
    PREPROCESSING,
    REFERENCE,
    SIZES,
)
from saliency_exporter.errors import ExportError
from saliency_exporter.methods.registry import ALL, DEFAULT, method_names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from saliency_exporter.cli.steps import Steps
    from saliency_exporter.methods.declarations import Method
    from saliency_exporter.version.manifest import Images, Manifest

BATCH_SIZES = (1, 2, 4, 8, 16)

PLACES = {"sagemaker": "none"}
"""Where an export will be served, to what --compile has to be there."""


@command("export", short_help="Export a model to a new version.")
@click.argument("model", shell_complete=complete_files)
@click.argument("model_dir", type=DIRECTORY)
@option(
    "--weights",
    metavar="imagenet|PATH|none",
    section="Model",
    help="The weights of a keras.applications model.  [default: imagenet]",
)
@option(
    "--image-size",
    nargs=2,
    type=click.IntRange(min=1),
    metavar="H W",
    section="Model",
    help="The size of an image, if the model leaves it open.",
)
@option(
    "--input-shape",
    type=SIZES,
    section="Model",
    help="The sizes of one example of other input, if the model leaves them open, such as 128,80.",
)
@option(
    "--channels",
    type=click.Choice(["auto", "first", "last", "none"]),
    default="auto",
    show_default=True,
    section="Model",
    help="Where the model has the channels of its input. first transposes inside, so that clients send them "
    "last; none is for gray pictures [B, H, W]. auto sees it in the model, and refuses channels first.",
)
@option(
    "--input",
    "input_name",
    metavar="NAME",
    section="Model",
    help="The input to explain, if the model has several; of a SavedModel or a frozen graph also a tensor of "
    "its graph, such as the image behind the decoding.",
)
@option(
    "--hold",
    "held",
    type=HELD,
    multiple=True,
    section="Model",
    help="The constant value of another input: a number, true, false, or a .npy file. Repeatable.",
)
@option(
    "--output",
    metavar="NAME",
    section="Model",
    help="The output with the class scores, if the model has several. Of an output with several positions, "
    "such as [batch, time, classes], 'NAME[3]' is one, 'NAME[-1]' the last, 'NAME[mean]' the mean of all. "
    "Of a frozen graph NAME is a tensor's.",
)
@option(
    "--score",
    type=click.Choice(["auto", "output"]),
    default="auto",
    show_default=True,
    section="Model",
    help="auto explains the logits before a final softmax, log_softmax or sigmoid, and a mixture of "
    "probabilities as it is; output explains the output itself.",
)
@option(
    "--signature",
    metavar="KEY",
    section="Model",
    help="The signature of a SavedModel that is the forward pass.  [default: serving_default]",
)
@option(
    "--import",
    "imports",
    multiple=True,
    metavar="MODULE[:NAME]",
    section="Model",
    help="A Python module whose classes a model file needs, or one class or function of it. Repeatable.",
)
@option(
    "--unsafe",
    is_flag=True,
    section="Model",
    help="Run the code that a model file holds or names (Lambda layers, SavedModels).",
)
@option(
    "--preprocessing",
    type=PREPROCESSING,
    default="auto",
    show_default=True,
    section="Input",
    help="What happens to pixels before the model: unit, pixels / 255; tf, torch or caffe, as in "
    "keras.applications; pixels, if it takes 0..255 itself; none, if clients send float32 model input; or "
    "your own module:callable, float32 [B, H, W, C] pixels to model input. auto is known for "
    "keras.applications and efficientnet-lite0 alone; name one for any other model.",
)
@option(
    "--labels",
    type=PATH,
    section="Input",
    help="A file with the names of the classes: one on each line, with or without its index, or JSON.",
)
@option(
    "--methods",
    type=METHODS,
    section="Methods",
    help=f"The explanation methods to export, of {', '.join(method_names())}; smooth(NAME) smooths another "
    f"one, occlusion(patch=32) and rise(grid=10) choose sizes; {ALL} is every method that is defined for the "
    f"model.  [default: {','.join(DEFAULT)}, as far as they are defined]",
)
@option(
    "--cam-layer",
    metavar="NAME",
    section="Methods",
    help="The layer, or the tensor, that the CAM methods look at.  [default: the last one with a height and "
    "a width; inspect lists them]",
)
@option(
    "--method",
    "own_methods",
    type=REFERENCE,
    multiple=True,
    metavar="module:object",
    section="Methods",
    help="A further method, which you wrote: the name of a Method object. Repeatable.",
)
@option(
    "--max-samples",
    type=click.IntRange(1, 100_000_000),
    default=1000,
    show_default=True,
    metavar="N",
    section="Methods",
    help="The largest number of samples that a call may ask for, and of masks four times as many.",
)
@option(
    "--sample-precision",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    section="Methods",
    help="The precision in which methods that take samples run the model for each of them. Class, score and "
    "probability stay float32. The export is refused if a map changes by more than a tenth of its sampling "
    "error.",
)
@option(
    "--target",
    type=click.Choice(["gpu", "cpu"]),
    default="gpu",
    show_default=True,
    section="Compilation",
    help="The server's device. For a CPU, some ops are replaced by equal, faster ones.",
)
@option(
    "--batch-sizes",
    type=NUMBERS,
    default=BATCH_SIZES,
    section="Compilation",
    help="Compiled batch sizes; any other batch is padded or sliced to these.  "
    f"[default: {','.join(map(str, BATCH_SIZES))}]",
)
@option(
    "--compile",
    "compile_",
    type=click.Choice(["xla", "none", "auto"]),
    default="xla",
    show_default=True,
    section="Compilation",
    help="none makes the same signatures without XLA, if a server cannot get its flag. auto, with "
    "--target cpu, measures each signature and batch size here and uses XLA where it is faster.",
)
@option(
    "--for",
    "place",
    type=click.Choice(list(PLACES)),
    section="Compilation",
    help="Set what a place needs: sagemaker, whose server has no flag for XLA, --compile none.",
)
@option(
    "--kernels",
    type=click.Choice(["auto", "onednn", "eigen"]),
    default="auto",
    show_default=True,
    section="Compilation",
    help="With --target cpu, for what XLA does not compile: the set of TensorFlow's CPU kernels that the "
    "server will use. onednn if its CPU has AVX-512 VNNI or better, else eigen; auto is this machine's.",
)
@option(
    "--lowering/--no-lowering",
    default=True,
    section="Compilation",
    help="Replace ops by equal ones that are faster on the target.",
)
@option(
    "--xla-cache",
    type=DIRECTORY,
    section="Compilation",
    help="Keep compiled programs in this directory, so that the next process does not compile again.",
)
@option(
    "--name",
    metavar="NAME",
    section="Output",
    help="The model's name.  [default: the last part of MODEL_DIR]",
)
@option(
    "--version",
    type=click.IntRange(min=1, max=2**63 - 1),
    section="Output",
    metavar="N",
    help="The version's number.  [default: the next one]",
)
@option(
    "--verify/--no-verify",
    "verify_",
    default=True,
    section="Output",
    help="Check the export before publishing it.",
)
@option(
    "--sanity",
    "sanity_",
    is_flag=True,
    section="Output",
    help="Test before publishing whether maps depend on what the model has learned, as `sanity` does.",
)
def export(
    model: str,
    model_dir: Path,
    name: str | None,
    version: int | None,
    image_size: tuple[int, int] | None,
    input_shape: tuple[int, ...] | None,
    channels: Any,
    input_name: str | None,
    held: tuple[tuple[str, Any], ...],
    preprocessing: str,
    labels: Path | None,
    methods: tuple[str, ...] | None,
    cam_layer: str | None,
    own_methods: tuple[str, ...],
    batch_sizes: tuple[int, ...],
    compile_: Any,
    place: str | None,
    target: Any,
    kernels: Any,
    lowering: bool,
    max_samples: int,
    sample_precision: Any,
    weights: str | None,
    score: str,
    signature: str | None,
    output: str | None,
    imports: tuple[str, ...],
    unsafe: bool,
    verify_: bool,
    sanity_: bool,
    xla_cache: Path | None,
) -> None:
    """Export MODEL to the next version of the model base path MODEL_DIR.

    MODEL is a .keras or .h5 file, a SavedModel directory, a frozen graph (.pb), module:callable, the name
    of a keras.applications model, or efficientnet-lite0, whose trained weights saliency-serving[demo] brings.

    \b
    saliency-exporter export efficientnet-lite0 models/lite0
    saliency-exporter export my-model.keras models/mine --preprocessing tf --labels names.txt
    saliency-exporter export my_package.models:build models/mine --preprocessing pixels
    saliency-exporter export ResNet50 models/resnet --weights resnet50.weights.h5 --batch-sizes 1,8
    """
    compile_ = _compile_for(place, compile_)
    if kernels != "auto" and target != "cpu":
        raise UsageError(f"--kernels {kernels} is for a CPU", hint="give --target cpu as well")
    _check_without_tensorflow(model, model_dir, version, weights)
    names = None if labels is None else _class_names(labels)
    from saliency_exporter.cli.steps import Steps
    from saliency_exporter.cli.verifier import verifier
    from saliency_exporter.runtime.memory import enough_memory

    memory = enough_memory("nothing was exported; end what runs beside it, or give smaller --batch-sizes")
    with Steps() as say, memory:
        say("starting TensorFlow and loading the model")
        from saliency_exporter.runtime.quiet import import_tensorflow

        import_tensorflow()
        from saliency_exporter.contract.settings import Settings
        from saliency_exporter.methods.registry import find_methods
        from saliency_exporter.runtime.kernels import resolve_kernels
        from saliency_exporter.sources.load import load_source
        from saliency_exporter.sources.preprocessing_choice import resolve_preprocessing
        from saliency_exporter.version.manifest import read_manifest
        from saliency_exporter.version.write import Export
        from saliency_exporter.version.write import export as export_version

        chosen_methods = (*find_methods(methods or DEFAULT), *_load_methods(own_methods))
        served_by = resolve_kernels(kernels, measured=compile_ == "auto" and target == "cpu")
        source = load_source(
            model,
            weights=weights,
            unsafe=unsafe,
            imports=imports,
            image_size=image_size or None,
            input_shape=input_shape,
            input_name=input_name,
            held=dict(held),
            output_name=output,
            signature=signature,
            channels=channels,
        )
        job = Export(
            source=source,
            preprocessing=resolve_preprocessing(preprocessing, source),
            settings=Settings(
                methods=chosen_methods,
                batch_sizes=batch_sizes,
                compile=compile_,
                target=target,
                kernels=served_by,
                lowering=lowering,
                max_samples=max_samples,
                sample_precision=sample_precision,
                labels=source.labels if names is None else names,
            ),
            name=name or model_dir.resolve().name,
            score=score,
            cam_layer=cam_layer,
            leave_out=methods is None or ALL in methods,
        )
        with ExitStack() as stack:
            verify = None
            if verify_:
                # Beside a measurement nothing else shall run.
                checking = verifier(
                    xla_cache,
                    at_once=compile_ != "auto",
                    compiled=compile_ != "none",
                    before=say.leave_line,
                )
                verify = stack.enter_context(checking)
            final = export_version(
                job,
                model_dir,
                version=version,
                verify=verify,
                examine=_examined(say) if sanity_ else None,
                progress=say,
            )
    for line in closing_lines(read_manifest(final)):
        click.echo(line, err=True)
    click.echo(str(final))


def _compile_for(place: str | None, compile_: str) -> str:
    """The value of --compile that a place needs; the one that is given otherwise.

    Raises:
        UsageError: another one is given for that place.
    """
    if place is None:
        return compile_
    needed = PLACES[place]
    source = click.get_current_context().get_parameter_source("compile_")
    if compile_ != needed and source is not click.core.ParameterSource.DEFAULT:
        raise UsageError(
            f"--for {place} needs --compile {needed}, and --compile {compile_} was given",
            hint="leave one of the two out",
        )
    return needed


def _examined(say: Steps) -> Callable[[Path], None]:
    """What runs the randomisation test of a finished directory, and keeps and prints its outcome."""
    from saliency_exporter.cli import sanity

    def examine(directory: Path) -> None:
        card = sanity.run(directory, say)
        sanity.write(directory / "assets.extra", card)
        say.leave_line()
        sanity.show(card, None, stream=sys.stderr)

    return examine


def closing_lines(manifest: Manifest) -> list[str]:
    """What to know of an export when it is done: the server that it needs, and what was taken for granted."""
    from saliency_exporter.version.inspection import score_notes
    from saliency_exporter.version.server_needs import describe_server, newer_than_image

    server = manifest.server
    lines = [f"to be served by {describe_server(server)}; {server.why[0]}"]
    lines += [f"note: {note}" for note in score_notes(manifest.score)]
    if note := newer_than_image(server):
        lines.append(f"note: {note}")
    lines += [f"note: {note}" for note in (_about_channels(manifest.input), *manifest.notes) if note]
    return lines


def _about_channels(images: Images) -> str:
    """What `saliency` is of input of two axes, whose last may be channels or part of a picture; else ""."""
    if len(images.shape) != 3:
        return ""
    from saliency_exporter.sources.channels import shape_in_words

    whole, reduced = shape_in_words(images.shape[1:]), shape_in_words(images.shape[1:-1])
    if images.channels == "none":
        return (
            f"images {whole} are taken for pictures without channels: saliency is {whole}; if the last "
            f"axis holds features, --channels last gives {reduced}"
        )
    return (
        f"the last axis of images {whole} is taken for channels: saliency is {reduced}; if it is part "
        f"of a picture, --channels none gives {whole}"
    )


def _load_methods(references: Sequence[str]) -> list[Method]:
    """The user's own methods.

    Raises:
        ExportError: one cannot be loaded, is no method, or has a name that is taken.
    """
    from saliency_exporter.methods.registry import checked
    from saliency_exporter.sources.python_object import load_reference

    loaded: list[Method] = []
    for reference in references:
        method = checked(load_reference(reference), reference)
        if method.name in (*method_names(), *(other.name for other in loaded)):
            raise ExportError(
                f"--method {reference}: there is another method named {method.name!r}",
                hint="give it a name of its own",
            )
        loaded.append(method)
    return loaded


def _class_names(labels: Path) -> tuple[str, ...]:
    from saliency_client._class_names import read_class_names

    _check_exists(labels, "labels file")
    return read_class_names(labels, error=ExportError)


def _check_without_tensorflow(model: str, model_dir: Path, version: int | None, weights: str | None) -> None:
    """Finds the mistakes that can be found before TensorFlow is imported, which takes seconds."""
    from saliency_exporter.sources.other_files import refuse_address, refuse_other_file
    from saliency_exporter.version.base_path import refuse_existing

    refuse_address(model)
    refuse_other_file(Path(model))
    # Names of models have no dot.
    if ":" not in model and (Path(model).suffix or os.sep in model):
        _check_exists(Path(model), "model")
    if weights not in (None, "imagenet", "none"):
        _check_exists(Path(weights), "weights file")
    if version is not None:
        refuse_existing(model_dir / str(version))


def _check_exists(path: Path, what: str) -> None:
    if path.exists():
        return
    folder = path.parent
    if not folder.is_dir():
        raise ExportError(f"{what} {path} does not exist", hint=f"there is no directory {folder} either")
    near = difflib.get_close_matches(path.name, [other.name for other in folder.iterdir()], n=3)
    raise ExportError(
        f"{what} {path} does not exist",
        hint=f"did you mean {' or '.join(str(folder / name) for name in near)}?"
        if near
        else f"it was looked for in {folder.resolve()}",
    )
