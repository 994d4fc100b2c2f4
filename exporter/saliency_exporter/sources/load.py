"""From what the command line names to a `Source`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from saliency_exporter.errors import ExportError
from saliency_exporter.runtime.version_directories import version_directories
from saliency_exporter.sources import (
    frozen_graph,
    keras_application,
    keras_file,
    python_callable,
    saved_model,
    zoo,
)
from saliency_exporter.sources.channels import with_channels
from saliency_exporter.sources.choices import Channels, Choices
from saliency_exporter.sources.custom_objects import import_objects
from saliency_exporter.sources.other_files import (
    SAVED_MODEL_FILES,
    model_inside,
    refuse_address,
    refuse_other_file,
)
from saliency_exporter.sources.source import Source


def load_source(
    model: str,
    *,
    weights: str | None = None,
    unsafe: bool = False,
    imports: Sequence[str] = (),
    image_size: tuple[int, int] | None = None,
    input_shape: tuple[int, ...] | None = None,
    input_name: str | None = None,
    held: Mapping[str, np.ndarray] | None = None,
    output_name: str | None = None,
    signature: str | None = None,
    channels: Channels = "auto",
) -> Source:
    """Loads the model that the command line names.

    Args:
        model: a ``.keras`` or ``.h5`` file, the directory of a SavedModel, a frozen graph (``.pb``),
            ``module:callable``, the name of a model of the bundled zoo (``efficientnet-lite0``), or the name
            of a keras.applications model (``MobileNetV2``).
        weights: for keras.applications ``imagenet`` (the default), ``none`` for random ones, or a file.
        unsafe: load Python code that the model file itself holds (Lambda layers).
        imports: ``module``, or ``module:name`` of a class or function, that a model file needs.
        image_size: (H, W), needed where an image model does not fix its input size.
        input_shape: shape of one example without the batch, where a model of any rank leaves it open.
        input_name: which input is explained, of a model with several; for a SavedModel or a frozen graph
            also any tensor of its graph.
        held: the value of one example for every other input, by name; a number is for all elements.
        output_name: which output holds the class scores, where several could.
        signature: for a SavedModel: which of its signatures is the forward pass.
        channels: where the model has the channels of its input; of "first" a source is made that has them
            last.

    Raises:
        ExportError: there is no such model, it cannot be loaded, or it is not of a supported form.
    """
    choices = Choices(image_size, input_shape, input_name, held or {}, output_name, signature, channels)
    objects = import_objects(imports)
    return with_channels(_load(model, choices, objects, weights=weights, unsafe=unsafe), channels)


def _load(
    model: str, choices: Choices, objects: Mapping[str, object], *, weights: str | None, unsafe: bool
) -> Source:
    refuse_address(model)
    if Path(model).name in SAVED_MODEL_FILES and Path(model).is_file():
        model = str(Path(model).parent)
    if model in keras_application.names():
        return keras_application.load(model, choices, weights=weights)
    if weights is not None:
        raise ExportError(
            f"--weights is for keras.applications models; {model!r} brings its own",
            hint="leave --weights out",
        )
    if saved_model.is_saved_model(Path(model)):
        return saved_model.load(Path(model), choices)
    if choices.signature is not None:
        raise ExportError(f"--signature is for SavedModel directories; {model!r} is none")
    if model in zoo.NAMES:
        return zoo.load(model, choices)
    if Path(model).suffix.lower() in keras_file.SUFFIXES:
        return keras_file.load(Path(model), choices, unsafe=unsafe, objects=objects)
    if Path(model).suffix.lower() in frozen_graph.SUFFIXES and Path(model).is_file():
        return frozen_graph.load(Path(model), choices)
    refuse_other_file(Path(model))
    if ":" in model:
        return python_callable.load(model, choices)
    raise _unknown(model)


def _unknown(model: str) -> ExportError:
    versions = [path for path in version_directories(Path(model)) if saved_model.is_saved_model(path)]
    if versions:
        return ExportError(
            f"{model!r} is a model base path", hint=f"name one of its versions, such as {versions[-1]}"
        )
    inside = model_inside(Path(model))
    if inside is not None:
        return ExportError(f"{model!r} is a directory with a model inside", hint=f"export {inside}")
    if Path(model).exists():
        return ExportError(
            f"{model!r} is not a kind of model that can be exported",
            hint="save the model with model.save('name.keras'), or name a function that returns it: "
            "module:callable",
        )
    known = {name.lower(): name for name in [*zoo.NAMES, *keras_application.names()]}
    near = [known[name] for name in difflib.get_close_matches(model.lower(), known, n=3)]
    return ExportError(
        f"there is no model {model!r}: no such file, zoo name or keras.applications name",
        hint=f"did you mean {' or '.join(near)}?"
        if near
        else "MODEL is file.keras, file.h5, file.pb, a SavedModel directory, module:callable, a name of the "
        f"zoo ({', '.join(zoo.NAMES)}) or of keras.applications (for example MobileNetV2)",
    )
