"""What a model returns: one tensor of class scores, or it is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from saliency_exporter.errors import ExportError, brief


def probe(name: str, forward: Callable[[tf.Tensor], Any], input_shape: tuple[int, ...]) -> Any:
    """Run a model once on a black image, so that it makes its variables and shows its output.

    Raises:
        ExportError: the model fails on one image of its input shape.
    """
    shape = [1, *input_shape]
    try:
        return forward(tf.zeros(shape))
    except Exception as error:
        raise ExportError(
            f"{name} failed on one image of shape {shape}: {brief(error)}",
            hint="is the image size right? See --image-size",
        ) from error


def check_output(name: str, outputs: Any) -> None:
    """Refuse what is not one float tensor [B, classes].

    Args:
        name: the model, for messages.
        outputs: what the model returned: tensors or their symbolic stand-ins, in any nest.

    Raises:
        ExportError: several outputs (named), something else than a tensor, or another shape or dtype.
    """
    if isinstance(outputs, Mapping) and len(outputs) > 1:
        raise _several(name, list(map(str, outputs)))
    leaves = tf.nest.flatten(outputs)
    if len(leaves) > 1:
        raise _several(name, [f"{getattr(leaf, 'name', None) or index}" for index, leaf in enumerate(leaves)])
    (output,) = leaves or (None,)
    if not hasattr(output, "shape") or not hasattr(output, "dtype"):
        raise ExportError(f"{name} returned a {type(output).__name__}, not a tensor")
    dtype = tf.as_dtype(output.dtype)
    if not dtype.is_floating or len(output.shape) != 2:
        raise ExportError(
            f"{name} returns {dtype.name} of shape {list(output.shape)}; a classifier returns float "
            "[B, classes]",
            hint="export the model with its classification head",
        )


def _several(name: str, outputs: list[str]) -> ExportError:
    return ExportError(
        f"{name} has {len(outputs)} outputs ({', '.join(outputs)}); only models with one are supported",
        hint="export a model made of the output to explain: keras.Model(model.inputs, model.outputs[i])",
    )
