"""Which layer reads which variables of a served graph, and in which order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from saliency_exporter.graph.weight_groups import weight_groups


def groups_of(call: Callable[[tf.Tensor], tf.Tensor]) -> list[tuple[str, tuple[str, ...]]]:
    """The groups of a function of images that makes its variables, as a session holds it."""
    with tf.Graph().as_default() as graph:
        images = tf.compat.v1.placeholder(tf.float32, (None, 4), name="images")
        scores = tf.identity(call(images), name="scores")
        assert scores.name == "scores:0"
        return [tuple(group) for group in weight_groups(graph.as_graph_def(), "images:0", ["scores:0"])]  # type: ignore[misc]


def weight(name: str, *shape: int) -> tf.Variable:
    return tf.Variable(np.ones(shape, np.float32), name=name, use_resource=True)


def test_layers_come_from_the_scores_down_with_their_weights_together() -> None:
    def call(x: tf.Tensor) -> tf.Tensor:
        for name in ("first", "second", "third"):
            kernel, bias = weight(f"net/{name}/MatMul", 4, 4), weight(f"net/{name}/BiasAdd/offset", 4)
            x = tf.nn.relu(x @ kernel + bias)
        return x

    assert groups_of(call) == [
        (name, (f"net/{name}/BiasAdd/offset", f"net/{name}/MatMul")) for name in ("third", "second", "first")
    ]


def test_an_expression_of_weights_belongs_to_the_op_that_has_the_image_too() -> None:
    def call(x: tf.Tensor) -> tf.Tensor:
        scale, kernel = weight("below/scale", 4), weight("below/kernel", 4, 4)
        top = weight("top/kernel", 4, 4)
        # The scale is read by an op of its own, and far from the image in the number of ops.
        whole = tf.exp(tf.exp(tf.exp(scale)))[:, tf.newaxis] * kernel
        return (x @ whole) @ top

    assert [(layer, set(names)) for layer, names in groups_of(call)] == [
        ("top", {"top/kernel"}),
        ("below", {"below/kernel", "below/scale"}),
    ]


def test_a_shared_weight_is_where_its_last_reader_is() -> None:
    def call(x: tf.Tensor) -> tf.Tensor:
        shared, middle = weight("shared/kernel", 4, 4), weight("middle/kernel", 4, 4)
        return ((x @ shared) @ middle) @ shared

    assert [layer for layer, _ in groups_of(call)] == ["shared", "middle"]


def test_calls_loops_and_branches_are_walked_through() -> None:
    def call(x: tf.Tensor) -> tf.Tensor:
        names = ("called", "looped", "then", "else", "top")
        kernels = {name: weight(f"{name}/kernel", 4, 4) for name in names}

        @tf.function
        def inner(x: tf.Tensor) -> tf.Tensor:
            return tf.nn.relu(x @ kernels["called"])

        @tf.function
        def outer(x: tf.Tensor) -> tf.Tensor:
            _, x = tf.while_loop(
                lambda turn, x: turn < 3, lambda turn, x: (turn + 1, x @ kernels["looped"]), (0, inner(x))
            )
            return tf.cond(
                tf.reduce_sum(x) > 0, lambda: x @ kernels["then"], lambda: tf.nn.relu(x) @ kernels["else"]
            )

        return outer(x) @ kernels["top"]

    found = [layer for layer, _ in groups_of(call)]
    assert found[0] == "top"
    assert set(found[1:3]) == {"then", "else"}
    assert found[3:] == ["looped", "called"]


def test_a_state_that_begins_without_the_image_reads_the_loops_weights_too() -> None:
    def call(x: tf.Tensor) -> tf.Tensor:
        kernel, recurrent = weight("rnn/kernel", 4, 4), weight("rnn/recurrent", 4, 4)

        @tf.function
        def rnn(x: tf.Tensor) -> tf.Tensor:
            return tf.while_loop(
                lambda turn, state: turn < 3,
                lambda turn, state: (turn + 1, tf.tanh(x @ kernel + state @ recurrent)),
                (0, tf.zeros((1, 4))),
                shape_invariants=(tf.TensorShape(()), tf.TensorShape((None, 4))),
            )[1]

        return rnn(x)

    assert [(layer, set(names)) for layer, names in groups_of(call)] == [
        ("rnn", {"rnn/kernel", "rnn/recurrent"})
    ]


def test_what_the_scores_do_not_depend_on_is_no_group() -> None:
    def call(x: tf.Tensor) -> tf.Tensor:
        weight("unread/kernel", 4, 4)
        _ = x @ weight("beside/kernel", 4, 4)
        return x @ weight("top/kernel", 4, 4)

    assert [layer for layer, _ in groups_of(call)] == ["top"]


def test_layers_of_one_name_are_told_apart_by_what_they_are_in() -> None:
    def call(x: tf.Tensor) -> tf.Tensor:
        for block in ("one", "two"):
            x = tf.nn.relu(x @ weight(f"net/{block}/conv/kernel", 4, 4))
        return x @ weight("net/top/kernel", 4, 4)

    assert [layer for layer, _ in groups_of(call)] == ["top", "two/conv", "one/conv"]
