"""Image models of full size with random weights, the same in every process."""

from __future__ import annotations

import keras
from keras import layers


class Tokens(layers.Layer):
    """Patches [B, N, D] behind a class token, plus an embedding of their positions: [B, N + 1, D]."""

    def build(self, shape: tuple) -> None:
        _, number, width = shape
        self.token = self.add_weight(shape=(1, 1, width), initializer="random_normal", name="token")
        self.positions = self.add_weight(
            shape=(1, number + 1, width), initializer="random_normal", name="positions"
        )

    def call(self, patches: keras.KerasTensor) -> keras.KerasTensor:
        size = keras.ops.shape(patches)[0]
        token = keras.ops.broadcast_to(self.token, (size, 1, patches.shape[-1]))
        return keras.ops.concatenate([token, patches], axis=1) + self.positions


def vision_transformer() -> keras.Model:
    """ViT-B/16 for 224 × 224 (Dosovitskiy et al. 2020, arXiv 2010.11929, table 1): 86 million weights."""
    keras.utils.set_random_seed(0)
    width, depth, heads, mlp = 768, 12, 12, 3072
    images = keras.Input((224, 224, 3))
    x = layers.Reshape((196, width))(layers.Conv2D(width, 16, 16)(images))
    x = Tokens()(x)
    for _ in range(depth):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = x + layers.MultiHeadAttention(heads, width // heads)(y, y)
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = x + layers.Dense(width)(layers.Dense(mlp, activation="gelu")(y))
    x = layers.LayerNormalization(epsilon=1e-6)(x)[:, 0]
    return keras.Model(images, layers.Softmax()(layers.Dense(1000)(x)))


def convnext() -> keras.Model:
    """ConvNeXt-T of keras.applications for 224 × 224, whose residual branches count."""
    keras.utils.set_random_seed(0)
    model = keras.applications.ConvNeXtTiny(weights=None, classifier_activation=None)
    for layer in model.layers:
        if hasattr(layer, "gamma") and "layer_scale" in layer.name:
            # 1e-6 before training: what the branches do would be invisible.
            layer.set_weights([0.5 + 0 * layer.get_weights()[0]])
    return model


def hub_vision_transformer() -> keras.Model:
    """ViT-B/16 for 224 × 224 as keras-hub has it."""
    from keras_hub.models import ViTBackbone, ViTImageClassifier

    keras.utils.set_random_seed(0)
    backbone = ViTBackbone(
        image_shape=(224, 224, 3),
        patch_size=(16, 16),
        num_layers=12,
        num_heads=12,
        hidden_dim=768,
        mlp_dim=3072,
    )
    return ViTImageClassifier(backbone=backbone, num_classes=1000)
