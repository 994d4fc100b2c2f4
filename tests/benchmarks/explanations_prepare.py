"""Writes one model as the peers load it, and the images as they take them: model.keras and inputs.npy."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from explanations_server import BATCHES, random_images

from saliency_exporter.runtime.quiet import import_tensorflow

import_tensorflow()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

from saliency_exporter.sources.keras_application import FAMILIES, family  # noqa: E402
from saliency_exporter.sources.preprocessing import builtin  # noqa: E402
from saliency_exporter.sources.zoo import efficientnet_lite0  # noqa: E402


def main(name: str, directory: Path) -> None:
    if name == efficientnet_lite0.NAME:
        whole = efficientnet_lite0.build()
        efficientnet_lite0.load_weights(whole, efficientnet_lite0._weights_file())
        model = keras.Model(whole.inputs, whole.get_layer("fc").output)
        preprocessing, chosen = efficientnet_lite0.load().preprocessing, "auto"
    else:
        keras.utils.set_random_seed(0)
        model = getattr(keras.applications, name)(weights=None, classifier_activation=None)
        chosen = FAMILIES[family(name)]
        preprocessing = builtin(chosen)
    model.save(directory / "model.keras")
    shape = tuple(model.input_shape[1:])
    images = random_images(shape, max(BATCHES))
    inputs = preprocessing.function(tf.cast(images, tf.float32)).numpy()
    (directory / "inputs.npy").unlink(missing_ok=True)
    with (directory / "inputs.npy").open("wb") as file:
        import numpy as np

        np.save(file, inputs)
    print(json.dumps({"shape": shape, "preprocessing": chosen}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
