"""What a model returns: one tensor of class scores, chosen by name where there are several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from saliency_exporter.errors import ExportError, brief


def probe(name: str, forward: Callable[[tf.Tensor], Any], input_shape: tuple[int, ...]) -> Any:
    """Runs a model once on an example of zeros, so that it makes its variables and shows its output.

    Raises:
        ExportError: the model fails on one example of its input shape.
    """
    shape = [1, *input_shape]
    try:
        return forward(tf.zeros(shape))
    except Exception as error:
        raise ExportError(
            f"{name} failed on one example of shape {shape}: {brief(error)}",
            hint="is the size right? See --image-size and --input-shape",
        ) from error


def named_outputs(outputs: Any, names: Sequence[str] | None = None) -> dict[str, Any]:
    """The tensors of a model's output, in any nest, by name.

    Args:
        outputs: what the model returned.
        names: the outputs' own names in their flat order, where the model has such; else the keys of a
            mapping, and the positions of the rest.
    """
    if isinstance(outputs, Mapping):
        return {str(key): outputs[key] for key in outputs}
    leaves = tf.nest.flatten(outputs)
    return dict(zip(names or map(str, range(len(leaves))), leaves, strict=True))


def choose_scores(name: str, outputs: Mapping[str, Any], wanted: str | None) -> str:
    """The name of the output that holds one score for each class.

    Args:
        name: the model, for messages.
        outputs: tensors, or their symbolic stand-ins, by name.
        wanted: the user's choice.

    Raises:
        ExportError: there is no such output, none that is float [B, classes], or several and no choice.
    """
    if wanted is not None and wanted not in outputs:
        raise ExportError(f"{name} has no output {wanted!r}", hint=f"it has {', '.join(outputs) or 'none'}")
    asked = [wanted] if wanted is not None else list(outputs)
    fitting = [key for key in asked if _holds_scores(outputs[key])]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ExportError(
            f"{name} has several outputs: {', '.join(fitting)}", hint="choose one with --output NAME"
        )
    each = [f"{key}, {_described(outputs[key])}" for key in asked]
    described = _described(outputs[asked[0]]) if len(outputs) == 1 else "; ".join(each) or "nothing"
    raise ExportError(
        f"{name} returns {described}; a classifier returns float [B, classes]",
        hint="export the model with its classification head",
    )


def _holds_scores(output: Any) -> bool:
    if not hasattr(output, "shape") or not hasattr(output, "dtype"):
        return False
    return tf.as_dtype(output.dtype).is_floating and len(output.shape) == 2


def _described(output: Any) -> str:
    if not hasattr(output, "shape") or not hasattr(output, "dtype"):
        return f"a {type(output).__name__}"
    return f"{tf.as_dtype(output.dtype).name} of shape {list(output.shape)}"
