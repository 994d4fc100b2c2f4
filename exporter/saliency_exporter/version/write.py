"""Writes one version directory: whole, verified and under its number, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from saliency_client._contract import CLASS_LABELS, PARAMETER_BOUNDS, PARAMETER_DEFAULTS
from saliency_exporter.contract.build import build_cores, build_signatures
from saliency_exporter.contract.compile_choice import Choice, choose, uncompiled_sizes
from saliency_exporter.contract.examples import reference_inputs
from saliency_exporter.contract.settings import Settings, predictions_signature
from saliency_exporter.contract.tables import class_labels, parameter_bounds, parameter_defaults, ranges
from saliency_exporter.errors import ExportError, NotWritten
from saliency_exporter.graph.activations.find import find_activations
from saliency_exporter.graph.channels import with_channels_found
from saliency_exporter.graph.differentiable import NoGradient
from saliency_exporter.graph.feature_layers import with_feature_layer
from saliency_exporter.graph.folding import fold
from saliency_exporter.graph.forward_graph import ForwardGraph
from saliency_exporter.graph.head import is_mean_of_logits, two_classes
from saliency_exporter.graph.input_scale import scaling_note
from saliency_exporter.graph.loops import beyond_xla
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace
from saliency_exporter.methods.defined import refusal
from saliency_exporter.runtime.functions import Function
from saliency_exporter.runtime.grappler import keep_grappler_away
from saliency_exporter.runtime.inlined import assigns, unchanged
from saliency_exporter.runtime.memory import enough_memory
from saliency_exporter.sources.channels import own_shape
from saliency_exporter.sources.preprocessing import Preprocessing
from saliency_exporter.sources.source import Kept, Source
from saliency_exporter.version.agreement import Agreement, hold_to_model
from saliency_exporter.version.base_path import (
    base_path,
    next_version,
    partial_directory,
    publish,
    refuse_existing,
    remove_abandoned,
)
from saliency_exporter.version.describe import (
    describe_activations,
    describe_choice,
    describe_feature_layers,
    describe_method,
    describe_preprocessing,
    describe_rounding,
)
from saliency_exporter.version.independence import hold_examples_apart
from saliency_exporter.version.kept import KeptCalls, describe_kept, kept_arrays, kept_references
from saliency_exporter.version.manifest import (
    GradientAgreement,
    Images,
    Manifest,
    Score,
    Verification,
    write_manifest,
)
from saliency_exporter.version.reference import reference_path, started_reference, zero_maps
from saliency_exporter.version.sample_agreement import hold_to_float32
from saliency_exporter.version.server_needs import server_needs
from saliency_exporter.version.slimming import slim
from saliency_exporter.version.tolerances import Tolerances, tolerances
from saliency_exporter.version.warmup import WarmupRecord, write_warmup
from saliency_exporter.version.warmup_requests import warmup_records

Progress = Callable[[str], None]
Verify = Callable[[Path], Verification]
"""Checks a finished directory and returns what the manifest records of it; raises ExportError."""

_SMALLER = "nothing was exported; end what runs beside it, or give smaller --batch-sizes"

Signatures = Mapping[str, Function]


@dataclass(frozen=True)
class Export:
    """What one export is made of.

    Attributes:
        source: the model.
        preprocessing: pixels to model input.
        settings: methods, batch sizes, compilation, labels.
        name: the model's name, as servers know it.
        score: "auto" or "output", see `graph.trace.trace`.
        cam_layer: name of the feature layer; None for the last one.
        leave_out: whether a method that is not defined for the model is left out, and noted, rather than
            refused.
    """

    source: Source
    preprocessing: Preprocessing
    settings: Settings
    name: str
    score: str = "auto"
    cam_layer: str | None = None
    leave_out: bool = False


def export(
    job: Export,
    model_dir: Path,
    *,
    version: int | None = None,
    verify: Verify | None = None,
    examine: Callable[[Path], None] | None = None,
    progress: Progress = lambda message: None,
) -> Path:
    """Exports a model to a new version directory of a model base path.

    The version is built under a name that no server reads and renamed when it is complete and verified, so a
    server that polls the base path never sees half a model. What an earlier, killed export left is removed,
    and so is a base path that was made for an export that failed.

    Args:
        job: what to export.
        model_dir: the model base path; made if it is missing.
        version: number of the version, default the next one.
        verify: called with the complete directory before it gets its number.
        examine: called with it after that, to add to assets.extra what is found out about its maps.
        progress: called with one line before each step.

    Returns:
        The version directory, `model_dir/version`.

    Raises:
        ExportError: the model is not supported, the version exists, the memory is too small, or the directory
            cannot be written.
    """
    with enough_memory(_SMALLER), ExitStack() as stack:
        with _writing(model_dir):
            stack.enter_context(base_path(model_dir))
            remove_abandoned(model_dir)
            number = next_version(model_dir) if version is None else version
            final = model_dir / str(number)
            refuse_existing(final)
            partial = stack.enter_context(partial_directory(model_dir, number))
        manifest = write_version(job, partial, progress=progress)
        with _writing(model_dir):
            write_manifest(partial, manifest)
        if verify is not None:
            progress("verifying every signature and batch size, loaded as TensorFlow Serving does")
            try:
                manifest = replace(manifest, verification=verify(partial))
            except ExportError as error:
                # What is known of the model may be the reason.
                error.hint = ". ".join(filter(None, (error.hint, *manifest.notes)))
                raise
        with _writing(model_dir):
            write_manifest(partial, manifest)
        if examine is not None:
            examine(partial)
        with _writing(model_dir):
            publish(partial, final)
    return final


def write_version(job: Export, directory: Path, *, progress: Progress = lambda message: None) -> Manifest:
    """Writes everything of a version but its manifest, which is returned."""
    progress("tracing the forward pass")
    graph = with_channels_found(trace(job.source, score=job.score), job.source)
    graph = two_classes(graph) if len(job.settings.labels or ()) == 2 else graph
    _check_labels(job.settings, graph)
    graph = with_feature_layer(graph, job.source.name, job.cam_layer)
    scaled = scaling_note(graph, job.preprocessing, job.source.name)
    kept = job.source.kept
    predictions = predictions_signature(kept.signatures if kept else ())
    progress("comparing the gradient with the model's own")
    as_traced = Forward(graph, own_variables=kept is not None)
    rounding = describe_rounding(graph)
    held = as_traced
    if is_mean_of_logits(graph):
        # The model gives no mean of logits, but that of its probabilities: this is held to it.
        held = Forward(trace(job.source, score="output"), own_variables=kept is not None)
    # What runs the model's own functions must leave no trace in it: it is saved afterwards.
    own_functions = kept.signatures.values() if kept else ()
    state = job.source.variables if graph.assigns or any(map(assigns, own_functions)) else ()
    with unchanged(state):
        agreement, no_gradient = _held_to_model(job, held, graph, tolerances(rounding))
    job, left_out = _with_defined_methods(job, graph, no_gradient)
    if job.cam_layer is not None and not any(method.needs_features for method in job.settings.methods):
        left_out.append(f"--cam-layer {job.cam_layer} changes nothing: no exported method looks at it")
    progress(f"building signatures: {', '.join([predictions, *(m.name for m in job.settings.methods)])}")
    # A folded weight is another one: where the model's own functions stay, all weights stay, and once.
    forward = as_traced if kept else Forward(_folded(graph, job.settings))
    job, choices = _with_choices(job, forward, predictions, progress)
    if job.settings.sample_precision != "float32":
        progress(f"comparing samples in {job.settings.sample_precision} with float32")
    shares = hold_to_float32(forward, job.preprocessing, job.settings, job.name)
    lowered: set[str] = set()
    signatures = _signatures(job, forward, predictions, lowered)
    progress("computing the reference that the export is verified against")
    plain = replace(job.settings, compile="none", lowering=False, sample_precision="float32")
    cores = build_cores(as_traced, job.preprocessing, plain, job.name, predictions=predictions)
    spec = signatures[predictions].input_signature[0]
    # Tracing leaves the other cores idle: there the reference runs meanwhile.
    started = started_reference(cores, plain.batch_sizes, spec, graph.classes, plain.methods)
    with started as finished_reference:
        with unchanged(state):
            kept_calls = kept_references(kept.signatures, own_shape(job.source)) if kept else {}
        progress("saving")
        with _writing(directory.parent):
            tables = _tables(signatures, job, graph.classes)
            all_compiled = kept is None and job.settings.compile == "xla"
            _save(forward, {**signatures, **tables}, kept, directory, grappler=not all_compiled)
        reference = finished_reference()
    zeros = [
        f"the map of {method.name} is zero everywhere in both examples of the reference"
        for method in zero_maps(reference, job.settings.methods)
    ]
    with _writing(directory.parent):
        _write_reference(directory, reference, kept_calls)
        meta_graphs = _read_back(directory)
        definitions = {name: meta_graphs[0].signature_def[name] for name in signatures}
        records = warmup_records(definitions, job.settings.methods, reference, job.settings.batch_sizes)
        records += [WarmupRecord(name, calls.inputs) for name, calls in kept_calls.items() if calls.inputs]
        count = write_warmup(directory, records, job.name)
    return Manifest(
        model=job.name,
        source=job.source.origin,
        input=Images("images", (None, *graph.input_shape), job.preprocessing.image_dtype, graph.channels),
        preprocessing=describe_preprocessing(job.preprocessing),
        score=Score(graph.scores, graph.head, graph.head_assumed, graph.is_probability, graph.both_of_one),
        classes=graph.classes,
        labels=job.settings.labels,
        batch_sizes=job.settings.batch_sizes,
        max_samples=job.settings.max_samples,
        compile=job.settings.compile,
        compile_choices=tuple(map(describe_choice, choices)),
        target=job.settings.target,
        kernels=job.settings.kernels,
        foldings=forward.graph.foldings,
        lowering=tuple(sorted(lowered)),
        activations=describe_activations(find_activations(graph)),
        rounding=rounding,
        predictions=predictions,
        methods={
            method.name: describe_method(
                method,
                graph,
                job.settings,
                tf.as_dtype(job.preprocessing.image_dtype),
                shares.get(method.name) if method.sampled else None,
            )
            for method in job.settings.methods
        },
        kept_signatures=describe_kept(kept.signatures) if kept else {},
        warmup_records=count,
        notes=(*job.source.notes, *([scaled] if scaled else []), *left_out, *zeros),
        gradient_agreement=None
        if agreement is None
        else GradientAgreement(agreement.difference, agreement.examples),
        feature_layers=describe_feature_layers(graph),
        server=server_needs(meta_graphs, target=job.settings.target, made_with=tf.__version__),
        tensorflow=tf.__version__,
        exporter=distribution_version("saliency-serving"),
    )


@contextmanager
def _writing(model_dir: Path) -> Iterator[None]:
    """Says that a directory cannot be written where the block, which writes there, fails for it.

    Raises:
        NotWritten: it does.
    """
    try:
        yield
    # TensorFlow's words for a full disk and for a directory of somebody else.
    except (OSError, tf.errors.ResourceExhaustedError, tf.errors.PermissionDeniedError) as error:
        raise NotWritten(
            f"{model_dir} cannot be written: {getattr(error, 'strerror', None) or error}",
            hint="nothing was exported; free some space or name another directory, and export again",
        ) from error


def _example(job: Export, graph: ForwardGraph) -> tf.Tensor:
    """Model input, float32 [2, …]: of the images that the reference is computed of."""
    images = tf.TensorSpec((None, *graph.input_shape), tf.as_dtype(job.preprocessing.image_dtype))
    pixels = reference_inputs(images, graph.classes)["images"]
    return job.preprocessing.function(tf.cast(pixels, tf.float32))


def _signatures(
    job: Export, forward: Forward, predictions: str, lowered: set[str] | None = None
) -> Signatures:
    return build_signatures(
        forward, job.preprocessing, job.settings, job.name, predictions=predictions, lowered=lowered
    )


def _folded(graph: ForwardGraph, settings: Settings) -> ForwardGraph:
    return fold(graph) if settings.lowering else graph


def _with_choices(
    job: Export, forward: Forward, predictions: str, progress: Progress
) -> tuple[Export, list[Choice]]:
    """The job with what `--compile auto` chose by measuring, and what was measured."""
    if job.settings.compile != "auto":
        return job, []
    if beyond_xla(forward.graph):
        progress("chose no XLA, which cannot compile the gradient of a loop of this model")
        return replace(job, settings=replace(job.settings, compile="none")), []
    if job.settings.target != "cpu":
        # The exporting machine's processor says nothing about the server's GPU; there XLA it is.
        return replace(job, settings=replace(job.settings, compile="xla")), []
    progress("measuring every signature at every batch size, compiled and not")
    choices = choose(forward, job.preprocessing, job.settings, job.name, predictions)
    settings = replace(job.settings, uncompiled=uncompiled_sizes(choices))
    for signature, sizes in settings.uncompiled.items():
        progress(f"chose no XLA for {signature} at batch size {', '.join(map(str, sizes))}")
    if not settings.uncompiled:
        progress("chose XLA for all")
    return replace(job, settings=settings), choices


def _held_to_model(
    job: Export, held: Forward, graph: ForwardGraph, bounds: Tolerances
) -> tuple[Agreement | None, NoGradient | None]:
    """How the traced graph agrees with the model; of one without a gradient, that of the scores, and why.

    Raises:
        ExportError: it does not, there is no gradient and a method needs one, or the answer for an example
            depends on the others of its batch.
    """
    x = _example(job, graph)
    no_gradient = None
    if any(method.needs_gradients for method in job.settings.methods):
        try:
            agreement = hold_to_model(job.source, held, x, bounds)
            hold_examples_apart(job.source.name, held, x, bounds)
            return agreement, None
        except NoGradient as error:
            if not job.leave_out:
                raise
            no_gradient = error
    hold_to_model(job.source, held, x, bounds, gradients=False)
    hold_examples_apart(job.source.name, held, x, bounds, gradients=False)
    return None, no_gradient


def _with_defined_methods(
    job: Export, graph: ForwardGraph, no_gradient: NoGradient | None
) -> tuple[Export, list[str]]:
    """The job without the methods that are not defined for the model, and a note on each of them.

    Raises:
        ExportError: none is left.
    """
    if not job.leave_out:
        return job, []
    left_out: dict[str, ExportError] = {}
    for method in job.settings.methods:
        missing = no_gradient if method.needs_gradients else None
        if (reason := missing or refusal(method, graph, job.name)) is not None:
            left_out[method.name] = reason
    methods = tuple(method for method in job.settings.methods if method.name not in left_out)
    if not methods:
        first = next(iter(left_out.values()))
        raise ExportError(f"no method is defined for {job.name}: {first}", hint=first.hint)
    notes = [f"{name} is left out: {reason}" for name, reason in left_out.items()]
    return replace(job, settings=replace(job.settings, methods=methods)), notes


def _check_labels(settings: Settings, graph: ForwardGraph) -> None:
    if settings.labels is not None and len(settings.labels) != graph.classes:
        raise ExportError(
            f"there are {len(settings.labels)} labels for {graph.classes} classes; each class needs one",
            hint="remove the background class from the file: the model has none"
            if len(settings.labels) == graph.classes + 1
            else "give a labels file of that many names with --labels",
        )


def _tables(signatures: Signatures, job: Export, classes: int) -> Signatures:
    """The signatures that tell clients what values there are: defaults, bounds, and the names of classes."""
    settings = job.settings
    images = tf.as_dtype(job.preprocessing.image_dtype)
    bounds = ranges(settings.methods, classes=classes, max_samples=settings.max_samples, images=images)
    tables = {PARAMETER_DEFAULTS: parameter_defaults(signatures), PARAMETER_BOUNDS: parameter_bounds(bounds)}
    if settings.labels is not None:
        tables[CLASS_LABELS] = class_labels(settings.labels)
    return tables


def _save(
    forward: Forward, signatures: Signatures, kept: Kept | None, directory: Path, *, grappler: bool
) -> None:
    module = tf.Module()
    # Raw variables, tracked once: a Keras object would bring its own graph along, and its variables are not
    # restored by the session that TensorFlow Serving loads with.
    module.weights = forward.variables
    if kept is not None:
        module.kept = kept.owner
    tf.saved_model.save(
        module,
        str(directory),
        signatures={**(kept.signatures if kept else {}), **signatures},
        options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
    )
    slim(directory, grappler=grappler)
    (directory / "assets.extra").mkdir(exist_ok=True)
    if not grappler:
        keep_grappler_away(directory)


def _write_reference(
    directory: Path, reference: Mapping[str, np.ndarray], kept_calls: Mapping[str, KeptCalls]
) -> None:
    arrays: dict[str, Any] = {**reference, **kept_arrays(kept_calls)}
    np.savez_compressed(reference_path(directory), **arrays)


def _read_back(directory: Path) -> Sequence[meta_graph_pb2.MetaGraphDef]:
    return saved_model_pb2.SavedModel.FromString((directory / "saved_model.pb").read_bytes()).meta_graphs
