"""Rules for ops that one of TensorFlow's two sets of CPU kernels lacks, for what is not compiled.

Where the processor has AVX-512 VNNI, or an operator says so, TensorFlow runs oneDNN's kernels, elsewhere
Eigen's; an export does not know which it will meet. What one of them has no kernel for, or a wrong one,
becomes an equal function of ops that both have. An op that both take is left as it is: these rules cost
nothing there. What is lacking, in TensorFlow 2.18 to 2.21:

| op | Eigen's kernels | oneDNN's kernels |
|---|---|---|
| gradient of Conv2D with groups or dilation | none | float32, bfloat16, float16 |
| DepthwiseConv2dNative with dilation | none | its gradient is wrong |
| Conv3D with dilation | none | as Conv2D |
| Conv3D with groups | none | none |
| channels first: convolutions, pooling | none | float32, bfloat16, float16 |
| channels first: DepthToSpace, SpaceToDepth | none | none |
| Conv2D, Conv3D: one channel, one column, strides 1 and more | right | reads beyond the picture |
| Conv3D with SAME, two places or more left unread | right | begins there |

The last two were found in TensorFlow 2.20.
Values and gradients stay equal to rounding. What the remapper makes of several ops is `fusions`' part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.graph.forward_graph import Rule
from saliency_exporter.graph.nodes import attribute, is_weight
from saliency_exporter.graph.phases import kernel_of_phases, put_together, signal_padding
from saliency_exporter.graph.windows import Axis, axes

_SPATIAL = {"Conv2D": 2, "DepthwiseConv2dNative": 2, "Conv3D": 3}


def portable_rules(producer: int) -> dict[str, Rule]:
    """Rules by op type, to be asked after all others.

    Args:
        producer: the GraphDef version that the nodes were written with.
    """

    def channels_last(node: NodeDef, inputs: Sequence[tf.Tensor]) -> Sequence[tf.Tensor] | None:
        return _channels_last(node, inputs, producer)

    return dict.fromkeys((*_SPATIAL, *_OTHER_IMAGES), channels_last)


_IMAGES = {
    "Conv2D": (0,),
    "DepthwiseConv2dNative": (0,),
    "Conv3D": (0,),
}
_OTHER_IMAGES = {
    "AvgPool": (0,),
    "AvgPool3D": (0,),
    "Conv2DBackpropInput": (2,),
    "Conv3DBackpropInputV2": (2,),
    "DepthToSpace": (0,),
    "MaxPool": (0,),
    "MaxPool3D": (0,),
    "SpaceToDepth": (0,),
}
"""Ops with a data format, and which of their inputs are images; those of a transposed convolution have its
input's size, [N, C, H, W], as their first."""

_PER_AXIS = ("strides", "ksize", "dilations")
_CHANNELS_FIRST = {b"NCHW": b"NHWC", b"NCDHW": b"NDHWC"}


def _channels_last(node: NodeDef, inputs: Sequence[tf.Tensor], producer: int) -> Sequence[tf.Tensor] | None:
    """The op on images with the channels last, between transpositions where it has them first."""
    wanted = _CHANNELS_FIRST.get(attribute(node, "data_format").s)
    if wanted is None:
        return _convolution(node, inputs)
    rank = len(wanted)
    back = [0, rank - 1, *range(1, rank - 1)]
    forth = [0, *range(2, rank), 1]
    copy = NodeDef()
    copy.CopyFrom(node)
    copy.attr["data_format"].s = wanted
    for name in _PER_AXIS:
        values = list(attribute(node, name).list.i)
        if values:
            copy.attr[name].list.i[:] = [values[axis] for axis in forth]
    paddings = list(attribute(node, "explicit_paddings").list.i)
    if paddings:
        copy.attr["explicit_paddings"].list.i[:] = [
            paddings[2 * axis + side] for axis in forth for side in (0, 1)
        ]
    images = {**_IMAGES, **_OTHER_IMAGES}[node.op]
    moved = [tf.transpose(x, forth) if i in images else x for i, x in enumerate(inputs)]
    if node.op.startswith(("Conv2DBackprop", "Conv3DBackprop")):
        moved[0] = tf.gather(moved[0], forth)
    outputs = _convolution(copy, moved)
    if outputs is None:
        outputs = imported(copy, moved, producer)
    return [tf.transpose(y, back) for y in outputs]


def imported(node: NodeDef, inputs: Sequence[tf.Tensor], producer: int) -> list[tf.Tensor]:
    """The node's outputs on other inputs."""
    copy = NodeDef()
    copy.CopyFrom(node)
    names = [f"input_{index}" for index in range(len(inputs))]
    del copy.input[:]
    copy.input.extend(names)
    graph_def = GraphDef(node=[copy])
    graph_def.versions.producer = producer
    given = {f"{name}:0": tensor for name, tensor in zip(names, inputs, strict=True)}
    (operation,) = tf.graph_util.import_graph_def(
        graph_def, input_map=given, return_elements=[copy.name], name="portable"
    )
    return list(operation.outputs)


def _convolution(node: NodeDef, inputs: Sequence[tf.Tensor]) -> Sequence[tf.Tensor] | None:
    """A convolution with groups or dilation, channels last; None where both sets of kernels take it."""
    if node.op not in _SPATIAL:
        return None
    x, kernel = inputs
    spatial = _SPATIAL[node.op]
    dilations = list(attribute(node, "dilations").list.i)[1 : 1 + spatial]
    dilated = any(dilation > 1 for dilation in dilations)
    channels, of_group = x.shape[-1], kernel.shape[spatial]
    if channels is None or of_group is None or not kernel.shape[:spatial].is_fully_defined():
        return None
    grouped = node.op != "DepthwiseConv2dNative" and channels != of_group
    known = x.shape[1:].is_fully_defined()
    if known and not grouped and (cut := _cut_to_windows(node, x, kernel)) is not None:
        node, x = cut
        return _convolution(node, [x, kernel]) or [_as_it_is(node, x, kernel)]
    if not grouped and not dilated:
        return None
    if node.op == "Conv2D" and known and kernel.shape.is_fully_defined() and is_weight(kernel):
        return [_with_own_gradient(node, x, kernel)]
    convolve = _undilated if dilated and known else _as_it_is
    if not grouped:
        return [convolve(node, x, kernel)]
    groups = channels // of_group
    parts = zip(tf.split(x, groups, axis=-1), tf.split(kernel, groups, axis=-1), strict=True)
    return [tf.concat([convolve(node, *part) for part in parts], axis=-1)]


def _cut_to_windows(node: NodeDef, x: tf.Tensor, kernel: tf.Tensor) -> tuple[NodeDef, tf.Tensor] | None:
    """The convolution without padding, and the places of the picture that its windows read, padded.

    None where oneDNN's kernels are right about the picture as it is.
    """
    spatial = _SPATIAL[node.op]
    windows = _windows(node, x.shape[1 : 1 + spatial], kernel.shape[:spatial])
    rows, columns = windows[-2:]
    lone = kernel.shape[spatial] == columns.outputs == rows.stride == 1 < columns.stride
    lone = lone and node.op != "DepthwiseConv2dNative"
    same = attribute(node, "padding").s == b"SAME"
    if not lone and not (node.op == "Conv3D" and same and any(window.after < -1 for window in windows)):
        return None
    plain = NodeDef()
    plain.CopyFrom(node)
    plain.attr["padding"].s = b"VALID"
    if "explicit_paddings" in plain.attr:
        del plain.attr["explicit_paddings"]
    if lone:  # of one column, where the next would begin is the same
        plain.attr["strides"].list.i[spatial] = 1
    kept = (slice(None), *(slice(0, window.size + min(window.after, 0)) for window in windows))
    paddings = [[0, 0], *([window.before, max(window.after, 0)] for window in windows), [0, 0]]
    # PadV2: the remapper makes one op of Pad and a Conv3D, which is wrong (`fusions`).
    zero = tf.zeros([], x.dtype)
    return plain, tf.raw_ops.PadV2(input=x[kept], paddings=paddings, constant_values=zero)


def _with_own_gradient(node: NodeDef, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Conv2D as it is; its gradient is a convolution of the signal, which every set of kernels has.

    Without strides it is one with the kernel turned, its channels exchanged, and the same dilation; with
    strides that of `_phases`.
    """
    height, width, channels = x.shape[1:]
    *taps, of_group, _ = kernel.shape
    groups = channels // of_group
    rows, columns = axes(node, height, width, (taps[0], taps[1]))
    turns = rows.stride == columns.stride == 1

    @tf.custom_gradient
    def convolve(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gradient(dy: tf.Tensor) -> tf.Tensor:
            around = [_turned_padding(a) if turns else signal_padding(a) for a in (rows, columns)]
            signal = _cropped(dy, around)
            sent = tf.raw_ops.Conv2D(
                input=signal,
                filter=_turned(kernel, groups) if turns else kernel_of_phases(kernel, rows, columns, groups),
                strides=[1] * 4,
                padding="EXPLICIT",
                explicit_paddings=[0, 0, *(max(pad, 0) for pair in around for pad in pair), 0, 0],
                dilations=[1, rows.dilation, columns.dilation, 1] if turns else [1] * 4,
            )
            return sent if turns else put_together(sent, rows, columns, groups)

        return _as_it_is(node, x, kernel), gradient

    return convolve(x)


def _turned(kernel: tf.Tensor, groups: int) -> tf.Tensor:
    """[taps, taps, C, groups · F] turned by 180°, in and out exchanged: [taps, taps, F, groups · C]."""
    *taps, channels, filters = kernel.shape
    # Both axes of taps as one: reversing the order of whole blocks is nearly a copy.
    apart = tf.reshape(kernel, [-1, channels, groups, filters // groups])
    exchanged = tf.transpose(tf.reverse(apart, [0]), [0, 3, 2, 1])
    return tf.reshape(exchanged, [*taps, filters // groups, groups * channels])


def _turned_padding(axis: Axis) -> tuple[int, int]:
    reach = (axis.taps - 1) * axis.dilation
    return reach - axis.before, reach - axis.after


def _cropped(dy: tf.Tensor, around: Sequence[tuple[int, int]]) -> tf.Tensor:
    """The signal [B, rows, columns, filters] without what a negative padding takes away."""
    cuts = [
        slice(max(-before, 0), size - max(-after, 0))
        for size, (before, after) in zip(dy.shape[1:3], around, strict=True)
    ]
    return dy[:, cuts[0], cuts[1]] if min(map(min, around)) < 0 else dy


def _undilated(node: NodeDef, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """A dilated convolution as one without dilation of every phase of the picture.

    Each phase (the inputs equal modulo the dilation) is a picture of its own in a larger batch, as Chen et
    al., DeepLab, arXiv 1606.00915, section 3.1, describe it.
    """
    spatial = _SPATIAL[node.op]
    strides = list(attribute(node, "strides").list.i)[1 : 1 + spatial]
    dilations = list(attribute(node, "dilations").list.i)[1 : 1 + spatial]
    sizes = x.shape[1 : 1 + spatial]
    windows = _windows(node, sizes, kernel.shape[:spatial])
    # Without strides first: what the strides skip is left out at the end.
    ends = [(w.outputs - 1) * w.stride + 1 for w in windows]
    crops = [-end % dilation for end, dilation in zip(ends, dilations, strict=True)]
    paddings = []
    for window, end, crop in zip(windows, ends, crops, strict=True):
        needed = end - 1 + (window.taps - 1) * window.dilation + 1
        paddings.append([window.before, needed - window.size - window.before, crop])
    cut = [
        slice(None),
        *(slice(0, size + min(after, 0)) for size, (_, after, _) in zip(sizes, paddings, strict=True)),
    ]
    batched = tf.space_to_batch(
        x[tuple(cut)], dilations, [[before, max(after, 0) + crop] for before, after, crop in paddings]
    )
    plain = NodeDef()
    plain.CopyFrom(node)
    plain.attr["padding"].s = b"VALID"
    for name in ("explicit_paddings", "dilations", "strides"):
        if name in plain.attr:
            del plain.attr[name]
    plain.attr["strides"].list.i.extend([1] * (spatial + 2))
    plain.attr["dilations"].list.i.extend([1] * (spatial + 2))
    y = tf.batch_to_space(_as_it_is(plain, batched, kernel), dilations, [[0, crop] for crop in crops])
    kept = (slice(None), *(slice(None, None, stride) for stride in strides))
    return y[kept]


def _windows(node: NodeDef, sizes: Sequence[int], taps: Sequence[int]) -> list[Axis]:
    """The windows along every spatial axis; `axes` knows two at a time."""
    if len(sizes) == 2:
        return list(axes(node, sizes[0], sizes[1], (taps[0], taps[1])))
    result = []
    for axis in range(len(sizes)):
        flat = NodeDef(op="Conv2D")
        flat.attr["padding"].s = node.attr["padding"].s
        for name in ("strides", "dilations"):
            values = list(attribute(node, name).list.i) or [1] * (len(sizes) + 2)
            flat.attr[name].list.i.extend([1, values[1 + axis], 1, 1])
        result.append(axes(flat, sizes[axis], 1, (taps[axis], 1))[0])
    return result


def _as_it_is(node: NodeDef, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    options = {
        "strides": list(attribute(node, "strides").list.i),
        "padding": attribute(node, "padding").s,
        "dilations": list(attribute(node, "dilations").list.i) or [1] * (x.shape.rank),
    }
    if node.op != "Conv3D":
        options["explicit_paddings"] = list(attribute(node, "explicit_paddings").list.i)
    operation = {
        "Conv2D": tf.raw_ops.Conv2D,
        "Conv3D": tf.raw_ops.Conv3D,
        "DepthwiseConv2dNative": tf.raw_ops.DepthwiseConv2dNative,
    }[node.op]
    return operation(input=x, filter=kernel, **options)
