from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from rounding import assert_equal_to_rounding

from saliency_exporter.errors import ExportError
from saliency_exporter.sources.load import load_source


def test_random_weights_come_with_the_familys_preprocessing_and_no_labels(specification) -> None:
    source = load_source("MobileNet", weights="none", image_size=(64, 32))
    assert source.input_shape == (64, 32, 3)
    assert source.preprocessing.name == "tf"
    assert source.labels is None
    assert source.origin.endswith("weights none")
    traced = tf.function(source.call, autograph=False).get_concrete_function(specification(source))
    assert traced.structured_outputs.shape.as_list() == [None, 1000]
    assert sum(int(np.prod(v.shape)) for v in source.variables if v.trainable) == 4_231_976  # Keras's summary


def test_weights_are_read_from_a_file(tmp_path) -> None:
    images = np.random.default_rng(0).uniform(-1, 1, (1, 32, 32, 3)).astype(np.float32)
    model = keras.applications.MobileNet(weights=None, input_shape=(32, 32, 3))
    model.save_weights(tmp_path / "mine.weights.h5")
    source = load_source("MobileNet", weights=str(tmp_path / "mine.weights.h5"), image_size=(32, 32))
    assert_equal_to_rounding(source.call(tf.constant(images)), model(images, training=False))
    assert source.origin.endswith("weights mine.weights.h5")


def test_weights_of_another_architecture_are_refused(tmp_path) -> None:
    path = tmp_path / "narrow.weights.h5"
    keras.applications.MobileNet(weights=None, input_shape=(32, 32, 3), alpha=0.25).save_weights(path)
    with pytest.raises(
        ExportError, match=r"narrow.weights.h5 does not fit MobileNet with 1000 classes"
    ) as error:
        load_source("MobileNet", weights=str(path), image_size=(32, 32))
    assert "save_weights" in error.value.hint


def test_a_damaged_weights_file_is_refused(tmp_path) -> None:
    path = tmp_path / "damaged.weights.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n and no more")
    with pytest.raises(ExportError, match="does not fit MobileNet"):
        load_source("MobileNet", weights=str(path), image_size=(32, 32))


def test_a_missing_weights_file_is_refused() -> None:
    with pytest.raises(ExportError, match="no weights file imagnet") as error:
        load_source("MobileNet", weights="imagnet")
    assert "imagenet, none or a file" in error.value.hint


def test_an_image_size_below_the_architectures_least_is_refused() -> None:
    with pytest.raises(ExportError, match="at least 32x32"):
        load_source("MobileNet", weights="none", image_size=(16, 16))


def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A cache without the file, and a proxy that nothing listens on: a machine without internet.
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(ExportError, match="ImageNet weights of MobileNet could not be downloaded") as error:
        load_source("MobileNet")
    assert "--weights" in error.value.hint


def test_imagenet_weights_are_for_the_size_they_were_trained_with() -> None:
    with pytest.raises(ExportError, match=r"cannot be built for --image-size \(100, 120\)"):
        load_source("MobileNet", image_size=(100, 120))
