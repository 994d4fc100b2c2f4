"""Any source of a picture to 8 bits a channel: L, RGB or RGBA, upright, in sRGB, with notes."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from saliency_client import _color_profiles, _declared, _tiff_samples
from saliency_client._color_profiles import ProfileUnused
from saliency_client._errors import SaliencyError
from saliency_client._levels import (
    Declared,
    Scale,
    bands_of_rows,
    choose_scale,
    declared_by_significant_bits,
    extent,
)
from saliency_client._picture_room import ROOM
from saliency_client._picture_source import ImageError, Source, open_stream

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "JPEG2000", "AVIF", "TGA", "ICO", "PPM")
"""Pillow's names of the formats that are read. It knows more; EPS among them is a program, which it runs."""

_ORIENTATION = 0x0112
_ICC_PROFILE = 34675
_SAVE_AS = "save it with 1, 3 or 4 bands of 8 or 16 bits, such as a PNG"
_FETCH = "the file is truncated or damaged; fetch it again"
# Exif 2.32, table 6.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_AVIF_BRANDS = {b"avif", b"avis"}
# The largest value of a gray sample of fewer than 8 bits; Pillow spreads the samples over 0..255.
_SPREAD = {"L;2": 85, "L;4": 17}
_DARK = 64
_CLOSED = "Operation on closed image"
_CONVERT = "convert it to JPEG, PNG or TIFF"
# What is no picture to Pillow here, and a picture, or meant as one, to whoever has the file.
_OTHER_KINDS = (
    (rb"8BPS", "a Photoshop file", _CONVERT),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL picture", _CONVERT),
    (rb"v/1\x01|#\?RADIANCE|#\?RGBE", "a picture of high dynamic range", _CONVERT),
    (rb"FUJIFILMCCD-RAW|IIU\0|II\x1a\0\0\0HEAPCCDR|.{4}ftypcrx ", "a raw file of a camera", _CONVERT),
    (rb".{128}DICM|SIMPLE  =", "a file of scientific pictures", _CONVERT),
    (rb"%PDF-|%!PS|\xc5\xd0\xd3\xc6", "a document", _CONVERT),
    (rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*|<!DOCTYPE svg.*)?<svg", "a drawing (SVG)", _CONVERT),
    (rb"(?i)(\xef\xbb\xbf)?\s*(<!doctype html|<html)", "a web page", "download the picture itself"),
    (rb"version https://git-lfs", "a pointer of Git LFS", "git lfs pull fetches the picture"),
    (rb".{4}ftyp", "a video", "save one frame of it as JPEG or PNG"),
    (
        rb"data:image/|/9j/[0-9A-Za-z+/]{8}|iVBORw0KGgo|R0lGOD|UklGR",
        "a picture as base64 text",
        "decode it first: base64.b64decode(…), or `base64 -d` in a shell",
    ),
    (rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!", "an archive", "unpack it"),
)
# The most that reading takes of memory, in bytes for each pixel: three times its size as RGB.
_MOST_BYTES = 9

Again = Callable[[str], Image.Image]
"""Decodes the file once more, its samples unpacked by another of Pillow's raw modes."""


def decode(
    source: Source, name: str, max_pixels: int, held: ExitStack, *, smallest: Callable[..., Any] | None = None
) -> tuple[Image.Image, tuple[str, ...]]:
    """Read a picture.

    Args:
        source: as in `load_image`.
        name: what it is called in messages.
        max_pixels: refuse larger pictures before decoding them.
        held: room for the picture's pixels is held until it is left.
        smallest: gives, of the picture's (width, height), the smallest size that will do; the decoder may
            then give a smaller picture. None: the picture's own size.

    Returns:
        The picture, which is not shared with the source, and notes.

    Raises:
        ImageError: it is missing, unreadable, no image, damaged or too large.
        TypeError: the source is none of the kinds that are taken.
    """
    if isinstance(source, np.ndarray):
        height, width = one_picture(source, name).shape[:2]
        _check_pixels((width, height), name, max_pixels)
        return picture_of_array(source, name)
    if isinstance(source, Image.Image):
        return _told(lambda: _read(source, None, name, max_pixels, held, smallest), name)
    stream = open_stream(source, name)
    try:
        return _told(lambda: _read(None, stream, name, max_pixels, held, smallest), name)
    finally:
        if stream is not source:
            stream.close()


def picture_of_array(array: npt.NDArray[Any], name: str = "the array") -> tuple[Image.Image, tuple[str, ...]]:
    """An array of pixels as a picture.

    Args:
        array: [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], or one of these in a batch of one. uint8 is taken
            as it is, any other type by its range, as samples of a file are.
        name: what it is called in messages.

    Returns:
        L, RGB or RGBA; and notes.

    Raises:
        ImageError: it has another shape, no pixels, or no finite values.
        TypeError: it does not hold real numbers.
    """
    pixels = one_picture(array, name)
    if pixels.shape[-1] not in (1, 3, 4):
        raise ImageError(
            f"{name} has shape {list(array.shape)}: {pixels.shape[-1]} channels, and a picture has 1, 3 or 4",
            hint="take some of them: array[..., :3]",
        )
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype == np.uint8:
        flat = pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels
        return Image.fromarray(np.ascontiguousarray(flat)), ()
    kind: Any = pixels.dtype.kind
    declared = Declared(pixels.dtype.itemsize * 8, kind)
    return _picture_of_samples(pixels, declared, name, premultiplied=False)


def _picture_of_samples(
    samples: npt.NDArray[Any],
    declared: Declared,
    name: str,
    *,
    premultiplied: bool,
    profile: bytes | None = None,
) -> tuple[Image.Image, tuple[str, ...]]:
    """Samples [H, W, C] of any numbers, of 1 to 4 bands of which the second or fourth is alpha."""
    height, width, bands = samples.shape
    has_alpha = bands in (2, 4)
    colors = samples[..., :-1] if has_alpha else samples
    rows = list(bands_of_rows(height, width))
    used = extent((colors[band] for band in rows), declared.missing)
    if not used.low <= used.high:
        raise ImageError(f"{name} holds no finite value")
    scale = choose_scale(used, declared)
    opaque = scale
    if has_alpha:
        most = extent(samples[band][..., -1] for band in rows)
        opaque = choose_scale(most, Declared(declared.bits, declared.kind))
    notes, curve = list(scale.notes), None
    if profile and bands < 3:
        try:
            curve = _color_profiles.gray_curve(profile)
        except ProfileUnused as unused:
            notes.append(str(unused))
    shown = Image.new({1: "L", 3: "RGB"}.get(bands, "RGBA"), (width, height))
    for band in rows:
        levels = scale.bytes(colors[band], curve)
        if has_alpha:
            alpha = opaque.levels(samples[band][..., -1:])
            if premultiplied:
                levels = np.rint(np.clip(levels / np.maximum(alpha, 1 / 65535), 0, 255)).astype(np.uint8)
            gray = levels.shape[-1] == 1
            levels = np.dstack([levels] * (3 if gray else 1) + [np.rint(alpha * 255).astype(np.uint8)])
        part = levels.squeeze(-1) if bands == 1 else levels
        shown.paste(Image.fromarray(np.ascontiguousarray(part)), (0, band.start))
    if profile and bands > 2:
        try:
            shown = _color_profiles.to_srgb(shown, profile)
        except ProfileUnused as unused:
            notes.append(str(unused))
    return shown, tuple(notes)


def one_picture(array: npt.NDArray[Any], name: str = "the array") -> npt.NDArray[Any]:
    """An array of one picture as [H, W, C] of any C.

    Raises:
        ImageError: it has another shape, or no pixels.
        TypeError: it does not hold real numbers.
    """
    if array.dtype.kind not in "fiub":
        raise TypeError(f"a picture is an array of real numbers, not of {array.dtype}")
    if np.ma.is_masked(array):
        raise TypeError("a picture is an array without masked pixels; array.filled(0) makes them black")
    shape = list(array.shape)
    pixels: npt.NDArray[Any] = array[0] if array.ndim == 4 and len(array) == 1 else array
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if array.ndim == 4 and len(array) != 1:
        raise ImageError(
            f"{name} holds {len(array)} pictures: its shape is {shape}", hint="give one: array[i]"
        )
    if pixels.ndim != 3 or 0 in pixels.shape:
        encoded = "; if it is an encoded picture, array.tobytes() is taken"
        raise ImageError(
            f"{name} has shape {shape}, and a picture is [H, W], [H, W, C] or [1, H, W, C]",
            hint="give an array of pixels with the channels last" + (encoded if array.ndim == 1 else ""),
        )
    if pixels.shape[0] in (1, 3, 4) and pixels.shape[-1] not in (1, 3, 4) and array.ndim > 2:
        raise ImageError(
            f"{name} has shape {shape}: its channels come first, and a picture is [H, W, C]",
            hint="move the channels to the end: numpy.moveaxis(array, -3, -1)",
        )
    return pixels


def displayable(picture: Image.Image) -> Image.Image:
    """A Pillow image of any mode as L, RGB or RGBA of 8 bits, neither turned nor changed by its profile."""
    if picture.mode in ("L", "RGB", "RGBA") and not picture.has_transparency_data:
        return picture
    picture.load()
    return _shown(picture.copy(), "", None, None, "the image")[0]


def identify(stream: BinaryIO, name: str) -> Image.Image | None:
    """Open a picture, not decoded yet; None for a TIFF file that Pillow does not know.

    Raises:
        ImageError: it is of no format that is read here; the sentence says what it is, if that is known.
    """
    Image.preinit()
    for known in (Image.preinit, Image.init):
        known()  # the common formats, then every one, which takes a while
        try:
            stream.seek(0)
            return Image.open(stream, formats=[format for format in FORMATS if format in Image.OPEN])
        except UnidentifiedImageError:
            continue
    return _of_other_libraries(stream, name)


def _of_other_libraries(stream: BinaryIO, name: str) -> Image.Image | None:
    stream.seek(0)
    head = stream.read(256)
    if not head:
        raise ImageError(f"{name} is empty")
    brands = _brands(head)
    if brands & _AVIF_BRANDS and "AVIF" in Image.OPEN:
        raise ImageError(f"{name} cannot be decoded: it is an AVIF picture, and not whole", hint=_FETCH)
    if brands & _AVIF_BRANDS:
        raise ImageError(
            f"{name} is an AVIF picture, which this Pillow does not read",
            hint="install one that does: pip install --upgrade 'pillow>=11.3'",
        )
    if brands & _HEIC_BRANDS:
        try:
            from pillow_heif import HeifImageFile
        except ImportError:
            raise ImageError(
                f"{name} is a HEIC picture, and pillow-heif, which reads these, is not installed",
                hint="pip install pillow-heif, or save the picture as JPEG",
            ) from None
        stream.seek(0)
        picture: Image.Image = HeifImageFile(stream)
        return picture
    if head.startswith(_tiff_samples.HEADS):
        return None
    if bits := _declared.jpeg2000_bits(stream):
        raise ImageError(
            f"{name} has {len(bits)} bands of {max(bits)} bits, which is not read", hint=_SAVE_AS
        )
    for start, kind, hint in _OTHER_KINDS:
        if re.match(start, head, re.DOTALL):
            raise ImageError(f"{name} is {kind}, which is not read", hint=hint)
    raise ImageError(
        f"{name} is not an image",
        hint="the formats are JPEG, PNG, WebP, GIF, TIFF, BMP, JPEG 2000, AVIF, HEIC, TGA, ICO and PNM",
    )


def _read_tiff(
    known: Image.Image | None, stream: BinaryIO, name: str, max_pixels: int, held: ExitStack
) -> tuple[Image.Image, tuple[str, ...]]:
    """A TIFF file of a kind that Pillow does not read (`known` is None), or gets wrong."""
    try:
        file = _tiff_samples.open_tiff(stream)
    except _tiff_samples.Unread as unread:
        raise ImageError(f"{name} {unread}, which is not read", hint=_SAVE_AS) from None
    if file is None:
        raise ImageError(f"{name} cannot be decoded: its TIFF directory is damaged", hint=_FETCH)
    width, height = file.size
    _check_pixels(file.size, name, max_pixels)
    # The samples, a chunk of them, and the picture that is made of them.
    held.enter_context(_room(width * height, 2 * file.bands * file.dtype.itemsize + 4))
    samples, tags = file.samples(), file.tags
    notes = [] if known is None else _notes_of_frames(known)
    alpha = _declared.alpha_of_tiff(tags, file.bands)
    if alpha == "unknown":
        samples, alpha = samples[..., :-1], "none"
        notes.append("1 more band is not shown")
    kind: Any = samples.dtype.kind
    declared = _declared.tiff_samples(tags, Declared(samples.dtype.itemsize * 8, kind))
    profile = tags.get(_ICC_PROFILE)
    shown, more = _picture_of_samples(
        samples, declared, name, premultiplied=alpha == "premultiplied", profile=profile
    )
    turn = _TURNS.get(tags.get(_ORIENTATION, 1))
    return shown if turn is None else shown.transpose(turn), (*notes, *more)


def _brands(head: bytes) -> set[bytes]:
    """The brands of a file of the ISO base media format (ISO/IEC 14496-12, 4.3)."""
    if head[4:8] != b"ftyp":
        return set()
    size = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12], *(head[at : at + 4] for at in range(16, size, 4))}


def _told(
    read: Callable[[], tuple[Image.Image, tuple[str, ...]]], name: str
) -> tuple[Image.Image, tuple[str, ...]]:
    """Run a reader; whatever it raises becomes an error that names the picture."""
    try:
        return read()
    except (SaliencyError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(name, str(error)) from None
    # Pillow's decoders meet hostile bytes with OSError, SyntaxError, struct.error, IndexError and others.
    except Exception as error:
        hint = "open it again: it was closed" if str(error) == _CLOSED else _FETCH
        raise ImageError(f"{name} cannot be decoded: {error}", hint=hint) from error


def _read(
    given: Image.Image | None,
    stream: BinaryIO | None,
    name: str,
    max_pixels: int,
    held: ExitStack,
    smallest: Callable[..., Any] | None,
) -> tuple[Image.Image, tuple[str, ...]]:
    """Read a picture that is given as such or, with None, is in a file."""
    # No caller keeps what is opened here: it is given up as soon as there is a converted copy of it.
    picture = given if stream is None else identify(stream, name)
    if stream is not None and (picture is None or _declared.is_misread(picture)):
        return _read_tiff(picture, stream, name, max_pixels, held)
    assert picture is not None
    _check_pixels(picture.size, name, max_pixels)
    if smallest is not None and stream is not None:
        halvings = _leave_out_detail(picture, smallest(picture.size))
    else:
        halvings = 0
    pixels = (picture.width >> halvings) * (picture.height >> halvings)
    held.enter_context(_room(pixels, _bytes_of_decoder(picture)))
    notes = _notes_of_frames(picture)
    _declared.mend_tiff(picture)
    raw = _declared.raw_mode(picture)
    if picture.format == "PPM" and raw == "RGB;16B":
        _declared.with_raw_mode(picture, raw)  # the upper bits, without the copies of Pillow's own decoder
    if picture.format == "JPEG2000" and stream is not None and not _is_deep(picture.mode):
        raw = _declared.UPPER_BITS_ONLY if max(_declared.jpeg2000_bits(stream), default=8) > 8 else raw
    notes += _declared.notes_of_bands(picture)
    declared = None
    if _is_deep(picture.mode) or _declared.is_signed_bytes(picture):
        declared = _declared.gray_samples(picture, raw, stream)
    spread = _SPREAD.get(raw) if picture.format == "PNG" else None
    significant = _significant(picture, stream)
    format = picture.format

    def again(unpacked: str) -> Image.Image:
        assert stream is not None
        assert format is not None
        stream.seek(0)
        other = Image.open(stream, formats=[format])
        _declared.mend_tiff(other)
        _declared.with_raw_mode(other, unpacked)
        if unpacked == "RGBA" != other.mode:
            other._mode = "RGBA"
        other.load()
        return other

    if stream is not None:
        _let_go_of_decoder(picture)
    try:
        picture.load()
    except OSError:
        if not halvings:
            raise
        held.close()  # the whole picture waits for room, and would wait for this one's
        return _read(given, stream, name, max_pixels, held, None)
    # The picture inside an icon may be larger than the icon's directory says.
    _check_pixels(picture.size, name, max_pixels)
    orientation = _orientation(picture)
    if stream is None:
        picture = picture.copy()
    if spread and isinstance(key := picture.info.get("transparency"), int):
        picture.info["transparency"] = key * spread
    shown, more = _shown(picture, raw, declared, again if stream is not None else None, name, significant)
    del picture
    turn = _TURNS.get(orientation)
    return shown if turn is None else shown.transpose(turn), (*notes, *more)


def _room(pixels: int, bytes_of_pixel: int) -> AbstractContextManager[None]:
    """Room for a picture; one whose reading takes more than the usual is counted as a larger one."""
    return ROOM.hold(-(-pixels * max(bytes_of_pixel, _MOST_BYTES) // _MOST_BYTES))


def _bytes_of_decoder(picture: Image.Image) -> int:
    """The memory in bytes for each pixel that a decoder takes together with Pillow's picture, at its peak.

    What is held beside the picture's own 4 bytes: by WebP's decoder two canvases of RGBA until it has given a
    third; by JPEG 2000's all samples as 32 bits and once more as they are stored; by JPEG's, of a progressive
    file, all coefficients, 2 bytes each; by AVIF's the planes and two copies; by Pillow's decoder of a PPM of
    an unusual largest value, two copies.
    """
    bands = len(picture.getbands())
    if picture.format == "WEBP":
        return 13
    if picture.format == "JPEG2000":
        return 6 * bands + 4
    if picture.format in ("JPEG", "MPO") and "progressive" in picture.info:
        return 2 * bands + 4
    if picture.format == "AVIF":
        return 3 * bands
    return 10 if picture.format == "PPM" else 0


def _leave_out_detail(picture: Any, size: tuple[int, int]) -> int:
    """Let the decoder halve a picture up to three times, to this size at least.

    Gives how often a JPEG 2000 decoder will; that fails for files that were not stored so. JPEG's says its
    new size at once, and others know nothing of the kind.
    """
    if picture.format != "JPEG2000":
        if hasattr(picture, "draft"):
            picture.draft(None, size)
        return 0
    most = min(have // want for have, want in zip(picture.size, size, strict=True))
    # Pillow rounds to the next number, the standard upwards (ISO/IEC 15444-1, B.5).
    right = (
        halvings
        for halvings in (3, 2, 1)
        if all((side + (1 << halvings) // 2) >> halvings == -(-side >> halvings) for side in picture.size)
    )
    chosen = next((halvings for halvings in right if 1 << halvings <= most), 0)
    picture.reduce = chosen
    return chosen


class _OfOneFrame:
    """A decoder of Pillow's that is let go of as soon as it has given its first frame.

    Those of WebP and AVIF hold the frame once or twice more, while Pillow makes its own picture of it.
    """

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder

    def get_next(self) -> Any:
        decoder, self._decoder = self._decoder, None
        return decoder.get_next()

    def get_frame(self, index: int) -> Any:
        decoder, self._decoder = self._decoder, None
        return decoder.get_frame(index)

    def reset(self) -> None:
        """What Pillow asks for where there is no frame."""


def _let_go_of_decoder(picture: Any) -> None:
    if picture.format in ("WEBP", "AVIF") and getattr(picture, "_decoder", None) is not None:
        picture._decoder = _OfOneFrame(picture._decoder)


def _shown(
    picture: Image.Image,
    raw: str,
    declared: Declared | None,
    again: Again | None,
    name: str,
    significant: int | None = None,
) -> tuple[Image.Image, list[str]]:
    """Any mode to L, RGB, or RGBA where it is transparent, in sRGB."""
    profile = picture.info.get("icc_profile")
    if _is_deep(picture.mode) or (declared is not None and picture.mode == "L"):
        declared = declared or _declared.gray_samples(picture, raw, None)
        return _shown_gray(picture, declared, profile, name, significant)
    if raw == "LA;16B" and picture.mode == "RGBA":
        gray, alpha = picture.getchannel("R"), picture.getchannel("A")
        _give_up_pixels(picture)
        picture = Image.merge("LA", (gray, alpha))
        del gray, alpha
    picture, notes = _whole_range(picture, raw, again, significant)
    if picture.mode in ("1", "L", "LA", "La"):
        picture, more = _with_gray_profile(picture, profile)
        return picture, [*notes, *more]
    transparent = picture.has_transparency_data
    if picture.mode not in ("RGB", "RGBA", "CMYK", "LAB") or (transparent and picture.mode != "RGBA"):
        picture = picture.convert("RGBA" if transparent else "RGB")
    if profile:
        try:
            picture = _color_profiles.to_srgb(picture, profile)
        except ProfileUnused as unused:
            notes.append(str(unused))
    if picture.mode == "LAB":
        picture = _color_profiles.lab_to_srgb(picture)
    mode = "RGBA" if transparent else "RGB"
    return picture if picture.mode == mode else picture.convert(mode), notes


def _is_deep(mode: str) -> bool:
    return mode in ("I", "F") or mode.startswith("I;16")


def _with_gray_profile(picture: Image.Image, profile: bytes | None) -> tuple[Image.Image, list[str]]:
    transparent = picture.has_transparency_data
    if picture.mode not in ("L", "LA") or (transparent and picture.mode == "L"):
        picture = picture.convert("LA" if transparent else "L")
    notes: list[str] = []
    if profile:
        try:
            table = _color_profiles.gray_curve(profile)[::257].tolist()
        except ProfileUnused as unused:
            notes.append(str(unused))
        else:
            picture = picture.point(table + list(range(256)) if transparent else table)
    return picture.convert("RGBA") if transparent else picture, notes


def _shown_gray(
    picture: Image.Image, declared: Declared, profile: bytes | None, name: str, significant: int | None
) -> tuple[Image.Image, list[str]]:
    """Gray of more than 8 bits, signed or real, to L, or RGBA where one value is declared transparent."""
    width, height = picture.size
    rows = list(bands_of_rows(height, width))

    def samples(band: slice) -> npt.NDArray[Any]:
        part = np.asarray(picture.crop((0, band.start, width, band.stop)))
        if part.dtype == np.int32 and declared.kind == "u":
            return part.view(np.uint32)
        return part.view(np.int8) if part.dtype == np.uint8 and declared.kind == "i" else part

    used = extent((samples(band) for band in rows), declared.missing)
    if not used.low <= used.high:
        raise ImageError(f"{name} holds no finite value")
    if significant is not None:
        declared = declared_by_significant_bits((samples(band) for band in rows), declared, significant)
    scale = choose_scale(used, declared)
    notes, curve = list(scale.notes), None
    if profile:
        try:
            curve = _color_profiles.gray_curve(profile)
        except ProfileUnused as unused:
            notes.append(str(unused))
    key = picture.info.get("transparency")
    keyed = isinstance(key, (int, float))
    shown = Image.new("RGBA" if keyed else "L", picture.size)
    for band in rows:
        part = samples(band)
        levels = scale.bytes(part, curve)
        if keyed:
            alpha = np.where(part == key, 0, 255).astype(np.uint8)
            levels = np.dstack([levels, levels, levels, alpha])
        shown.paste(Image.fromarray(levels), (0, band.start))
    return shown, notes


def _whole_range(
    picture: Image.Image, raw: str, again: Again | None, significant: int | None
) -> tuple[Image.Image, list[str]]:
    """Color of 16 bits, of which Pillow keeps the upper 8, from all of them where that is not enough.

    That is where the values use less than a quarter of the range (12 bits stored in 16 would be black), and
    where one color of 16 bits is declared transparent.
    """
    key = picture.info.get("transparency") if raw.startswith("RGB;16") else None
    colors = 1 if picture.mode == "LA" else 3
    if ";16" not in raw or picture.mode not in ("LA", "RGB", "RGBA"):
        return picture, []
    width, height = picture.size
    rows = list(bands_of_rows(height, width))
    parts = (np.asarray(picture.crop((0, band.start, width, band.stop)))[..., :colors] for band in rows)
    if extent(parts).high >= _DARK and key is None:
        return picture, []
    if again is None or raw == _declared.UPPER_BITS_ONLY or "a" in raw:
        return picture, ["its values use less than a quarter of 16 bits; it is shown as dark as it says"]
    # Large pictures: no more than two are held at a time, and the result takes the place of one of them.
    samples, shown = _samples_of_16_bits(picture, raw, again)
    declared = Declared(16, "u")
    if significant is not None:
        parts = (samples(band)[..., :colors] for band in rows)
        declared = declared_by_significant_bits(parts, declared, significant)
    scale = choose_scale(extent(samples(band)[..., :colors] for band in rows), declared)
    opaque = scale
    if picture.mode in ("LA", "RGBA"):
        most = extent(samples(band)[..., -1] for band in rows).high
        opaque = scale if most <= scale.white else Scale(0, 65535)
    if key is not None:
        shown.putalpha(255)
    for band in rows:
        part = samples(band)
        levels = scale.bytes(part)
        if key is not None:
            levels = np.dstack([levels, np.where((part == key).all(-1), 0, 255).astype(np.uint8)])
        elif picture.mode in ("LA", "RGBA"):
            levels[..., -1] = opaque.bytes(part[..., -1])
        shown.paste(Image.fromarray(levels), (0, band.start))
    shown.info = {what: value for what, value in picture.info.items() if what != "transparency"}
    _give_up_pixels(picture)
    return shown, list(scale.notes)


def _samples_of_16_bits(
    picture: Image.Image, raw: str, again: Again
) -> tuple[Callable[[slice], npt.NDArray[Any]], Image.Image]:
    """The samples of bands of rows, uint16 [h, w, C]; and a picture to write over, band by band.

    Pillow has decoded the upper bytes. The file is decoded once more for the lower ones, by the raw mode of
    the other byte order.
    """

    def bytes_of(whole: Image.Image, band: slice) -> npt.NDArray[Any]:
        return np.asarray(whole.crop((0, band.start, whole.width, band.stop)), np.uint16)

    if raw == "LA;16B":
        size = picture.size
        _give_up_pixels(picture)
        both = again("RGBA")

        def from_both(band: slice) -> npt.NDArray[Any]:
            part = bytes_of(both, band)
            joined: npt.NDArray[Any] = (part[..., ::2] << 8) | part[..., 1::2]
            return joined

        return from_both, Image.new("LA", size)
    kind, order = raw.split(";16")
    order = {"N": sys.byteorder[0].upper()}.get(order, order)
    lower = again(f"{kind};16{'L' if order == 'B' else 'B'}")
    bands = len(lower.getbands())
    return lambda band: (bytes_of(picture, band) << 8) | bytes_of(lower, band)[..., :bands], lower


def _give_up_pixels(picture: Image.Image) -> None:
    """Free the memory of a picture that has been read to its end; callers still hold it, and its facts."""
    picture.im = Image.new(picture.mode, (1, 1)).im


def _significant(picture: Image.Image, stream: BinaryIO | None) -> int | None:
    """The significant bits of a PNG file's samples of 16 bits, where these are fewer."""
    if picture.format != "PNG" or stream is None:
        return None
    at = stream.tell()
    facts = _declared.read_png(stream)
    stream.seek(at)
    if facts is None or facts.depth != 16 or not facts.significant or facts.significant >= 16:
        return None
    return facts.significant


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    # A damaged EXIF block is no reason to refuse a picture that every viewer shows.
    except Exception:
        return 1


def _notes_of_frames(picture: Image.Image) -> list[str]:
    if _declared.is_reduced(picture):
        return ["a small copy, the first picture in the file; the other is not read"]
    # A camera's MPO holds the same scene several times and passes for a plain JPEG.
    if picture.format in ("MPO", None) or not getattr(picture, "is_animated", False) or picture.tell():
        return []
    if picture.format == "HEIF":
        return ["first picture of several"]
    return ["first page of several" if picture.format == "TIFF" else "first frame of an animation"]


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
