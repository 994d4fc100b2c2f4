"""Bytes that a browser sent to a photo, within bounds of bytes and pixels."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from saliency_client.cli.model_input import ModelInput
from saliency_client.cli.text import printable
from saliency_client.images import Photo, Resize, load_array, load_image
from saliency_client.web.map_picture import PhotoPictures, photo_pictures

_NUMPY_MAGIC = b"\x93NUMPY"
_LONGEST_NAME = 200
_UNNAMED = "photo.png"


@dataclass(frozen=True)
class Upload:
    """A photo as it came, and what was made of it; its decoded pixels, ten times as large, are not kept.

    Attributes:
        name: the file's own, without folders.
        content: the file.
        resize: how it is fitted to the model.
        size: (width, height) of the picture, upright.
        pictures: what a page shows of it.
        notes: on how it was read.
        inputs: by the model's kind of images, the model input.
    """

    name: str
    content: bytes
    resize: Resize
    size: tuple[int, int]
    pictures: PhotoPictures
    notes: tuple[str, ...]
    inputs: dict[ModelInput, npt.NDArray[Any]] = field(default_factory=dict)

    @property
    def is_array(self) -> bool:
        """Whether it is a model input, in NumPy's format, and no picture."""
        return self.content.startswith(_NUMPY_MAGIC)

    @property
    def bytes(self) -> int:
        """How much memory it takes."""
        pictures = len(self.pictures.view) + len(self.pictures.thumb)
        return len(self.content) + pictures + sum(array.nbytes for array in self.inputs.values())


def file_name(header: str | None) -> str:
    """The name of a file that a browser sent, percent-encoded, without its folders; a long one is cut."""
    text = unquote(header or "", errors="replace").replace("\\", "/").replace("\0", "")
    name = PurePosixPath(text).name[-_LONGEST_NAME:]
    return name if name not in ("", ".", "..") else _UNNAMED


def read(content: bytes, name: str, model: ModelInput, *, resize: Resize, max_pixels: int) -> Photo:
    """The photo of a file.

    Raises:
        ImageError: as `load_image` and `load_array`, under the file's name.
    """
    stream = io.BytesIO(content)
    stream.name = printable(name)
    if content.startswith(_NUMPY_MAGIC):
        return load_array(stream, model.shape, model.dtype)
    model.check_takes_photos()
    size = (model.height, model.width)
    photo = load_image(stream, size, channels=model.channels or 1, resize=resize, max_pixels=max_pixels)
    return replace(photo, array=np.asarray(photo.array).reshape(model.shape))


def uploaded(content: bytes, name: str, model: ModelInput, *, resize: Resize, max_pixels: int) -> Upload:
    """Read a file that a browser sent.

    Raises:
        ImageError: as `read`.
    """
    photo = read(content, name, model, resize=resize, max_pixels=max_pixels)
    pictures = photo_pictures(photo)
    return Upload(name, content, resize, photo.picture.size, pictures, photo.notes, {model: photo.array})


def input_for(upload: Upload, model: ModelInput, max_pixels: int) -> npt.NDArray[Any]:
    """The model input of a photo, made once for each kind of images that versions of the model take.

    Raises:
        ImageError: as `read`.
    """
    key = replace(model, signature="")
    for known, array in upload.inputs.items():
        if replace(known, signature="") == key:
            return array
    photo = read(upload.content, upload.name, model, resize=upload.resize, max_pixels=max_pixels)
    upload.inputs[model] = photo.array
    return photo.array
