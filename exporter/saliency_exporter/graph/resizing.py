"""Rules that resize images for XLA, which computes some sizes wrongly and has no bicubic resizing.

XLA's ResizeBilinear reads beside the pixel where a position falls exactly onto one and the step between
positions is no exact float: of an enlargement by 3, 5 or 7, a few rows and columns are those of their
neighbors (TensorFlow 2.20). Both kinds are linear, and along one axis after the other, so each is a product
with one matrix an axis: what TensorFlow's own kernel makes of the unit vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.graph.forward_graph import Rule
from saliency_exporter.graph.nodes import attribute


def resizing_rules(producer: int) -> dict[str, Rule]:
    """Rules by op type, for what XLA compiles.

    Args:
        producer: the GraphDef version that the nodes were written with.
    """

    def resized(node: NodeDef, inputs: Sequence[tf.Tensor]) -> Sequence[tf.Tensor] | None:
        images, size = inputs
        new, (height, width, channels) = tf.get_static_value(size), images.shape[1:]
        if new is None or None in (height, width, channels):
            return None
        pairs = (height, int(new[0])), (width, int(new[1]))
        if node.op == "ResizeBilinear" and not any(_falls_onto_pixels(node, *pair) for pair in pairs):
            return None
        rows, columns = (_matrix(node, *pair, producer) for pair in pairs)
        flat = tf.reshape(tf.cast(images, tf.float32), [-1, height, width * channels])
        tall = tf.reshape(tf.einsum("oh,bhk->bok", rows, flat), [-1, new[0], width, channels])
        return [tf.einsum("pw,bowc->bopc", columns, tall)]

    return {"ResizeBicubic": resized, "ResizeBilinear": resized}


def _falls_onto_pixels(node: NodeDef, size: int, new: int) -> bool:
    """Whether a position is exactly one of a pixel, and the step between positions is no exact float."""
    corners, centers = (attribute(node, name).b for name in ("align_corners", "half_pixel_centers"))
    step = Fraction(size - 1, new - 1) if corners and new > 1 else Fraction(size, new)
    if step.denominator & (step.denominator - 1) == 0:
        return False
    first = step / 2 - Fraction(1, 2) if centers else Fraction(0)
    # Position 0 of the first is exact: no rounding is in it.
    return any((first + step * o).denominator == 1 for o in range(0 if centers else 1, new))


def _matrix(node: NodeDef, size: int, new: int, producer: int) -> np.ndarray:
    """What the op makes of the unit vectors along an axis, float32 [new, size]."""
    copy = NodeDef(name="resized", op=node.op, input=["images", "size"], attr=node.attr)
    copy.attr["T"].type = tf.float32.as_datatype_enum
    graph_def = GraphDef(node=[copy])
    graph_def.versions.producer = producer
    with tf.Graph().as_default(), tf.device("/CPU:0"):
        # The vectors are the channels of one picture, one pixel wide.
        given = {
            "images": tf.constant(np.eye(size, dtype=np.float32)[None, :, None]),
            "size": tf.constant([new, 1]),
        }
        (made,) = tf.graph_util.import_graph_def(graph_def, given, ["resized:0"], name="")
        with tf.compat.v1.Session() as session:
            matrix: np.ndarray = session.run(made)
    return matrix.reshape(new, size)
