"""What reading and drawing over a large picture takes, measured in processes of their own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
import tifffile
from generated_pictures import png
from PIL import Image

from saliency_client._decoding import _bytes_of_decoder

WIDTH, HEIGHT = 3200, 2500
DECODED = WIDTH * HEIGHT * 3
"""As RGB, 24 MB."""

# The peak is the kernel's; what the modules and a small picture of the same kind take is not the picture's.
MEASURE = """
import json, re, sys
import numpy as np
from pathlib import Path
from saliency_client import render
from saliency_client.images import load_image

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

path, small, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
draw = options.pop("draw", None)
for one in (small, path):
    before = peak()
    photo = load_image(one, size=(224, 224), **options)
    if draw is not None:
        getattr(render, draw)(photo.picture, np.eye(224, dtype="float32"), photo.box)
    del photo
print(peak() - before)
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")


def save(path: Path, picture: Image.Image, **options: object) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side, as phones do
    picture.save(path, exif=exif, **options)


def scene(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(1).integers(0, 256, (8, 10, 3), np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR)


def of_16_bits(picture: Image.Image, most: int) -> np.ndarray:
    """Samples [H, W, C], uint16."""
    samples = np.asarray(picture).astype(np.uint32) * most // 255
    return samples.astype(np.uint16).reshape(picture.height, picture.width, -1)


def png_of_16_bits(picture: Image.Image, most: int, **chunks: bytes) -> bytes:
    samples = of_16_bits(picture, most)
    color_type = {1: 0, 2: 4, 3: 2, 4: 6}[samples.shape[-1]]
    return png(samples, 16, color_type, [(kind.encode(), body) for kind, body in chunks.items()], Random(1))


def dark_tiff(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, of_16_bits(picture, 4095), photometric="rgb", metadata=None)
    return stream.getvalue()


def with_alpha(picture: Image.Image) -> Image.Image:
    picture.putalpha(128)
    return picture


KINDS: dict[str, Callable[[Image.Image], Image.Image | bytes]] = {
    "photo.jpg": lambda picture: picture,
    "gray.jpg": lambda picture: picture.convert("L"),
    "inks.jpg": lambda picture: picture.convert("CMYK"),
    "photo.avif": lambda picture: picture,
    "color.png": lambda picture: picture,
    "alpha.png": lambda picture: picture.convert("RGBA"),
    "palette.png": lambda picture: picture.quantize(16, dither=Image.Dither.NONE),
    "color.tif": lambda picture: picture,
    "deep.tif": lambda picture: Image.fromarray(of_16_bits(picture.convert("L"), 65535)[..., 0]),
    "real.tif": lambda picture: Image.fromarray(np.asarray(picture.convert("L"), np.float32) / 255),
    # 12 bits in 16 are read from all of them, and Pillow gives 8 at a time.
    "dark.png": lambda picture: png_of_16_bits(picture, 4095),
    "dark-alpha.png": lambda picture: png_of_16_bits(picture.convert("RGBA"), 4095),
    "dark-gray-alpha.png": lambda picture: png_of_16_bits(picture.convert("LA"), 4095),
    "key.png": lambda picture: png_of_16_bits(picture, 65535, tRNS=b"\0\1\0\2\0\3"),
    "dark.tif": dark_tiff,
    "dark.ppm": lambda picture: (
        b"P6 %d %d 65535\n" % picture.size + of_16_bits(picture, 4095).astype(">u2").tobytes()
    ),
    # What their decoders take alone is more.
    "photo.webp": lambda picture: picture,
    "alpha.webp": with_alpha,
    "alpha.avif": with_alpha,
    "photo.jp2": lambda picture: picture,
    "gray.jp2": lambda picture: picture.convert("L"),
    "alpha.jp2": with_alpha,
    "deep.jp2": lambda picture: Image.fromarray(of_16_bits(picture.convert("L"), 65535)[..., 0]),
    "progressive.jpg": lambda picture: picture,
    "progressive-inks.jpg": lambda picture: picture.convert("CMYK"),
    "largest-4095.ppm": lambda picture: (
        b"P6 %d %d 4095\n" % picture.size + of_16_bits(picture, 4095).astype(">u2").tobytes()
    ),
}

_WHOLE_COLORS: dict[str, object] = {"progressive": True, "subsampling": 0, "quality": 90}
_FEW_BYTES: dict[str, object] = {"quality_mode": "rates", "quality_layers": [20], "irreversible": True}
OPTIONS: dict[str, dict[str, object]] = {
    ".png": {"compress_level": 1},
    ".avif": {"speed": 10},
    ".webp": {"method": 0},
    ".jp2": _FEW_BYTES,
    "progressive.jpg": _WHOLE_COLORS,
    "progressive-inks.jpg": _WHOLE_COLORS,
}


def made(folder: Path, name: str) -> None:
    options = OPTIONS.get(name) or OPTIONS.get(Path(name).suffix, {})
    for path, size in ((folder / name, (WIDTH, HEIGHT)), (folder / f"small-{name}", (60, 50))):
        content = KINDS[name](scene(*size))
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            save(path, content, **options)


def taken(folder: Path, name: str, **options: object) -> int:
    """Bytes that reading a picture, and drawing over it, adds to the peak of a process."""
    if name in KINDS:
        made(folder, name)
    arguments = [str(folder / name), str(folder / f"small-{name}"), json.dumps(options)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


QUICK = ("photo.jpg", "alpha.png", "deep.tif")
# Bytes for each pixel, as the documentation says.
HUNGRY = {
    "photo.webp": 12.4,
    "alpha.webp": 12.4,
    "alpha.avif": 12,
    "photo.jp2": 20,
    "alpha.jp2": 26,
    "progressive.jpg": 10,
    "progressive-inks.jpg": 12,
    "largest-4095.ppm": 10,
}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in KINDS]
)
def test_reading_a_picture_takes_three_times_its_size_at_most(tmp_path: Path, name: str) -> None:
    """Or, of decoders that take more by themselves, as much as is said; and no more than is counted."""
    most = taken(tmp_path, name, resize="crop" if name < "d" else "pad") / (WIDTH * HEIGHT)

    assert most <= HUNGRY.get(name, 9)
    with Image.open(tmp_path / name) as opened:
        assert most <= max(9, _bytes_of_decoder(opened))


@pytest.mark.parametrize(
    "draw", ["overlay", *(pytest.param(other, marks=pytest.mark.slow) for other in ("heatmap", "masked"))]
)
def test_drawing_over_it_takes_no_more(tmp_path: Path, draw: str) -> None:
    assert taken(tmp_path, "photo.jpg", resize="stretch", draw=draw) <= 3 * DECODED


def test_a_draft_takes_a_third_of_that(tmp_path: Path) -> None:
    assert taken(tmp_path, "photo.jpg", draft=True) <= DECODED


def test_a_long_line_takes_no_square_of_its_length(tmp_path: Path) -> None:
    Image.new("L", (20_000, 1)).save(tmp_path / "line.png")
    Image.new("L", (60, 1)).save(tmp_path / "small-line.png")
    assert taken(tmp_path, "line.png", resize="pad") <= 10e6
