"""SavedModels of TensorFlow 1 with its old kind of variables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.trace import trace
from saliency_exporter.sources.load import load_source

v1 = tf.compat.v1
KERNEL = np.random.default_rng(1).normal(size=(192, 5)).astype(np.float32)


def save(directory: Path, *, table: bool = False) -> str:
    """relu6(x) @ kernel with dropout at a fed rate, saved as TensorFlow 1 did."""
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 8, 8, 3], name="image")
        rate = v1.placeholder(tf.float32, [], name="rate")
        weights = v1.get_variable("dense/weights", initializer=KERNEL, use_resource=False)
        v1.get_variable("global_step", initializer=7, trainable=False, use_resource=False)
        flat = tf.nn.dropout(tf.reshape(tf.nn.relu6(x), [-1, 192]), rate=rate)
        logits = flat @ weights
        outputs = {"logits": logits}
        if table:
            names = tf.lookup.KeyValueTensorInitializer(tf.range(5, dtype=tf.int64), list("abcde"))
            outputs["name"] = tf.lookup.StaticHashTable(names, "?").lookup(tf.argmax(logits, 1))
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        v1.saved_model.simple_save(
            session, str(directory), {"image": x, "rate": rate}, outputs, v1.tables_initializer()
        )
    return str(directory)


def test_its_variables_become_weights_that_all_signatures_share(images, tmp_path: Path) -> None:
    source = load_source(save(tmp_path / "old"), held={"rate": np.array(0.0, np.float32)})
    want = np.clip(images, 0, 6).reshape(-1, 192).astype(np.float64) @ KERNEL
    np.testing.assert_allclose(source.call(tf.constant(images)), want, rtol=1e-4, atol=1e-5)
    (variable,) = source.variables
    np.testing.assert_array_equal(variable, KERNEL)
    kept = source.kept.signatures["serving_default"]
    got = kept(image=tf.constant(images), rate=tf.constant(0.0))["logits"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert [id(v) for v in kept.variables] == [id(variable)]
    graph = trace(source)
    (name,) = [name for name, weight in graph.weights.items() if weight.shape == KERNEL.shape]
    assert graph.variables[name] is variable


def test_a_table_beside_them_cannot_be_carried_over(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="needs HashTable") as error:
        load_source(save(tmp_path / "old", table=True), held={"rate": np.array(0.0)}, output_name="logits")
    assert "module:callable" in error.value.hint


def test_missing_variables_are_told(tmp_path: Path) -> None:
    path = save(tmp_path / "old")
    for file in (tmp_path / "old" / "variables").iterdir():
        file.unlink()
    with pytest.raises(ExportError, match="cannot be loaded"):
        load_source(path)
