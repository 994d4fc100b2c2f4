"""Small real models that tests export: `saliency-exporter export models:classifier` from this folder."""

from __future__ import annotations

import keras


def other_classifier() -> keras.Model:
    """The same architecture with other weights: its answers tell it from `classifier`."""
    return classifier(seed=2)


def classifier(seed: int = 1) -> keras.Model:
    """A nested convolutional classifier, 32×32 RGB, 5 classes; fixed weights that saturate rectifiers."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    block = keras.Sequential(
        [
            keras.Input((16, 16, 8)),
            layers.Conv2D(12, 3, strides=2, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(6.0),
        ]
    )
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            layers.DepthwiseConv2D(3, padding="same"),
            block,
            layers.MaxPool2D(2),
            layers.Dropout(0.5),
            layers.Activation("swish"),
            layers.Flatten(),
            layers.Dense(5),
            layers.Softmax(),
        ]
    )
    for weight in model.weights:
        if "kernel" in weight.path:
            weight.assign(weight * 2.5)
    return model


def brightness() -> keras.Model:
    """A classifier of the picture's mean: whatever it learns, its gradient is the same at every pixel."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    images = keras.Input((32, 32, 3))
    mean = layers.Reshape((1,))(keras.ops.mean(images, axis=(1, 2, 3)))
    hidden = layers.Dense(8, name="hidden")(mean)
    return keras.Model(images, layers.Softmax()(layers.Dense(5, name="classes")(hidden)))
