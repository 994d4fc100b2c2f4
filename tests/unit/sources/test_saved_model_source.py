from __future__ import annotations

import gc
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from saliency_exporter.errors import ExportError
from saliency_exporter.sources.load import load_source

v1 = tf.compat.v1


class Net(tf.Module):
    """A linear model with several signatures; the kernel is drawn by NumPy."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = tf.Variable(np.random.default_rng(1).normal(size=(192, 5)).astype(np.float32))

    def logits(self, x: tf.Tensor) -> tf.Tensor:
        return tf.reshape(x, [-1, 192]) @ self.kernel

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], name="photo")])
    def one(self, x):
        return {"scores": self.logits(x)}

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], name="photo")])
    def two(self, x):
        return {"a": self.logits(x), "b": tf.nn.softmax(self.logits(x)), "maps": x}

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], name="photo")])
    def any_size(self, x):
        return {"scores": tf.reduce_max(x, [1, 2]) * self.kernel[0, 0]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="encoded")])
    def strings(self, x):
        return {"scores": tf.zeros([tf.size(x), 5])}

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3]), tf.TensorSpec([None, 8, 8, 3])])
    def pair(self, left, right):
        return {"scores": self.logits(left + right)}

    @tf.function(input_signature=[tf.TensorSpec([1, 8, 8, 3], name="photo")])
    def single(self, x):
        return {"scores": self.logits(x)}


@pytest.fixture
def save(tmp_path: Path):
    def save(**signatures: str) -> str:
        """Save a Net with signatures by the names of its methods."""
        net = Net()
        tf.saved_model.save(
            net, tmp_path / "net", {key: getattr(net, name) for key, name in signatures.items()}
        )
        return str(tmp_path / "net")

    return save


def expected(images: np.ndarray) -> np.ndarray:
    return images.reshape(-1, 192).astype(np.float64) @ Net().kernel.numpy()


def test_a_signature_is_the_forward_pass(save, images, specification) -> None:
    source = load_source(save(serving_default="one"))
    gc.collect()
    np.testing.assert_allclose(source.call(tf.constant(images)), expected(images), rtol=1e-4, atol=1e-5)
    assert (source.name, source.input_shape) == ("net", (8, 8, 3))
    assert source.origin == "SavedModel net, signature serving_default, output scores"
    traced = tf.function(source.call, autograph=False).get_concrete_function(specification(source))
    assert traced.structured_outputs.shape.as_list() == [None, 5]
    assert [variable.shape.as_list() for variable in source.variables] == [[192, 5]]
    assert source.preprocessing is None


def test_its_own_signatures_are_kept_and_not_those_that_an_export_makes(save, images) -> None:
    source = load_source(save(serving_default="one", other="two", explain_gradients="one"))
    assert sorted(source.kept.signatures) == ["other", "serving_default"]
    assert list(source.kept.signatures["serving_default"](photo=tf.constant(images))) == ["scores"]


def test_what_keras_exports_predicts_what_the_model_did(small_model, images, tmp_path: Path) -> None:
    small_model.export(tmp_path / "net", verbose=False)
    source = load_source(str(tmp_path / "net"))
    np.testing.assert_allclose(
        source.call(tf.constant(images)), small_model.predict_on_batch(images), rtol=1e-5, atol=1e-7
    )
    assert len(source.variables) == 8


@pytest.mark.parametrize("known", [True, False], ids=["classes known", "classes unknown"])
def test_a_saved_model_of_tensorflow_1_is_loaded(images, specification, tmp_path: Path, known: bool) -> None:
    kernel = Net().kernel.numpy()
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 8, 8, 3], name="image")
        weights = v1.get_variable("weights", initializer=kernel, validate_shape=known)
        y = tf.nn.softmax(tf.reshape(tf.nn.relu6(x), [-1, 192]) @ weights)
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(tmp_path / "old"), {"image": x}, {"probabilities": y})
    source = load_source(str(tmp_path / "old"))
    logits = expected(np.clip(images, 0, 6))
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(source.call(tf.constant(images)), softmax, rtol=1e-4, atol=1e-6)
    traced = tf.function(source.call, autograph=False).get_concrete_function(specification(source))
    assert traced.structured_outputs.shape.as_list() == [None, 5]
    assert len(source.variables) == 1


def test_one_of_several_outputs_is_chosen_by_name(save, images) -> None:
    path = save(serving_default="two")
    with pytest.raises(ExportError, match=r"has several outputs: a, b$") as error:
        load_source(path)
    assert "--output NAME: a, float32 [B, 5]; b, float32 [B, 5]" in error.value.hint
    source = load_source(path, output_name="b")
    np.testing.assert_allclose(tf.reduce_sum(source.call(tf.constant(images)), 1), [1, 1], rtol=1e-6)
    with pytest.raises(ExportError, match="has no output 'c'") as error:
        load_source(path, output_name="c")
    assert error.value.hint == "it has a, float32 [B, 5]; b, float32 [B, 5]; maps, float32 [B, 8, 8, 3]"
    with pytest.raises(ExportError, match=r"returns maps, float32 \[B, 8, 8, 3\]; class scores are"):
        load_source(path, output_name="maps")


def test_inputs_and_outputs_are_named_in_the_order_of_the_alphabet(tmp_path) -> None:
    # Eight of each: by chance a map has them in this order once in forty thousand times.
    names = list("fbhagced")

    @tf.function(input_signature=[tf.TensorSpec([None, 5], name=name) for name in names])
    def eight(*tensors):
        return dict.fromkeys(names, tf.add_n(tensors))

    tf.saved_model.save(tf.Module(), tmp_path / "net", eight)
    with pytest.raises(ExportError, match=r"has 8 inputs \(a, b, c, d, e, f, g, h\);"):
        load_source(str(tmp_path / "net"))
    held = {name: np.array(0, np.float32) for name in names if name != "c"}
    with pytest.raises(ExportError, match=r"has several outputs: a, b, c, d, e, f, g, h$"):
        load_source(str(tmp_path / "net"), held=held)
    with pytest.raises(ExportError) as error:
        load_source(str(tmp_path / "net"), held=held, output_name="i")
    assert error.value.hint == "it has " + "; ".join(f"{name}, float32 [B, 5]" for name in sorted(names))


def test_one_of_several_signatures_is_chosen_by_name(save) -> None:
    path = save(first="one", second="any_size")
    with pytest.raises(ExportError, match="has several signatures: first, second") as error:
        load_source(path)
    assert "--signature" in error.value.hint
    assert load_source(path, signature="first").input_shape == (8, 8, 3)
    with pytest.raises(ExportError, match="any size"):
        load_source(path, signature="second")
    assert load_source(path, signature="second", image_size=(4, 6)).input_shape == (4, 6, 3)
    with pytest.raises(ExportError, match="has no signature 'third'"):
        load_source(path, signature="third")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("strings", "takes strings, which have no gradient"),
        ("pair", r"has 2 inputs \(left, right\)"),
    ],
)
def test_a_signature_of_another_form_is_refused(save, name: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        load_source(save(serving_default=name))


def test_a_saved_model_without_signatures_is_refused(tmp_path: Path) -> None:
    root = tf.Module()
    root.variable = tf.Variable(1.0)
    tf.saved_model.save(root, tmp_path / "net")
    with pytest.raises(ExportError, match="has no signature to export"):
        load_source(str(tmp_path / "net"))


@pytest.mark.parametrize("file", ["saved_model.pb", "variables/variables.index"])
def test_a_damaged_saved_model_is_refused(save, file: str) -> None:
    path = save(serving_default="one")
    target = Path(path, file)
    target.write_bytes(target.read_bytes()[: target.stat().st_size // 2])
    with pytest.raises(ExportError, match="cannot be loaded"):
        load_source(path)


def test_a_model_base_path_is_told_from_a_version(save, tmp_path: Path) -> None:
    version = tmp_path / "base" / "1"
    version.parent.mkdir()
    Path(save(serving_default="one")).rename(version)
    with pytest.raises(ExportError, match="is a model base path") as error:
        load_source(str(version.parent))
    assert str(version) in error.value.hint


def test_the_options_of_saved_models_are_refused_for_other_models() -> None:
    with pytest.raises(ExportError, match="--signature is for SavedModel directories"):
        load_source("efficientnet-lite0", signature="serving_default")


def test_keras_and_saved_model_agree_after_export(images, tmp_path: Path) -> None:
    x = keras.Input((8, 8, 3))
    nested = keras.Sequential([keras.layers.Conv2D(4, 3, activation="relu6"), keras.layers.Dropout(0.5)])
    model = keras.Model(x, keras.layers.Dense(5)(keras.layers.Flatten()(nested(x))))
    model.save(tmp_path / "net.keras")
    model.export(tmp_path / "net", verbose=False)
    loaded = [load_source(str(tmp_path / name)) for name in ("net.keras", "net")]
    np.testing.assert_allclose(*[source.call(tf.constant(images)) for source in loaded], rtol=1e-5, atol=1e-6)
