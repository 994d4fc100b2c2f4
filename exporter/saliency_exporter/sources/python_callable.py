"""``module:callable``: a Keras model, a function that makes one, or any callable on a tensor."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from saliency_exporter.errors import ExportError, brief
from saliency_exporter.sources.any_batch import fixed_batch, for_any_batch
from saliency_exporter.sources.choices import NO_CHOICES, Choices
from saliency_exporter.sources.class_scores import choose_scores, named_outputs, of_any_batch, probe
from saliency_exporter.sources.held_inputs import describe, explained_input, for_batch_of, held_inputs
from saliency_exporter.sources.input_shape import shape_of_spec
from saliency_exporter.sources.keras_2 import is_keras_2_model
from saliency_exporter.sources.keras_model import source_from_keras
from saliency_exporter.sources.one_example import with_batch_of_one
from saliency_exporter.sources.python_object import load_reference
from saliency_exporter.sources.source import Source

_MODEL_TYPES = (
    keras.Layer,
    tf.Module,
    tf.types.experimental.GenericFunction,
    tf.types.experimental.ConcreteFunction,
)


def load(reference: str, choices: Choices = NO_CHOICES) -> Source:
    """Loads what ``module:callable`` names.

    It may be a Keras model, a class or function that makes a model when it is called without
    arguments, or the forward pass itself: a ``tf.function``, a callable ``tf.Module``, or a Python
    function of one tensor, or of several of which all but one are held at constants.

    Args:
        reference: ``module:callable``; the current directory is importable.
        choices: size, input and output, where neither the model nor its ``input_signature`` fixes them.

    Raises:
        ExportError: it cannot be imported, fails, or is none of these.
    """
    model = _model(reference)
    name = reference.rpartition(":")[2].rpartition(".")[2]
    origin = f"Python callable {reference}"
    if isinstance(model, keras.Layer) and not isinstance(model, keras.Model):
        model = keras.Sequential([model])
    if _is_keras(model):
        return source_from_keras(model, name=name, origin=origin, choices=choices)
    return _source_from_callable(model, name, origin, choices)


def _model(reference: str) -> Any:
    target: Any = load_reference(reference)
    if _is_factory(target):
        try:
            target = target()
        except Exception as error:
            raise ExportError(
                f"{reference}() failed: {brief(error)}",
                hint="it is called without arguments and must return the model",
            ) from error
        reference += "()"
    if isinstance(target, type) or not callable(target):
        raise ExportError(
            f"{reference} is a {type(target).__name__}, not a model",
            hint="name a Keras model, a function that returns one, or a callable on a tensor",
        )
    return target


def _is_factory(target: Any) -> bool:
    if isinstance(target, type):
        return True
    return (
        callable(target)
        and not isinstance(target, _MODEL_TYPES)
        and not _is_keras(target)
        and not _required_parameters(target)
    )


def _is_keras(model: object) -> bool:
    return isinstance(model, keras.Layer) or is_keras_2_model(model)


def _required_parameters(function: Callable[..., Any]) -> list[str]:
    """Names of the positional parameters without a default."""
    parameters = inspect.signature(function).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.kind in kinds and p.default is p.empty]


def _specs(function: Any) -> dict[str, tf.TensorSpec] | None:
    """What a function declares of its inputs, by name and in order; None where it declares nothing."""
    if isinstance(function, tf.types.experimental.ConcreteFunction):
        if function.structured_input_signature is None:
            # One that was cut out of a graph of TensorFlow 1: wrap_function(…).prune(…).
            inputs = function.inputs[: len(function.inputs) - len(function.captured_inputs)]
            return {tensor.op.name: tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in inputs}
        positional, keyword = function.structured_input_signature
        return {**_named(positional), **keyword}
    for candidate in (function, getattr(function, "__call__", None)):  # noqa: B004
        specs = getattr(candidate, "input_signature", None)
        if specs is not None:
            return _named(specs)
    return None


def _named(specs: Sequence[tf.TensorSpec]) -> dict[str, tf.TensorSpec]:
    return {spec.name or f"input_{index}": spec for index, spec in enumerate(specs)}


def _named_specs(model: Callable[..., Any]) -> dict[str, tf.TensorSpec]:
    """Every input by name, in order; a function without an input signature takes float32 of any shape."""
    specs = _specs(model)
    if specs is None:
        return {name: tf.TensorSpec(None, tf.float32) for name in _required_parameters(model)}
    return specs


def _keywords(model: Any) -> frozenset[str]:
    """Names of the inputs that are given by name, as those of a signature of a SavedModel are."""
    signature = getattr(model, "structured_input_signature", None)
    return frozenset(signature[1] if signature else ())


def _source_from_callable(model: Callable[..., Any], name: str, origin: str, choices: Choices) -> Source:
    specs = _named_specs(model)
    if not specs:
        raise ExportError(f"{name} takes no input", hint="the forward pass takes a tensor [B, …]")
    if _specs(model) is None:
        # What is not declared is as the user gives it.
        specs |= {
            key: tf.TensorSpec([None, *value.shape] if value.ndim else [], _dtype_of(value))
            for key, value in choices.held.items()
            if key in specs
        }
    explained = explained_input(name, specs, choices)
    held = held_inputs(name, specs, choices)
    options = {"training": False} if _takes_training(model) else {}
    keywords = _keywords(model)

    def run(x: tf.Tensor) -> Any:
        values = {key: for_batch_of(x, value, specs[key]) for key, value in held.items()}
        values[explained] = tf.cast(x, specs[explained].dtype)
        positional = [values[key] for key in specs if key not in keywords]
        return model(*positional, **{key: values[key] for key in keywords}, **options)

    spec = specs[explained]
    # What is held has no batch to be repeated for.
    declared = () if held or _specs(model) is None else _declared_outputs(run, spec)
    spec, forward = with_batch_of_one(spec, run, declared)
    input_shape = shape_of_spec(name, spec, choices)
    batch = fixed_batch(spec)
    probed = probe(name, forward, input_shape, batch=batch or 1)
    scores = choose_scores(name, of_any_batch(named_outputs(probed), batch or 1), choices.output)
    # Whoever traces a source leaves AutoGraph out; a user's own function may need it for its ifs and loops.
    graph = tf.function(forward)
    return Source(
        name=name,
        origin=origin
        + describe(choices, explained)
        + (f", output {choices.output}" if choices.output is not None else ""),
        call=for_any_batch(name, lambda x: scores.of(named_outputs(graph(x))), batch, input_shape),
        input_shape=input_shape,
        variables=_variables(name, model, graph, [batch, *input_shape]),
    )


def _declared_outputs(forward: Callable[[tf.Tensor], Any], spec: tf.TensorSpec) -> Sequence[tf.Tensor]:
    """What a function returns of the input that it declares; nothing where it cannot be traced."""
    try:
        function = tf.function(forward).get_concrete_function(tf.TensorSpec(spec.shape, tf.float32))
    except Exception:
        return ()  # The probe says why.
    outputs: Sequence[tf.Tensor] = function.outputs
    return outputs


def _dtype_of(value: np.ndarray) -> np.dtype:
    """What a function that declares no dtypes gets: float32 of a number with a point, as TensorFlow does."""
    return np.dtype(np.float32) if value.ndim == 0 and value.dtype == np.float64 else value.dtype


def _takes_training(model: Callable[..., Any]) -> bool:
    if _specs(model) is not None:
        return False
    return "training" in inspect.signature(model).parameters


def _variables(
    name: str, model: Callable[..., Any], graph: Any, shape: Sequence[int | None]
) -> tuple[tf.Variable, ...]:
    try:
        traced = graph.get_concrete_function(tf.TensorSpec(shape, tf.float32))
    except Exception as error:
        raise ExportError(
            f"{name} cannot be traced into a TensorFlow graph: {brief(error)}",
            hint="it must be made of TensorFlow operations, not of NumPy calls",
        ) from error
    found = [*(model.variables if isinstance(model, tf.Module) else ()), *traced.variables]
    return tuple({id(variable): variable for variable in found}.values())
