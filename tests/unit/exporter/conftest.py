from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from callables import source_of

from saliency_exporter.forward import Forward
from saliency_exporter.preprocessing import builtin
from saliency_exporter.signatures import Settings, build_signatures
from saliency_exporter.tracing import trace


class Signatures:
    """The signatures of a callable, called with NumPy arrays."""

    def __init__(self, call: Callable, input_shape: tuple[int, ...], score: str, **settings: Any) -> None:
        graph = trace(source_of(call, input_shape), score=score)
        settings = {"compile": "none", "batch_sizes": (1, 4), "target": "cpu", **settings}
        self.functions = build_signatures(Forward(graph), builtin("none"), Settings(**settings), "model")

    def __call__(self, signature: str, images: Any, **parameters: Any) -> Mapping[str, np.ndarray]:
        dtypes = {"noise_level": tf.float32}
        inputs = {k: tf.constant(v, dtypes.get(k, tf.int32)) for k, v in parameters.items()}
        outputs = self.functions[signature](tf.constant(images, tf.float32), **inputs)
        return {name: value.numpy() for name, value in outputs.items()}


@pytest.fixture(scope="session")
def signatures_of() -> Callable[..., Signatures]:
    def build(
        call: Callable, input_shape: tuple[int, ...], *, score: str = "auto", **settings: Any
    ) -> Signatures:
        return Signatures(call, input_shape, score, **settings)

    return build
