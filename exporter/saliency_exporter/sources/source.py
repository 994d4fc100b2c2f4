"""What every source of a model gives to the rest of the exporter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from saliency_exporter.runtime.functions import ConcreteFunction
from saliency_exporter.sources.choices import Channels
from saliency_exporter.sources.preprocessing import Preprocessing


@dataclass(frozen=True)
class Kept:
    """The signatures that a SavedModel brings along, which an export leaves as they are.

    Attributes:
        owner: the object that tracks the variables, tables and assets of their functions.
        signatures: name to function of keyword tensors to a mapping of tensors.
        forward: the one that is the forward pass, as it was saved: with the variables that it assigns.
    """

    owner: Any
    signatures: Mapping[str, ConcreteFunction]
    forward: ConcreteFunction


@dataclass(frozen=True)
class Source:
    """A classifier's forward pass, in inference mode, and what is known about it.

    It keeps the model alive: ``call`` and ``variables`` hold strong references.

    Attributes:
        name: a short name for messages and for the manifest.
        origin: where the model came from, one line for the manifest.
        call: float32 model input [B, *input_shape] to the class scores [B, classes]; can be traced.
        input_shape: shape of one example, all known: (H, W, C) for images, one to four sizes.
        variables: every raw variable of the model.
        preprocessing: what the model is known to need, or None.
        labels: names of the classes in order, where the source knows them.
        kept: what a SavedModel brings along; None for every other source.
        channels: what is said about the input's channels: "first" where `call` transposes to a model that
            takes them first, so that ``input_shape`` has them last all the same.
        notes: what a user should know of how the model was loaded, a sentence each.
    """

    name: str
    origin: str
    call: Callable[[tf.Tensor], tf.Tensor]
    input_shape: tuple[int, ...]
    variables: tuple[tf.Variable, ...]
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] | None = None
    kept: Kept | None = None
    channels: Channels = "auto"
    notes: tuple[str, ...] = ()
