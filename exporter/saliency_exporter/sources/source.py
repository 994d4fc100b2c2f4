"""What every source of a model gives to the rest of the exporter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from saliency_exporter.preprocessing import Preprocessing


@dataclass(frozen=True)
class Source:
    """A classifier's forward pass, in inference mode, and what is known about it.

    It keeps the model alive: ``call`` and ``variables`` hold strong references.

    Attributes:
        name: a short name for messages and for the manifest.
        origin: where the model came from, one line for the manifest.
        call: float32 model input [B, H, W, C] to the model's output; can be traced.
        input_shape: (H, W, C), all known.
        input_dtype: the dtype that the model itself declares; ``call`` casts to it.
        variables: every raw variable of the model.
        preprocessing: what the model is known to need, or None.
        labels: names of the classes in order, where the source knows them.
        serving_default: the signature that a SavedModel already had under this name, to be kept as it is;
            None for every other source.
    """

    name: str
    origin: str
    call: Callable[[tf.Tensor], tf.Tensor]
    input_shape: tuple[int, ...]
    input_dtype: tf.DType
    variables: tuple[tf.Variable, ...]
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] | None = None
    serving_default: tf.types.experimental.ConcreteFunction | None = None
