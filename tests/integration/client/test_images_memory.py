"""What reading and drawing over a large picture takes, measured in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


# What the codec takes with nothing else around it.
BARE = MEASURE.replace(
    "photo = load_image(one, size=(224, 224), **options)", "photo = Image.open(one); photo.load()"
)
BARE = BARE.replace("import numpy as np", "from PIL import Image")


def save(path: Path, picture: Image.Image, **options: object) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side, as phones do
    picture.save(path, exif=exif, **options)


def scene(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(1).integers(0, 256, (8, 10, 3), np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR)


KINDS = {
    "photo.jpg": lambda picture: picture,
    "gray.jpg": lambda picture: picture.convert("L"),
    "inks.jpg": lambda picture: picture.convert("CMYK"),
    "photo.avif": lambda picture: picture,
    "color.png": lambda picture: picture,
    "alpha.png": lambda picture: picture.convert("RGBA"),
    "palette.png": lambda picture: picture.quantize(16, dither=Image.Dither.NONE),
    "color.tif": lambda picture: picture,
    "deep.tif": lambda picture: Image.fromarray(np.asarray(picture.convert("L"), np.uint16) * np.uint16(257)),
    "photo.webp": lambda picture: picture,
    "photo.jp2": lambda picture: picture,
    "progressive.jpg": lambda picture: picture,
    "real.tif": lambda picture: Image.fromarray(np.asarray(picture.convert("L"), np.float32) / 255),
}


OPTIONS: dict[str, dict[str, object]] = {
    "progressive.jpg": {"progressive": True, "subsampling": 0, "quality": 90},
    "photo.jp2": {"quality_mode": "rates", "quality_layers": [20], "irreversible": True},
    "photo.avif": {"speed": 10},
}


def made(folder: Path, name: str) -> None:
    options = OPTIONS.get(name, {"compress_level": 1} if name.endswith(".png") else {})
    save(folder / name, KINDS[name](scene(WIDTH, HEIGHT)), **options)
    save(folder / f"small-{name}", KINDS[name](scene(60, 50)), **options)


def taken(folder: Path, name: str, code: str = MEASURE, **options: object) -> int:
    """Bytes that reading a picture, and drawing over it, adds to the peak of a process."""
    if name in KINDS:
        made(folder, name)
    arguments = [str(folder / name), str(folder / f"small-{name}"), json.dumps(options)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


QUICK = ("photo.jpg", "alpha.png", "deep.tif")


HUNGRY = ("photo.webp", "photo.jp2", "progressive.jpg")


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in KINDS
        if name not in HUNGRY
    ],
)
def test_reading_a_picture_takes_three_times_its_size_at_most(tmp_path: Path, name: str) -> None:
    assert taken(tmp_path, name, resize="crop" if name < "d" else "pad") <= 3 * DECODED


@pytest.mark.parametrize(
    "draw", ["overlay", *(pytest.param(other, marks=pytest.mark.slow) for other in ("heatmap", "masked"))]
)
def test_drawing_over_it_takes_no_more(tmp_path: Path, draw: str) -> None:
    assert taken(tmp_path, "photo.jpg", resize="stretch", draw=draw) <= 3 * DECODED


@pytest.mark.slow
@pytest.mark.parametrize("name", HUNGRY)
def test_where_the_codec_takes_more_nothing_is_added(tmp_path: Path, name: str) -> None:
    bare = taken(tmp_path, name, BARE)
    assert bare > 3 * DECODED
    assert taken(tmp_path, name) <= 1.03 * bare
    if name == "photo.webp":
        assert taken(tmp_path, name) <= 0.8 * bare


def test_a_draft_takes_a_third_of_that(tmp_path: Path) -> None:
    assert taken(tmp_path, "photo.jpg", draft=True) <= DECODED


def test_a_long_line_takes_no_square_of_its_length(tmp_path: Path) -> None:
    Image.new("L", (20_000, 1)).save(tmp_path / "line.png")
    Image.new("L", (60, 1)).save(tmp_path / "small-line.png")
    assert taken(tmp_path, "line.png", resize="pad") <= 10e6
