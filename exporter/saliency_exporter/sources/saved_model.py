"""A SavedModel directory: its graph is all that is needed, whatever wrote it, TensorFlow 1 included."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import tensorflow as tf

from saliency_client._contract import (
    CLASS_LABELS,
    DEFAULT_SIGNATURE,
    EXPLAIN_PREFIX,
    IMAGES_SIGNATURE,
    PARAMETER_BOUNDS,
    PARAMETER_DEFAULTS,
)
from saliency_exporter.errors import ExportError, brief
from saliency_exporter.runtime.functions import ConcreteFunction
from saliency_exporter.runtime.inlined import inlined
from saliency_exporter.sources import saved_model_v1
from saliency_exporter.sources.any_batch import fixed_batch, for_any_batch
from saliency_exporter.sources.choices import NO_CHOICES, Choices
from saliency_exporter.sources.class_scores import choose_scores, named_outputs, of_any_batch, probe
from saliency_exporter.sources.cut_graph import cut
from saliency_exporter.sources.held_inputs import describe, explained_input, for_batch_of, held_inputs
from saliency_exporter.sources.input_shape import shape_of_spec
from saliency_exporter.sources.one_example import with_batch_of_one
from saliency_exporter.sources.other_files import SAVED_MODEL_FILES
from saliency_exporter.sources.shared_constants import with_shared_constants
from saliency_exporter.sources.source import Kept, Source

_TABLES = (CLASS_LABELS, PARAMETER_DEFAULTS, PARAMETER_BOUNDS)
"""Signatures that an export makes for its clients, and makes anew of a model that is an export itself."""


class _Object(Protocol):
    """What tf.saved_model.load gives: an object that owns what its functions read."""

    @property
    def signatures(self) -> Mapping[str, ConcreteFunction]: ...


@dataclass(frozen=True)
class _Loaded:
    """The signatures of a SavedModel, the variables that they read, and what owns all that they read.

    Attributes:
        signatures: by name.
        variables: of all signatures.
        owner: the object that was loaded.
        left_out: name of a signature that could not be carried over to the op for which it could not.
    """

    signatures: Mapping[str, ConcreteFunction]
    variables: tuple[tf.Variable, ...]
    owner: _Object
    left_out: Mapping[str, str]


def is_saved_model(path: Path) -> bool:
    """Whether a path is the directory of a SavedModel."""
    return any((path / name).is_file() for name in SAVED_MODEL_FILES)


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
    if choices.signature is not None and choices.signature in loaded.left_out:
        raise ExportError(
            f"signature {choices.signature} of {path} needs {loaded.left_out[choices.signature]}, whose "
            "content a server fills",
            hint=f"choose another one with --signature: {', '.join(loaded.signatures)}",
        )
    key = _choose_signature(path, loaded.signatures, choices.signature)
    function = loaded.signatures[key]
    # A SavedModel keeps inputs and outputs in maps, whose order is another one in every version of protobuf.
    specs = dict(sorted(function.structured_input_signature[1].items()))
    name = f"signature {key} of {path.name}"
    if not _takes_floats(specs, choices):
        return _cut_source(path, key, loaded, choices)
    explained = explained_input(name, specs, choices)
    held = held_inputs(name, specs, choices)

    def run(x: tf.Tensor) -> Mapping[str, tf.Tensor]:
        values = {alias: for_batch_of(x, value, specs[alias]) for alias, value in held.items()}
        # By way of what is loaded: it owns the tables and variables that the function reads.
        return loaded.signatures[key](**values, **{explained: tf.cast(x, specs[explained].dtype)})

    # What is held has no batch to be repeated for.
    declared = () if held else function.structured_outputs.values()
    spec, forward = with_batch_of_one(specs[explained], run, declared)
    input_shape = shape_of_spec(name, spec, choices)
    batch = fixed_batch(spec)
    outputs = dict(sorted(named_outputs(probe(name, forward, input_shape, batch=batch or 1)).items()))
    scores = choose_scores(name, of_any_batch(outputs, batch or 1), choices.output)
    classes = int(scores.of(outputs).shape[-1])
    return Source(
        name=path.name,
        origin=f"SavedModel {path.name}, signature {key}, output {choices.output or scores.name}"
        + describe(choices, explained),
        # A graph of TensorFlow 1 often does not know the number of its classes.
        call=for_any_batch(
            name, lambda x: tf.ensure_shape(scores.of(forward(x)), [None, classes]), batch, input_shape
        ),
        input_shape=input_shape,
        variables=loaded.variables,
        kept=_kept(loaded, key),
        notes=_notes(loaded),
    )


def _takes_floats(specs: Mapping[str, tf.TensorSpec], choices: Choices) -> bool:
    """Whether what is explained is an input that has a gradient, and no tensor behind one that has none."""
    free = [specs[key] for key in specs if key not in choices.held]
    if choices.input is not None:
        free = [specs[choices.input]] if choices.input in specs else []
    return any(spec.dtype.is_floating for spec in free)


def _cut_source(path: Path, key: str, loaded: _Loaded, choices: Choices) -> Source:
    """The part of a signature behind a tensor of its graph."""
    function = loaded.signatures[key]
    graph = inlined(function)
    chosen = cut(
        f"signature {key} of {path.name}",
        graph,
        dict(zip(sorted(function.structured_input_signature[1]), graph.inputs, strict=True)),
        dict(zip(sorted(function.structured_outputs), graph.outputs, strict=True)),
        choices,
    )
    return Source(
        name=path.name,
        origin=f"SavedModel {path.name}, signature {key}, input {chosen.input}, output {chosen.output}",
        call=chosen.call,
        input_shape=chosen.input_shape,
        variables=loaded.variables,
        kept=_kept(loaded, key),
        notes=_notes(loaded),
    )


def _kept(loaded: _Loaded, forward: str) -> Kept:
    signatures = {key: signature for key, signature in loaded.signatures.items() if not _is_ours(key)}
    variables = {id(variable.handle): variable for variable in loaded.variables}
    captured = {id(tensor) for signature in signatures.values() for tensor in signature.captured_inputs}
    read = [variable for handle, variable in variables.items() if handle in captured]
    # Keras tracks a second copy of all weights, which no function reads. The loaded object is saved whole
    # only where a function reads more than variables: a table, or a file.
    owner = read if captured <= set(variables) else [loaded.owner, read]
    return Kept(owner, signatures, loaded.signatures[forward])


def _notes(loaded: _Loaded) -> tuple[str, ...]:
    return tuple(
        f"signature {key} of the model was left out: it needs {op}, whose content a server fills"
        for key, op in loaded.left_out.items()
    )


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
    owner = saved_model_v1.load(path) if saved_model_v1.is_needed(path) else _load_2(path)
    signatures = dict(owner.signatures)
    variables = {id(v.handle): v for signature in signatures.values() for v in signature.variables}
    shared = with_shared_constants(signatures)
    left_out = getattr(owner, "left_out", {})
    if shared is None:
        return _Loaded(signatures, tuple(variables.values()), owner, left_out)
    signatures, weights = shared
    return _Loaded(signatures, (*variables.values(), *weights), owner, left_out)


def _load_2(path: Path) -> _Object:
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
