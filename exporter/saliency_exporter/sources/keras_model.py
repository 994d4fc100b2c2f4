"""A Keras model in memory to a Source."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from saliency_exporter.errors import ExportError
from saliency_exporter.sources.any_batch import fixed_batch, for_any_batch
from saliency_exporter.sources.choices import NO_CHOICES, Choices
from saliency_exporter.sources.class_scores import choose_scores, named_outputs, positions_known, probe
from saliency_exporter.sources.held_inputs import describe, explained_input, for_batch_of, held_inputs
from saliency_exporter.sources.input_shape import check_numbers, fixed_shape
from saliency_exporter.sources.preprocessing import Preprocessing
from saliency_exporter.sources.source import Source


def source_from_keras(
    model: keras.Model,
    *,
    name: str,
    origin: str,
    choices: Choices = NO_CHOICES,
    preprocessing: Preprocessing | None = None,
    labels: tuple[str, ...] | None = None,
) -> Source:
    """Describes a functional, sequential or subclassed model.

    The model is one of Keras 3, or one of tf-keras, which has the same attributes.

    Raises:
        ExportError: an input that is not float or is not chosen, a size that the model leaves open and
            ``choices`` does not give, or no output, or several without a choice, that holds class scores.
    """
    require_tensorflow_backend()
    specs = _input_specs(model)
    explained = explained_input(name, specs, choices)
    held = held_inputs(name, specs, choices)
    spec = specs[explained]
    check_numbers(name, spec)
    declared = None if spec.shape.rank is None else spec.shape[1:].as_list()
    input_shape = fixed_shape(name, declared, choices)
    if isinstance(model, keras.Sequential) and not model.built:
        model.build((None, *input_shape))
    forward = _inference(model, specs, explained, held)
    if getattr(model, "outputs", None):
        # A Sequential model has no names of its outputs.
        output_names = getattr(model, "output_names", None) or [model.layers[-1].name]
        outputs = _structure(model, "output")
    else:
        # A subclassed model makes its variables, and says what it returns, only when it is called.
        output_names, outputs = None, probe(name, forward, input_shape)
    outputs = outputs if positions_known(outputs) else probe(name, forward, input_shape)
    scores = choose_scores(name, named_outputs(outputs, output_names), choices.output)
    return Source(
        name=name,
        origin=origin
        + describe(choices, explained)
        + (f", output {choices.output}" if choices.output is not None else ""),
        call=for_any_batch(
            name, lambda x: scores.of(named_outputs(forward(x), output_names)), fixed_batch(spec), input_shape
        ),
        input_shape=input_shape,
        # The raw variables: Keras's own wrappers are not restored by TensorFlow Serving's V1 session.
        variables=tuple(v if isinstance(v, tf.Variable) else v.value for v in model.variables),
        preprocessing=preprocessing,
        labels=labels,
    )


def require_tensorflow_backend() -> None:
    """Refuses a Keras that was imported on JAX, PyTorch or channels first.

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
    """Turns Keras's warning that it left some weights random into an error, while they are loaded.

    Raises:
        ValueError: the file does not hold every weight of the model.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        if "freshly-initialized" in str(warning.message):
            raise ValueError(f"some weights are not in the file. {warning.message}")


def _input_specs(model: keras.Model) -> dict[str, tf.TensorSpec]:
    """Every input by name: the key of a mapping, else the name that the input was given."""
    if getattr(model, "inputs", None):
        structure = _structure(model, "input")
        named = structure.items() if isinstance(structure, Mapping) else ((t.name, t) for t in model.inputs)
        return {str(name): tf.TensorSpec(tensor.shape, tensor.dtype) for name, tensor in named}
    shape = (model.get_build_config() or {}).get("input_shape") if model.built else None
    if shape is not None and not all(size is None or isinstance(size, int) for size in shape):
        shape = None  # One of a subclassed model with several inputs: calling it will tell.
    return {"x": tf.TensorSpec(shape, tf.float32)}


def _inference(
    model: keras.Model,
    specs: Mapping[str, tf.TensorSpec],
    explained: str,
    held: Mapping[str, np.ndarray],
) -> Callable[[tf.Tensor], Any]:
    structure = _structure(model, "input") if getattr(model, "inputs", None) else None

    def forward(x: tf.Tensor) -> Any:
        values = {name: for_batch_of(x, value, specs[name]) for name, value in held.items()}
        values[explained] = tf.cast(x, specs[explained].dtype)
        if isinstance(structure, Mapping):
            return model({key: values[str(key)] for key in structure}, training=False)
        if isinstance(structure, list | tuple):
            leaves = [values[name] for name in specs]
            return model(keras.tree.pack_sequence_as(structure, leaves), training=False)
        return model(values[explained], training=False)

    return forward


def _structure(model: keras.Model, kind: str) -> Any:
    """The model's symbolic input or output in the nest that it was built with."""
    # A Sequential model that was loaded has not been called as a layer, and then has no `input`.
    structure = getattr(model, kind, None)
    if structure is not None:
        return structure
    tensors = getattr(model, f"{kind}s")
    return tensors[0] if len(tensors) == 1 else tensors
