"""A model that was traced for a batch of one size, as a function of any number of examples.

The size stands in a placeholder, and often in constants too: where a layer asked for the size of the batch
while it was traced, its answer became a number (Reshape to [1, N], an initial state [1, units]).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import tensorflow as tf

# tf.vectorized_map first asks which of its arguments to broadcast; no rule knows what that selection is for.
from tensorflow.python.ops.parallel_for.control_flow_ops import pfor

from saliency_exporter.errors import ExportError, brief
from saliency_exporter.runtime.inlined import Inlined, full_name, in_a_graph, inlined, node_of, read_only, run

Call = Callable[[tf.Tensor], tf.Tensor]

_ROW_BY_ROW: dict[str, Call] = {
    "Identity": tf.identity,
    "LogSoftmax": tf.nn.log_softmax,
    "Sigmoid": tf.sigmoid,
    "Softmax": tf.nn.softmax,
}

_TOLERANCE = 1e-3
"""Bound of max|difference| / max|scores| between examples in one batch and alone: another order of sums."""


def fixed_batch(spec: tf.TensorSpec) -> int | None:
    """The size of the batch that an input has; None where it is open."""
    return spec.shape[0] if spec.shape.rank else None


def for_any_batch(name: str, call: Call, batch: int | None, input_shape: tuple[int, ...]) -> Call:
    """A model's forward pass on [B, *input_shape], from one on [batch, *input_shape].

    Of four ways the first is taken whose scores for several examples are those of each example alone: the
    model itself, which may take more than it declares; its graph with the size left open; its graph
    vectorized over examples, as tf.vectorized_map does; a loop over the examples (`tf.map_fn`). An example
    alone is a batch of its copies.

    Args:
        name: the model, for messages.
        call: float32 [batch, *input_shape] to scores [batch, classes].
        batch: the size of the batch that it takes; None where it takes any, and stays as it is.
        input_shape: shape of one example.

    Raises:
        ExportError: it cannot be traced, or none of the four gives its scores.
    """
    if batch is None:
        return call
    spec = tf.TensorSpec([batch, *input_shape], tf.float32)
    try:
        function = read_only(tf.function(call, autograph=False).get_concrete_function(spec))
    except Exception as error:
        raise ExportError(
            f"{name} cannot be traced into a TensorFlow graph: {brief(error)}",
            hint="it must be made of TensorFlow operations",
        ) from error
    returned = function.outputs[0].shape.as_list()
    if returned[0] not in (None, batch):
        raise ExportError(
            f"{name} takes {[batch, *input_shape]} and returns {returned}: its first axis is no batch",
            hint="export a function that takes a batch, as module:callable: tf.map_fn of the model",
        )
    graph = inlined(function)
    classes, dtype = function.outputs[0].shape[-1], function.outputs[0].dtype
    before_head, head = _head(graph)

    def batched(x: tf.Tensor) -> tf.Tensor:
        return run(graph, {graph.inputs[0]: x}, graph.outputs[:1])[0]

    def alone(example: tf.Tensor) -> tf.Tensor:
        copies = example[tf.newaxis] if batch == 1 else tf.broadcast_to(example, [batch, *input_shape])
        (before,) = run(graph, {graph.inputs[0]: copies}, [before_head])
        return tf.reshape(before[:1], [classes])

    def headed(scores: tf.Tensor) -> tf.Tensor:
        for op in head:
            scores = op(scores)
        return scores

    def first(example: np.ndarray) -> np.ndarray:
        return tf.nest.flatten(function(tf.repeat(example[tf.newaxis], batch, axis=0)))[0][0].numpy()

    ways: list[Call] = [
        call,
        batched,
        lambda x: headed(_vectorized(alone, x)),
        lambda x: headed(tf.map_fn(alone, x, fn_output_signature=tf.TensorSpec([classes], dtype))),
    ]
    examples = _examples(max(3, batch + 1), input_shape)
    wanted = np.stack([first(example) for example in examples])
    if not np.array_equal(wanted, np.stack([first(example) for example in examples])):
        return in_a_graph(batched)  # Random, which is refused by name where it is traced.
    failure = "its scores depend on the other examples of a batch"
    for way in ways:
        try:
            with _without_messages():
                of_any = _traced(way, input_shape, classes)
                got = of_any(tf.constant(examples)).numpy()
        except Exception as error:
            failure = brief(error)
            continue
        if _equal(got, wanted):
            return of_any
    raise ExportError(
        f"{name} takes a batch of {batch}, and could not be made to take any other: {failure}",
        hint="save the model with an open batch size, None, or export a function that builds it so, as "
        "module:callable",
    )


def _head(graph: Inlined) -> tuple[str, list[Call]]:
    """The tensor in front of the last ops that take each row by itself, and these ops, in order.

    They stay behind the loop over examples: what is inside it is not seen to be the head.
    """
    nodes = {node.name: node for node in graph.graph_def.node}
    name, ops = full_name(graph.outputs[0]), list[Call]()
    while (node := nodes[node_of(name)]).op in _ROW_BY_ROW:
        name = full_name(node.input[0])
        ops.insert(0, _ROW_BY_ROW[node.op])
    return name, ops


@contextmanager
def _without_messages() -> Iterator[None]:
    """Keeps TensorFlow from telling that one way is none, where another one may be."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("CRITICAL")
    try:
        yield
    finally:
        logger.setLevel(level)


def _traced(call: Call, input_shape: tuple[int, ...], classes: int) -> Call:
    """A way as one function that leaves variables alone, to scores [B, classes]."""
    spec = tf.TensorSpec([None, *input_shape], tf.float32)
    function = tf.function(call, autograph=False).get_concrete_function(spec)
    if (kept := read_only(function)) is function:
        return in_a_graph(lambda x: tf.ensure_shape(call(x), [None, classes]))
    return lambda x: tf.ensure_shape(tf.nest.flatten(kept(x))[0], [None, classes])


def _vectorized(alone: Call, x: tf.Tensor) -> tf.Tensor:
    """What a function of one example gives for each of x, [B, …], without a loop."""

    def each(examples: tf.Tensor) -> tf.Tensor:
        return pfor(lambda index: alone(tf.gather(examples, index)), tf.shape(examples)[0])

    graph = inlined(tf.function(each, autograph=False).get_concrete_function(tf.TensorSpec(x.shape, x.dtype)))
    (examples,) = graph.inputs
    # All gathered in their order, the examples are what they were: XLA would gather and scatter them.
    ops = {node.name: node.op for node in graph.graph_def.node}
    gathered = [
        f"{node.name}:0"
        for node in graph.graph_def.node
        if node.op == "GatherV2"
        and full_name(node.input[0]) == examples
        and ops[node_of(node.input[1])] == "Range"
    ]
    (scores,) = run(graph, dict.fromkeys([examples, *gathered], x), graph.outputs)
    return scores


def _examples(count: int, shape: tuple[int, ...]) -> np.ndarray:
    """Examples in −1..1, and one in three in 0..255: which of them a model is made for is not known."""
    examples = np.random.default_rng(20260103).uniform(-1, 1, (count, *shape)).astype(np.float32)
    examples[::3] = (examples[::3] + 1) * 127.5
    return examples


def _equal(got: np.ndarray, want: np.ndarray) -> bool:
    if got.shape != want.shape:
        return False
    finite = np.isfinite(want)
    if not np.array_equal(got[~finite], want[~finite], equal_nan=True):
        return False
    got, want = (np.where(finite, values, 0).astype(np.float64) for values in (got, want))
    scale = np.abs(want).max(axis=1, keepdims=True)
    return bool(np.all(np.abs(got - want) <= _TOLERANCE * scale))
