"""From which sizes on a lowering rule is faster than the op that it replaces, for each set of kernels.

What is not compiled runs TensorFlow's own kernels: oneDNN's where the processor has AVX-512 VNNI or better,
Eigen's elsewhere. They differ by more than a rule gains, so each has values of its own. What XLA compiles
runs XLA's kernels on both, and has one set.

Where the values come from: `tests/benchmarks/lowering_layers.py` times each layer of the benchmark's six
models as it is and under each rule, side by side; tests/benchmarks/README.md has the figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from saliency_exporter.runtime.kernels import Kernels

"""Which kernels run what is not compiled."""


@dataclass(frozen=True)
class Minimal:
    """When 3×3 convolutions go by minimal filtering.

    Attributes:
        channels: least C · filters / (C + filters), products saved for each channel that is summed.
        values: least pixels times that.
        most_values: most values of one picture, its channels included; its tiles take four times as many.
    """

    channels: float
    values: float
    most_values: int = 1 << 22


@dataclass(frozen=True)
class Products:
    """When the way back through a 1×1 convolution, and its value, are matrix products.

    Attributes:
        little_arithmetic: most multiplications for one image for which the way back is a product.
        weights_per_pixel: from how many weights for each pixel on it is one however much arithmetic there is.
        value_weights: from how many weights on, where there are `weights_per_pixel` too, the value is one.
    """

    little_arithmetic: float
    weights_per_pixel: float
    value_weights: float


@dataclass(frozen=True)
class Thresholds:
    """What is worth it with one set of kernels.

    Attributes:
        minimal: for 3×3 convolutions.
        products: for 1×1 convolutions.
        strided_channels: most channels of a strided first layer whose way back is one convolution of phases;
            0 for none.
    """

    minimal: Minimal
    products: Products
    strided_channels: int


ONEDNN = Thresholds(
    # VGG16's layers from 128 → 256 channels on gain, those of 128 → 128 do not; so do ResNet50's of 14² ×
    # 256.
    minimal=Minimal(channels=85, values=25_000),
    # Most 1×1 layers of MobileNetV2 have 5 to 15 million multiplications, of ResNet50 51. The kernels of 7²
    # and Xception's of 19² × 728 have more than 1400 weights for a pixel, ResNet50's of 14² without strides
    # fewer. MobileNetV2's kernel from 960 to 320 channels gains, EfficientNet's of 192 × 1152 lose at batch
    # 1.
    products=Products(little_arithmetic=15e6, weights_per_pixel=1400, value_weights=300_000),
    strided_channels=4,
)
"""Measured on two cores of an Intel processor with AVX-512 and AMX, TensorFlow 2.20."""

EIGEN = Thresholds(
    # VGG16's layers of 28² and 14² × 512 gain (0.73 and 1.09 of the time at batch 1, 0.85 and 0.31 at batch
    # 8); those of fewer channels gain at one batch size and lose at the other.
    minimal=Minimal(channels=256, values=50_000),
    # Its input gradient writes every tap of every pixel and adds them up; with one tap that is a product,
    # plus a pass over the memory. The product takes 0.4 to 1.0 of its time at batch 8, 0.8 to 1.05 at batch
    # 1. As a product, the value loses the bias and the activation that a convolution has in it.
    products=Products(little_arithmetic=math.inf, weights_per_pixel=0, value_weights=math.inf),
    # One convolution of phases takes 1.1 to 1.3 of the time.
    strided_channels=0,
)
"""Measured on two cores of an AMD processor (Zen 4), TF_ENABLE_ONEDNN_OPTS=0, TensorFlow 2.20."""

XLA_MINIMAL = Minimal(channels=85, values=40_000)
"""Compiled, XLA's own convolution of 14² × 256 is as fast."""

XLA_FEW_CHANNELS = 4
"""Compiled, the way back to at most as many channels is one product: they do not fill a vector register."""

XLA_DENSE_WEIGHTS_PER_ROW = 2500
"""Compiled, from how many weights for each row of the signal on a dense layer's way back reads the weight in
the order of its memory."""

XLA_CONVOLUTION_WEIGHTS_PER_ROW = 6000
"""The same for a convolution's, where turning the kernel takes longer than the arithmetic."""

XLA_IMAGES_AT_ONCE = 2
"""Compiled, how many images a step of a loop over samples takes where depthwise convolutions are loops.

A batch gives those loops no more arithmetic, and ten images' activations are memory that a server without
a pool (`quiet.pool_cpu_memory`) takes anew at every call: there MobileNetV2's sample takes 0.75 of what it
takes at ten, EfficientNet-Lite0's 0.82, EfficientNetB0's the same; without such loops ResNet50's takes 1.1.
With the pool, steps of 1, 2, 5 and 10 images take the same time."""

UNCOMPILED: dict[Kernels, Thresholds] = {"onednn": ONEDNN, "eigen": EIGEN}
