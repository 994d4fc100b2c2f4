"""A SavedModel with its channels first, exported with them last, beside its own signature as it was."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from saliency_exporter.contract.settings import Settings
from saliency_exporter.methods.registry import find_methods
from saliency_exporter.runtime.servable import load_servable
from saliency_exporter.sources.load import load_source
from saliency_exporter.sources.preprocessing import builtin
from saliency_exporter.version.manifest import write_manifest
from saliency_exporter.version.reference import reference_path
from saliency_exporter.version.verify import verify
from saliency_exporter.version.write import Export, write_version


def test_an_export_takes_channels_last_and_the_models_own_signature_stays(tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    layers = keras.layers
    net = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            layers.Conv2D(6, 3, activation="relu"),
            layers.GlobalMaxPooling2D(),
            layers.Dense(4),
        ]
    )

    class Turned(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.held = [variable.value for variable in net.variables]

        @tf.function(input_signature=[tf.TensorSpec([None, 3, None, None], name="input")])
        def serve(self, input: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"output": net(tf.transpose(input, [0, 2, 3, 1]))}

    module = Turned()
    tf.saved_model.save(module, str(tmp_path / "turned"), signatures=module.serve)

    source = load_source(str(tmp_path / "turned"), image_size=(10, 14), channels="first")
    settings = Settings(methods=find_methods(["gradients"]), batch_sizes=(2,), compile="none")
    version_dir = tmp_path / "1"
    manifest = write_version(Export(source, builtin("none"), settings, "turned"), version_dir)
    write_manifest(version_dir, manifest)
    assert manifest.input.shape == (None, 10, 14, 3)
    assert manifest.source.endswith(", channels first")
    assert verify(version_dir).problems == ()
    with np.load(reference_path(version_dir)) as arrays:
        assert arrays["kept/serving_default/input/input"].shape == (2, 3, 10, 14)

    x = np.random.default_rng(2).normal(size=(2, 10, 14, 3)).astype(np.float32)
    images = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(images)
        score = net(images)[:, 3]
    expected = tape.gradient(score, images).numpy()
    servable = load_servable(version_dir)
    answer = servable.predict("explain_gradients", {"images": x, "class_index": np.full(2, 3, np.int32)})
    own = servable.predict("serving_default", {"input": x.transpose(0, 3, 1, 2)})
    servable.close()
    np.testing.assert_allclose(answer["gradients"], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(answer["saliency"], np.abs(expected).max(-1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(own["output"][:, 3], score, rtol=1e-4, atol=1e-6)
