"""The models of the GPU bundle: two of full size, and a small one with every op of the coverage table."""

from __future__ import annotations

import keras

ACTIVATIONS = (
    *("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "silu", "gelu", "softplus", "mish"),
    *("hard_silu", "hard_sigmoid", "sigmoid", "tanh"),
)


def every_op() -> keras.Model:
    """A classifier of 32 × 32 × 3 and 10 classes, with each activation and kind of layer once.

    Activations are those of exporter/COVERAGE.md and others that are recognized; layers those of the families
    there: inverted residuals with a gate (EfficientNet, MobileNetV3), a block of ConvNeXt, a dense block, a
    separable convolution (Xception, NASNet), poolings, and a residual block (ResNet).
    """
    keras.utils.set_random_seed(7)
    layers = keras.layers
    inputs = keras.Input((32, 32, 3))
    x = layers.ZeroPadding2D(1)(inputs)
    x = layers.Conv2D(8, 3, strides=2, use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU(6.0)(x)

    def inverted_residual(x: keras.KerasTensor, activation: str, gate: str) -> keras.KerasTensor:
        y = layers.Conv2D(16, 1, activation=activation)(x)
        y = layers.DepthwiseConv2D(3, padding="same", activation=activation)(y)
        squeezed = layers.GlobalAveragePooling2D(keepdims=True)(y)
        squeezed = layers.Conv2D(4, 1, activation="relu")(squeezed)
        y = layers.Multiply()([y, layers.Conv2D(16, 1, activation=gate)(squeezed)])
        return layers.Add()([x, layers.Conv2D(x.shape[-1], 1)(y)])

    x = inverted_residual(x, "silu", "sigmoid")
    x = inverted_residual(x, "hard_silu", "hard_sigmoid")
    for activation in ACTIVATIONS:
        # A dense block: each adds two channels.
        y = layers.Conv2D(2, 3, padding="same", activation=activation)(x)
        x = layers.Concatenate()([x, y])
    x = layers.PReLU(shared_axes=[1, 2], alpha_initializer=keras.initializers.Constant(0.2))(x)
    x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    x = layers.SeparableConv2D(24, 3, padding="same", activation="relu")(x)
    y = layers.DepthwiseConv2D(5, padding="same")(x)
    y = layers.LayerNormalization(epsilon=1e-6)(y)
    y = layers.Dense(48, activation="gelu")(y)
    x = layers.Add()([x, layers.Dense(24)(y)])
    x = layers.AveragePooling2D(2)(x)
    y = layers.Conv2D(24, 3, padding="same", groups=2)(x)
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Conv2D(32, 3, padding="same", activation="relu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Dense(10, activation="softmax")(x)
    model = keras.Model(inputs, outputs, name="every_op")
    for weight in model.weights:
        if "kernel" in weight.path:
            # Else the signal is so small behind so many layers that no activation is far from linear.
            weight.assign(weight * 1.6)
    return model
