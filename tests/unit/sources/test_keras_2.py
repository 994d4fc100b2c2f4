from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from saliency_exporter.errors import ExportError
from saliency_exporter.sources.load import load_source

tf_keras = pytest.importorskip("tf_keras")


@pytest.fixture
def model():
    layers = tf_keras.layers
    return tf_keras.Sequential(
        [
            layers.Input((8, 8, 3)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Flatten(),
            layers.Dense(5, activation="softmax"),
        ]
    )


@pytest.mark.parametrize("suffix", [".keras", ".h5", ""])
def test_what_keras_2_saved_predicts_what_the_model_did(
    model, images, specification, tmp_path: Path, suffix
) -> None:
    path = tmp_path / f"old{suffix}"
    model.save(path)
    source = load_source(str(path))
    np.testing.assert_allclose(source.call(tf.constant(images)), model.predict_on_batch(images), rtol=1e-5)
    traced = tf.function(source.call, autograph=False).get_concrete_function(specification(source))
    assert traced.structured_outputs.shape.as_list() == [None, 5]
    assert {id(v) for v in traced.variables} <= {id(v) for v in source.variables}


def test_a_model_in_memory_is_taken(module, images) -> None:
    name = module(
        """
        import tf_keras
        def make():
            x = tf_keras.Input((8, 8, 3))
            return tf_keras.Model(x, tf_keras.layers.GlobalMaxPooling2D()(x))
        """
    )
    source = load_source(f"{name}:make")
    np.testing.assert_allclose(source.call(tf.constant(images)), images.max((1, 2)), rtol=1e-6)
    assert source.input_shape == (8, 8, 3)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_python_code_in_the_file_is_loaded_only_when_asked_for(images, tmp_path: Path, suffix) -> None:
    layers = tf_keras.layers
    path = tmp_path / f"old{suffix}"
    tf_keras.Sequential(
        [layers.Input((8, 8, 3)), layers.Lambda(lambda x: x * 3), layers.GlobalMaxPooling2D()]
    ).save(path)
    with pytest.raises(ExportError, match="Python code of its own") as error:
        load_source(str(path))
    assert "--unsafe" in error.value.hint
    source = load_source(str(path), unsafe=True)
    np.testing.assert_allclose(source.call(tf.constant(images)), images.max((1, 2)) * 3, rtol=1e-6)


def test_without_tf_keras_the_file_is_refused_with_the_package_to_install(
    model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.save(tmp_path / "old.keras")
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    with pytest.raises(ExportError, match="written by Keras 2") as error:
        load_source(str(tmp_path / "old.keras"))
    # tf-keras depends on the TensorFlow of its own minor version, and would replace the installed one.
    installed = ".".join(tf.__version__.split(".")[:2])
    assert error.value.hint == f"pip install 'tf-keras=={installed}.*'"
