"""Models whose gradients or inputs TensorFlow treats in its own way, exported and loaded as a server does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from saliency_exporter.contract.settings import Settings
from saliency_exporter.errors import ExportError
from saliency_exporter.methods.registry import find_methods
from saliency_exporter.runtime.servable import load_servable
from saliency_exporter.sources.load import load_source
from saliency_exporter.sources.preprocessing import builtin
from saliency_exporter.version.manifest import read_manifest
from saliency_exporter.version.write import Export, export

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
CLASS = 1


def exported(path: Path, model_dir: Path, **progress) -> Path:
    settings = Settings(batch_sizes=(2,), methods=find_methods(("gradients",)), compile="none", target="cpu")
    job = Export(load_source(str(path)), builtin("pixels"), settings, "model")
    return export(job, model_dir, **progress)


def served_map(version: Path) -> np.ndarray:
    servable = load_servable(version)
    try:
        inputs = {"images": PIXELS, "class_index": np.int32(CLASS)}
        return servable.predict("explain_gradients", inputs)["gradients"]
    finally:
        servable.close()


def tape(call: Callable) -> np.ndarray:
    x = tf.constant(PIXELS, tf.float32)
    with tf.GradientTape() as recorded:
        recorded.watch(x)
        score = call(x)[:, CLASS]
    return recorded.gradient(score, x).numpy()


def network(first: keras.KerasTensor) -> keras.Sequential:
    keras.utils.set_random_seed(2)
    return keras.Sequential(
        [
            first,
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3, activation="swish"),
            layers.Flatten(),
            layers.Dense(8, activation="relu"),
            layers.Dense(3),
            layers.Softmax(),
        ]
    )


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_a_file_that_keras_quantized_is_served_with_its_own_gradient(tmp_path: Path) -> None:
    model = network(keras.Input((8, 8, 3)))
    model.quantize("int8")
    model.save(tmp_path / "int8.keras")
    version = exported(tmp_path / "int8.keras", tmp_path / "served")
    want = tape(keras.Sequential(model.layers[:-1]))
    got = served_map(version)
    assert np.linalg.norm(got - want) < 1e-5 * np.linalg.norm(want)
    agreement = read_manifest(version).gradient_agreement
    assert agreement.examples == 2
    assert agreement.difference < 1e-3


def test_a_saved_model_of_uint8_pixels_is_served_with_the_gradient_behind_its_cast(tmp_path: Path) -> None:
    model = network(keras.Input((8, 8, 3)))

    class Served(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = [variable.value for variable in model.variables]

        @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.uint8, name="pixels")])
        def serve(self, pixels):
            return {"probabilities": model(tf.cast(pixels, tf.float32), training=False)}

    served = Served()
    tf.saved_model.save(served, str(tmp_path / "uint8"), signatures=served.serve)
    version = exported(tmp_path / "uint8", tmp_path / "served")
    want = tape(keras.Sequential(model.layers[:-1]))
    got = served_map(version)
    assert np.linalg.norm(got - want) < 1e-5 * np.linalg.norm(want)
    assert read_manifest(version).gradient_agreement.examples == 2


def test_a_model_without_a_gradient_is_not_exported(tmp_path: Path) -> None:
    inputs = keras.Input((8, 8, 3))
    outputs = layers.Lambda(lambda x: tf.one_hot(tf.argmax(tf.reduce_mean(x, [1, 2]), -1), 3))(inputs)
    model = keras.Model(inputs, outputs)
    served = tf.Module()
    served.serve = tf.function(
        lambda x: {"votes": model(x)}, input_signature=[tf.TensorSpec([None, 8, 8, 3])]
    )
    tf.saved_model.save(served, str(tmp_path / "votes"), signatures=served.serve)
    with pytest.raises(ExportError, match=r"it ends at .*ArgMax"):
        exported(tmp_path / "votes", tmp_path / "served")
    assert not (tmp_path / "served").exists()


def test_maps_that_are_zero_everywhere_are_said(tmp_path: Path) -> None:
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(4), layers.ReLU(), layers.Dense(2)]
    )
    dead = model.layers[1]
    dead.set_weights([0 * dead.get_weights()[0], -np.ones(4, np.float32)])
    model.save(tmp_path / "dead.keras")
    version = exported(tmp_path / "dead.keras", tmp_path / "served")
    assert read_manifest(version).notes == (
        "the map of gradients is zero everywhere in both examples of the reference",
    )


class Counting(tf.Module):
    """Counts its calls in a variable that its scores do not read."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = tf.Variable(np.random.default_rng(4).normal(size=(192, 3)).astype(np.float32))
        self.calls = tf.Variable(0.0)

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], name="x")])
    def serve(self, x):
        self.calls.assign_add(1.0)
        return {"scores": tf.reshape(x, [-1, 192]) @ self.kernel, "calls": self.calls.read_value()}


def test_an_export_leaves_the_state_of_a_model_as_it_was(tmp_path: Path) -> None:
    counting = Counting()
    counting.calls.assign(7.0)
    tf.saved_model.save(counting, str(tmp_path / "counting"), signatures=counting.serve)
    version = exported(tmp_path / "counting", tmp_path / "served")
    servable = load_servable(version)
    try:
        images = PIXELS.astype(np.float32)
        assert servable.predict("serving_default", {"x": images})["calls"] == 8.0  # its own signature counts
        assert servable.predict("serving_default", {"x": images})["calls"] == 9.0
    finally:
        servable.close()
