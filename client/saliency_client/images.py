"""Pictures to model inputs, with what it takes to put a map back over the original picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from saliency_client._decoding import FORMATS, decode, displayable, one_picture
from saliency_client._errors import InputError
from saliency_client._picture_room import MOST_PIXELS
from saliency_client._picture_source import (
    FileSource,
    ImageError,
    Source,
    not_taken,
    open_stream,
    source_name,
)
from saliency_client._shapes import shape_hint

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "FORMATS",
    "Box",
    "ImageError",
    "Photo",
    "Resize",
    "Source",
    "array_picture",
    "input_box",
    "load_array",
    "load_image",
    "shown_picture",
    "source_name",
]

Resize = Literal["crop", "stretch", "pad"]
Box = tuple[int, int, int, int]

DEFAULT_MAX_PIXELS = MOST_PIXELS
"""The size at which Pillow itself refuses a file: 0.5 GB as RGB."""

_MODE_OF_CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}
_PADDING_GRAY = 127
# A picture that the decoder made smaller is still so many times as large as the model input, on each side.
_DRAFT_MARGIN = 4


@dataclass(frozen=True)
class Photo:
    """One picture, as the model gets it and as people look at it.

    Attributes:
        array: [H, W, C], or [H, W] for a model whose images have no channels: the model input; uint8 0..255
            for a picture, or what an `.npy` file holds.
        picture: the original, upright, RGB, at its own size.
        box: (left, top, right, bottom) of the part of `picture` that `array` shows, in its pixels. With
            padding it reaches beyond the picture.
        name: where it came from, for messages.
        notes: what was done that a person may want to know, such as taking the first frame of an animation.

    Example:
        >>> from saliency_client.images import load_image
        >>> photo = load_image("cat.png", size=(224, 224))  # 300 pixels wide and 250 high
        >>> photo.array.shape, photo.picture.size, photo.box
        ((224, 224, 3), (300, 250), (25, 0, 275, 250))
    """

    array: npt.NDArray[Any]
    picture: Image.Image
    box: Box
    name: str
    notes: tuple[str, ...] = ()


def load_image(
    source: Source,
    size: tuple[int, int],
    *,
    channels: int = 3,
    resize: Resize = "crop",
    max_pixels: int = DEFAULT_MAX_PIXELS,
    draft: bool = False,
) -> Photo:
    """Read a picture and make a model input of it.

    The picture is turned upright by its EXIF orientation, converted to sRGB by its color profile if it
    carries another one, put on white where it is transparent (unless the model takes an alpha channel),
    scaled to 8 bits, and resized with bicubic interpolation. Of an animation, the first frame is used.

    Gray values of more than 8 bits, and real ones, are scaled by the range that the file declares: its depth,
    TIFF's WhiteIsZero and sample ranges, PNG's sBIT, a PGM's largest value, ImageJ's display range. Where
    they use less than a quarter of the depth, as 12 bits stored in 16 do, or where no range is declared,
    they are scaled by the depth that they use, or from their smallest to their largest value, and `notes`
    says so. Real values from 0 to 1 are black to white. The same holds for colors of 16 bits.

    Profiles (ICC) are followed for gray, RGB, palettes and CMYK, with and without transparency. One that is
    damaged, or of another kind of color than the pixels, is not used, and `notes` says so. Colors of more
    than 8 bits are brought to 8 bits first. Not followed are descriptions of color other than a profile:
    PNG's gAMA, cHRM and cICP, the color space of EXIF, and the nclx of AVIF and HEIC; CMYK without a profile
    is converted without color management.

    Threads that read pictures wait for one another, so that together they decode no more pixels at a time
    than one picture may have by default. Reading a picture takes up to three times its decoded size: its
    size as RGB, or that of its samples where these are more than 8 bits. Some decoders take more, such as
    those of WebP, JPEG 2000 and progressive JPEG: their pictures count for more pixels, by as much.

    Args:
        source: a path, encoded bytes (bytes, bytearray, memoryview), an open binary file, a Pillow image, or
            an array [H, W], [H, W, C] or [1, H, W, C] with C = 1, 3 or 4, uint8 or by its range as above.
        size: (H, W) of the model input, in pixels.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA).
        resize: "crop" cuts the largest centered part of the model's aspect, "stretch" ignores the aspect,
            "pad" adds gray bars.
        max_pixels: refuse larger pictures before decoding them. Pillow's own process-wide bound,
            PIL.Image.MAX_IMAGE_PIXELS, holds as well.
        draft: let the decoder of a large JPEG or JPEG 2000 make a half, a quarter or an eighth of it, at
            least four times as large as the model input. It is faster and takes less memory; `picture` and
            `box` are of the smaller picture, and the pixels of `array` differ by a few levels. That of JPEG
            2000 is moved by half a pixel of its own at most.

    Returns:
        The photo, `array` uint8 [H, W, channels].

    Raises:
        ImageError: the file is missing, unreadable, not an image, truncated or too large, its bands are of a
            kind that is not read, an array has another shape, or `channels` is not one of those above.
        InputError: `resize` is not one of those above, or `size` is not two numbers of pixels.
        TypeError: the source is none of the kinds above; the message says what it is.

    Example:
        >>> from saliency_client.images import load_image
        >>> height, width = client.signatures()["explain_gradients"].image_size
        >>> photo = load_image("cat.png", size=(height, width))
        >>> photo.array.dtype, photo.array.shape
        (dtype('uint8'), (224, 224, 3))
    """
    _check_resize(size, resize)
    if channels not in _MODE_OF_CHANNELS:
        raise ImageError(
            f"the model takes {channels} channels, and a picture has 1, 3 or 4",
            hint="save the model input as a .npy file of shape [H, W, C] and give that instead",
        )
    name = source_name(source)

    def smallest(picture_size: tuple[int, int]) -> tuple[int, int]:
        # Which way is up is not known yet; so for both.
        factors = []
        for width, height in (picture_size, picture_size[::-1]):
            left, top, right, bottom = input_box((width, height), size, resize)
            factors += [(right - left) / size[1], (bottom - top) / size[0]]
        factor = max(1, math.floor(min(factors) / _DRAFT_MARGIN))
        width, height = picture_size
        return max(1, width // factor), max(1, height // factor)

    with ExitStack() as held:
        original, notes = decode(source, name, max_pixels, held, smallest=smallest if draft else None)
        box = input_box(original.size, size, resize)
        array = _model_input(original, box, size, channels) if channels == 4 else None
        picture = _on_white(original)
        del original
        if array is None:
            array = _model_input(picture, box, size, channels)
    return Photo(array, picture, box, name, notes)


def load_array(source: FileSource, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Photo:
    """Read a model input from an `.npy` file.

    Args:
        source: path, bytes, or a binary file in NumPy's format, holding [H, W, C] or [1, H, W, C]; where C
            is 1, also without that axis.
        shape: (H, W, C) that the model takes, or (H, W) where its images have no channels.
        dtype: what the model takes: uint8, or a float type, which any real array is converted to.

    Returns:
        The photo; `picture` shows the array, scaled to its own extremes unless it is uint8.

    Raises:
        ImageError: not a NumPy file, or of another shape or type, or not finite; or the model's examples are
            no pictures, such as the features [N] of a row: `numpy.load` reads these.

    Example:
        >>> import numpy as np
        >>> from saliency_client.images import load_array
        >>> np.save("input.npy", np.zeros((4, 6, 3), np.float32))
        >>> load_array("input.npy", (4, 6, 3), "float32").picture.size
        (6, 4)
    """
    name = source_name(source)
    if len(shape) not in (2, 3):
        raise ImageError(
            f"the model takes examples of shape {list(shape)}, and no pictures [H, W] or [H, W, C]; "
            f"{name} is not read",
            hint="explain(numpy.load(path)[numpy.newaxis]) takes an array of any shape",
        )
    array = _read_array(source, name)
    if array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if _without_one(array.shape) != _without_one(shape):
        raise ImageError(
            f"{name} has shape {list(array.shape)}, and the model takes {list(shape)}",
            hint=_array_hint(array.shape, shape),
        )
    array = array.reshape(shape)
    wanted = np.dtype(dtype)
    if array.dtype != wanted and not (wanted.kind == "f" and array.dtype.kind in "fiu"):
        raise ImageError(f"{name} holds {array.dtype}, and the model takes {wanted}")
    if not np.isfinite(array).all():
        raise ImageError(f"{name} holds NaN or infinity")
    with np.errstate(over="ignore"):
        converted = array.astype(wanted)
    if not np.isfinite(converted).all():
        raise ImageError(f"{name} holds values that do not fit in {wanted}")
    height, width = shape[0], shape[1]
    return Photo(converted, array_picture(converted), (0, 0, width, height), name)


def _without_one(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Height, width and channels, these only where there are several."""
    return shape[:2] if len(shape) == 3 and shape[2] == 1 else tuple(shape)


def _array_hint(have: tuple[int, ...], want: tuple[int, ...]) -> str:
    axes = "[height, width, channels]" if len(want) == 3 else "[height, width]"
    if len(have) == len(want) and have[:2] == want[:2]:
        hint = shape_hint("array", (1, *have), (None, *want))
        if hint is not None:
            return hint
    return f"save one model input, {axes}, per file"


def array_picture(array: npt.NDArray[Any]) -> Image.Image:
    """Show a model input as a picture.

    Args:
        array: [H, W, C], [1, H, W, C] or [H, W]. uint8 is taken as it is, any other type is scaled from its
            minimum and maximum. Of 1 channel, or none, a gray picture is made, of 3 RGB, of 4 RGBA over
            white, of any other the mean.

    Returns:
        An RGB picture of H x W.

    Raises:
        ImageError: another shape, no pixels, or NaN or infinity.
        TypeError: it does not hold real numbers.

    Example:
        >>> import numpy as np
        >>> from saliency_client.images import array_picture
        >>> picture = array_picture(np.array([[[-1.0], [1.0]]]))
        >>> picture.getpixel((0, 0)), picture.getpixel((1, 0))
        ((0, 0, 0), (255, 255, 255))
    """
    values = one_picture(array)
    if not np.isfinite(values).all():
        raise ImageError("the array holds NaN or infinity, and no picture can be made of it")
    if values.dtype != np.uint8:
        low, high = float(values.min()), float(values.max())
        values = np.rint(
            (values.astype(np.float64) - low) * (255 / (high - low) if high > low else 0)
        ).astype(np.uint8)
    if values.shape[-1] not in _MODE_OF_CHANNELS:
        values = np.rint(values.mean(axis=-1, keepdims=True)).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(values[..., 0] if values.shape[-1] == 1 else values))
    return _on_white(picture)


def shown_picture(picture: Image.Image | npt.NDArray[Any]) -> Image.Image:
    """What a map is drawn over, as a picture of 8 bits.

    Args:
        picture: a Pillow image of any mode, or an array as for `array_picture`.

    Returns:
        L or RGB; an image that is so already, unchanged. It is neither turned nor converted by its profile,
        since the map belongs to its pixels as they are.

    Raises:
        ImageError: an array of another shape.
        TypeError: anything else, such as a path; the message says what is taken.

    Example:
        >>> import numpy as np
        >>> from saliency_client.images import shown_picture
        >>> shown_picture(np.zeros((1, 4, 6, 3), np.uint8)).size
        (6, 4)
    """
    if isinstance(picture, np.ndarray):
        return array_picture(picture)
    if isinstance(picture, Photo):
        raise TypeError("a Photo shows a part of its picture: give its picture, and its box beside the map")
    if not isinstance(picture, Image.Image):
        path = isinstance(picture, (str, bytes)) or hasattr(picture, "__fspath__")
        error = not_taken(picture, "a Pillow image, an array [H, W, C], or a Photo of load_image")
        raise TypeError(f"{error}: load_image(path, size=…) reads a file") if path else error
    shown = displayable(picture)
    return _on_white(shown) if shown.mode == "RGBA" else shown


def input_box(picture_size: tuple[int, int], size: tuple[int, int], resize: Resize) -> Box:
    """The part of a picture that a model input shows.

    Args:
        picture_size: (width, height) of the picture.
        size: (H, W) of the model input.
        resize: as in `load_image`.

    Returns:
        (left, top, right, bottom) in the picture's pixels, whole numbers; beyond the picture for "pad".

    Raises:
        InputError: `resize` or `size` is not what `load_image` takes.

    Example:
        >>> from saliency_client.images import input_box
        >>> input_box((300, 200), (224, 224), "crop"), input_box((300, 200), (224, 224), "pad")
        ((50, 0, 250, 200), (0, -50, 300, 250))
    """
    _check_resize(size, resize)
    width, height = picture_size
    model_height, model_width = size
    if resize == "stretch":
        return 0, 0, width, height
    fitted = (round(height * model_width / model_height), round(width * model_height / model_width))
    choose = max if resize == "pad" else min
    box_width, box_height = max(1, choose(width, fitted[0])), max(1, choose(height, fitted[1]))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height


def _check_resize(size: tuple[int, int], resize: Resize) -> None:
    if resize not in get_args(Resize):
        raise InputError(f"resize is {resize!r}; it must be one of {', '.join(map(repr, get_args(Resize)))}")
    try:
        height, width = size
        right = height >= 1 and width >= 1 and height == int(height) and width == int(width)
    except (TypeError, ValueError):
        right = False
    if not right:
        raise InputError(
            f"size is {size!r}; it must be (height, width) of the model input, in pixels",
            hint="signatures()[…].image_size has it",
        )


def _model_input(
    picture: Image.Image, box: Box, size: tuple[int, int], channels: int
) -> npt.NDArray[np.uint8]:
    """The part of a picture in a box, uint8 [H, W, channels]; gray beyond the picture."""
    height, width = size
    left, top, right, bottom = box
    inner = (max(left, 0), max(top, 0), min(right, picture.width), min(bottom, picture.height))
    part = picture if inner == (0, 0, *picture.size) else picture.crop(inner)
    converters: dict[int, Callable[[Image.Image], Image.Image]] = {
        1: lambda image: image.convert("L"),
        3: lambda image: image,
        4: lambda image: image if image.mode == "RGBA" else image.convert("RGBA"),
    }
    part = converters[channels](part)
    if inner == box:
        scaled = np.asarray(part.resize((width, height), Image.Resampling.BICUBIC))
    else:
        scaled = _padded(part, box, inner, size)
    return scaled.reshape(height, width, channels)


def _padded(part: Image.Image, box: Box, inner: Box, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """A picture in a larger box of gray, resized; the box itself, as large as its long side, is never made.

    First along the side without bars, then along the other, by the weights that Pillow's bicubic filter has
    of the picture alone; the gray has the rest.
    """
    height, width = size
    rows = box[1] != inner[1] or box[3] != inner[3]
    resized = part.resize((width, part.height) if rows else (part.width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(resized).reshape(resized.height, resized.width, -1)
    if not rows:
        pixels = pixels.swapaxes(0, 1)
    start, stop = (inner[1] - box[1], box[3] - box[1]) if rows else (inner[0] - box[0], box[2] - box[0])
    background = np.full(pixels.shape[-1], _PADDING_GRAY, np.float64)
    background[3:] = 255
    count = height if rows else width
    scaled = np.empty((count, *pixels.shape[1:]), np.uint8)
    for index in range(count):
        first, weights = _cubic_weights(index, stop, count, start, len(pixels))
        seen = pixels[first : first + len(weights)] - background
        scaled[index] = np.rint(np.clip(np.tensordot(weights, seen, 1) + background, 0, 255))
    return np.ascontiguousarray(scaled if rows else scaled.swapaxes(0, 1))


def _cubic_weights(
    index: int, length: int, count: int, start: int, held: int
) -> tuple[int, npt.NDArray[np.float64]]:
    """Of `length` samples resized to `count`: the weights in one result of those `held` from `start` on.

    Keys' cubic convolution (1981), a = -1/2, widened by the reduction. Gives the first one that has a weight,
    counted from `start`, and the weights.
    """
    scale = length / count
    support = 2 * max(scale, 1.0)
    center = (index + 0.5) * scale
    low, high = max(0, int(center - support + 0.5)), min(length, int(center + support + 0.5))
    first, last = max(low, start), min(high, start + held)
    if first >= last:
        return 0, np.zeros(0)
    away = np.abs((np.arange(low, high) + 0.5 - center) / max(scale, 1.0))
    near = (1.5 * away - 2.5) * away**2 + 1
    far = ((-0.5 * away + 2.5) * away - 4) * away + 2
    weights = np.where(away < 1, near, np.where(away < 2, far, 0))
    weights /= weights.sum()
    return first - start, weights[first - low : last - low]


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture
    if picture.mode != "RGBA":
        return picture.convert("RGB")
    canvas = Image.new("RGB", picture.size, "white")
    canvas.paste(picture, (0, 0), picture)
    return canvas


def _read_array(source: FileSource, name: str) -> npt.NDArray[Any]:
    stream = open_stream(source, name)
    try:
        array = np.load(stream, allow_pickle=False)
    # A header that lies meets NumPy with MemoryError, OverflowError, tokenize.TokenError and others.
    except Exception as error:
        raise ImageError(
            f"{name} is not a NumPy array file: {error}", hint="write it with numpy.save(path, array)"
        ) from error
    finally:
        if stream is not source:
            stream.close()
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        raise ImageError(
            f"{name} does not hold one numeric array", hint="write it with numpy.save(path, array)"
        )
    return array
