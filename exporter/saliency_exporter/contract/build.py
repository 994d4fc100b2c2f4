"""The signatures of an exported model, made of what its methods declare.

A signature validates its inputs, gives every example its own parameters, pads the batch to one of a fixed
set of sizes, runs a compiled core and slices the padding off. What is not numeric (validation, labels)
stays outside the core, because XLA has no strings; no value decides a shape, because XLA compiles once per
shape.
"""

from __future__ import annotations

import functools
import inspect
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf

from saliency_client._contract import DEFAULT_SIGNATURE
from saliency_exporter.contract.checks import (
    bound_check,
    bounds_of,
    broadcast_parameter,
    class_bounds,
    default_of,
    image_checks,
)
from saliency_exporter.contract.settings import Settings
from saliency_exporter.contract.slices import Core, Tensors, run_in_slices
from saliency_exporter.errors import ExportError, brief
from saliency_exporter.graph.feature_layers import arranged
from saliency_exporter.graph.forward_graph import Replacement
from saliency_exporter.graph.loops import refuse_for_xla
from saliency_exporter.graph.lower_precision import Lowered, in_fewer_bits
from saliency_exporter.graph.replay import Forward, watched
from saliency_exporter.methods.declarations import CLASS_INDEX, Explained, Method
from saliency_exporter.methods.defined import refusal
from saliency_exporter.methods.model import (
    IMAGES_AT_ONCE,
    Features,
    Gradients,
    Model,
    NotGiven,
    ScoreFunction,
    features,
    gradient_function,
    gradients,
)
from saliency_exporter.rules.lowering.thresholds import XLA_IMAGES_AT_ONCE
from saliency_exporter.runtime.functions import Function
from saliency_exporter.sources.preprocessing import Preprocessing

PREDICTED_CLASS = -1

Compute = Callable[..., dict[str, tf.Tensor]]
"""What a core is traced from: inputs [B, …], in order, to outputs [B, …] by name."""


def build_signatures(
    forward: Forward,
    preprocessing: Preprocessing,
    settings: Settings,
    model: str,
    *,
    predictions: str = DEFAULT_SIGNATURE,
    lowered: set[str] | None = None,
) -> dict[str, Function]:
    """The signatures by name, each a `tf.function` with an input signature and eager defaults.

    Args:
        forward: the model.
        preprocessing: images to model input.
        settings: methods, batch sizes, compilation, labels.
        model: the model's name, for messages.
        predictions: name of the signature that returns the model's predictions.
        lowered: gets the op types that lowering rules took, while the signatures are traced.

    Raises:
        ExportError: a method is not defined for the model, or XLA cannot compile a loop of it.
    """
    builder = _Builder(forward, preprocessing, settings, model, set() if lowered is None else lowered)
    functions = {predictions: builder.predictions(predictions)}
    functions |= {method.signature: builder.explanation(method) for method in settings.methods}
    return functions


def build_cores(
    forward: Forward,
    preprocessing: Preprocessing,
    settings: Settings,
    model: str,
    *,
    predictions: str = DEFAULT_SIGNATURE,
) -> dict[str, Core]:
    """What the signatures of the same names compute: without checks, slices and labels.

    Each takes the inputs of its signature, in order, and of every parameter one value for each example.

    Raises:
        ExportError: as `build_signatures`.
    """
    builder = _Builder(forward, preprocessing, settings, model, set())
    cores = {predictions: builder.predictions_core(predictions)}
    cores |= {method.signature: builder.explanation_core(method) for method in settings.methods}
    return cores


def named(
    function: Compute,
    specs: Sequence[tf.TensorSpec],
    defaults: Mapping[str, tf.Tensor],
) -> Function:
    """A `tf.function` whose inputs have the names of the specs, some of them a default.

    Args:
        function: takes the tensors of the specs, in order.
        specs: of the inputs; those with a default come last.
        defaults: eager tensors by name; they alone reach the SignatureDef.
    """
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [
        inspect.Parameter(spec.name, kind, default=defaults.get(spec.name, inspect.Parameter.empty))
        for spec in specs
    ]

    def signature(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return function(*inputs)

    signature.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return tf.function(signature, input_signature=list(specs), autograph=False)


def on_its_own(function: Callable[..., Any], specs: Sequence[tf.TensorSpec]) -> Any:
    """The function as one that is called, never inlined: for what is not compiled.

    TensorFlow optimizes a called function by itself. Inlined into a loop, as that over the slices of a
    batch or over samples, whether it finds oneDNN's gradient of max pooling is down to the order in which it
    happens to walk the graph: some of five poolings of VGG16, in each process others, took ten times as long.

    Args:
        function: takes tensors of the specs, in order; returns tensors.
        specs: their shapes and dtypes, the batch open.
    """
    return tf.function(
        function, input_signature=specs, autograph=False, experimental_attributes={"_noinline": True}
    )


def parameter_specs(method: Method) -> list[tf.TensorSpec]:
    """Of what a method's signature takes beside images.

    Of unknown rank: a scalar for the whole batch, or one value for each example.
    """
    return [
        tf.TensorSpec(None, tf.int32, name=CLASS_INDEX),
        *(tf.TensorSpec(None, tf.as_dtype(p.dtype), name=p.name) for p in method.parameters),
    ]


def probabilities_of(scores: tf.Tensor, head: str) -> tf.Tensor:
    """The model's probabilities from its scores, [B, classes].

    Args:
        scores: float32 [B, classes].
        head: "softmax" or "sigmoid"; "output" where the scores are the model's output itself.
    """
    if head == "softmax":
        return tf.nn.softmax(scores)
    if head == "sigmoid":
        return tf.nn.sigmoid(scores)
    return scores


def explained_by(method: Method, model: Model, x: tf.Tensor, parameters: Tensors) -> Explained:
    """What a method computes, held to what it declares.

    Raises:
        ExportError: it fails, or gives something else than it declares.
    """
    name, hint = f"method {method.name!r}", "SALIENCY_DEBUG=1 shows where"
    try:
        explained = method.explain(model, x, parameters)
    except ExportError:
        raise
    except NotGiven as error:
        raise ExportError(
            f"{name} asks for the feature layer of a model and does not declare that it needs one",
            hint="declare Method(needs_features=True)",
        ) from error
    except Exception as error:
        raise ExportError(f"{name} fails while it is traced: {brief(error)}", hint=hint) from error
    if not isinstance(explained, Explained):
        raise ExportError(
            f"{name} gives a {type(explained).__name__}, and must give an Explained",
            hint="return Explained(map, scores, class_index, outputs), of methods.declarations",
        )
    like: dict[str, tf.TensorShape] = {
        "value": x.shape,
        "images": x.shape,
        "example": x.shape[:1],
        "map": explained.map.shape,
        "cell": tf.TensorShape([None] * (len(model.sizes) + 1)),
        "cells": tf.TensorShape([None] * (len(model.sizes) + 1)),
        "pixels": tf.TensorShape([None, *model.sizes]),
    }
    own_map = method.map_kind
    declared = {output.name: (output.dtype, like[output.per]) for output in method.outputs}
    if explained.outputs.keys() != declared.keys():
        given = ", ".join(sorted(explained.outputs)) or "none"
        raise ExportError(
            f"{name} gives the outputs {given}, and declares {', '.join(sorted(declared)) or 'none'}"
        )
    for part, (dtype, shape) in {own_map.output: ("float32", like[own_map.like]), **declared}.items():
        tensor = explained.map if part == own_map.output else explained.outputs[part]
        if tensor.dtype.name != dtype or not tensor.shape.is_compatible_with(shape):
            raise ExportError(
                f"{name} gives {part} as {tensor.dtype.name} {tensor.shape}; it must be {dtype} {shape}"
            )
    return explained


class _Builder:
    """Builds each signature from its core and its parameters."""

    def __init__(
        self,
        forward: Forward,
        preprocessing: Preprocessing,
        settings: Settings,
        name: str,
        lowered: set[str],
    ) -> None:
        if settings.compiled:
            refuse_for_xla(forward.graph, name)
        self.forward = forward
        self.name = name
        self.lowered = lowered
        self.graph = forward.graph
        self.settings = settings
        self.preprocessing = preprocessing
        self.images = tf.TensorSpec(
            (None, *self.graph.input_shape), tf.dtypes.as_dtype(preprocessing.image_dtype), name="images"
        )
        # The model input and class_index.
        self.x = tf.TensorSpec((None, *self.graph.input_shape), tf.float32)
        self.class_index = tf.TensorSpec((None,), tf.int32)

    def score_function(self, compiled: bool, replacements: Sequence[Replacement] = ()) -> ScoreFunction:
        rules = watched(self.settings.rules(compiled=compiled), self.lowered)
        return lambda x: self.forward.scores(x, rules=rules, replacements=replacements, compiled=compiled)

    @functools.cached_property
    def compiled_model(self) -> Model:
        """The model as it is, for what is compiled: functions that signatures share and call.

        What is called is traced once and written once, and a server that loads the model walks it once. XLA
        compiles it into each caller, as if it stood there.
        """
        scores_of = self.score_function(compiled=True)

        def with_gradients(x: tf.Tensor, class_index: tf.Tensor) -> Gradients:
            return gradients(scores_of, x, class_index)

        specs = [self.x, self.class_index]
        shared = tf.function(with_gradients, input_signature=specs, autograph=False)
        model = Model(
            scores=tf.function(scores_of, input_signature=[self.x], autograph=False),
            gradients=shared,
            gradient=lambda x, class_index: shared(x, class_index).gradients,
            **self.beside_gradients(compiled=True),
        )
        if self.graph.features is None:
            return model
        return replace(model, features=tf.function(model.features, input_signature=specs, autograph=False))

    def model(self, replacements: Sequence[Replacement], compiled: bool, sampled: bool = False) -> Model:
        """The model for one method, replayed with its replacements."""
        if sampled and self.settings.sample_precision != "float32":
            in_fewer_bits = functools.partial(self.in_fewer_bits, replacements, compiled)
            return replace(self.model(replacements, compiled), in_fewer_bits=in_fewer_bits)
        if compiled and not replacements:
            return self.compiled_model
        scores_of = self.score_function(compiled, replacements)
        gradient = gradient_function(scores_of)
        return Model(
            scores=scores_of,
            gradients=functools.partial(gradients, scores_of),
            gradient=gradient if compiled else on_its_own(gradient, [self.x, self.class_index]),
            **{
                **self.beside_gradients(compiled),
                **({"features": self.compiled_model.features} if compiled else {}),
            },
        )

    def in_fewer_bits(self, replacements: Sequence[Replacement], compiled: bool) -> Model:
        """The model in the precision of samples, for the function that is being traced.

        The weights are cast here, in front of the function's loop.
        """
        lowered, tensors = self.lowered_replay(replacements)
        rules = watched(self.settings.rules(compiled=compiled), self.lowered)

        def scores_of(x: tf.Tensor) -> tf.Tensor:
            (scores,) = tensors(
                x, [self.graph.scores], rules=rules, replacements=lowered.replacements, compiled=compiled
            )
            return tf.cast(scores, tf.float32)

        gradient = gradient_function(scores_of)
        _, of_features = self.lowered_replay(()) if self.graph.features else (None, None)
        return Model(
            scores=scores_of,
            gradients=functools.partial(gradients, scores_of),
            gradient=gradient if compiled else on_its_own(gradient, [self.x, self.class_index]),
            **self.beside_gradients(compiled, of_features),
        )

    def lowered_replay(self, replacements: Sequence[Replacement]) -> tuple[Lowered, Callable[..., Any]]:
        """The graph in the precision of samples, and its replay, with the weights as they are cast here."""
        dtype = tf.as_dtype(self.settings.sample_precision)
        lowered = in_fewer_bits(self.graph, dtype, self.name, replacements)
        forward = Forward(lowered.graph, shared=self.forward.variables)
        cast = {
            tensor: tf.cast(forward.variables[weight].read_value(), dtype)
            for tensor, weight in lowered.weights.items()
        }
        return lowered, functools.partial(forward.tensors, given=cast)

    def beside_gradients(self, compiled: bool, replayed: Callable[..., Any] | None = None) -> dict[str, Any]:
        """What a method is given beside scores and gradients, by the names of `Model`.

        Args:
            compiled: whether XLA compiles it.
            replayed: `Forward.tensors` of the graph to look at features in; by default of the model's own.
        """
        replayed = replayed or self.forward.tensors
        graph, rules = self.graph, watched(self.settings.rules(compiled=compiled), self.lowered)
        parts: dict[str, Any] = {
            "images_at_once": self.images_at_once(compiled),
            "probabilities": lambda scores: probabilities_of(scores, graph.head),
            "gray": self.gray,
            "sizes": graph.sizes,
        }
        if not compiled:
            parts["in_a_loop"] = on_its_own
        layer = graph.features
        if layer is not None:
            names = [graph.scores, layer.tensor]

            def tensors(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                scores, values = replayed(x, names, rules=rules, compiled=compiled)
                return tf.cast(scores, tf.float32), values

            def features_of(x: tf.Tensor, class_index: tf.Tensor) -> Features:
                return features(tensors, functools.partial(arranged, layer), x, class_index)

            parts["features"] = features_of
        return parts

    def gray(self, level: tf.Tensor) -> tf.Tensor:
        """The model input of images that are one gray level, [B] in their own unit, everywhere."""
        shape = self.graph.input_shape
        images = tf.reshape(level, [-1] + [1] * len(shape))
        images = tf.broadcast_to(images, tf.concat([tf.shape(level), shape], 0))
        return self.preprocessing.function(tf.ensure_shape(images, (None, *shape)))

    def images_at_once(self, compiled: bool) -> int:
        """How many images a step of a method's loop takes: few where XLA makes loops of the model."""
        depthwise = "DepthwiseConv2dNative"
        made_of_loops = compiled and depthwise in self.settings.rules(compiled=True)
        if made_of_loops and any(node.op == depthwise for node in self.graph.nodes):
            return XLA_IMAGES_AT_ONCE
        return IMAGES_AT_ONCE

    def model_input(self, images: tf.Tensor) -> tf.Tensor:
        return self.preprocessing.function(tf.cast(images, tf.float32))

    def core(self, signature: str, make: Callable[[bool], Compute], *parameters: tf.TensorSpec) -> Core:
        """A function of (images [B, …], parameters [B] …), compiled where the export is.

        Args:
            signature: its name, which the choice of "auto" is by.
            make: the function, from whether it will be compiled.
            parameters: specs of the parameters.
        """
        specs = [self.images, *(tf.TensorSpec((None,), spec.dtype, spec.name) for spec in parameters)]

        def variant(compiled: bool) -> Core:
            if not compiled:
                return on_its_own(make(False), specs)
            return tf.function(make(True), input_signature=specs, jit_compile=True, autograph=False)

        uncompiled = self.settings.uncompiled.get(signature, ())
        if not self.settings.compiled or set(self.settings.batch_sizes) <= set(uncompiled):
            return variant(compiled=False)
        if not uncompiled:
            return variant(compiled=True)
        xla, plain = variant(compiled=True), variant(compiled=False)

        @tf.function(input_signature=specs, autograph=False)
        def either(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            is_uncompiled = tf.reduce_any(tf.shape(inputs[0])[0] == tf.constant(uncompiled))
            return tf.cond(is_uncompiled, lambda: plain(*inputs), lambda: xla(*inputs))

        return either

    def predictions_core(self, name: str) -> Core:
        def make(compiled: bool) -> Compute:
            scores_of = self.model((), compiled).scores

            def predict(images: tf.Tensor) -> dict[str, tf.Tensor]:
                scores = scores_of(self.model_input(images))
                if self.graph.head == "output":
                    return {"outputs": scores}
                return {"logits": scores, "probabilities": probabilities_of(scores, self.graph.head)}

            return predict

        return self.core(name, make)

    def predictions(self, name: str) -> Function:
        core = self.predictions_core(name)

        def predictions(images: tf.Tensor) -> dict[str, tf.Tensor]:
            with tf.control_dependencies(image_checks(images)):
                return self.in_slices(core, {"images": tf.identity(images)})

        return named(predictions, [self.images], {})

    def replacements(self, method: Method) -> Sequence[Replacement]:
        """What the model is replayed with for a method; a refusal says how to export the others."""
        error = refusal(method, self.graph, self.name)
        if error is None:
            return method.replacements(self.graph, self.name)
        others = [other.expression for other in self.settings.methods if other is not method]
        hint = f"export without it: --methods {shlex.quote(','.join(others))}" if others else None
        raise ExportError(str(error), hint=error.hint or hint) from error

    def explanation_core(self, method: Method) -> Core:
        """What the signature of a method computes."""
        replacements = self.replacements(method)
        specs = parameter_specs(method)
        names = [spec.name for spec in specs]

        def make(compiled: bool) -> Compute:
            model = self.model(replacements, compiled, method.sampled)

            def explain(images: tf.Tensor, *values: tf.Tensor) -> dict[str, tf.Tensor]:
                x = self.model_input(images)
                explained = explained_by(method, model, x, dict(zip(names, values, strict=True)))
                return self.outputs(method, explained)

            return explain

        return self.core(method.signature, make, *specs)

    def explanation(self, method: Method) -> Function:
        """The signature of a method."""
        core = self.explanation_core(method)
        specs = parameter_specs(method)
        names = [spec.name for spec in specs]
        values = [PREDICTED_CLASS, *(default_of(p, self.settings.max_samples) for p in method.parameters)]
        defaults = {
            spec.name: tf.constant(value, spec.dtype) for spec, value in zip(specs, values, strict=True)
        }

        def signature(images: tf.Tensor, *parameters: tf.Tensor) -> dict[str, tf.Tensor]:
            return self.checked(method, core, images, dict(zip(names, parameters, strict=True)))

        return named(signature, [self.images, *specs], defaults)

    def outputs(self, method: Method, explained: Explained) -> dict[str, tf.Tensor]:
        """The outputs of a method's signature, labels aside."""
        kind, scores, class_index = method.map_kind, explained.scores, explained.class_index
        probabilities = probabilities_of(scores, self.graph.head)
        return {
            kind.output: explained.map,
            "saliency": kind.saliency(explained.map, self.graph.sizes),
            CLASS_INDEX: class_index,
            "score": tf.gather(scores, class_index, batch_dims=1),
            "probability": tf.gather(probabilities, class_index, batch_dims=1),
            **explained.outputs,
        }

    def checked(
        self, method: Method, core: Core, images: tf.Tensor, parameters: Tensors
    ) -> dict[str, tf.Tensor]:
        """Validates, runs the core in slices, adds the labels."""
        checks = image_checks(images)
        with tf.control_dependencies(checks):
            batch = tf.shape(images)[0]
        broadcast = {name: broadcast_parameter(name, value, batch) for name, value in parameters.items()}
        checks.append(bound_check(CLASS_INDEX, broadcast[CLASS_INDEX], class_bounds(self.graph.classes)))
        for parameter in method.parameters:
            bounds = bounds_of(parameter, self.settings.max_samples, images.dtype)
            if bounds is not None:
                checks.append(bound_check(parameter.name, broadcast[parameter.name], bounds))
        with tf.control_dependencies(checks):
            outputs = self.in_slices(core, {"images": tf.identity(images), **broadcast})
        if self.settings.labels is not None:
            outputs["label"] = tf.gather(tf.constant(self.settings.labels), outputs[CLASS_INDEX])
        return outputs

    def in_slices(self, core: Core, inputs: Tensors) -> dict[str, tf.Tensor]:
        return run_in_slices(core, inputs, self.settings.batch_sizes)
