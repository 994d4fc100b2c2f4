"""The signatures of any function of tensors, built in this process and called with arrays.

What a signature computes is its core. Checks and slices, the same around all of them, take as long to trace
as a small model's core, and are there where a test asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from callables import source_of
from exports import THREE

from saliency_exporter.contract.build import PREDICTED_CLASS, build_cores, build_signatures
from saliency_exporter.contract.settings import Settings
from saliency_exporter.contract.slices import run_in_slices
from saliency_exporter.graph.forward_graph import ForwardGraph
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace
from saliency_exporter.methods.registry import find_methods
from saliency_exporter.sources.preprocessing import builtin


class Signatures:
    """The signatures of a traced model, called with NumPy arrays.

    Args:
        graph: the model.
        whole: with their checks and slices, as they are exported; else their cores, run in the same slices.
        preprocessing: its name; with "none" images are the float32 model input.
        settings: of the export.
    """

    def __init__(
        self, graph: ForwardGraph, *, whole: bool = False, preprocessing: str = "none", **settings: Any
    ) -> None:
        self.graph = graph
        self.preprocessing = builtin(preprocessing)
        self.whole = whole
        settings = {"compile": "none", "batch_sizes": (1, 4), "target": "cpu", **settings}
        settings["methods"] = find_methods(settings.get("methods", THREE))
        self.batch_sizes = settings["batch_sizes"]
        self.defaults = {p.name: p.default for m in settings["methods"] for p in m.parameters}
        self.defaults["class_index"] = PREDICTED_CLASS
        build = build_signatures if whole else build_cores
        self.functions = build(Forward(self.graph), self.preprocessing, Settings(**settings), "model")

    def __call__(self, signature: str, images: Any, **parameters: Any) -> Mapping[str, np.ndarray]:
        images, function = tf.constant(images, self.preprocessing.image_dtype), self.functions[signature]
        specs = function.input_signature[1:]
        if self.whole:
            given = {s.name: tf.constant(parameters[s.name], s.dtype) for s in specs if s.name in parameters}
            outputs = function(images, **given)
        else:
            values = {s.name: np.ravel(parameters.get(s.name, self.defaults[s.name])) for s in specs}
            each = {s.name: tf.constant(np.broadcast_to(values[s.name], len(images)), s.dtype) for s in specs}
            outputs = run_in_slices(function, {"images": images, **each}, self.batch_sizes)
        return {name: value.numpy() for name, value in outputs.items()}


def signatures_of(
    call: Callable, input_shape: tuple[int, ...], *, score: str = "auto", whole: bool = False, **settings: Any
) -> Signatures:
    return Signatures(trace(source_of(call, input_shape), score=score), whole=whole, **settings)
