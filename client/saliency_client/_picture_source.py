"""Where a picture comes from: what is taken, how it is called, how it is opened."""

from __future__ import annotations

import inspect
import io
import os
import re
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from saliency_client._errors import InputError

Source = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | npt.NDArray[np.generic]
)
FileSource = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_BASE64 = re.compile(r"data:[^,]*,|(/9j/|iVBORw0KGgo|R0lGOD|UklGR)[0-9A-Za-z+/\s]{50}")
_DECODED = "base64.b64decode(text), of what stands behind the comma of a data: address, is taken"
_LONGEST_NAME = 255
_TAKEN = "a path, encoded bytes, an open binary file, a Pillow image, or a NumPy array"


class ImageError(InputError):
    """A file that cannot become a model input: missing, not an image, broken, too large, wrong shape.

    Example:
        >>> from saliency_client.images import ImageError, load_image
        >>> try:
        ...     load_image("gone.png", size=(224, 224))
        ... except ImageError as error:
        ...     print(error)
        gone.png does not exist
    """


def source_name(source: Source) -> str:
    """What to call a source in messages: its path, or the name of the open file.

    Example:
        >>> from saliency_client.images import source_name
        >>> source_name("photos/cat.png"), source_name(b"...")
        ('photos/cat.png', 'the image')
    """
    if isinstance(source, (str, os.PathLike)):
        path = os.fsdecode(source)
        # Text that is no path may be of any length.
        return path if len(path) <= _LONGEST_NAME or os.path.exists(path) else f"{path[:60]}…"
    name = getattr(source, "filename" if isinstance(source, Image.Image) else "name", None)
    return name if isinstance(name, str) and name else "the image"


def open_stream(source: FileSource, name: str) -> BinaryIO:
    """The bytes of a source as a file that can seek; `source` itself if it is one.

    Raises:
        ImageError: the file is missing, or cannot be read.
        TypeError: the source is none of the kinds that are taken.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source.tobytes() if isinstance(source, memoryview) else source)
    try:
        if isinstance(source, (str, os.PathLike)):
            return _opened(source)
        return _seekable(source)
    except FileNotFoundError:
        if isinstance(source, str) and (error := _of_no_path(source, name)) is not None:
            raise error from None
        raise ImageError(f"{name} does not exist") from None
    except IsADirectoryError:
        raise ImageError(f"{name} is a folder, not an image") from None
    except (OSError, ValueError) as error:
        if isinstance(source, str) and (found := _of_no_path(source, name)) is not None:
            raise found from None
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ImageError(f"{name} cannot be read: {reason}") from error


def not_taken(source: object, taken: str = _TAKEN) -> TypeError:
    """The error for something that is no source of a picture; it says what is taken, and the way there."""
    kind = type(source)
    called = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    advice = ""
    if inspect.iscoroutinefunction(getattr(source, "read", None)):
        advice = "; it is read asynchronously: give the binary file inside it (.file), or await its bytes"
    elif isinstance(getattr(source, "read", None) and source, io.TextIOBase) or _reads_text(source):
        advice = "; it is open as text: open it with 'rb'"
    elif hasattr(source, "__array__"):
        advice = "; numpy.asarray(…) makes an array of it"
    return TypeError(f"a picture is given as {taken}, not as {called}{advice}")


def _opened(path: str | os.PathLike[str]) -> BinaryIO:
    """A file; of a named pipe, or of what a shell makes of `<(command)`, what is in it."""
    file = open(path, "rb")  # noqa: SIM115 - who reads it closes it
    if file.seekable():
        return file
    with file:
        return io.BytesIO(file.read())


def _of_no_path(text: str, name: str) -> ImageError | None:
    """The error for text that stands for a picture in another way than by its path; None for a path."""
    if _URL.match(text):
        return ImageError(
            f"{name} is a URL, and pictures are not downloaded",
            hint="urllib.request.urlopen(url) is an open binary file, which is taken",
        )
    if _BASE64.match(text):
        return ImageError(f"{name} is a picture as base64 text, which is not read", hint=_DECODED)
    return None


def _seekable(source: Any) -> BinaryIO:
    """An open file, or a copy in memory where it cannot seek: decoders do."""
    read = getattr(source, "read", None)
    if not callable(read) or inspect.iscoroutinefunction(read) or isinstance(source, io.TextIOBase):
        raise not_taken(source)
    readable = getattr(source, "readable", None)
    if callable(readable) and not readable():
        raise ValueError("it is open for writing alone")
    if _can_seek(source):
        if _reads_text(source):
            raise not_taken(source)
        return cast(BinaryIO, source)
    content = read()
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise not_taken(source)
    return io.BytesIO(content)


def _can_seek(source: Any) -> bool:
    # A SpooledTemporaryFile, which web frameworks hand over, has no seekable() before Python 3.11.
    seekable = getattr(source, "seekable", None)
    if seekable is None:
        return hasattr(source, "seek") and hasattr(source, "tell")
    return bool(seekable() if callable(seekable) else seekable)


def _reads_text(source: Any) -> bool:
    try:
        return isinstance(source.read(0), str)
    except Exception:
        return False
