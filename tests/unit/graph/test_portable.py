"""Ops that one set of TensorFlow's CPU kernels lacks, written in ops that both have."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from callables import source_of
from covering import covering
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.graph.portable import portable_rules
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace

RULES = portable_rules(tf.version.GRAPH_DEF_VERSION)
SIZES = ((7, 6), (2, 3))


def node(op: str, **attributes: object) -> NodeDef:
    made = NodeDef(name="op", op=op, input=["x", "kernel"])
    for name, value in attributes.items():
        if isinstance(value, list):
            made.attr[name].list.i.extend(value)
        else:
            made.attr[name].s = str(value).encode()
    made.attr["T"].type = tf.float32.as_datatype_enum
    return made


def both(op: Callable[[tf.Tensor], tf.Tensor], x: np.ndarray, compiled: bool) -> list[np.ndarray]:
    """The value, and the gradient of the sum of value · cos(value's index)."""

    @tf.function(autograph=False, jit_compile=compiled)
    def run(x: tf.Tensor) -> list[tf.Tensor]:
        y = op(x)
        signal = tf.reshape(tf.cos(tf.range(tf.size(y), dtype=y.dtype)), tf.shape(y))
        return [y, tf.gradients(y, x, signal)[0]]

    with tf.device("/CPU:0"):
        return [value.numpy() for value in run(tf.constant(x))]


CONVOLUTIONS = [
    (2, (1, 1), (1, 1)),
    (4, (2, 3), (1, 1)),
    (2, (1, 1), (2, 3)),
    (1, (1, 1), (3, 1)),
    (2, (2, 2), (2, 1)),
]
"""Groups, strides and dilations."""


@pytest.mark.parametrize(("convolved", "taps", "size"), covering(CONVOLUTIONS, [(3, 3), (4, 1)], SIZES))
def test_value_and_input_gradient_are_those_of_the_convolution(convolved, taps, size):
    (groups, strides, dilations), (height, width) = convolved, size
    rng = np.random.default_rng(0)
    for padding in ("SAME", "EXPLICIT", "VALID"):
        if padding == "VALID" and any(
            (t - 1) * d >= n for t, d, n in zip(taps, dilations, (height, width), strict=True)
        ):
            continue
        options = {
            "strides": [1, *strides, 1],
            "dilations": [1, *dilations, 1],
            "padding": padding,
            # More than a window, so that some outputs see zeros alone.
            "explicit_paddings": [0, 0, 5, 7, 9, 4, 0, 0] if padding == "EXPLICIT" else [],
        }
        kernel = tf.Variable(rng.normal(size=(*taps, 4 // groups, 8)).astype("f"))
        x = rng.normal(size=(2, height, width, 4)).astype("f")

        def replaced(x: tf.Tensor, kernel: tf.Variable = kernel, options: dict = options) -> tf.Tensor:
            (y,) = RULES["Conv2D"](node("Conv2D", **options), [x, kernel.read_value()])
            return y

        def plain(x: tf.Tensor, kernel: tf.Variable = kernel, options: dict = options) -> tf.Tensor:
            return tf.raw_ops.Conv2D(input=x, filter=kernel.read_value(), **options)

        for got, expected in zip(both(replaced, x, False), both(plain, x, True), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_what_both_sets_of_kernels_take_has_no_rule():
    with tf.Graph().as_default():
        x = tf.compat.v1.placeholder(tf.float32, (None, 8, 8, 4))
        volume = tf.compat.v1.placeholder(tf.float32, (None, 8, 8, 8, 4))
        plain = {"strides": [1] * 4, "padding": "SAME", "data_format": "NHWC"}
        assert RULES["Conv2D"](node("Conv2D", **plain), [x, tf.ones((3, 3, 4, 2))]) is None
        assert (
            RULES["DepthwiseConv2dNative"](node("DepthwiseConv2dNative", **plain), [x, tf.ones((3, 3, 4, 2))])
            is None
        )
        assert RULES["MaxPool"](node("MaxPool", ksize=[1, 2, 2, 1], **plain), [x]) is None
        assert (
            RULES["Conv3D"](
                node("Conv3D", strides=[1] * 5, padding="SAME", data_format="NDHWC"),
                [volume, tf.ones((3, 3, 3, 4, 2))],
            )
            is None
        )


def test_a_replay_has_a_gradient_of_its_own_unless_it_is_compiled():
    kernel = tf.Variable(np.ones((3, 3, 2, 8), "f"))
    network = lambda x: tf.reduce_sum(tf.nn.conv2d(x, kernel, 1, "SAME"), [1, 2])  # noqa: E731
    forward = Forward(trace(source_of(network, (9, 8, 4)), score="output"))
    for compiled, kinds in itertools.product([True, False], [{"Conv2DBackpropInput"}]):
        with tf.Graph().as_default() as graph:
            x = tf.compat.v1.placeholder(tf.float32, (None, 9, 8, 4))
            forward.variables = {name: _Fed(value) for name, value in forward.graph.weights.items()}
            tf.gradients(forward.scores(x, compiled=compiled), x)
            ops = {operation.type for operation in graph.get_operations()}
        assert (kinds <= ops) is compiled


class _Fed:
    """A weight that is read as a constant."""

    def __init__(self, value: np.ndarray) -> None:
        self.value = value

    def read_value(self) -> tf.Tensor:
        return tf.constant(self.value)


ONE_COLUMN = [
    # Size, taps, strides and padding.
    ((6, 4), (2, 3), (1, 2), "VALID"),
    ((5, 5), (3, 2), (1, 4), "VALID"),
    ((9, 1), (4, 4), (1, 2), "SAME"),
    ((7, 3), (2, 2), (1, 3), "SAME"),
    ((7, 2), (1, 4), (1, 3), "EXPLICIT"),
]


@pytest.mark.parametrize(("size", "taps", "strides", "padding"), ONE_COLUMN)
@pytest.mark.parametrize("op", ["Conv2D", "Conv3D"])
def test_a_convolution_of_one_channel_to_one_column_reads_the_picture_alone(op, size, taps, strides, padding):
    """oneDNN's kernel reads on behind it: what is there is another number every time, 1e20 now and then."""
    if op == "Conv3D" and padding == "EXPLICIT":
        return
    rng = np.random.default_rng(0)
    more = () if op == "Conv2D" else (2,)
    kernel = tf.constant(rng.normal(size=(*more, *taps, 1, 6)), tf.float32)
    options = {"strides": [1, *((1,) if more else ()), *strides, 1], "padding": padding}
    if padding == "EXPLICIT":
        options["explicit_paddings"] = [0, 0, 2, 1, 1, 1, 0, 0]
    x = rng.normal(size=(2, *((3,) if more else ()), *size, 1)).astype("f")
    replaced_is_compiled(op, x, kernel, options)


@pytest.mark.parametrize(
    ("size", "taps", "strides"),
    [((3, 7, 6), (1, 1, 1), (1, 3, 3)), ((4, 9, 3), (2, 1, 2), (1, 3, 1)), ((5, 8, 8), (1, 4, 2), (4, 3, 4))],
)
def test_a_volume_whose_last_places_no_window_reads_is_read_from_its_first(size, taps, strides):
    rng = np.random.default_rng(1)
    kernel = tf.constant(rng.normal(size=(*taps, 3, 4)), tf.float32)
    x = rng.normal(size=(2, *size, 3)).astype("f")
    replaced_is_compiled("Conv3D", x, kernel, {"strides": [1, *strides, 1], "padding": "SAME"})


def replaced_is_compiled(op: str, x: np.ndarray, kernel: tf.Tensor, options: dict) -> None:
    """Holds the rule's value and gradient, as kernels compute them, to the op's own compiled by XLA."""

    def replaced(x: tf.Tensor) -> tf.Tensor:
        (y,) = RULES[op](node(op, **options), [x, kernel])
        return y

    def plain(x: tf.Tensor) -> tf.Tensor:
        return getattr(tf.raw_ops, op)(input=x, filter=kernel, **options)

    for got, expected in zip(both(replaced, x, False), both(plain, x, True), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
