"""The one fixed shape of an example that a model is exported for."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from saliency_exporter.errors import ExportError
from saliency_exporter.sources.choices import Choices

_MAX_AXES = 4
_RGB = (None, None, 3)


def fixed_shape(name: str, declared: Sequence[int | None] | None, choices: Choices) -> tuple[int, ...]:
    """The shape of one example from what the model declares and what the user asked for.

    Args:
        name: the model, for messages.
        declared: the model's input shape without the batch, (H, W, C) for images, None where it leaves a
            size open; None altogether where the model says nothing (then it takes RGB, or what
            ``choices.input_shape`` says).
        choices: image_size or input_shape, where the user gave one.

    Raises:
        ExportError: one to four axes are supported; a size is neither declared nor given, or both and they
            differ.
    """
    if declared is None:
        declared = choices.input_shape or _RGB
    declared = tuple(declared)
    if not 1 <= len(declared) <= _MAX_AXES:
        raise ExportError(
            f"{name} takes input of shape {_text(declared)}; inputs of 1 to {_MAX_AXES} axes behind the "
            "batch can be explained",
            hint="wrap it in a function that reshapes, and export that as module:callable",
        )
    wanted = _wanted(name, declared, choices)
    if wanted is None:
        return _complete(name, declared)
    if any(size not in (None, want) for size, want in zip(declared, wanted, strict=True) if want):
        raise ExportError(
            f"{name} takes input of shape {_text(declared)}, not of {_asked(choices)}",
            hint=f"leave {_asked(choices).split()[0]} out",
        )
    merged = tuple(want or size for size, want in zip(declared, wanted, strict=True))
    return _complete(name, merged)


def shape_of_spec(name: str, spec: tf.TensorSpec, choices: Choices) -> tuple[int, ...]:
    """The shape of one example of a traced function's input.

    Raises:
        ExportError: as `fixed_shape` and `check_numbers`, and where the batch is fixed.
    """
    check_numbers(name, spec.dtype)
    if spec.shape.rank and spec.shape[0] is not None:
        raise ExportError(
            f"{name} is traced for a batch of {spec.shape[0]}; it must take batches of any size",
            hint="give None as the first size in its input_signature",
        )
    return fixed_shape(name, None if spec.shape.rank is None else spec.shape[1:].as_list(), choices)


def check_numbers(name: str, dtype: tf.DType) -> None:
    """Refuses an input that has no gradient, and is no pixel either.

    Whole numbers are taken: a model that makes floats of them is cut there (`graph.integer_input`).

    Raises:
        ExportError: the input is of strings, truth values or complex numbers.
    """
    if dtype == tf.string:
        raise ExportError(
            f"{name} takes string input, which has no gradient",
            hint="name a signature that takes decoded images with --signature, or export the network behind "
            "the decoding as module:callable",
        )
    if not (dtype.is_floating or dtype.is_integer):
        raise ExportError(
            f"{name} takes {dtype.name} input, which has no gradient",
            hint="export the network behind it, as module:callable",
        )


def _wanted(name: str, declared: tuple[int | None, ...], choices: Choices) -> tuple[int | None, ...] | None:
    if choices.image_size is not None:
        if len(declared) != len(_RGB):
            raise ExportError(
                f"{name} takes input of shape {_text(declared)}; --image-size is for images [B, H, W, C]",
                hint="give all sizes of one example with --input-shape",
            )
        return (*choices.image_size, None)
    if choices.input_shape is not None and len(choices.input_shape) != len(declared):
        raise ExportError(
            f"{name} takes input of shape {_text(declared)}, and {_asked(choices)} has "
            f"{len(choices.input_shape)} sizes",
            hint=f"give {len(declared)} sizes, without the batch",
        )
    return choices.input_shape


def _complete(name: str, shape: tuple[int | None, ...]) -> tuple[int, ...]:
    if len(shape) == len(_RGB) and shape[-1] is None and None not in shape[:-1]:
        shape = (*shape[:-1], 3)
    if None not in shape:
        return tuple(size for size in shape if size is not None)
    if len(shape) == len(_RGB):
        raise ExportError(
            f"{name} takes images of any size {_text(shape)}; an export is for one size",
            hint="pass --image-size H W: the size that the model was trained with",
        )
    raise ExportError(
        f"{name} takes input of any size {_text(shape)}; an export is for one size",
        hint="pass all sizes of one example, without the batch: --input-shape "
        + ",".join("N" if size is None else str(size) for size in shape),
    )


def _asked(choices: Choices) -> str:
    if choices.image_size is not None:
        return f"--image-size {choices.image_size[0]} {choices.image_size[1]}"
    return f"--input-shape {','.join(map(str, choices.input_shape or ()))}"


def _text(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join(["B", *("any" if size is None else str(size) for size in shape)]) + "]"
