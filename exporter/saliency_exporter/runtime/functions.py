"""What a traced function gives to those who call, describe and save it; TensorFlow has no types of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import tensorflow as tf


class ConcreteFunction(Protocol):
    """A function traced for one set of shapes and dtypes: a `tf.types.experimental.ConcreteFunction`."""

    @property
    def structured_input_signature(self) -> tuple[Sequence[tf.TensorSpec], Mapping[str, tf.TensorSpec]]:
        """The specs of its inputs, by position and by name."""

    @property
    def structured_outputs(self) -> Mapping[str, tf.TensorSpec]:
        """Its outputs by name, each with dtype and shape."""

    @property
    def graph(self) -> Any:
        """Its `tf.Graph`, with what it captures."""

    @property
    def inputs(self) -> Sequence[tf.Tensor]:
        """The placeholders of its graph, those of what it captures last."""

    @property
    def outputs(self) -> Sequence[tf.Tensor]:
        """The tensors of its graph that it returns, in order."""

    @property
    def captured_inputs(self) -> Sequence[tf.Tensor]:
        """What it reads beside its inputs: constants, handles of variables and tables."""

    @property
    def variables(self) -> Sequence[tf.Variable]:
        """The variables that it reads."""

    def __call__(self, *inputs: tf.Tensor, **named: tf.Tensor) -> Mapping[str, tf.Tensor]:
        """Runs it: outputs by name."""


class Function(Protocol):
    """A `tf.function` with an input signature, of tensors in order to tensors by name."""

    @property
    def input_signature(self) -> Sequence[tf.TensorSpec]:
        """The specs of its inputs, in order; dimensions that are not fixed are None."""

    @property
    def python_function(self) -> Callable[..., Any]:
        """What is traced."""

    def __call__(self, *inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """Runs it: outputs by name."""

    def get_concrete_function(self) -> ConcreteFunction:
        """The function traced for its input signature, once."""
