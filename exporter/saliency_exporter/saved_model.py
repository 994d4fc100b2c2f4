"""Writes one version directory: whole, verified and under its number, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version as distribution_version
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from .activations import Coverage, find_activations
from .base_path import base_path, next_version, partial_directory, publish, refuse_existing, remove_abandoned
from .compile_choice import Choice, choose, uncompiled_sizes
from .errors import ExportError
from .folding import fold
from .forward import Forward, ForwardGraph
from .kept import describe_kept, kept_arrays, kept_references
from .manifest import CONTRACT_VERSION, write_manifest
from .preprocessing import Preprocessing
from .reference import reference_path, started_reference
from .server_needs import server_needs
from .signatures import (
    CLASS_LABELS,
    PARAMETER_DEFAULTS,
    Settings,
    build_signatures,
    class_labels,
    parameter_defaults,
    predictions_signature,
)
from .slimming import slim
from .sources import Source
from .sources.source import Kept
from .tracing import trace
from .warmup import WarmupRecord, write_warmup

Progress = Callable[[str], None]
Verify = Callable[[Path], Mapping[str, Any]]
"""Checks a finished directory and returns what the manifest records of it; raises ExportError."""


@dataclass(frozen=True)
class Export:
    """What one export is made of.

    Attributes:
        source: the model.
        preprocessing: pixels to model input.
        settings: methods, batch sizes, compilation, labels.
        name: the model's name, as servers know it.
        score: "auto" or "output", see `tracing.trace`.
    """

    source: Source
    preprocessing: Preprocessing
    settings: Settings
    name: str
    score: str = "auto"


def export(
    job: Export,
    model_dir: Path,
    *,
    version: int | None = None,
    verify: Verify | None = None,
    progress: Progress = lambda message: None,
) -> Path:
    """Export a model to a new version directory of a model base path.

    The version is built under a name that no server reads and renamed when it is complete and verified, so a
    server that polls the base path never sees half a model. What an earlier, killed export left is removed,
    and so is a base path that was made for an export that failed.

    Args:
        job: what to export.
        model_dir: the model base path; made if it is missing.
        version: number of the version, default the next one.
        verify: called with the complete directory before it gets its number.
        progress: called with one line before each step.

    Returns:
        The version directory, `model_dir/version`.

    Raises:
        ExportError: the model is not supported, the version exists, or the directory cannot be written.
    """
    try:
        with base_path(model_dir):
            remove_abandoned(model_dir)
            number = next_version(model_dir) if version is None else version
            final = model_dir / str(number)
            refuse_existing(final)
            with partial_directory(model_dir, number) as partial:
                record = write_version(job, partial, progress=progress)
                write_manifest(partial, record)
                if verify is not None:
                    progress("verifying every signature and batch size, loaded as TensorFlow Serving does")
                    write_manifest(partial, {**record, "verification": verify(partial)})
                publish(partial, final)
    except (OSError, tf.errors.ResourceExhaustedError, tf.errors.PermissionDeniedError) as error:
        raise ExportError(
            f"{model_dir} cannot be written: {getattr(error, 'strerror', None) or error}",
            hint="nothing was exported; free some space or name another directory, and export again",
        ) from error
    return final


def write_version(
    job: Export, directory: Path, *, progress: Progress = lambda message: None
) -> dict[str, Any]:
    """Write everything of a version but its manifest, which is returned."""
    progress("tracing the forward pass")
    graph = trace(job.source, score=job.score)
    _check_labels(job.settings, graph)
    kept = job.source.kept
    predictions = predictions_signature(kept.signatures if kept else ())
    progress(f"building signatures: {predictions}, " + ", ".join(job.settings.methods))
    # A folded weight is another one: where the model's own functions stay, all weights stay, and once.
    forward = Forward(graph, own_variables=True) if kept else Forward(_folded(graph, job.settings))
    job, choices = _with_choices(job, forward, predictions, progress)
    lowered: set[str] = set()
    signatures = build_signatures(
        forward, job.preprocessing, job.settings, job.name, predictions=predictions, lowered=lowered
    )
    progress("computing the reference that the export is verified against")
    plain = replace(job.settings, compile="none", lowering=False)
    spec = signatures[predictions].input_signature[0]
    with started_reference(
        build_signatures(
            Forward(graph, own_variables=kept is not None),
            job.preprocessing,
            plain,
            job.name,
            predictions=predictions,
        ),
        spec,
        graph.classes,
    ) as finished_reference:
        references = kept_references(kept.signatures, graph.input_shape) if kept else {}
        # Tracing leaves the other cores idle: there the reference runs meanwhile.
        progress("saving")
        labels = job.settings.labels
        tables = {PARAMETER_DEFAULTS: parameter_defaults(signatures)}
        if labels is not None:
            tables[CLASS_LABELS] = class_labels(labels)
        _save(forward, {**signatures, **tables}, kept, directory)
        reference = finished_reference()
    (directory / "assets.extra").mkdir(exist_ok=True)
    np.savez_compressed(reference_path(directory), **reference, **kept_arrays(references))
    saved = saved_model_pb2.SavedModel.FromString((directory / "saved_model.pb").read_bytes())
    definitions = saved.meta_graphs[0].signature_def
    records = [
        *warmup_records(
            {name: definitions[name] for name in signatures}, reference, job.settings.batch_sizes
        ),
        *(WarmupRecord(name, calls.inputs) for name, calls in references.items() if calls.inputs),
    ]
    count = write_warmup(directory, records, job.name)
    return manifest(
        job,
        graph,
        find_activations(graph),
        predictions=predictions,
        kept_signatures=describe_kept(kept.signatures) if kept else {},
        compile_choices=[choice.to_manifest() for choice in choices],
        foldings=list(forward.graph.foldings),
        lowering=sorted(lowered),
        server=server_needs(saved.meta_graphs, target=job.settings.target, made_with=tf.__version__),
        warmup_records=count,
    )


def _folded(graph: ForwardGraph, settings: Settings) -> ForwardGraph:
    return fold(graph) if settings.lowering else graph


def _with_choices(
    job: Export, forward: Forward, predictions: str, progress: Progress
) -> tuple[Export, list[Choice]]:
    """The job with what `--compile auto` chose by measuring, and what was measured."""
    if job.settings.compile != "auto":
        return job, []
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


def _check_labels(settings: Settings, graph: ForwardGraph) -> None:
    if settings.labels is not None and len(settings.labels) != graph.classes:
        raise ExportError(
            f"there are {len(settings.labels)} labels for {graph.classes} classes; each class needs one",
            hint="give a labels file of that many lines with --labels",
        )


def _save(forward: Forward, signatures: Mapping[str, Any], kept: Kept | None, directory: Path) -> None:
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
    slim(directory)


def warmup_records(
    signatures: Mapping[str, meta_graph_pb2.SignatureDef],
    reference: Mapping[str, np.ndarray],
    batch_sizes: tuple[int, ...],
) -> list[WarmupRecord]:
    """What makes a server ready before it is AVAILABLE.

    One request for each signature and batch size, since every shape is compiled once; and one for each set of
    outputs that clients ask for, since a server prepares its graph anew for each.

    The order is for servers that run several side by side: each signature's first request before all others,
    since two that meet before the graph is prepared for them prepare it twice; what takes long before what
    does not, so that no thread is left alone with it at the end; and requests that prepare between requests
    that compile, since one graph is prepared at a time.
    """
    first, rest = [], []
    for signature, definition in reversed(signatures.items()):

        def record(
            size: int, outputs: Sequence[str] = (), signature: str = signature, names: Any = definition.inputs
        ) -> WarmupRecord:
            rows = np.arange(size) % len(reference["input/images"])
            inputs = {name: reference[f"input/{name}"][rows] for name in sorted(names)}
            return WarmupRecord(signature, inputs, outputs)

        smallest, *sizes = batch_sizes
        first.append(record(smallest))
        prepared = [record(smallest, outputs) for outputs in output_sets(definition)]
        compiled = [record(size) for size in sizes]
        rest += [one for pair in zip_longest(prepared, compiled) for one in pair if one is not None]
    return [*first, *rest]


def output_sets(signature: meta_graph_pb2.SignatureDef) -> list[list[str]]:
    """The sets of outputs, sorted, that clients ask for beside all of them.

    All but the outputs that are as large as the images: what a picture needs. And that with `gradients`,
    where it is not all there is.
    """
    outputs = signature.outputs
    rank = len(signature.inputs["images"].tensor_shape.dim)
    large = {name for name, info in outputs.items() if rank > 1 and len(info.tensor_shape.dim) == rank}
    small = sorted(set(outputs) - large)
    sets = [small, sorted([*small, "gradients"])]
    return [names for names in sets if large & {"gradients"} and set(names) != set(outputs)]


def manifest(job: Export, graph: ForwardGraph, coverage: Coverage, **more: Any) -> dict[str, Any]:
    """The manifest of an export, as JSON values."""
    settings = job.settings
    methods: dict[str, Any] = {method: {} for method in settings.methods}
    if "guided" in methods:
        methods["guided"] = {"activations": coverage.count(), "uncovered": 0}
    if "smooth" in methods:
        methods["smooth"] = {"max_samples": settings.max_samples}
    return {
        "contract_version": CONTRACT_VERSION,
        "model": job.name,
        "source": job.source.origin,
        "input": {
            "name": "images",
            "shape": [None, *graph.input_shape],
            "dtype": job.preprocessing.image_dtype,
        },
        "preprocessing": job.preprocessing.to_manifest(),
        "score": {"tensor": graph.scores, "head": graph.head, "head_assumed": graph.head_assumed},
        "classes": graph.classes,
        "labels": list(settings.labels) if settings.labels is not None else None,
        "batch_sizes": list(settings.batch_sizes),
        "compile": settings.compile,
        "target": settings.target,
        "kernels": settings.kernels,
        "activations": coverage.to_manifest(),
        "methods": methods,
        "max_samples": settings.max_samples,
        "tensorflow": tf.__version__,
        "exporter": distribution_version("saliency-serving"),
        "verification": None,
        **more,
    }
