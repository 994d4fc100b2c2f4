"""The signatures of any function of tensors, built in this process and called with arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from callables import source_of

from saliency_exporter.contract.build import build_signatures
from saliency_exporter.contract.settings import Settings
from saliency_exporter.graph.forward_graph import ForwardGraph
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace
from saliency_exporter.methods.registry import OWN, find_methods
from saliency_exporter.sources.preprocessing import builtin


class Signatures:
    """The signatures of a traced model, called with NumPy arrays."""

    def __init__(self, graph: ForwardGraph, **settings: Any) -> None:
        self.graph = graph
        settings = {"compile": "none", "batch_sizes": (1, 4), "target": "cpu", **settings}
        settings["methods"] = find_methods(settings.get("methods", OWN))
        self.functions = build_signatures(Forward(self.graph), builtin("none"), Settings(**settings), "model")

    def __call__(self, signature: str, images: Any, **parameters: Any) -> Mapping[str, np.ndarray]:
        dtypes = {spec.name: spec.dtype for spec in self.functions[signature].input_signature}
        inputs = {k: tf.constant(v, dtypes[k]) for k, v in parameters.items()}
        outputs = self.functions[signature](tf.constant(images, tf.float32), **inputs)
        return {name: value.numpy() for name, value in outputs.items()}


def signatures_of(
    call: Callable, input_shape: tuple[int, ...], *, score: str = "auto", **settings: Any
) -> Signatures:
    return Signatures(trace(source_of(call, input_shape), score=score), **settings)
