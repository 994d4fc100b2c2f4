"""Whether a model answers for each example by itself, whatever else is in its batch.

A server pads and cuts batches, so an answer that depends on its neighbors is another one for every request.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.differentiable import named, path_of
from saliency_exporter.graph.forward_graph import ForwardGraph
from saliency_exporter.graph.parts import specs_of, values_of
from saliency_exporter.graph.replay import Forward
from saliency_exporter.version.tolerances import Tolerances

_HINT = (
    "an export answers for each example alone: save the model with training=False if this is a normalization "
    "as in training, or leave the first axis out of what is averaged; tf.map_fn(lambda image: "
    "model(image[tf.newaxis])[0], images), exported as module:callable, is the model's answer for one image"
)


def hold_examples_apart(
    name: str, forward: Forward, x: tf.Tensor, bounds: Tolerances, *, gradients: bool = True
) -> None:
    """Holds the scores and the gradient of each example in a batch against those that it has alone.

    Args:
        name: the model, for messages.
        forward: its forward pass as it was traced.
        x: model input, float32 [B, …].
        bounds: of scores, and of the gradient of the example that agrees best and of any.
        gradients: whether to look at gradients, and not at scores alone.

    Raises:
        ExportError: an example's scores or gradient depend on the others.
    """

    # One trace for both sizes of a batch.
    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, *x.shape[1:]], x.dtype)])
    def answer(x: tf.Tensor) -> list[tf.Tensor]:
        scores = forward.scores(x)
        if not gradients:
            return [scores]
        (found,) = tf.gradients(tf.reduce_max(scores, -1), x)
        return [scores] if found is None else [scores, tf.convert_to_tensor(found)]

    together = [value.numpy() for value in answer(x)]
    alone = [
        np.concatenate(values)
        for values in zip(
            *([value.numpy() for value in answer(one)] for one in tf.split(x, len(x))), strict=True
        )
    ]
    apart = float(np.abs(together[0] - alone[0]).max())
    if not apart <= bounds.score * max(1.0, float(np.abs(alone[0]).max())):
        mixing = _first_mixing(forward.graph, x.numpy(), bounds)
        raise ExportError(
            f"the scores of {name} for an example depend on the other examples of its batch: they differ by "
            f"{apart:.2g} from those that it has alone" + (f", first at {named([mixing])}" if mixing else ""),
            hint=_HINT,
        )
    if len(together) < 2:
        return
    differences = [
        float(np.linalg.norm(a - b) / max(np.linalg.norm(b), np.finfo(np.float32).tiny))
        for a, b in zip(together[1], alone[1], strict=True)
        if np.any(a) or np.any(b)
    ]
    if differences and not (min(differences) <= bounds.gradient and max(differences) <= bounds.outlier):
        raise ExportError(
            f"the gradient of {name} for an example depends on the other examples of its batch, though its "
            f"scores do not: it differs by {max(differences):.2g} of its norm from the one that it has alone",
            hint="a gradient of your own (tf.custom_gradient) has to treat each example by itself: no norm "
            "or mean of it may go over the first axis; --methods occlusion,rise need no gradient",
        )


def _first_mixing(graph: ForwardGraph, x: np.ndarray, bounds: Tolerances) -> NodeDef | None:
    """The first op whose values for an example are others where more are in the batch; None if unknown."""
    nodes = path_of(graph)
    tensors = [f"{node.name}:0" for node in nodes]
    try:
        specs = specs_of(graph, tensors, len(x))
        floats = [name for name in tensors if specs[name].dtype.is_floating]
        together, first, last = (
            values_of(graph, floats, {f"{graph.input}:0": given}, len(given)) for given in (x, x[:1], x[-1:])
        )
    # Whatever the reason is, the op is not known then.
    except Exception:
        return None
    of_tensor = dict(zip(tensors, nodes, strict=True))
    for name, *values in zip(floats, together, first, last, strict=True):
        # A number of the whole batch has no axis.
        both, a, b = map(np.atleast_1d, values)
        if _differ(both, a, slice(len(a)), bounds) or _differ(both, b, slice(-len(b), None), bounds):
            return of_tensor[name]
    return None


def _differ(together: np.ndarray, alone: np.ndarray, rows: slice, bounds: Tolerances) -> bool:
    """Whether an example has other values: some rows of those of all, or all where they have no batch."""
    if together.shape != alone.shape and together.shape[1:] == alone.shape[1:]:
        together = together[rows]
    if together.shape != alone.shape:
        return False
    scale = max(float(np.abs(alone).max(initial=0.0)), float(np.finfo(np.float32).tiny))
    return not float(np.abs(together - alone).max(initial=0.0)) <= bounds.score * scale
