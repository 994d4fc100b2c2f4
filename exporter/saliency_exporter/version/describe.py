"""What the manifest says of the parts of an export."""

from __future__ import annotations

from typing import Any, cast

import tensorflow as tf

from saliency_exporter.contract.checks import bounds_of, default_of
from saliency_exporter.contract.compile_choice import Choice
from saliency_exporter.contract.settings import Settings
from saliency_exporter.graph.activations.find import Coverage
from saliency_exporter.graph.feature_layers import feature_layers
from saliency_exporter.graph.forward_graph import ForwardGraph
from saliency_exporter.graph.rounding import rounding_of
from saliency_exporter.methods.declarations import Method, Parameter
from saliency_exporter.sources.preprocessing import Preprocessing
from saliency_exporter.version.manifest import (
    ActivationCount,
    Activations,
    CompileChoice,
    FeatureLayerEntry,
    MethodEntry,
    OutputEntry,
    ParameterEntry,
    PreprocessingSteps,
    Rounding,
)


def describe_preprocessing(preprocessing: Preprocessing) -> PreprocessingSteps:
    """All that is needed to do the same again; of a user's own function its name."""
    name, dtype = preprocessing.name, preprocessing.image_dtype
    if preprocessing.steps is None:
        return PreprocessingSteps(name, dtype, callable=name)
    steps = tuple({step: True if value is None else value} for step, value in preprocessing.steps)
    return PreprocessingSteps(name, dtype, steps)


def describe_activations(coverage: Coverage) -> Activations:
    """Each kind with its count and rule, and every op that has none."""
    rules = {activation.kind: activation.guided for activation in coverage.activations}
    counts = (ActivationCount(kind, count, rules[kind]) for kind, count in coverage.count().items())
    return Activations(tuple(counts), coverage.uncovered)


def describe_rounding(graph: ForwardGraph) -> Rounding:
    """The rounding in a forward pass."""
    found = rounding_of(graph)
    return Rounding(cast(Any, found.dtype), found.depth, found.kinks)


def describe_choice(choice: Choice) -> CompileChoice:
    """What was measured, and what was chosen."""
    return CompileChoice(
        choice.signature,
        choice.batch_size,
        choice.xla_ms,
        choice.none_ms,
        choice.compile_s,
        "xla" if choice.compiled else "none",
    )


def describe_feature_layers(graph: ForwardGraph) -> tuple[FeatureLayerEntry, ...]:
    """Those that methods could look at, first to last, and the one that they do."""
    chosen = graph.features
    if chosen is None:
        return ()
    layers = feature_layers(graph)
    if chosen.tensor not in [layer.tensor for layer in layers]:
        layers.append(chosen)
    return tuple(
        FeatureLayerEntry(
            layer.name, layer.tensor, layer.sizes, layer.channels, layer.tensor == chosen.tensor
        )
        for layer in layers
    )


def describe_method(
    method: Method, graph: ForwardGraph, settings: Settings, images: tf.DType, share: float | None = None
) -> MethodEntry:
    """The signature of a method on one model.

    Args:
        method: the method.
        graph: the model.
        settings: of the export.
        images: the dtype of the images.
        share: of a sampled method, see `sample_agreement`; None for samples in float32.
    """
    max_samples = settings.max_samples
    return MethodEntry(
        kind=method.kind,
        map=method.map_kind.output,
        parameters=tuple(_parameter(parameter, max_samples, images) for parameter in method.parameters),
        outputs=tuple(OutputEntry(output.name, output.verified, output.dtype) for output in method.outputs),
        facts=dict(method.facts(graph)),
        sample_precision=settings.sample_precision if method.sampled else None,
        sample_difference=share,
    )


def _parameter(parameter: Parameter, max_samples: int, images: tf.DType) -> ParameterEntry:
    bounds = bounds_of(parameter, max_samples, images)
    low, high = (None, None) if bounds is None else (bounds.low, bounds.high)
    default = default_of(parameter, max_samples)
    return ParameterEntry(parameter.name, parameter.dtype, default, low, high)
