"""From what was typed to the images that it means."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saliency_client._picture_names import ARRAY_SUFFIX
from saliency_client.cli.errors import CommandError, UsageError
from saliency_client.cli.folders import NO_FILE, OWN, LeftOut, pictures_in
from saliency_client.cli.marks import read_facts
from saliency_client.cli.text import printable

if TYPE_CHECKING:
    from saliency_client.cli.model_input import ModelInput
    from saliency_client.images import ImageError, Photo, Resize

STDIN = "-"
_NUMPY_MAGIC = b"\x93NUMPY"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|data:[^,]*,", re.IGNORECASE)
_FETCHED_BY = {
    "data:": "`echo … | base64 -d | saliency-client … -` takes what stands behind the comma",
    "s3:": "aws s3 cp '{0}' - | saliency-client … -",
    "gs:": "gcloud storage cat '{0}' | saliency-client … -",
}
_BY_CURL = "curl -sSfL '{0}' | saliency-client … -"
_NOT_COUNTED = "pictures that saliency-client made are passed over"
_NOT_AS_ARRAY = "it is no input of the model, which takes photos; name it to try all the same"
_NOT_AS_PHOTO = "the model takes arrays (.npy), not photos"


@dataclass(frozen=True)
class Input:
    """One image to work on.

    Attributes:
        source: its path as typed or found, or "-" for stdin.
        folder: its folder below the one that was typed, so that results can be laid out the same way.
        named: it was typed itself, or a pattern of it was, and it was not found in a folder.
    """

    source: str
    folder: Path = Path()
    named: bool = True

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


@dataclass(frozen=True)
class Found:
    """The images that were found, each once, in order; and what was not taken."""

    inputs: list[Input]
    left_out: LeftOut


def find_inputs(arguments: Sequence[str], *, recursive: bool) -> Found:
    """The images that paths, folders, patterns and "-" mean.

    Folders give the files that are named as pictures or as arrays, sorted, without those that this tool made.

    Raises:
        UsageError: a URL, or stdin twice or from a terminal.
        CommandError: there is no image at all: a folder without images, or a pattern that matches nothing.
    """
    found: dict[str, Input] = {}
    left_out = LeftOut()
    nothing: list[tuple[str, CommandError]] = []
    folders: dict[str, str] = {}
    for argument in arguments:
        if argument == STDIN and STDIN in found:
            raise UsageError("- (stdin) is given twice")
        failures = len(left_out.errors)
        inputs = _expand(argument, recursive, left_out)
        if not inputs and len(left_out.errors) == failures:
            nothing.append((argument, _no_images(argument, recursive)))
        for one in inputs:
            found.setdefault(_identity(one, folders), one)
    if nothing and not found and not left_out.errors:
        raise nothing[0][1]
    left_out.errors += nothing
    return Found(list(found.values()), left_out)


def _identity(one: Input, folders: dict[str, str]) -> str:
    """The same for a file that is reached by two ways; `folders` keeps what has been resolved."""
    if one.source == STDIN:
        return STDIN
    folder, name = os.path.split(one.source)
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    return os.path.join(folders[folder], name)


def _expand(argument: str, recursive: bool, left_out: LeftOut) -> list[Input]:
    if argument == STDIN:
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError("- reads an image from stdin, and nothing is piped in", hint="cat photo.jpg | …")
        return [Input(STDIN)]
    if not argument:
        raise UsageError("an image's name is empty", hint="a variable of the shell may be unset")
    scheme = argument.partition(":")[0].lower() + ":"
    if _URL.match(argument) and not os.path.exists(argument):
        raise UsageError(
            f"{printable(argument)} is a URL, and images are not downloaded",
            hint=_FETCHED_BY.get(scheme, _BY_CURL).replace("{0}", printable(argument)),
        )
    path = Path(argument)
    if os.path.isdir(argument):
        return [
            Input(str(one), one.parent.relative_to(path), named=False)
            for one in pictures_in(path, left_out, recursive=recursive)
        ]
    if not os.path.exists(argument) and glob.has_magic(argument):
        matches = [
            match for match in sorted(glob.glob(argument, recursive=True)) if _is_file(match, left_out)
        ]
        for match in matches:
            if is_own_picture(match):
                left_out.add(match, OWN)
        return [Input(match) for match in matches if not is_own_picture(match)]
    return [Input(argument)]


def _is_file(match: str, left_out: LeftOut) -> bool:
    """Whether a match of a pattern is a file; of a folder the pattern says nothing."""
    if os.path.isfile(match) or (os.path.islink(match) and not os.path.exists(match)):
        return True
    if not os.path.isdir(match):
        left_out.add(match, NO_FILE)
    return False


def _no_images(argument: str, recursive: bool) -> CommandError:
    if not os.path.isdir(argument):
        return CommandError(f"{printable(argument)} matches no image", hint=_NOT_COUNTED)
    inside = "in it or below" if recursive else "in it; --recursive enters subfolders"
    return CommandError(
        f"{printable(argument)} has no images", hint=f"no file named as one is {inside}; {_NOT_COUNTED}"
    )


def is_own_picture(path: str) -> bool:
    """Whether a file is a picture that this tool made, by the fields that it writes."""
    return read_facts(path) is not None


def has_found_arrays(inputs: Sequence[Input]) -> bool:
    """Whether it depends on the model which of the files that were found are images for it."""
    return any(one.is_array and not one.named for one in inputs)


def for_model(inputs: Sequence[Input], model: ModelInput, left_out: LeftOut) -> list[Input]:
    """The images that a model takes, of files that were found; what was typed by name stays.

    A model of photos takes arrays that fit it to the letter, since others may be anything. A model of float
    values takes arrays; one that does not fit is kept, to fail with the reason. Maps that this tool wrote
    beside the images are left out.
    """
    takes_photos = model.dtype == "uint8"
    arrays = any(one.is_array for one in inputs)
    kept: list[Input] = []
    for one in inputs:
        if one.named:
            kept.append(one)
        elif not one.is_array:
            if takes_photos or not arrays:
                kept.append(one)
            else:
                left_out.add(one.source, _NOT_AS_PHOTO)
        else:
            shape, dtype = _array_kind(one.source)
            if shape == (model.height, model.width):
                left_out.add(one.source, OWN)
            elif takes_photos and (shape[-3:] != model.shape or dtype != model.dtype):
                left_out.add(one.source, _NOT_AS_ARRAY)
            else:
                kept.append(one)
    return kept


def _array_kind(path: str) -> tuple[tuple[int, ...], str]:
    """Shape and dtype of an array in a file; empty where it is not one."""
    import numpy as np

    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    # A header that lies meets NumPy with MemoryError, OverflowError, tokenize.TokenError and others.
    except Exception:
        return (), ""
    return (array.shape, array.dtype.name) if isinstance(array, np.ndarray) else ((), "")


def missing(one: Input) -> ImageError | None:
    """The error for an image whose file is not there; found without reading it, before a server is asked."""
    if one.source == STDIN or os.path.exists(one.source):
        return None
    from saliency_client.images import ImageError

    if os.path.islink(one.source):
        return ImageError(f"{one.source} is a link to {os.readlink(one.source)}, which does not exist")
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
