"""Image files to model inputs, with what it takes to put a map back over the original picture."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from saliency_client._errors import InputError, SaliencyError
from saliency_client._shapes import shape_hint

Resize = Literal["crop", "stretch", "pad"]
Box = tuple[int, int, int, int]
Source = str | os.PathLike[str] | bytes | BinaryIO

DEFAULT_MAX_PIXELS = 2 * 89_478_485
"""The size at which Pillow itself refuses a file: 0.5 GB as RGB."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "JPEG2000", "AVIF", "TGA", "ICO", "PPM")
"""Pillow's names of the formats that are read. It knows more; EPS among them is a program, which it runs."""

_MODE_OF_CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}
_PADDING_GRAY = 127
_WHITE = (255, 255, 255, 255)


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
) -> Photo:
    """Read a picture and make a model input of it.

    The picture is turned upright by its EXIF orientation, converted to sRGB by its color profile if it
    carries another one, put on white where it is transparent (unless the model takes an alpha channel),
    scaled to 8 bits, and resized with bicubic interpolation. Of an animation, the first frame is used.

    Args:
        source: path, encoded bytes, or a binary file.
        size: (H, W) of the model input, in pixels.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA).
        resize: "crop" cuts the largest centered part of the model's aspect, "stretch" ignores the aspect,
            "pad" adds gray bars.
        max_pixels: refuse larger pictures before decoding them. Pillow's own process-wide bound,
            PIL.Image.MAX_IMAGE_PIXELS, holds as well.

    Returns:
        The photo, `array` uint8 [H, W, channels].

    Raises:
        ImageError: the file is missing, unreadable, not an image, truncated or too large, or `channels` is
            not one of those above.

    Example:
        >>> from saliency_client.images import load_image
        >>> height, width = client.signatures()["explain_gradients"].image_size
        >>> photo = load_image("cat.png", size=(height, width))
        >>> photo.array.dtype, photo.array.shape
        (dtype('uint8'), (224, 224, 3))
    """
    if channels not in _MODE_OF_CHANNELS:
        raise ImageError(
            f"the model takes {channels} channels, and a picture has 1, 3 or 4",
            hint="save the model input as a .npy file of shape [H, W, C] and give that instead",
        )
    name = source_name(source)
    original, notes = _decode(source, name, max_pixels)
    box = input_box(original.size, size, resize)
    part = _convert(_cut(original, box), channels)
    height, width = size
    array = np.asarray(part.resize((width, height), Image.Resampling.BICUBIC)).reshape(
        height, width, channels
    )
    return Photo(array, _on_white(original), box, name, notes)


def load_array(source: Source, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Photo:
    """Read a model input from an `.npy` file.

    Args:
        source: path, bytes, or a binary file in NumPy's format, holding [H, W, C] or [1, H, W, C]; where C
            is 1, also without that axis.
        shape: (H, W, C) that the model takes, or (H, W) where its images have no channels.
        dtype: what the model takes: uint8, or a float type, which any real array is converted to.

    Returns:
        The photo; `picture` shows the array, scaled to its own extremes unless it is uint8.

    Raises:
        ImageError: not a NumPy file, or of another shape or type, or not finite.

    Example:
        >>> import numpy as np
        >>> from saliency_client.images import load_array
        >>> np.save("input.npy", np.zeros((4, 6, 3), np.float32))
        >>> load_array("input.npy", (4, 6, 3), "float32").picture.size
        (6, 4)
    """
    name = source_name(source)
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
        array: [H, W, C] or [H, W]. uint8 is taken as it is, any other type is scaled from its minimum and
            maximum. Of 1 channel, or none, a gray picture is made, of 3 RGB, of 4 RGBA over white, of any
            other the mean.

    Returns:
        An RGB picture of H x W.

    Example:
        >>> import numpy as np
        >>> from saliency_client.images import array_picture
        >>> picture = array_picture(np.array([[[-1.0], [1.0]]]))
        >>> picture.getpixel((0, 0)), picture.getpixel((1, 0))
        ((0, 0, 0), (255, 255, 255))
    """
    values = array[..., np.newaxis] if array.ndim == 2 else array
    if values.dtype != np.uint8:
        low, high = float(values.min()), float(values.max())
        values = np.rint(
            (values.astype(np.float64) - low) * (255 / (high - low) if high > low else 0)
        ).astype(np.uint8)
    if values.shape[-1] not in _MODE_OF_CHANNELS:
        values = np.rint(values.mean(axis=-1, keepdims=True)).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(values[..., 0] if values.shape[-1] == 1 else values))
    return _on_white(picture)


def input_box(picture_size: tuple[int, int], size: tuple[int, int], resize: Resize) -> Box:
    """The part of a picture that a model input shows.

    Args:
        picture_size: (width, height) of the picture.
        size: (H, W) of the model input.
        resize: as in `load_image`.

    Returns:
        (left, top, right, bottom) in the picture's pixels, whole numbers; beyond the picture for "pad".

    Example:
        >>> from saliency_client.images import input_box
        >>> input_box((300, 200), (224, 224), "crop"), input_box((300, 200), (224, 224), "pad")
        ((50, 0, 250, 200), (0, -50, 300, 250))
    """
    width, height = picture_size
    model_height, model_width = size
    if resize == "stretch":
        return 0, 0, width, height
    fitted = (round(height * model_width / model_height), round(width * model_height / model_width))
    choose = max if resize == "pad" else min
    box_width, box_height = max(1, choose(width, fitted[0])), max(1, choose(height, fitted[1]))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height


def source_name(source: Source) -> str:
    """What to call a source in messages: its path, or the name of the open file.

    Example:
        >>> from saliency_client.images import source_name
        >>> source_name("photos/cat.png"), source_name(b"...")
        ('photos/cat.png', 'the image')
    """
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "the image"


def _decode(source: Source, name: str, max_pixels: int) -> tuple[Image.Image, tuple[str, ...]]:
    stream = _open(source, name)
    try:
        picture = _identify(stream)
        _check_pixels(picture.size, name, max_pixels)
        picture.load()
        # The picture inside an icon may be larger than the icon's directory says.
        _check_pixels(picture.size, name, max_pixels)
        notes = _notes(picture)
        return _eight_bits(_upright(picture), name), notes
    except SaliencyError:
        raise
    except UnidentifiedImageError:
        raise ImageError(
            f"{name} is not an image" if _has_content(stream) else f"{name} is empty",
            hint="the formats are JPEG, PNG, WebP, GIF, TIFF, BMP, JPEG 2000, AVIF, TGA, ICO and PNM",
        ) from None
    except Image.DecompressionBombError as error:
        raise _too_large(name, str(error)) from None
    # Pillow's decoders meet hostile bytes with OSError, SyntaxError, struct.error, IndexError and others.
    except Exception as error:
        raise ImageError(
            f"{name} cannot be decoded: {error}", hint="the file is truncated or damaged; fetch it again"
        ) from error
    finally:
        if stream is not source:
            stream.close()


def _identify(stream: BinaryIO) -> Image.Image:
    """Open a picture, not decoded yet, of those of the formats that this Pillow can read."""
    Image.preinit()
    try:
        return Image.open(stream, formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        stream.seek(0)
    Image.init()  # every format; that takes a while, and the common ones are known before
    return Image.open(stream, formats=[name for name in FORMATS if name in Image.OPEN])


def _open(source: Source, name: str) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not isinstance(source, (str, os.PathLike)):
        # Decoders seek, and a pipe cannot.
        return source if source.seekable() else io.BytesIO(source.read())
    try:
        return open(source, "rb")
    except FileNotFoundError:
        raise ImageError(f"{name} does not exist") from None
    except IsADirectoryError:
        raise ImageError(f"{name} is a folder, not an image") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ImageError(f"{name} cannot be read: {reason}") from error


def _has_content(stream: BinaryIO) -> bool:
    stream.seek(0)
    return bool(stream.read(1))


def _check_pixels(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise _too_large(
            name, f"{width} x {height} is {width * height} pixels, and the bound is {max_pixels}"
        )


def _too_large(name: str, detail: str) -> ImageError:
    return ImageError(
        f"{name} is too large: {detail}",
        hint="a small file can unfold to fill the memory; if you trust it, raise --max-pixels (max_pixels=)",
    )


def _notes(picture: Image.Image) -> tuple[str, ...]:
    # A camera's MPO holds the same scene several times and passes for a plain JPEG.
    if picture.format == "MPO" or not getattr(picture, "is_animated", False):
        return ()
    return ("first page of several",) if picture.format == "TIFF" else ("first frame of an animation",)


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    # A damaged EXIF block is no reason to refuse a picture that every viewer shows.
    except Exception:
        return picture


def _eight_bits(picture: Image.Image, name: str) -> Image.Image:
    """Any mode to L, RGB, or RGBA where it is transparent, in sRGB."""
    if picture.mode in {"I", "F"} or picture.mode.startswith("I;16"):
        return _scaled_to_bytes(picture, name)
    transparent = picture.has_transparency_data
    profile = picture.info.get("icc_profile")
    if profile and picture.mode in {"RGB", "RGBA", "CMYK", "LAB"}:
        picture = _to_srgb(picture, profile, "RGBA" if transparent else "RGB")
    if transparent:
        return picture.convert("RGBA")
    return picture.convert("L" if picture.mode in {"1", "L"} else "RGB")


def _scaled_to_bytes(picture: Image.Image, name: str) -> Image.Image:
    """Gray of more than 8 bits: integers are of 16 bits, reals of 0..1 or 0..255."""
    values = np.asarray(picture)
    low, high = float(values.min()), float(values.max())
    bound = 65535 if picture.mode != "F" else 1 if high <= 1 else 255
    if not (low >= 0 and high <= bound):
        raise ImageError(
            f"{name} holds gray values from {low:g} to {high:g}; which are black and white is unknown",
            hint="convert it to 8 or 16 bits first, or scale real values to 0..1",
        )
    return Image.fromarray(np.rint(values.astype(np.float64) * (255 / bound)).astype(np.uint8))


def _to_srgb(picture: Image.Image, profile: bytes, mode: str) -> Image.Image:
    from PIL import ImageCms

    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        # Every sRGB profile is a little different; converting would only add rounding.
        if "srgb" in ImageCms.getProfileDescription(embedded).lower():
            return picture
        converted = ImageCms.profileToProfile(
            picture, embedded, ImageCms.createProfile("sRGB"), outputMode=mode
        )
    # A profile that is damaged, or of another color space than the pixels, is ignored as viewers do.
    except (ImageCms.PyCMSError, OSError, ValueError):
        return picture
    return converted if converted is not None else picture


def _cut(picture: Image.Image, box: Box) -> Image.Image:
    left, top, right, bottom = box
    if left >= 0 and top >= 0:
        return picture.crop(box)
    canvas = Image.new("RGB", (right - left, bottom - top), (_PADDING_GRAY,) * 3).convert(picture.mode)
    canvas.paste(picture, (-left, -top))
    return canvas


def _convert(picture: Image.Image, channels: int) -> Image.Image:
    converters: dict[int, Callable[[Image.Image], Image.Image]] = {
        1: lambda image: _on_white(image).convert("L"),
        3: _on_white,
        4: lambda image: image.convert("RGBA"),
    }
    return converters[channels](picture)


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, _WHITE), picture)
    return picture.convert("RGB")


def _read_array(source: Source, name: str) -> npt.NDArray[Any]:
    stream = _open(source, name)
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
