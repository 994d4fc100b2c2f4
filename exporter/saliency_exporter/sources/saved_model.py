"""A SavedModel directory: its graph is all that is needed, whatever wrote it, TensorFlow 1 included."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

import tensorflow as tf

from saliency_client._contract import (
    CLASS_LABELS,
    DEFAULT_SIGNATURE,
    EXPLAIN_PREFIX,
    IMAGES_SIGNATURE,
    PARAMETER_DEFAULTS,
)
from saliency_exporter.errors import ExportError, brief
from saliency_exporter.runtime.functions import ConcreteFunction
from saliency_exporter.sources import saved_model_v1
from saliency_exporter.sources.choices import NO_CHOICES, Choices
from saliency_exporter.sources.class_scores import choose_scores, named_outputs, probe
from saliency_exporter.sources.held_inputs import describe, explained_input, for_batch_of, held_inputs
from saliency_exporter.sources.input_shape import shape_of_spec
from saliency_exporter.sources.source import Kept, Source

_FILES = ("saved_model.pb", "saved_model.pbtxt")
_TABLES = (CLASS_LABELS, PARAMETER_DEFAULTS)
"""Signatures that an export makes for its clients, and makes anew of a model that is an export itself."""


class _Loaded(Protocol):
    """What tf.saved_model.load gives: an object that owns what its functions read."""

    @property
    def signatures(self) -> Mapping[str, ConcreteFunction]: ...


def is_saved_model(path: Path) -> bool:
    """Whether a path is the directory of a SavedModel."""
    return any((path / name).is_file() for name in _FILES)


def load(path: Path, choices: Choices = NO_CHOICES) -> Source:
    """Loads one signature of a SavedModel as the forward pass; all its signatures are kept as they are.

    Args:
        path: the directory that holds saved_model.pb.
        choices: which signature (by default ``serving_default``, or the only one), input and output, and
            the size, where the signature leaves them open.

    Raises:
        ExportError: the directory is damaged, has no such signature or output, or the signature does
            not take a float tensor and return [B, classes]; it has a signature under a name that an export
            needs for one of its own.
    """
    loaded = _load(path)
    _check_names(path, loaded.signatures)
    key = _choose_signature(path, loaded.signatures, choices.signature)
    function = loaded.signatures[key]
    # A SavedModel keeps inputs and outputs in maps, whose order is another one in every version of protobuf.
    specs = dict(sorted(function.structured_input_signature[1].items()))
    name = f"signature {key} of {path.name}"
    explained = explained_input(name, specs, choices)
    held = held_inputs(name, specs, choices)
    input_shape = shape_of_spec(name, specs[explained], choices)

    def run(x: tf.Tensor) -> Mapping[str, tf.Tensor]:
        values = {alias: for_batch_of(x, value, specs[alias]) for alias, value in held.items()}
        # By way of the loaded object: it owns the tables and variables that the function reads.
        return loaded.signatures[key](**values, **{explained: tf.cast(x, specs[explained].dtype)})

    outputs = dict(sorted(named_outputs(probe(name, run, input_shape)).items()))
    scores = choose_scores(name, outputs, choices.output)
    classes = int(scores.of(outputs).shape[-1])
    return Source(
        name=path.name,
        origin=f"SavedModel {path.name}, signature {key}, output {choices.output or scores.name}"
        + describe(choices, explained),
        # A graph of TensorFlow 1 often does not know the number of its classes.
        call=lambda x: tf.ensure_shape(scores.of(run(x)), [None, classes]),
        input_shape=input_shape,
        variables=tuple(function.variables),
        kept=_kept(loaded),
    )


def _kept(loaded: _Loaded) -> Kept:
    signatures = {key: signature for key, signature in loaded.signatures.items() if not _is_ours(key)}
    variables = {
        id(variable.handle): variable for signature in signatures.values() for variable in signature.variables
    }
    captured = {id(tensor) for signature in signatures.values() for tensor in signature.captured_inputs}
    # Keras tracks a second copy of all weights, which no function reads. The loaded object is saved whole
    # only where a function reads more than variables: a table, or a file.
    return Kept(list(variables.values()) if captured <= set(variables) else loaded, signatures)


def _is_ours(key: str) -> bool:
    """Whether a signature is one that an export makes, and makes anew."""
    return key.startswith(EXPLAIN_PREFIX) or key in (IMAGES_SIGNATURE, *_TABLES)


def _check_names(path: Path, offered: Collection[str]) -> None:
    """Refuses a model's own signature that clients would take for a table of the export's."""
    if any(key.startswith(EXPLAIN_PREFIX) for key in offered):
        return  # an export, explained anew
    for key in _TABLES:
        if key in offered:
            raise ExportError(
                f"{path} has a signature {key!r} of its own, and an export needs the name",
                hint="save the model with that signature under another name, or without it",
            )


def _load(path: Path) -> _Loaded:
    if saved_model_v1.has_reference_variables(path):
        return saved_model_v1.load(path)
    # Where several graphs are in one directory, the one for serving is meant.
    for tags in (None, ["serve"]):
        try:
            return tf.saved_model.load(str(path), tags=tags)
        except Exception as error:
            failure = error
    raise ExportError(
        f"SavedModel {path} cannot be loaded: {brief(failure)}",
        hint="is the directory complete, with its folder variables?",
    ) from failure


def _choose_signature(path: Path, offered: Collection[str], wanted: str | None) -> str:
    names = ", ".join(offered) or "none"
    if wanted is not None:
        if wanted not in offered:
            raise ExportError(f"{path} has no signature {wanted!r}", hint=f"it has {names}")
        return wanted
    if DEFAULT_SIGNATURE in offered:
        return DEFAULT_SIGNATURE
    if len(offered) == 1:
        return next(iter(offered))
    if not offered:
        raise ExportError(f"{path} has no signature to export", hint="save the model with a signature")
    raise ExportError(f"{path} has several signatures: {names}", hint="choose one with --signature")
