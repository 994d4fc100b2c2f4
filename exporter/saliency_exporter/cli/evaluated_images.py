"""The images that maps are judged on: those that a user names, or what is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from saliency_exporter.errors import ExportError

if TYPE_CHECKING:
    import numpy as np

    from saliency_client.cli.inputs import Input
    from saliency_client.images import Photo
    from saliency_exporter.version.manifest import Manifest

AT_HAND = ("chelsea", "coffee", "astronaut", "rocket")
"""Photos of scikit-image that come with it: a cat, a cup, a person, a rocket."""


class EvaluatedImage(NamedTuple):
    """One image.

    Attributes:
        array: as a version takes it, without the batch.
        photo: what it was made of; None where it is no picture.
    """

    array: np.ndarray
    photo: Photo | None


def named_images(arguments: Sequence[str], manifest: Manifest) -> dict[str, EvaluatedImage]:
    """The images of files and folders by their names.

    Raises:
        ExportError: a file cannot be read, or is no image for the model.
        CommandError, UsageError: there are none.
    """
    from saliency_client.cli.inputs import find_inputs

    found = find_inputs(arguments, recursive=False)
    images: dict[str, EvaluatedImage] = {}
    for one in found.inputs:
        images[one.stem if one.stem not in images else one.shown] = _read(one, manifest)
    for argument, error in found.left_out.errors:
        raise ExportError(f"{argument} cannot be read: {error}", hint="leave it out, or name another image")
    return images


def _read(one: Input, manifest: Manifest) -> EvaluatedImage:
    from saliency_client.images import ImageError, load_array

    wanted = manifest.input
    try:
        if one.is_array and len(wanted.sizes) == 2:
            photo = load_array(one.source, _shape(manifest), wanted.dtype)
            return EvaluatedImage(photo.array, photo)
        if one.is_array:
            return EvaluatedImage(_values(one.source, manifest), None)
        if not _takes_photos(manifest):
            raise ExportError(
                f"{one.shown} is no input of {manifest.model}: it takes {wanted.dtype} arrays "
                f"{list(_shape(manifest))}",
                hint="give .npy files of that shape",
            )
        return _of_photo(one.source, manifest)
    except ImageError as error:
        raise ExportError(str(error), hint=getattr(error, "hint", None)) from error


def _values(source: str, manifest: Manifest) -> np.ndarray:
    """An input that is no picture, of an .npy file."""
    import numpy as np

    shape = _shape(manifest)
    try:
        array = np.load(source, allow_pickle=False)
    # A header that lies meets NumPy with MemoryError, OverflowError, tokenize.TokenError and others.
    except Exception as error:
        raise ExportError(
            f"{source} cannot be read as an array: {error}", hint="write it with numpy.save"
        ) from error
    if array.shape not in (shape, (1, *shape)) or array.dtype.kind not in "fiu":
        raise ExportError(
            f"{source} holds {array.dtype} {list(array.shape)}; the model takes "
            f"{manifest.input.dtype} {list(shape)}",
            hint="save one model input in each file",
        )
    values = array.reshape(shape).astype(manifest.input.dtype)
    if not np.isfinite(values).all():
        raise ExportError(f"{source} holds NaN or infinity", hint="give finite values")
    return np.asarray(values)


def images_at_hand(manifest: Manifest) -> tuple[dict[str, EvaluatedImage], str]:
    """Images where a user named none, and what they are, in words.

    Photos of scikit-image, where it is installed and the model takes photos; else the two patterns that an
    export is verified with.
    """
    import numpy as np
    import tensorflow as tf

    from saliency_exporter.contract.examples import reference_inputs

    wanted = manifest.input
    if _takes_photos(manifest):
        try:
            import skimage.data
        except ModuleNotFoundError:
            pass
        else:
            photos = {name: _of_photo(getattr(skimage.data, name)(), manifest) for name in AT_HAND}
            return photos, f"photos of scikit-image: {', '.join(AT_HAND)}"
    spec = tf.TensorSpec(wanted.shape, tf.as_dtype(wanted.dtype))
    patterns = reference_inputs(spec, manifest.classes)["images"]
    images = {
        f"pattern {number}": EvaluatedImage(np.asarray(one), None)
        for number, one in enumerate(patterns, start=1)
    }
    return images, "the random patterns that an export is verified with, which no model was trained on"


def _shape(manifest: Manifest) -> tuple[int, ...]:
    """Of one image."""
    return tuple(int(size or 0) for size in manifest.input.shape[1:])


def _takes_photos(manifest: Manifest) -> bool:
    shape = _shape(manifest)
    picture = len(manifest.input.sizes) == 2 and (len(shape) == 2 or shape[2] in (1, 3, 4))
    return picture and manifest.input.dtype == "uint8"


def _of_photo(source: Any, manifest: Manifest) -> EvaluatedImage:
    from saliency_client.images import load_image

    shape = _shape(manifest)
    size, channels = (shape[0], shape[1]), shape[2] if len(shape) == 3 else 1
    photo = load_image(source, size, channels=channels)
    return EvaluatedImage(photo.array.reshape(shape), photo)
