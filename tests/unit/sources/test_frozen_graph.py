"""Frozen graphs: expected values are those of a session of TensorFlow 1 on the graph itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from built_signatures import Signatures, signatures_of
from covering import covering

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.trace import trace
from saliency_exporter.sources.load import load_source

v1 = tf.compat.v1
_RANDOM = np.random.default_rng(11)
KERNEL = _RANDOM.normal(size=(3, 3, 3, 6)).astype(np.float32)
DENSE = _RANDOM.normal(size=(6, 4)).astype(np.float32)
IMAGES = _RANDOM.uniform(-1, 1, (3, 8, 8, 3)).astype(np.float32)


def hidden(x: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.nn.relu6(tf.nn.conv2d(x, KERNEL, 1, "SAME")), [1, 2], name="hidden")


def plain() -> None:
    x = v1.placeholder(tf.float32, [None, 8, 8, 3], "x")
    tf.nn.softmax(tf.matmul(hidden(x), DENSE, name="logits"), name="y")


def batch_of_one_beside_a_switch() -> None:
    x = v1.placeholder(tf.float32, [1, 8, 8, 3], "x")
    train = v1.placeholder(tf.bool, [], "train")
    flat = tf.reshape(hidden(x), [1, 6])
    kept = v1.cond(train, lambda: flat * 0.5, lambda: flat)
    tf.nn.softmax(tf.matmul(kept, DENSE, name="logits"), name="y")
    tf.identity(flat, name="embedding")


def of_bytes() -> None:
    x = v1.placeholder(tf.uint8, [None, 8, 8, 3], "x")
    logits = tf.matmul(hidden(tf.cast(x, tf.float32, name="pixels") / 127.5 - 1.0), DENSE, name="logits")
    tf.nn.softmax(logits, name="y")


@pytest.fixture
def freeze(tmp_path: Path) -> Callable[[Callable[[], None]], str]:
    def freeze(build: Callable[[], None], name: str = "graph.pb") -> str:
        with tf.Graph().as_default() as graph:
            build()
        path = tmp_path / name
        if path.suffix == ".pb":
            path.write_bytes(graph.as_graph_def().SerializeToString())
        else:
            tf.io.write_graph(graph, str(tmp_path), name)
        return str(path)

    return freeze


def by_session(
    path: str,
    tensor: str,
    images: np.ndarray,
    class_index: int,
    feed: dict | None = None,
    score: str = "logits:0",
) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities, and the gradient of one class's score with respect to a tensor, by tf.gradients."""
    with tf.Graph().as_default() as graph, v1.Session() as session:
        tf.graph_util.import_graph_def(v1.GraphDef.FromString(Path(path).read_bytes()), name="")
        x, logits = graph.get_tensor_by_name(tensor), graph.get_tensor_by_name(score)
        (gradient,) = tf.gradients(logits[:, class_index], [x])
        return session.run([graph.get_tensor_by_name("y:0"), gradient], {x: images, **(feed or {})})


def explained(source, score: str = "auto", **settings) -> Signatures:
    return signatures_of(source.call, source.input_shape, score=score, **settings)


@pytest.mark.parametrize(
    ("names", "name"),
    covering(
        [{}, {"input_name": "x:0", "output_name": "y:0"}, {"input_name": "x"}], ["graph.pb", "graph.pbtxt"]
    ),
)
def test_scores_and_gradients_are_those_of_a_session(freeze, name: str, names: dict) -> None:
    scores, gradients = by_session(freeze(plain), "x:0", IMAGES, 2)
    source = load_source(freeze(plain, name), **names)
    assert source.input_shape == (8, 8, 3)
    assert source.origin == f"frozen graph {name}, input x:0, output y:0"
    np.testing.assert_allclose(source.call(tf.constant(IMAGES)), scores, rtol=1e-5, atol=1e-6)
    got = explained(source)("explain_gradients", IMAGES, class_index=2)
    np.testing.assert_allclose(got["gradients"], gradients, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got["probability"], scores[:, 2], rtol=1e-5)


def test_a_batch_of_one_and_a_held_switch(freeze) -> None:
    path = freeze(batch_of_one_beside_a_switch)
    feed = {"train:0": False}
    alone = [by_session(path, "x:0", image[None], 1, feed, score="y:0") for image in IMAGES]
    held = {"train": np.array(False)}
    source = load_source(path, output_name="y", held=held)
    signatures = explained(source, "output", methods=("gradients",))
    got = signatures("explain_gradients", IMAGES, class_index=1)
    np.testing.assert_allclose(got["gradients"], np.concatenate([a[1] for a in alone]), rtol=1e-4, atol=1e-6)


def test_bytes_are_explained_behind_their_cast(freeze) -> None:
    path = freeze(of_bytes)
    pixels = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 3)).astype(np.float32)
    scores, gradients = by_session(path, "pixels:0", pixels, 3)
    source = load_source(path)
    assert "input pixels:0" in source.origin
    got = explained(source, methods=("gradients",))("explain_gradients", pixels, class_index=3)
    np.testing.assert_allclose(got["gradients"], gradients, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(got["probability"], scores[:, 3], rtol=1e-5)


def test_any_tensor_may_be_the_input(freeze) -> None:
    path = freeze(plain)
    features = np.random.default_rng(2).normal(size=(3, 6)).astype(np.float32)
    scores, gradients = by_session(path, "hidden:0", features, 0)
    source = load_source(path, input_name="hidden")
    assert source.input_shape == (6,)
    np.testing.assert_allclose(source.call(tf.constant(features)), scores, rtol=1e-5)
    got = explained(source, methods=("gradients",))("explain_gradients", features, class_index=0)
    np.testing.assert_allclose(got["gradients"], gradients, rtol=1e-5)


def test_its_constants_become_weights_once(freeze) -> None:
    graph = trace(load_source(freeze(plain)))
    assert sorted(weight.shape for weight in graph.weights.values()) == [(3, 3, 3, 6), (6, 4)]
    assert not any(node.op == "Const" and node.ByteSize() > 500 for node in graph.nodes)


@pytest.mark.parametrize(
    ("build", "choices", "message", "hint"),
    [
        (plain, {"input_name": "xx"}, "has no input or tensor 'xx'", "x:0"),
        (plain, {"output_name": "z"}, "has no tensor 'z'", r"y:0, float32 \[B, 4\]"),
        (
            batch_of_one_beside_a_switch,
            {},
            r"2 last tensors: y:0, float32 \[1, 4\]; embedding:0, float32 \[1, 6\]",
            "--output NAME",
        ),
        (
            batch_of_one_beside_a_switch,
            {"output_name": "y"},
            r"needs train:0, bool \[\], which has no value",
            "--hold train:0=VALUE",
        ),
        (plain, {"output_name": "hidden", "input_name": "y"}, "needs x:0, float32", "--hold x:0=VALUE"),
        (plain, {"signature": "serving_default"}, "--signature is for SavedModel", None),
    ],
)
def test_what_is_not_decided_is_told_with_what_there_is(
    freeze, build: Callable, choices: dict, message: str, hint: str | None
) -> None:
    with pytest.raises(ExportError, match=message) as error:
        load_source(freeze(build), **choices)
    assert hint is None or __import__("re").search(hint, error.value.hint)


def test_a_graph_that_is_not_frozen_is_refused(freeze) -> None:
    def with_variable() -> None:
        x = v1.placeholder(tf.float32, [None, 6], "x")
        tf.matmul(x, v1.get_variable("weights", initializer=DENSE, use_resource=False), name="y")

    with pytest.raises(ExportError, match="is not frozen: the value of weights is not in the file") as error:
        load_source(freeze(with_variable), output_name="y")
    assert "SavedModel" in error.value.hint


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, freeze) -> None:
    path = tmp_path / "other.pb"
    path.write_bytes(Path(freeze(plain)).read_bytes()[:-7])
    with pytest.raises(ExportError, match="damaged, cut short, or something else"):
        load_source(str(path))
    path.write_bytes(b"")
    with pytest.raises(ExportError, match="is an empty graph"):
        load_source(str(path))
    module = tf.Module()
    module.f = tf.function(lambda x: x, input_signature=[tf.TensorSpec([None, 3])])
    tf.saved_model.save(module, tmp_path / "net", module.f)
    path.write_bytes((tmp_path / "net" / "saved_model.pb").read_bytes())
    with pytest.raises(ExportError, match="is the graph of a SavedModel, without its directory"):
        load_source(str(path))
