"""The one fixed shape of an example that a model is exported for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import tensorflow as tf

from saliency_exporter.errors import ExportError
from saliency_exporter.sources.channels import looks_channels_first, shape_in_words
from saliency_exporter.sources.choices import Channels, Choices

_MAX_AXES = 4
_RGB = 3
_PICTURES: dict[Channels, tuple[int | None, ...]] = {
    "first": (_RGB, None, None),
    "none": (None, None),
}
"""What a model that says nothing of its input takes, by where its channels are; else RGB, channels last."""

Shape = tuple[int | None, ...]


def fixed_shape(name: str, declared: Sequence[int | None] | None, choices: Choices) -> tuple[int, ...]:
    """The shape of one example, as the model takes it, from what it declares and what the user asked for.

    Args:
        name: the model, for messages.
        declared: the model's input shape without the batch, (H, W, C) for images, None where it leaves a
            size open; None altogether where the model says nothing (then it takes RGB, or what
            ``choices.input_shape`` says).
        choices: image_size or input_shape, where the user gave one, and where the channels are.

    Raises:
        ExportError: one to four axes are supported; a size is neither declared nor given, or both and they
            differ.
    """
    given = choices.input_shape
    if given is not None and len(given) > _MAX_AXES:
        raise ExportError(
            f"{_asked(choices)} has {len(given)} sizes; inputs of 1 to {_MAX_AXES} axes behind the batch can "
            "be explained",
            hint="wrap the model in a function that reshapes, and export that as module:callable",
        )
    said = declared is not None
    shape: Shape = tuple(declared) if declared is not None else given or _undeclared(choices)
    if not 1 <= len(shape) <= _MAX_AXES:
        raise ExportError(
            f"{name} takes input of shape {shape_in_words(shape)}; inputs of 1 to {_MAX_AXES} axes behind "
            "the batch can be explained",
            hint="wrap it in a function that reshapes, and export that as module:callable",
        )
    _refuse_open_channels_first(name, shape, choices)
    wanted = _wanted(name, shape, choices)
    if not _fits(shape, wanted):
        raise ExportError(
            f"{name} takes input of shape {shape_in_words(shape)}, not of {_asked(choices)}",
            hint=_hint(shape, choices),
        )
    merged = tuple(want or size for size, want in zip(shape, wanted, strict=True))
    return _complete(name, merged, choices, said=said)


def shape_of_spec(name: str, spec: tf.TensorSpec, choices: Choices) -> tuple[int, ...]:
    """The shape of one example of a traced function's input.

    Raises:
        ExportError: as `fixed_shape` and `check_numbers`.
    """
    check_numbers(name, spec)
    return fixed_shape(name, None if spec.shape.rank is None else spec.shape[1:].as_list(), choices)


def check_numbers(name: str, spec: tf.TensorSpec) -> None:
    """Refuses an input that has no gradient, and is no pixel either.

    Pixels that are whole numbers are taken: a model that makes floats of them is cut there
    (`graph.integer_input`).

    Raises:
        ExportError: the input is of strings, truth values or complex numbers, or one whole number for each
            example.
    """
    dtype, rank = spec.dtype, spec.shape.rank
    if dtype == tf.string:
        raise ExportError(
            f"{name} takes string input, which has no gradient",
            hint="name a signature that takes decoded images with --signature, or export the network behind "
            "the decoding as module:callable",
        )
    if not (dtype.is_floating or (dtype.is_integer and (rank is None or rank > 1))):
        raise ExportError(
            f"{name} takes {dtype.name} input, which has no gradient",
            hint="export the network behind it, as module:callable",
        )


def _undeclared(choices: Choices) -> Shape:
    return _PICTURES.get(choices.channels, (None, None, _RGB))


def _refuse_open_channels_first(name: str, shape: Shape, choices: Choices) -> None:
    """Refuses what would be taken for images [B, H, W, C] whose height is the number of their channels."""
    if choices.channels != "auto" or choices.input_shape is not None or None not in shape:
        return
    if looks_channels_first(shape):
        raise ExportError(
            f"{name} takes input of shape {shape_in_words(shape)}, which looks like images with their "
            "channels first; an export is for one size",
            hint=f"pass {_first_options(shape)}; clients then send them with the channels last. If the "
            f"channels are last after all, pass --channels last and --input-shape {_template(shape)}",
        )


def _first_options(shape: Shape) -> str:
    if len(shape) == 3:
        return f"--channels first and {_size_option(shape[1:])}: the size that the model was trained with"
    return f"--channels first and --input-shape {_template(shape)}: all sizes, as the model takes them"


def _wanted(name: str, shape: Shape, choices: Choices) -> Shape:
    """The sizes that the user gave, one for each axis; None where none was given."""
    if choices.image_size is not None:
        axes = _picture_axes(len(shape), choices.channels)
        if axes is None:
            raise ExportError(
                f"{name} takes input of shape {shape_in_words(shape)}; --image-size is for images "
                "[B, H, W, C]",
                hint=f"give all sizes of one example instead: --input-shape {_template(shape)}"
                if None in shape
                else "leave --image-size out",
            )
        sizes = dict(zip(axes, choices.image_size, strict=True))
        return tuple(sizes.get(axis) for axis in range(len(shape)))
    if choices.input_shape is None:
        return (None,) * len(shape)
    if len(choices.input_shape) != len(shape):
        raise ExportError(
            f"{name} takes input of shape {shape_in_words(shape)}, and {_asked(choices)} has "
            f"{len(choices.input_shape)} sizes",
            hint=_hint(shape, choices),
        )
    return choices.input_shape


def _picture_axes(axes: int, channels: Channels) -> tuple[int, int] | None:
    """Which axes of an example are height and width; None where it is no picture."""
    if channels == "none":
        return (0, 1) if axes == 2 else None
    if axes != 3:
        return None
    return (1, 2) if channels == "first" else (0, 1)


def _fits(shape: Shape, wanted: Shape) -> bool:
    return len(shape) == len(wanted) and all(
        size is None or want is None or size == want for size, want in zip(shape, wanted, strict=True)
    )


def _hint(shape: Shape, choices: Choices) -> str:
    """The options that the model takes, as near as can be to what was given."""
    if choices.input_shape is None:
        assert choices.image_size is not None
        axes = _picture_axes(len(shape), choices.channels)
        assert axes is not None
        sizes = [shape[axis] or given for axis, given in zip(axes, choices.image_size, strict=True)]
        open_axes = [axis for axis in axes if shape[axis] is None]
        return f"pass --image-size {sizes[0]} {sizes[1]}" if open_axes else "leave --image-size out"
    if None not in shape:
        return "leave --input-shape out"
    near = next((sizes for sizes in _readings(choices.input_shape, shape) if _fits(shape, sizes)), None)
    return f"give {len(shape)} sizes, without the batch: --input-shape {_template(near or shape)}"


def _readings(given: tuple[int, ...], shape: Shape) -> Iterator[Shape]:
    """What sizes of another number or order may have been meant for, the likeliest first."""
    yield given[1:]  # with the batch
    yield (*given[1:], given[0])  # the channels first, of a model that has them last
    yield (given[-1], *given[:-1])  # … and the other way round
    yield (*given, shape[-1])  # without the channels
    yield (shape[0], *given)
    if len(given) == len(shape):
        yield tuple(size or own for size, own in zip(shape, given, strict=True))


def _complete(name: str, shape: Shape, choices: Choices, *, said: bool) -> tuple[int, ...]:
    axes = _picture_axes(len(shape), choices.channels)
    if axes is not None and len(shape) == 3 and all(shape[axis] is not None for axis in axes):
        shape = tuple(_RGB if size is None else size for size in shape)
    if None not in shape:
        return tuple(size for size in shape if size is not None)
    if axes is not None:
        option = _size_option([shape[axis] for axis in axes])
        other = "" if said else ", or of other input all sizes with --input-shape N,…"
        raise ExportError(
            f"{name} takes images of any size {shape_in_words(shape)}; an export is for one size",
            hint=f"pass {option}: the size that the model was trained with{other}",
        )
    raise ExportError(
        f"{name} takes input of any size {shape_in_words(shape)}; an export is for one size",
        hint=f"pass all sizes of one example, without the batch: --input-shape {_template(shape)}",
    )


def _size_option(sizes: Sequence[int | None]) -> str:
    """--image-size, H and W for a size that is open."""
    height, width = (size or letter for size, letter in zip(sizes, "HW", strict=True))
    return f"--image-size {height} {width}"


def _template(shape: Shape) -> str:
    """The sizes as an option takes them, N for one that is open."""
    return ",".join("N" if size is None else str(size) for size in shape)


def _asked(choices: Choices) -> str:
    if choices.image_size is not None:
        return f"--image-size {choices.image_size[0]} {choices.image_size[1]}"
    return f"--input-shape {','.join(map(str, choices.input_shape or ()))}"
