"""A Keras model in memory to a Source."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from saliency_exporter.errors import ExportError
from saliency_exporter.preprocessing import Preprocessing
from saliency_exporter.sources.input_shape import check_float, fixed_shape
from saliency_exporter.sources.output import check_output, probe
from saliency_exporter.sources.source import Source


def source_from_keras(
    model: keras.Model,
    *,
    name: str,
    origin: str,
    image_size: tuple[int, int] | None = None,
    preprocessing: Preprocessing | None = None,
    labels: tuple[str, ...] | None = None,
) -> Source:
    """Describe a functional, sequential or subclassed model with one input and one output.

    The model is one of Keras 3, or one of tf-keras, which has the same attributes.

    Raises:
        ExportError: several inputs or outputs, an input that is not a float image, or a size that
            the model leaves open and ``image_size`` does not give.
    """
    require_tensorflow_backend()
    declared, dtype = _declared_input(model, name)
    check_float(name, dtype)
    input_shape = fixed_shape(name, declared, image_size)
    if isinstance(model, keras.Sequential) and not model.built:
        model.build((None, *input_shape))
    forward = _inference(model, dtype)
    outputs = getattr(model, "outputs", None)
    if outputs and len(outputs) > 1:
        outputs = dict(zip(model.output_names, outputs, strict=True))
    elif not outputs:
        # A subclassed model makes its variables, and says what it returns, only when it is called.
        outputs = probe(name, forward, input_shape)
    check_output(name, outputs)
    return Source(
        name=name,
        origin=origin,
        call=lambda x: tf.nest.flatten(forward(x))[0],
        input_shape=input_shape,
        input_dtype=dtype,
        # The raw variables: Keras's own wrappers are not restored by TensorFlow Serving's V1 session.
        variables=tuple(v if isinstance(v, tf.Variable) else v.value for v in model.variables),
        preprocessing=preprocessing,
        labels=labels,
    )


def require_tensorflow_backend() -> None:
    """Refuse a Keras that was imported on JAX, PyTorch or channels first.

    Raises:
        ExportError: Keras's backend is not TensorFlow, or its default image layout not channels last.
    """
    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            f"Keras was imported with the {keras.backend.backend()!r} backend; the exporter needs "
            "'tensorflow'",
            hint="set KERAS_BACKEND=tensorflow before Keras is imported",
        )
    if keras.backend.image_data_format() != "channels_last":
        raise ExportError(
            f"Keras is set to {keras.backend.image_data_format()!r} images; the exporter needs "
            "'channels_last'",
            hint='set "image_data_format": "channels_last" in ~/.keras/keras.json',
        )


@contextmanager
def whole_weights() -> Iterator[None]:
    """While weights are loaded: turn Keras's warning that it left some of them random into an error.

    Raises:
        ValueError: the file does not hold every weight of the model.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        if "freshly-initialized" in str(warning.message):
            raise ValueError(f"some weights are not in the file. {warning.message}")


def _declared_input(model: keras.Model, name: str) -> tuple[tuple[int | None, ...] | None, tf.DType]:
    inputs = getattr(model, "inputs", None)
    if inputs:
        if len(inputs) > 1:
            names = ", ".join(tensor.name for tensor in inputs)
            raise ExportError(
                f"{name} has {len(inputs)} inputs ({names}); only models with one are supported",
                hint="export a model in which the other inputs are constants",
            )
        return tuple(inputs[0].shape[1:]), tf.as_dtype(inputs[0].dtype)
    built_for = (model.get_build_config() or {}).get("input_shape") if model.built else None
    return (tuple(built_for[1:]) if built_for else None), tf.float32


def _inference(model: keras.Model, dtype: tf.DType) -> Callable[[tf.Tensor], Any]:
    structure = getattr(model, "input", None) if getattr(model, "inputs", None) else None

    def forward(x: tf.Tensor) -> Any:
        x = tf.cast(x, dtype)
        if isinstance(structure, (dict, list, tuple)):
            x = keras.tree.pack_sequence_as(structure, [x])
        return model(x, training=False)

    return forward
