"""Any callable on a tensor as a source for the exporter."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from saliency_exporter.sources.source import Source


def source_of(call: Callable, input_shape: tuple[int, ...], name: str = "model") -> Source:
    """A source from any callable on a tensor."""
    variables = tuple(v if isinstance(v, tf.Variable) else v.value for v in getattr(call, "variables", ()))
    return Source(name, "test", call, input_shape, variables)
