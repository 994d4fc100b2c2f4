"""``module:callable``: a Keras model, a function that makes one, or any callable on a tensor."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from saliency_exporter.errors import ExportError, brief
from saliency_exporter.references import load_reference
from saliency_exporter.sources.input_shape import shape_of_spec
from saliency_exporter.sources.keras_2 import is_keras_2_model
from saliency_exporter.sources.keras_model import source_from_keras
from saliency_exporter.sources.output import check_output, probe
from saliency_exporter.sources.source import Source

_MODEL_TYPES = (
    keras.Layer,
    tf.Module,
    tf.types.experimental.GenericFunction,
    tf.types.experimental.ConcreteFunction,
)


def load(reference: str, *, image_size: tuple[int, int] | None = None) -> Source:
    """Load what ``module:callable`` names.

    It may be a Keras model, a class or function that makes a model when it is called without
    arguments, or the forward pass itself: a ``tf.function``, a callable ``tf.Module``, or a Python
    function of one tensor.

    Args:
        reference: ``module:callable``; the current directory is importable.
        image_size: (H, W), needed where neither the model nor its ``input_signature`` fixes it.

    Raises:
        ExportError: it cannot be imported, fails, or is none of these.
    """
    model = _model(reference)
    name = reference.rpartition(":")[2].rpartition(".")[2]
    origin = f"Python callable {reference}"
    if isinstance(model, keras.Layer) and not isinstance(model, keras.Model):
        model = keras.Sequential([model])
    if _is_keras(model):
        return source_from_keras(model, name=name, origin=origin, image_size=image_size)
    return _source_from_callable(model, name, origin, image_size)


def _model(reference: str) -> Any:
    target = load_reference(reference)
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
    required = _required_parameters(target)
    if required != 1:
        raise ExportError(
            f"{reference} takes {required} arguments; the forward pass must take one tensor",
            hint="write a function that holds the others constant",
        )
    return target


def _is_factory(target: Any) -> bool:
    if isinstance(target, type):
        return True
    return callable(target) and not isinstance(target, _MODEL_TYPES) and _required_parameters(target) == 0


def _is_keras(model: object) -> bool:
    return isinstance(model, keras.Layer) or is_keras_2_model(model)


def _required_parameters(function: Callable[..., Any]) -> int:
    if _is_keras(function):
        return 1  # What a Keras model takes is checked where its inputs are known by name.
    specs = _specs(function)
    if specs is not None:
        return len(specs)
    parameters = inspect.signature(function).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is p.empty for p in parameters)


def _specs(function: Any) -> tuple[tf.TensorSpec, ...] | None:
    if isinstance(function, tf.types.experimental.ConcreteFunction):
        return tuple(function.structured_input_signature[0])
    for candidate in (function, getattr(function, "__call__", None)):  # noqa: B004
        specs = getattr(candidate, "input_signature", None)
        if specs is not None:
            return tuple(specs)
    return None


def _source_from_callable(
    model: Callable[..., Any], name: str, origin: str, image_size: tuple[int, int] | None
) -> Source:
    (spec,) = _specs(model) or (tf.TensorSpec(None, tf.float32),)
    input_shape = shape_of_spec(name, spec, image_size)
    arguments = {"training": False} if _takes_training(model) else {}

    def forward(x: tf.Tensor) -> Any:
        return model(tf.cast(x, spec.dtype), **arguments)

    check_output(name, probe(name, forward, input_shape))
    # Whoever traces a source leaves AutoGraph out; a user's own function may need it for its ifs and loops.
    graph = tf.function(forward)
    return Source(
        name=name,
        origin=origin,
        call=lambda x: tf.nest.flatten(graph(x))[0],
        input_shape=input_shape,
        input_dtype=spec.dtype,
        variables=_variables(name, model, graph, input_shape),
    )


def _takes_training(model: Callable[..., Any]) -> bool:
    if _specs(model) is not None:
        return False
    return "training" in inspect.signature(model).parameters


def _variables(
    name: str, model: Callable[..., Any], graph: Any, input_shape: tuple[int, ...]
) -> tuple[tf.Variable, ...]:
    try:
        traced = graph.get_concrete_function(tf.TensorSpec([None, *input_shape], tf.float32))
    except Exception as error:
        raise ExportError(
            f"{name} cannot be traced into a TensorFlow graph: {brief(error)}",
            hint="it must be made of TensorFlow operations, not of NumPy calls",
        ) from error
    found = [*(model.variables if isinstance(model, tf.Module) else ()), *traced.variables]
    return tuple({id(variable): variable for variable in found}.values())
