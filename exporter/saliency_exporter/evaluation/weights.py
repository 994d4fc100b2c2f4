"""The variables of a loaded version: read, and given other values, while its program stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from saliency_exporter.runtime.servable import Servable


class Weights:
    """The variables of a servable by the names of their nodes.

    Values of variables are no part of a program: nothing is compiled again when they change.
    """

    def __init__(self, servable: Servable, names: Iterable[str]) -> None:
        self._session = servable.session
        graph = self._session.graph
        self._reads: dict[str, Any] = {}
        self._writes: dict[str, tuple[Any, Any]] = {}
        # All at once: a session that has run takes a graph that grows, at the price of looking at it again.
        with graph.as_default():
            for name in names:
                variable = graph.get_operation_by_name(name)
                dtype = tf.as_dtype(variable.get_attr("dtype"))
                value = tf.compat.v1.placeholder(dtype)
                (handle,) = variable.outputs
                self._reads[name] = tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype)
                self._writes[name] = value, tf.raw_ops.AssignVariableOp(resource=handle, value=value)

    def read(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """The values of variables."""
        values: dict[str, np.ndarray] = self._session.run({name: self._reads[name] for name in names})
        return values

    def write(self, values: Mapping[str, np.ndarray]) -> None:
        """Gives variables other values."""
        feeds = {self._writes[name][0]: value for name, value in values.items()}
        self._session.run([self._writes[name][1] for name in values], feeds)
