"""From what was typed to the images that it means."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saliency_client.cli.errors import CommandError, UsageError
from saliency_client.cli.text import printable

if TYPE_CHECKING:
    from saliency_client.cli.model_input import ModelInput
    from saliency_client.images import ImageError, Photo, Resize

STDIN = "-"
_PICTURES = "jpg jpeg jpe jfif png webp gif bmp dib tif tiff ppm pgm pbm pnm jp2 avif heic heif hif tga ico"
PICTURE_SUFFIXES = frozenset(f".{name}" for name in _PICTURES.split())
ARRAY_SUFFIX = ".npy"
OWN_MARK = b"saliency-client"
_NUMPY_MAGIC = b"\x93NUMPY"
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://|^data:[^,]*,")
# Where this tool writes its name into pictures: near their start.
_HEAD = 2048
_NOT_COUNTED = "pictures that saliency-client made are passed over"


@dataclass(frozen=True)
class Input:
    """One image to work on.

    Attributes:
        source: its path as typed or found, or "-" for stdin.
        folder: its folder below the one that was typed, so that results can be laid out the same way.
    """

    source: str
    folder: Path = Path()

    @property
    def stem(self) -> str:
        """Its name without folders and suffix."""
        return "stdin" if self.source == STDIN else Path(self.source).stem

    @property
    def shown(self) -> str:
        """Its name for people."""
        return "stdin" if self.source == STDIN else printable(self.source)

    @property
    def is_array(self) -> bool:
        """Whether its name says that it holds a model input."""
        return Path(self.source).suffix.lower() == ARRAY_SUFFIX


def find_inputs(arguments: Sequence[str], *, recursive: bool) -> list[Input]:
    """The images that paths, folders, patterns and "-" mean, each once, in order.

    Folders give the files that are named as pictures, sorted, without those that this tool made.

    Raises:
        UsageError: a URL, or stdin twice or from a terminal.
        CommandError: a folder without images, or a pattern that matches nothing.
    """
    found: dict[str, Input] = {}
    for argument in arguments:
        if argument == STDIN and STDIN in found:
            raise UsageError("- (stdin) is given twice")
        for one in _expand(argument, recursive):
            found.setdefault(one.source, one)
    return list(found.values())


def _expand(argument: str, recursive: bool) -> Iterable[Input]:
    if argument == STDIN:
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError("- reads an image from stdin, and nothing is piped in", hint="cat photo.jpg | …")
        return [Input(STDIN)]
    if _URL.match(argument) and not os.path.exists(argument):
        raise UsageError(
            f"{printable(argument)} is a URL, and images are not downloaded",
            hint=f"curl -sSfL '{printable(argument)}' | saliency-client … -",
        )
    path = Path(argument)
    if path.is_dir():
        inputs = list(_in_folder(path, recursive))
        if not inputs:
            inside = "in it or below" if recursive else "in it; --recursive enters subfolders"
            raise CommandError(
                f"{printable(argument)} has no images",
                hint=f"no file named as one is {inside}; {_NOT_COUNTED}",
            )
        return inputs
    if not path.exists() and glob.has_magic(argument):
        matches = sorted(match for match in glob.glob(argument, recursive=True) if os.path.isfile(match))
        inputs = [Input(match) for match in matches if not is_own_picture(match)]
        if not inputs:
            raise CommandError(f"{printable(argument)} matches no image", hint=_NOT_COUNTED)
        return inputs
    return [Input(argument)]


def _in_folder(folder: Path, recursive: bool) -> Iterator[Input]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if recursive else []
        for name in sorted(files):
            path = Path(parent, name)
            if (
                path.suffix.lower() in PICTURE_SUFFIXES
                and not name.startswith(".")
                and not is_own_picture(str(path))
            ):
                yield Input(str(path), Path(parent).relative_to(folder))


def is_own_picture(path: str) -> bool:
    """Whether a file is a picture that this tool made; read from its head."""
    try:
        with open(path, "rb") as file:
            return OWN_MARK in file.read(_HEAD)
    except OSError:
        return False


def missing(one: Input) -> ImageError | None:
    """The error for an image whose file is not there; found without reading it, before a server is asked."""
    if one.source == STDIN or os.path.exists(one.source):
        return None
    from saliency_client.images import ImageError

    return ImageError(f"{one.source} does not exist")


def read_photo(
    one: Input, model: ModelInput, *, resize: Resize, max_pixels: int, draft: bool = False
) -> Photo:
    """The model input that an image gives; with `draft`, for commands that do not show the photo.

    Raises:
        ImageError: it cannot be read, or does not fit the model.
    """
    from saliency_client.images import ImageError, load_array, load_image

    source: Any = one.source
    is_array = one.is_array
    if one.source == STDIN:
        source = sys.stdin.buffer.read()
        is_array = source.startswith(_NUMPY_MAGIC)
        if not source:
            raise ImageError("stdin is empty")
    if is_array:
        return load_array(source, model.shape, model.dtype)
    model.check_takes_photos()
    photo = load_image(
        source,
        (model.height, model.width),
        channels=model.channels or 1,
        resize=resize,
        max_pixels=max_pixels,
        draft=draft,
    )
    return replace(photo, array=photo.array.reshape(model.shape))
