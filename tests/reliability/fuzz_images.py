"""Mutated image files through the CLI's reading path: a picture or a clear error, in bounded time and memory.

Then the command itself, over a folder of such files with hostile names and links: nothing is written outside
the output folder, and nothing that the terminal would act on is printed.
"""

from __future__ import annotations

import io
import os
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from lab import MODEL, Lab, Outcome, main
from PIL import Image, ImageCms

from saliency_client.cli.inputs import Input, read_photo
from saliency_client.cli.model_input import ModelInput
from saliency_client.images import ImageError

MAX_PIXELS = 4_000_000
# Decoding holds the picture a few times over: as it is, upright, as RGBA over white, cut.
MEMORY_MIB = 512
SECONDS = 10.0
MODELS = (ModelInput("images", 32, 32, 3, "uint8"), ModelInput("images", 32, 32, 1, "uint8"))


def noise(mode: str, size: tuple[int, int] = (48, 40)) -> Image.Image:
    bands = {"1": 1, "L": 1, "P": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4, "I;16": 2, "F": 4}[mode]
    content = np.random.default_rng(5).integers(0, 256, (size[1], size[0], bands), np.uint8)
    if mode == "F":
        return Image.fromarray(content[..., 0].astype(np.float32) / 255)
    if mode in ("1", "P"):
        return Image.fromarray(content[..., 0]).convert(mode)
    return Image.frombytes(mode, size, content.tobytes())


def encoded(mode: str, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    noise(mode).save(stream, kind, **options)
    return stream.getvalue()


def seeds() -> dict[str, bytes]:
    """Valid files of every kind that the command reads, small."""
    exif = Image.Exif()
    exif[0x0112] = 6
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    frames = [noise("P", (20, 20)) for _ in range(3)]
    files = {
        "gray.png": encoded("L", "PNG"),
        "color.png": encoded("RGB", "PNG", icc_profile=icc, exif=exif),
        "alpha.png": encoded("RGBA", "PNG"),
        "palette.png": encoded("P", "PNG", transparency=3),
        "deep.png": encoded("I;16", "PNG"),
        "photo.jpg": encoded("RGB", "JPEG", exif=exif, icc_profile=icc),
        "progressive.jpg": encoded("RGB", "JPEG", progressive=True),
        "inks.jpg": encoded("CMYK", "JPEG"),
        "plain.webp": encoded("RGBA", "WEBP"),
        "moving.gif": encoded("P", "GIF", save_all=True, append_images=frames),
        "bits.bmp": encoded("1", "BMP"),
        "color.bmp": encoded("RGB", "BMP"),
        "lzw.tiff": encoded("RGB", "TIFF", compression="tiff_lzw"),
        "deflate.tiff": encoded("L", "TIFF", compression="tiff_adobe_deflate"),
        "float.tiff": encoded("F", "TIFF"),
        "pages.tiff": encoded("P", "TIFF", save_all=True, append_images=frames),
        "icon.ico": encoded("RGBA", "ICO", sizes=[(16, 16), (32, 32)]),
        "map.ppm": encoded("RGB", "PPM"),
        "map.pgm": encoded("L", "PPM"),
        "run.tga": encoded("RGB", "TGA", compression="tga_rle"),
    }
    for name, kind in (("wave.jp2", "JPEG2000"), ("new.avif", "AVIF")):
        if kind in Image.SAVE or kind.upper() in Image.SAVE:
            try:
                files[name] = encoded("RGB", kind)
            except (OSError, KeyError):  # a Pillow built without that codec
                continue
    array = io.BytesIO()
    np.save(array, np.zeros((32, 32, 3), np.uint8))
    files["input.npy"] = array.getvalue()
    return files


def bombs() -> dict[str, bytes]:
    """Small files that claim to be, or unfold to be, huge."""

    def png(width: int, height: int, rows: int) -> bytes:
        def chunk(kind: bytes, content: bytes) -> bytes:
            body = kind + content
            return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        data = zlib.compress(bytes((width * 3 + 1) * rows), 9)
        text = b"c\0\0" + zlib.compress(bytes(200 << 20), 9)
        signature = b"\x89PNG\r\n\x1a\n"
        return signature + b"".join(
            [chunk(b"IHDR", header), chunk(b"zTXt", text), chunk(b"IDAT", data), chunk(b"IEND", b"")]
        )

    def npy(shape: str, dtype: str = "|u1") -> bytes:
        header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}\n".encode()
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header

    # An icon's directory says 16 x 16, the picture in it is of 12 million pixels.
    inner = io.BytesIO()
    Image.new("RGB", (4000, 3000)).save(inner, "PNG")
    directory = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inner.getvalue()), 22)
    return {
        "wide.png": png(30_000, 30_000, 300),
        "claims.png": png(2**31 - 1, 2**31 - 1, 0),
        "text.png": png(16, 16, 16),
        "inside.ico": directory + inner.getvalue(),
        "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9000 9000\n(x) run\n%%EOF\n",
        "huge.npy": npy("(32, 32, 1099511627776)"),
        "long.npy": npy("(9223372036854775807,)"),
        "negative.npy": npy("(-32, 32, 3)"),
        "object.npy": npy("(1,)", "|O") + b"cos\nsystem\n(S'touch pwned'\ntR.",
        "deep.npy": npy("(" * 3000 + ")" * 3000),
        "open.npy": npy("(32, 32, 3"),
        "tabs.npy": npy("(3,\n\t  3)\n \t("),
    }


def mutated(rng: random.Random, content: bytes, others: list[bytes]) -> bytes:
    broken = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4, 12])):
        if not broken:
            break
        # Headers steer decoders; two thirds of the changes are there.
        at = rng.randrange(min(len(broken), 160) if rng.random() < 0.66 else len(broken))
        match rng.randrange(7):
            case 0:
                broken[at] ^= 1 << rng.randrange(8)
            case 1:
                broken[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
            case 2:
                broken[at : at + 4] = struct.pack(
                    rng.choice("<>") + "I", rng.choice([0, 1, 0xFFFF, 10**6, 2**31 - 1, 2**32 - 1])
                )
            case 3:
                del broken[at : at + rng.choice([1, 2, 16, 400])]
            case 4:
                broken[at:at] = rng.randbytes(rng.randrange(1, 40))
            case 5:
                del broken[at:]
            case _:
                broken[at:] = rng.choice(others)[at:]
    return bytes(broken)


def read(path: Path, model: ModelInput) -> str:
    """What becomes of a file: "picture", "error", or what it must not be."""
    try:
        photo = read_photo(Input(str(path)), model, resize="crop", max_pixels=MAX_PIXELS)
    except ImageError:
        return "error"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:80]}"
    if photo.array.shape != (32, 32, model.channels) or photo.array.dtype != np.uint8:
        return f"a picture of {photo.array.dtype} {photo.array.shape}"
    return "picture"


def campaign(lab: Lab, *, count: int = 10_000, seed: int = 7, through_command: int = 300) -> Outcome:
    """Read the files in this process, bounded in memory; then some of them by the command."""
    outcome = Outcome("fuzz of images")
    warnings.filterwarnings("ignore", module="PIL")  # the command does so, too
    rng = random.Random(seed)
    good, hostile = seeds(), bombs()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "photos")
        folder.mkdir()
        _read_all(outcome, rng, folder, good, hostile, count)
        if through_command:
            _run_command(outcome, lab, rng, Path(scratch), good, hostile, through_command)
    return outcome


def _read_all(
    outcome: Outcome,
    rng: random.Random,
    folder: Path,
    good: dict[str, bytes],
    hostile: dict[str, bytes],
    count: int,
) -> None:
    others = list(good.values())
    seen: Counter[str] = Counter()
    slowest = (0.0, "")

    def take(name: str, content: bytes) -> str:
        nonlocal slowest
        path = folder / name
        path.write_bytes(content)
        started = time.monotonic()
        became = read(path, rng.choice(MODELS))
        slowest = max(slowest, (time.monotonic() - started, name))
        path.unlink()
        return became

    for name, content in good.items():
        became = take(name, content)
        outcome.check(f"unchanged {name}", became, "picture", became == "picture")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, content in hostile.items():
        became = take(name, content)
        outcome.check(f"hostile {name}", became, "error", became == "error")
    for _ in range(count):
        name = rng.choice(list(good))
        became = take(name, mutated(rng, good[name], others))
        seen[became if became in ("picture", "error") else f"{name}: {became}"] += 1
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    wrong = {what: n for what, n in seen.items() if what not in ("picture", "error")}
    outcome.fact("files read", count)
    outcome.fact("pictures, errors", f"{seen['picture']}, {seen['error']}")
    outcome.check("anything else", wrong or "none", "none", not wrong)
    outcome.check(
        "slowest file", f"{slowest[0]:.2f} s ({slowest[1]})", f"< {SECONDS} s", slowest[0] < SECONDS
    )
    outcome.check(
        f"peak memory above the start, {MAX_PIXELS / 1e6:.0f} megapixels allowed",
        f"{grown:.0f} MiB",
        f"≤ {MEMORY_MIB} MiB",
        grown <= MEMORY_MIB,
    )


def _run_command(
    outcome: Outcome,
    lab: Lab,
    rng: random.Random,
    scratch: Path,
    good: dict[str, bytes],
    hostile: dict[str, bytes],
    count: int,
) -> None:
    """The command over hostile names and links, with the real server."""
    photos, out, outside = scratch / "folder", scratch / "out", scratch / "outside"
    for directory in (photos, out, outside):
        directory.mkdir()
    marks = ["\x1b[2Jx", "\x1b]0;title\x07", "a\rb", "\u202egnp", "new\nline", "$(touch pwned)", "-rf", "..."]
    others = list(good.values())
    for index in range(count):
        name, content = rng.choice([*good.items(), *hostile.items()])
        kept = content if index % 3 == 0 else mutated(rng, content, others)
        (photos / f"{rng.choice(marks)}{index:04}-{name}").write_bytes(kept)
    victim = outside / "victim.png"
    victim.write_bytes(b"untouched")
    # Where results would go, there are links that lead away.
    (photos / "trap.png").write_bytes(good["color.png"])
    (out / "trap-gradients.png").symlink_to(victim)
    (photos / "loop.png").symlink_to(photos / "loop.png")
    with lab.server(lab.uncompiled) as server:
        command = [sys.executable, "-m", "saliency_client", "explain", str(photos), "-o", f"{out}{os.sep}"]
        command += [
            "--server",
            server.target,
            "--model",
            MODEL,
            "--max-pixels",
            str(MAX_PIXELS),
            "--overwrite",
        ]
        done = subprocess.run(command, capture_output=True, timeout=600, cwd=scratch, check=False)
    told = done.stdout.decode() + done.stderr.decode()
    acting = sorted({character for character in told if not character.isprintable() and character != "\n"})
    written = [path for path in scratch.rglob("*") if path.is_file() and path.is_relative_to(out)]
    outcome.fact("files through the command", len(list(photos.iterdir())))
    outcome.check("exit code", done.returncode, "1: some images failed", done.returncode == 1)
    outcome.check("characters a terminal acts on", acting or "none", "none", not acting)
    outcome.check("tracebacks", told.count("Traceback"), "0", "Traceback" not in told)
    outcome.check("bugs told", told.count("report"), "0", "report" not in told)
    outcome.check("pictures written", len(written), "> 0, each whole", _whole(written))
    outcome.check("file behind a link", victim.read_bytes(), "untouched", victim.read_bytes() == b"untouched")
    stray = [*scratch.rglob("pwned*"), *out.rglob("*.part")]
    outcome.check("files elsewhere or left over", stray or "none", "none", not stray)


def _whole(paths: list[Path]) -> bool:
    for path in paths:
        with Image.open(path) as picture:
            picture.load()
    return bool(paths)


if __name__ == "__main__":
    main(campaign)
