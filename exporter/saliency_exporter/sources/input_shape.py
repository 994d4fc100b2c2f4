"""The one fixed image shape that a model is exported for."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from saliency_exporter.errors import ExportError


def fixed_shape(
    name: str, declared: Sequence[int | None] | None, image_size: tuple[int, int] | None
) -> tuple[int, int, int]:
    """(H, W, C) from what the model declares and what the user asked for.

    Args:
        name: the model, for messages.
        declared: the model's input shape without the batch, None where it leaves a size open;
            None altogether where the model says nothing (then it takes RGB).
        image_size: (H, W) as the user gave it, or None.

    Raises:
        ExportError: the input is not an image, a size is neither declared nor given, or both and
            they differ.
    """
    if declared is None:
        declared = (None, None, 3)
    if len(declared) != 3:
        raise ExportError(
            f"{name} takes input of shape {_text(declared)}; only images [B, H, W, C] can be explained"
        )
    height, width, channels = declared
    if image_size is None:
        if height is None or width is None:
            raise ExportError(
                f"{name} takes images of any size {_text(declared)}; an export is for one size",
                hint="pass --image-size H W: the size that the model was trained with",
            )
        return height, width, channels or 3
    if min(image_size) < 1:
        raise ExportError(f"--image-size {image_size[0]} {image_size[1]}: both must be at least 1")
    if height not in (None, image_size[0]) or width not in (None, image_size[1]):
        raise ExportError(
            f"{name} takes images of shape {_text(declared)}, not of "
            f"--image-size {image_size[0]} {image_size[1]}",
            hint="leave --image-size out",
        )
    return *image_size, channels or 3


def shape_of_spec(name: str, spec: tf.TensorSpec, image_size: tuple[int, int] | None) -> tuple[int, int, int]:
    """(H, W, C) of a traced function's one input.

    Raises:
        ExportError: as `fixed_shape` and `check_float`, and where the batch is fixed.
    """
    check_float(name, spec.dtype)
    if spec.shape.rank and spec.shape[0] is not None:
        raise ExportError(
            f"{name} is traced for a batch of {spec.shape[0]}; it must take batches of any size",
            hint="give None as the first size in its input_signature",
        )
    return fixed_shape(name, None if spec.shape.rank is None else spec.shape[1:].as_list(), image_size)


def check_float(name: str, dtype: tf.DType) -> None:
    """Refuse an input that has no gradient.

    Raises:
        ExportError: the input's dtype is not a floating one.
    """
    if not dtype.is_floating:
        raise ExportError(
            f"{name} takes {dtype.name} input, which has no gradient",
            hint="build the model on a float32 input and export with --preprocessing pixels: "
            "clients send uint8 all the same, and the cast is made in front of the model",
        )


def _text(shape: Sequence[int | None]) -> str:
    return "[B, " + ", ".join("any" if size is None else str(size) for size in shape) + "]"
