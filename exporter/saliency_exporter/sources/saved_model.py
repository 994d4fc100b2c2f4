"""A SavedModel directory: its graph is all that is needed, whatever wrote it, TensorFlow 1 included."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from saliency_exporter.errors import ExportError, brief
from saliency_exporter.sources.input_shape import shape_of_spec
from saliency_exporter.sources.output import probe
from saliency_exporter.sources.source import Source

_DEFAULT_SIGNATURE = "serving_default"
_FILES = ("saved_model.pb", "saved_model.pbtxt")


def is_saved_model(path: Path) -> bool:
    """Whether a path is the directory of a SavedModel."""
    return any((path / name).is_file() for name in _FILES)


def load(
    path: Path,
    *,
    image_size: tuple[int, int] | None = None,
    signature: str | None = None,
    output_name: str | None = None,
) -> Source:
    """Load one signature of a SavedModel as the forward pass.

    Args:
        path: the directory that holds saved_model.pb.
        image_size: (H, W), needed where the signature does not fix it.
        signature: which signature; by default ``serving_default``, or the only one.
        output_name: which output holds the class scores, needed where several could.

    Raises:
        ExportError: the directory is damaged, has no such signature or output, or the signature does
            not take one float image and return [B, classes].
    """
    loaded = _load(path)
    key = _choose(f"{path}", "signature", loaded.signatures, signature, default=_DEFAULT_SIGNATURE)
    function = loaded.signatures[key]
    specs = function.structured_input_signature[1]
    if len(specs) != 1:
        raise ExportError(
            f"signature {key} of {path} has {len(specs)} inputs ({', '.join(specs)}); only models with one "
            "are supported"
        )
    ((argument, spec),) = specs.items()
    name = f"signature {key} of {path.name}"
    input_shape = shape_of_spec(name, spec, image_size)

    def run(x: tf.Tensor) -> Mapping[str, tf.Tensor]:
        # By way of the loaded object: it owns the tables and variables that the function reads.
        return loaded.signatures[key](**{argument: tf.cast(x, spec.dtype)})

    output, classes = _scores(name, probe(name, run, input_shape), output_name)
    return Source(
        name=path.name,
        origin=f"SavedModel {path.name}, signature {key}, output {output}",
        # A graph of TensorFlow 1 often does not know the number of its classes.
        call=lambda x: tf.ensure_shape(run(x)[output], [None, classes]),
        input_shape=input_shape,
        input_dtype=spec.dtype,
        variables=tuple(function.variables),
        serving_default=function if key == _DEFAULT_SIGNATURE else None,
    )


def _load(path: Path) -> Any:
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


def _choose(
    where: str, kind: str, offered: Mapping[str, Any], wanted: str | None, *, default: str | None = None
) -> str:
    names = ", ".join(offered) or "none"
    if wanted is not None:
        if wanted not in offered:
            raise ExportError(f"{where} has no {kind} {wanted!r}", hint=f"it has {names}")
        return wanted
    if default in offered:
        return str(default)
    if len(offered) == 1:
        return next(iter(offered))
    if not offered:
        raise ExportError(f"{where} has no {kind} to export", hint=f"save the model with a {kind}")
    raise ExportError(f"{where} has several {kind}s: {names}", hint=f"choose one with --{kind}")


def _scores(name: str, outputs: Mapping[str, tf.Tensor], wanted: str | None) -> tuple[str, int]:
    """The name of the output that holds one score for each class, and how many these are."""
    offered = {
        key: output for key, output in outputs.items() if output.dtype.is_floating and output.shape.rank == 2
    }
    if wanted in outputs and wanted not in offered:
        output = outputs[wanted]
        raise ExportError(
            f"output {wanted} of {name} is {output.dtype.name} of shape {output.shape}; "
            "a classifier returns float [B, classes]"
        )
    key = _choose(name, "output", offered, wanted)
    return key, int(offered[key].shape[-1])
