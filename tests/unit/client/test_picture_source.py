"""What web frameworks and libraries hand over is read, or refused by a TypeError that says what is taken."""

from __future__ import annotations

import base64
import io
import os
import pickle
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saliency_client.images import ImageError, load_array, load_image

PIXELS = np.random.default_rng(2).integers(0, 256, (6, 8, 3), np.uint8)


def png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "PNG")
    return stream.getvalue()


class Spooled:
    """As tempfile.SpooledTemporaryFile is before Python 3.11: it can seek and does not say so."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)
        self.read, self.seek, self.tell = self._file.read, self._file.seek, self._file.tell
        self.name = None


class Upload:
    """As Starlette's UploadFile."""

    async def read(self, size: int = -1) -> bytes:
        return b""


class Stream(io.RawIOBase):
    """Bytes that come once, as of a response."""

    def __init__(self, content: bytes) -> None:
        self._left = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        return self._left.readinto(buffer)


def spooled() -> object:
    file = tempfile.SpooledTemporaryFile()  # noqa: SIM115
    file.write(png())
    return file  # at its end, as after an upload


@pytest.mark.parametrize(
    "source",
    [
        png(),
        bytearray(png()),
        memoryview(png()),
        memoryview(b"".join(bytes([byte, 0]) for byte in png()))[::2],
        io.BytesIO(png()),
        Spooled(png()),
        spooled(),
        Stream(png()),
        Image.open(io.BytesIO(png())),
        Image.fromarray(PIXELS),
        PIXELS,
        PIXELS[None],
        np.asfortranarray(PIXELS),
    ],
    ids=lambda source: type(source).__name__,
)
def test_a_picture_in_memory_is_read(source: object) -> None:
    photo = load_image(source, (6, 8))
    np.testing.assert_array_equal(photo.array, PIXELS)
    assert photo.notes == ()


def test_a_path_of_any_kind_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png())
    for source in (path, str(path)):
        photo = load_image(source, (6, 8))
        assert photo.name == str(path)
        np.testing.assert_array_equal(photo.array, PIXELS)


def test_a_pillow_image_is_turned_upright_and_stays_as_it_is() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "JPEG", exif=exif, quality=95)
    opened = Image.open(io.BytesIO(stream.getvalue()))
    by_image, by_bytes = load_image(opened, (8, 6)), load_image(stream.getvalue(), (8, 6))
    np.testing.assert_array_equal(by_image.array, by_bytes.array)
    assert opened.size == (8, 6)
    assert opened.getexif()[0x0112] == 6
    own = Image.fromarray(PIXELS)
    photo = load_image(own, (6, 8))
    photo.picture.paste((0, 0, 0), (0, 0, 8, 6))
    np.testing.assert_array_equal(np.asarray(own), PIXELS)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (None, "NoneType"),
        (7, "int"),
        ([[1, 2], [3, 4]], "list"),
        (io.StringIO("x"), "'rb'"),
        (Upload(), r"\.file"),
        (object(), "object"),
    ],
)
def test_anything_else_is_a_type_error_that_says_what_is_taken(source: object, said: str) -> None:
    with pytest.raises(TypeError, match=said) as caught:
        load_image(source, (6, 8))
    assert "a path, encoded bytes, an open binary file, a Pillow image, or a NumPy array" in str(caught.value)


def test_a_file_opened_as_text_is_a_type_error(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png())
    with open(path, encoding="latin-1") as file, pytest.raises(TypeError, match="'rb'"):
        load_image(file, (6, 8))
    with tempfile.SpooledTemporaryFile(mode="w+") as file, pytest.raises(TypeError, match="'rb'"):
        load_image(file, (6, 8))


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.moveaxis(PIXELS, -1, 0), "channels come first"),
        (np.zeros((4, 6, 8, 3), np.uint8), "4 pictures"),
        (np.zeros(8, np.uint8), r"\[H, W\]"),
        (np.zeros((0, 8, 3), np.uint8), r"\[H, W\]"),
        (np.zeros((6, 8, 7), np.uint8), "7 channels"),
        (np.full((6, 8), np.nan), "no finite value"),
    ],
)
def test_an_array_that_is_no_picture_is_refused_by_its_shape(array: np.ndarray, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        load_image(array, (6, 8))


@pytest.mark.parametrize("array", [np.array([["a"]]), np.zeros((4, 4), complex), np.array([[{}]])])
def test_an_array_of_anything_but_real_numbers_is_a_type_error(array: np.ndarray) -> None:
    with pytest.raises(TypeError, match="real numbers"):
        load_image(array, (4, 4))


@pytest.mark.parametrize(
    ("source", "said", "hint"),
    [
        ("https://example.org/cat.jpg", "https://example.org/cat.jpg is a URL", "urlopen"),
        ("file:///photos/cat.jpg", "is a URL", "urlopen"),
        (base64.b64encode(png()).decode(), "is a picture as base64 text", "b64decode"),
        ("data:image/png;base64," + base64.b64encode(png()).decode(), "as base64 text", "b64decode"),
        (base64.b64encode(png()), "the image is a picture as base64 text", "b64decode"),
        (np.frombuffer(png(), np.uint8), r"a picture is \[H, W\]", "tobytes"),
    ],
)
def test_a_picture_that_is_given_in_another_way_is_called_what_it_is(
    source: object, said: str, hint: str
) -> None:
    with pytest.raises(ImageError, match=said) as caught:
        load_image(source, (6, 8))
    assert hint in caught.value.hint


@pytest.mark.parametrize("start", ["", "data:image/jpeg;base64,/9j/"])
def test_text_of_any_length_that_is_no_path_is_a_short_error(start: str) -> None:
    with pytest.raises(ImageError) as caught:
        load_image(start + "A" * 100_000, (6, 8))
    assert len(str(caught.value)) < 200


def test_a_named_pipe_is_read_by_its_path(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cat.png")
    writer = threading.Thread(target=(tmp_path / "cat.png").write_bytes, args=(png(),), daemon=True)
    writer.start()
    np.testing.assert_array_equal(load_image(tmp_path / "cat.png", (6, 8)).array, PIXELS)
    writer.join(10)


def test_a_closed_file_is_said_to_be_so() -> None:
    stream = io.BytesIO(png())
    stream.close()
    with pytest.raises(ImageError, match="closed"):
        load_image(stream, (6, 8))


def test_arrays_of_model_input_are_read_from_memory_too() -> None:
    stream = io.BytesIO()
    np.save(stream, PIXELS)
    for source in (bytearray(stream.getvalue()), memoryview(stream.getvalue())):
        np.testing.assert_array_equal(load_array(source, (6, 8, 3), "uint8").array, PIXELS)
    with pytest.raises(TypeError, match="a path"):
        load_array(None, (6, 8, 3), "uint8")


def test_an_image_error_crosses_processes() -> None:
    with pytest.raises(ImageError) as caught:
        load_image(b"", (6, 8))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 40


def test_without_pillow_heif_a_heic_picture_is_named_and_the_way_is_told(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    for brands in (HEIC, HEIC.replace(b"ftypheic", b"ftypmif1")):
        with pytest.raises(ImageError, match="is a HEIC picture, and pillow-heif") as caught:
            load_image(brands, (6, 8))
        assert str(caught.value.hint).startswith("pip install pillow-heif")


def test_without_its_decoder_an_avif_picture_is_named_and_the_way_is_told(monkeypatch) -> None:
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    monkeypatch.setattr(Image, "init", lambda: True)
    with pytest.raises(ImageError, match="is an AVIF picture, which this Pillow does not read") as caught:
        load_image(HEIC.replace(b"heic", b"avif"), (6, 8))
    assert "pillow>=11.3" in str(caught.value.hint)


def test_a_heic_picture_is_read_where_pillow_heif_is_installed() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    blocks = Image.new("RGB", (64, 48), (200, 60, 80))
    blocks.paste((20, 60, 180), (32, 0, 64, 48))
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    pillow_heif.from_pillow(blocks).save(stream, quality=95, exif=exif.tobytes())
    Image.init()
    before = set(Image.OPEN)
    photo = load_image(stream.getvalue(), (64, 48))
    assert photo.picture.size == (48, 64)
    assert np.abs(photo.array[8, 8].astype(int) - (200, 60, 80)).max() <= 8
    assert np.abs(photo.array[56, 40].astype(int) - (20, 60, 180)).max() <= 8
    assert set(Image.OPEN) == before  # Pillow's own formats stay as the program has them


def test_a_file_that_is_open_for_writing_is_told_so(tmp_path: Path) -> None:
    with open(tmp_path / "new.png", "wb") as file, pytest.raises(ImageError, match="open for writing alone"):
        load_image(file, (4, 4))


def test_a_picture_that_was_closed_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    with Image.open(tmp_path / "a.png") as picture:
        pass
    picture.close()
    with pytest.raises(ImageError) as caught:
        load_image(picture, (4, 4))
    assert caught.value.hint == "open it again: it was closed"


def test_masked_pixels_are_not_taken_for_pixels() -> None:
    masked = np.ma.masked_greater(PIXELS, 100)
    with pytest.raises(TypeError, match=r"array\.filled\(0\)"):
        load_image(masked, (6, 8))
    assert np.array_equal(load_image(masked.filled(0), (6, 8)).array, np.where(PIXELS > 100, 0, PIXELS))
