"""SavedModels of TensorFlow 1 with its old kind of variables, and with tables."""

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


def save_with_table(directory: Path, *, resource: bool = False, mutable: bool = False) -> str:
    """relu6(x) @ kernel; a second signature also looks the classes' names up, but for the first one's."""
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 8, 8, 3], name="image")
        weights = v1.get_variable("dense/weights", initializer=KERNEL, use_resource=resource)
        logits = tf.reshape(tf.nn.relu6(x), [-1, 192]) @ weights
        if mutable:
            table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.string, "?")
        else:
            keys = tf.range(1, 5, dtype=tf.int64)
            table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, list("bcde")), "?")
        names = table.lookup(tf.argmax(logits, 1))
        signature = v1.saved_model.signature_def_utils.predict_signature_def
        signatures = {
            "serving_default": signature({"image": x}, {"scores": logits}),
            "classify": signature({"image": x}, {"scores": logits, "classes": names}),
        }
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        builder = v1.saved_model.builder.SavedModelBuilder(str(directory))
        builder.add_meta_graph_and_variables(session, ["serve"], signatures, main_op=v1.tables_initializer())
        builder.save()
    return str(directory)


def save(directory: Path) -> str:
    """relu6(x) @ kernel with dropout at a fed rate, saved as TensorFlow 1 did."""
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 8, 8, 3], name="image")
        rate = v1.placeholder(tf.float32, [], name="rate")
        weights = v1.get_variable("dense/weights", initializer=KERNEL, use_resource=False)
        v1.get_variable("global_step", initializer=7, trainable=False, use_resource=False)
        flat = tf.nn.dropout(tf.reshape(tf.nn.relu6(x), [-1, 192]), rate=rate)
        logits = flat @ weights
        outputs = {"logits": logits}
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(directory), {"image": x, "rate": rate}, outputs)
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


@pytest.mark.parametrize("resource", [False, True], ids=["VariableV2", "VarHandleOp"])
@pytest.mark.parametrize("signature", ["serving_default", "classify"])
def test_a_table_is_carried_over(images, tmp_path: Path, resource: bool, signature: str) -> None:
    path = save_with_table(tmp_path / "old", resource=resource)
    source = load_source(path, signature=signature, output_name="scores")
    want = np.clip(images, 0, 6).reshape(-1, 192).astype(np.float64) @ KERNEL
    np.testing.assert_allclose(source.call(tf.constant(images)), want, rtol=1e-4, atol=1e-5)
    (variable,) = source.variables
    np.testing.assert_array_equal(variable, KERNEL)
    assert sorted(source.kept.signatures) == ["classify", "serving_default"]
    # What is saved with the owner is all that a server needs for the kept signatures.
    module = tf.Module()
    module.kept = source.kept.owner
    tf.saved_model.save(module, tmp_path / "new", signatures=dict(source.kept.signatures))
    with tf.Graph().as_default(), v1.Session() as session:
        meta_graph = v1.saved_model.loader.load(session, ["serve"], str(tmp_path / "new"))
        classify = meta_graph.signature_def["classify"]
        names = session.run(
            classify.outputs["classes"].name, {classify.inputs["image"].name: images[:, ::-1]}
        )
    flipped = np.clip(images[:, ::-1], 0, 6).reshape(-1, 192).astype(np.float64) @ KERNEL
    assert names.tolist() == ["?bcde"[index].encode() for index in flipped.argmax(1)]


def test_what_a_server_fills_is_left_out_or_refused(images, tmp_path: Path) -> None:
    path = save_with_table(tmp_path / "old", mutable=True)
    source = load_source(path)
    want = np.clip(images, 0, 6).reshape(-1, 192).astype(np.float64) @ KERNEL
    np.testing.assert_allclose(source.call(tf.constant(images)), want, rtol=1e-4, atol=1e-5)
    assert list(source.kept.signatures) == ["serving_default"]
    (note,) = source.notes
    assert "signature classify of the model was left out: it needs MutableHashTable" in note
    with pytest.raises(ExportError, match=r"signature classify of .* needs MutableHashTable") as error:
        load_source(path, signature="classify", output_name="scores")
    assert "serving_default" in error.value.hint


def test_missing_variables_are_told(tmp_path: Path) -> None:
    path = save(tmp_path / "old")
    for file in (tmp_path / "old" / "variables").iterdir():
        file.unlink()
    with pytest.raises(ExportError, match="cannot be loaded"):
        load_source(path)
