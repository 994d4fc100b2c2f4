"""Generated picture files, each with what an independent reading of its samples gives.

The samples are drawn here, and the levels that they mean are computed from them in NumPy: by the file's
declared depth and range, by the profile's matrix and curve (ISO 15076-1), by alpha over white. PNG, PNM, PFM
and profiles are written by the words of their standards, TIFF by tifffile, the rest by Pillow's encoders.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tifffile
from PIL import Image

SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
D50 = (0.9642, 1.0, 0.8249)


@dataclass(frozen=True)
class Generated:
    """One file.

    Attributes:
        kind: what it is, for the record.
        data: its bytes.
        levels: float [H, W, 3], 0 to 255: what it shows, upright, over white, in sRGB.
        tolerance: levels that a right reading may be off: more than 1 for lossy encoders and for profiles.
        guessed: its range is declared nowhere: a reading must have a note and keep the order of the levels.
        refusable: an error that says what it holds is right, too.
    """

    kind: str
    data: bytes
    levels: np.ndarray
    tolerance: float = 1.01
    guessed: bool = False
    refusable: bool = False


def scene(rng: random.Random, channels: int, *, top: float = 1.0, block: int = 1) -> np.ndarray:
    """Random intensities [H, W, C] in 0..top, constant in blocks; the largest is `top`."""
    height, width = rng.randint(2, 24), rng.randint(2, 24)
    values = np.random.default_rng(rng.getrandbits(32)).uniform(0, 1, (height, width, channels))
    values[0, 0], values[-1, -1] = 0, 1
    return np.kron(values * top, np.ones((block, block, 1)))


def decoded(v: np.ndarray) -> np.ndarray:
    """sRGB to linear light (IEC 61966-2-1)."""
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def encoded(v: np.ndarray) -> np.ndarray:
    """Linear light to sRGB."""
    v = np.clip(v, 0, 1)
    return np.where(v <= 0.0031308, v * 12.92, 1.055 * v ** (1 / 2.4) - 0.055)


def over_white(levels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Levels 0..255 under alpha 0..1."""
    return levels * alpha[..., None] + 255 * (1 - alpha[..., None])


def gray(levels: np.ndarray) -> np.ndarray:
    """[H, W] or [H, W, 1] as three equal channels."""
    return np.repeat(levels.reshape(*levels.shape[:2], 1), 3, -1)


# Profiles


def profile(name: str, gamma: float | None, primaries: tuple | None) -> bytes:
    """An ICC profile of version 2: a gray or an RGB one, of a gamma or, with None, of sRGB's curve."""

    def s15(values: tuple) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    if gamma is None:
        table = np.rint(65535 * decoded(np.linspace(0, 1, 1024))).astype(">u2").tobytes()
        curve = b"curv\0\0\0\0" + struct.pack(">I", 1024) + table
    else:
        curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    text = name.encode() + b"\0"
    description = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + b"\0" * 79
    tags = [
        (b"desc", description),
        (b"cprt", b"text\0\0\0\0none\0\0\0\0"),
        (b"wtpt", b"XYZ \0\0\0\0" + s15(D50)),
    ]
    if primaries is None:
        tags.append((b"kTRC", curve))
    else:
        tags += [
            (c + b"XYZ", b"XYZ \0\0\0\0" + s15(p)) for c, p in zip((b"r", b"g", b"b"), primaries, strict=True)
        ]
        tags += [(c + b"TRC", curve) for c in (b"r", b"g", b"b")]
    offset, table_of_tags, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for tag, content in tags:
        content += b"\0" * (-len(content) % 4)
        table_of_tags += tag + struct.pack(">II", offset + len(body), len(content))
        body += content
    space = b"GRAY" if primaries is None else b"RGB "
    head = struct.pack(">I4sI4s4s4s", offset + len(body), b"test", 0x02400000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + b"\0" * 28 + s15(D50)
    return head + b"\0" * (128 - len(head)) + table_of_tags + body


def shown_by(values: np.ndarray, gamma: float | None, primaries: tuple | None) -> np.ndarray:
    """Values [H, W, C] in 0..1 of such a profile as levels of sRGB."""
    linear = decoded(values) if gamma is None else values**gamma
    if primaries is not None:
        linear = linear @ np.array(primaries) @ np.linalg.inv(np.array(SRGB))
    return 255 * encoded(linear)


def some_profile(
    rng: random.Random, *, color: bool, steep: bool = True
) -> tuple[bytes | None, Callable, float]:
    """A profile or none, its effect on values in 0..1, and the levels that a reading may be off.

    Linear light is left out where a lossy encoder's error is not to be multiplied (`steep`).

    LittleCMS takes 8 bits to 8 bits; a curve that is steep at its dark end spreads its rounding.
    """
    if rng.random() < 0.5:
        return None, lambda values: 255 * values, 1.01
    gamma = rng.choice([None, 1.8, 2.2, *([1.0] if steep else [])])
    primaries = rng.choice([SRGB, P3, ADOBE]) if color else None
    name = rng.choice(["plain", "sRGB by name", "Linear sRGB", "P3"])
    return profile(name, gamma, primaries), lambda values: shown_by(values, gamma, primaries), 4.0


# Containers


def png(
    samples: np.ndarray, depth: int, color_type: int, chunks: list[tuple[bytes, bytes]], rng: random.Random
) -> bytes:
    """A PNG file (ISO/IEC 15948) of samples [H, W, C], rows filtered by None, Sub or Up."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, channels = samples.shape
    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in samples]
    elif depth == 8:
        rows = [row.astype(np.uint8).tobytes() for row in samples]
    else:
        bits = (samples[..., 0, None] >> np.arange(depth - 1, -1, -1)) & 1
        rows = [row.tobytes() for row in np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)]
    step, above, content = max(1, depth * channels // 8), bytes(len(rows[0])), b""
    for row in rows:
        way, now = rng.choice([0, 1, 2]), np.frombuffer(row, np.uint8)
        before = {0: np.zeros_like(now), 1: np.concatenate([np.zeros(step, np.uint8), now])[: len(now)]}
        before[2] = np.frombuffer(above, np.uint8)
        content += bytes([way]) + (now - before[way]).tobytes()
        above = row
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    inner = b"".join(chunk(*one) for one in chunks)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + inner
        + chunk(b"IDAT", zlib.compress(content))
        + chunk(b"IEND", b"")
    )


def png_gray(rng: random.Random) -> Generated:
    """Gray of 1 to 16 bits, with a transparent value, alpha, a profile, sBIT, or 12 bits in 16."""
    depth = rng.choice([1, 2, 4, 8, 16, 16, 16])
    alpha = depth >= 8 and rng.random() < 0.3
    stored = rng.choice([8, 10, 12, 14]) if depth == 16 and rng.random() < 0.4 else depth
    values = scene(rng, 2 if alpha else 1)
    most = 2**stored - 1
    samples = np.rint(values * most).astype(int)
    chunks, spread, guessed = [], 1, stored < depth
    significant = stored < depth and rng.random() < 0.5
    if significant:
        chunks.append((b"sBIT", bytes([stored] * (2 if alpha else 1))))
        if rng.random() < 0.5:  # as the standard says: scaled up to the whole depth
            samples, spread, guessed = samples << (depth - stored), 2 ** (depth - stored), False
    icc, effect, tolerance = some_profile(rng, color=False)
    if icc is not None:
        chunks.append((b"iCCP", b"p\0\0" + zlib.compress(icc)))
    levels = effect(samples[..., 0] / spread / most)
    opaque = samples[..., 1] / spread / most if alpha else np.ones(values.shape[:2])
    if not alpha and rng.random() < 0.3:
        key = int(rng.choice(samples.reshape(-1).tolist()))
        chunks.append((b"tRNS", struct.pack(">H", key)))
        opaque = np.where(samples[..., 0] == key, 0.0, 1.0)
    # Of gray with alpha Pillow keeps the upper 8 bits of 16.
    tolerance += alpha and depth == 16 and (1.5 if icc is None else 14)
    kind = f"PNG {'gray+alpha' if alpha else 'gray'} {stored} of {depth}{' profile' if icc else ''}"
    data = png(samples, depth, 4 if alpha else 0, chunks, rng)
    return Generated(kind, data, gray(over_white(gray(levels), opaque)[..., :1]), tolerance, guessed)


def png_color(rng: random.Random) -> Generated:
    """RGB and RGBA of 8 and 16 bits, with a transparent color, a profile, or 12 bits in 16."""
    depth = rng.choice([8, 16])
    alpha = rng.random() < 0.4
    stored = rng.choice([10, 12, 14]) if depth == 16 and rng.random() < 0.4 else depth
    most = 2**stored - 1
    samples = np.rint(scene(rng, 4 if alpha else 3) * most).astype(int)
    icc, effect, tolerance = some_profile(rng, color=True)
    chunks = [(b"iCCP", b"p\0\0" + zlib.compress(icc))] if icc is not None else []
    # A profile is applied to 8 bits, and Pillow keeps the upper 8 of 16.
    eight = np.rint(samples * (255 / most)) if stored < 16 else samples >> 8
    levels = effect((samples / most if icc is None else eight / 255)[..., :3])
    # Of 16 bits the upper 8, or rounded to 8: near black a steep curve makes many levels of the difference.
    tolerance += depth == 16 and (1.5 if icc is None else 14)
    opaque = samples[..., 3] / most if alpha else np.ones(samples.shape[:2])
    if not alpha and rng.random() < 0.4:
        key = samples[rng.randrange(len(samples)), 0]
        chunks.append((b"tRNS", struct.pack(">HHH", *key.tolist())))
        opaque = np.where((samples == key).all(-1), 0.0, 1.0)
    kind = f"PNG {'RGBA' if alpha else 'RGB'} {stored} of {depth}{' profile' if icc else ''}"
    return Generated(
        kind,
        png(samples, depth, 6 if alpha else 2, chunks, rng),
        over_white(levels, opaque),
        tolerance,
        stored < depth,
    )


def png_palette(rng: random.Random) -> Generated:
    """A palette of up to 256 colors, with alpha, with a profile."""
    depth = rng.choice([1, 2, 4, 8])
    colors = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (2**depth, 3))
    samples = (scene(rng, 1) * (2**depth - 1)).astype(int)
    icc, effect, tolerance = some_profile(rng, color=True)
    chunks = [(b"iCCP", b"p\0\0" + zlib.compress(icc))] if icc is not None else []
    chunks.append((b"PLTE", colors.astype(np.uint8).tobytes()))
    opaque = np.ones(2**depth)
    if rng.random() < 0.4:
        alpha = [rng.choice([0, 255, rng.randrange(256)]) for _ in range(rng.randint(1, 2**depth))]
        chunks.append((b"tRNS", bytes(alpha)))
        opaque[: len(alpha)] = np.array(alpha) / 255
    levels = over_white(effect(colors[samples[..., 0]] / 255), opaque[samples[..., 0]])
    return Generated(
        f"PNG palette {depth}{' profile' if icc else ''}",
        png(samples, depth, 3, chunks, rng),
        levels,
        tolerance,
    )


def pnm(rng: random.Random) -> Generated:
    """PGM and PPM, plain and binary, of any largest value; PFM."""
    channels = rng.choice([1, 3])
    if channels == 1 and rng.random() < 0.2:
        values = scene(rng, 1).astype(np.float32)
        order = rng.choice("<>")
        scale = b"-1.0" if order == "<" else b"1.0"
        body = values[::-1].astype(order + "f4").tobytes()
        head = b"Pf\n%d %d\n%s\n" % (values.shape[1], values.shape[0], scale)
        return Generated("PFM gray", head + body, gray(255 * values))
    largest = rng.choice([1, 15, 100, 255, 256, 1023, 4095, 65535, 65535])
    plain = rng.random() < 0.3
    # Of plain color Pillow gives 8 bits alone: what is dark there stays so, with a note.
    stored = largest
    if largest == 65535 and rng.random() < 0.5 and not (plain and channels == 3):
        stored = rng.choice([1023, 4095])
    samples = np.rint(scene(rng, channels) * stored).astype(int)
    head = b"P%d\n%d %d\n%d\n" % (
        {1: 2, 3: 3}[channels] + (0 if plain else 3),
        samples.shape[1],
        samples.shape[0],
        largest,
    )
    if plain:
        body = b"\n".join(b" ".join(b"%d" % one for one in row.reshape(-1)) for row in samples)
    else:
        body = samples.astype(">u2" if largest > 255 else np.uint8).tobytes()
    levels = 255 * samples / stored
    kind = f"{'PGM' if channels == 1 else 'PPM'}{' plain' if plain else ''} {stored} of {largest}"
    return Generated(kind, head + body, gray(levels) if channels == 1 else levels, guessed=stored < largest)


def tiff(rng: random.Random) -> Generated:
    """TIFF of many bands, depths, kinds of numbers and layouts, by tifffile."""
    bands = rng.choice([1, 1, 1, 1, 2, 3, 3, 4, 5, 13])
    code = rng.choice(["u1", "u2", "u2", "u2", "u4", "i1", "i2", "i4", "f4", "f4", "f8", "f2"])
    dtype = np.dtype(code)
    values = scene(rng, bands)
    guessed, refusable = False, bands > 1 and code not in ("u1", "u2")
    if dtype.kind == "f":
        top = rng.choice([1.0, 1.0, 1.004, 37.0, 255.0, 4000.0])
        low = rng.choice([0.0, 0.0, -0.01, -1000.0])
        samples, guessed = (low + values * (top - low)).astype(dtype), top != 1 or low != 0
        refusable |= code != "f4"
    else:
        bits = dtype.itemsize * 8 - (dtype.kind == "i")
        # Of signed alpha nothing says what is opaque, unless it is the largest number.
        stored = (
            bits
            if code == "u1" or (code[0] == "i" and bands in (2, 4))
            else rng.choice([n for n in (7, 8, 10, 12, 14, 16, 24, 32) if n <= bits])
        )
        samples = np.rint(values * (2**stored - 1)).astype(dtype)
        guessed = stored < bits or dtype.kind == "i"
        if dtype.kind == "i" and rng.random() < 0.4:
            samples = (samples - 2 ** (stored - 1)).astype(dtype)
    options: dict = {"byteorder": rng.choice("<>"), "photometric": "rgb" if bands in (3, 4) else "minisblack"}
    shown = values if bands != 2 else values[..., :1]
    extra, tags = [], []
    if bands == 1 and rng.random() < 0.3:
        options["photometric"], shown = "miniswhite", 1 - values
        refusable |= code not in ("u1", "u2", "f4")
    levels = 255 * (gray(shown) if shown.shape[-1] == 1 else shown[..., :3])
    if bands == 4:
        extra = [rng.choice(["unassalpha", "unspecified"])]
        if extra == ["unassalpha"]:
            levels = over_white(levels, values[..., 3])
            refusable |= guessed  # of what alpha is opaque, nothing is said
    if bands == 2:
        extra = ["unassalpha"]
        levels, refusable = over_white(levels, values[..., 1]), refusable or code != "u1"
    if bands > 4:
        refusable = True
    if bands > 1:
        options["planarconfig"] = rng.choice(["contig", "separate"])
    if extra:
        options["extrasamples"] = extra
    if rng.random() < 0.4:
        options["compression"] = rng.choice(["zlib", "adobe_deflate"])
    elif rng.random() < 0.3:
        options["rowsperstrip"] = rng.randint(1, 5)
    elif rng.random() < 0.2:
        options["tile"] = (16, 16)
    if guessed and dtype.kind == "u" and bands == 1 and rng.random() < 0.4:
        # The samples are one short of the declared white, or the declaration would be mere statistics.
        declared, guessed = 2**stored - 1, False
        samples = np.minimum(samples, declared - 1)
        if declared < 65536 and rng.random() < 0.5:
            tags.append((281, "H", 1, declared, True))
        else:
            options["description"] = f'<OME><Pixels SignificantBits="{stored}"/></OME>'
    data = io.BytesIO()
    pixels = np.moveaxis(samples, -1, 0) if options.get("planarconfig") == "separate" else samples
    pixels = pixels[..., 0] if bands == 1 else pixels
    tifffile.imwrite(data, pixels, metadata=None, extratags=tags, **options)
    data.seek(0)
    read = tifffile.imread(data)
    assert np.array_equal(read, pixels), "tifffile reads what it wrote"
    kind = f"TIFF {bands} x {code} {options['photometric']}"
    tolerance = 2.01 if code in ("u1", "i1", "f2") or dtype.kind == "f" else 1.01
    if code[0] in "ui":
        tolerance = max(tolerance + (bands in (2, 4)), 255 / (2**stored - 1) + 1)
    return Generated(kind, data.getvalue(), levels, tolerance, guessed or extra == ["unspecified"], refusable)


TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: np.rot90,
}


def by_pillow(rng: random.Random) -> Generated:
    """Formats that Pillow's encoders write, without and with loss, turned by EXIF, with profiles."""
    Image.init()
    encoders: list[tuple] = [
        one
        for one in [
            ("JPEG", "RGB", 8, {"quality": 98, "subsampling": 0}),
            ("JPEG", "L", 4, {"quality": 98}),
            ("JPEG", "CMYK", 9, {"quality": 98}),
            ("WEBP", "RGB", 1.01, {"lossless": True}),
            ("WEBP", "RGBA", 1.01, {"lossless": True, "exact": True}),
            ("GIF", "P", 1.01, {}),
            ("BMP", "RGB", 1.01, {}),
            ("BMP", "L", 1.01, {}),
            ("BMP", "1", 1.01, {}),
            ("TGA", "RGBA", 1.01, {}),
            ("TGA", "L", 1.01, {"compression": "tga_rle"}),
            ("ICO", "RGBA", 1.01, {}),
            ("JPEG2000", "RGB", 1.01, {"irreversible": False}),
            ("JPEG2000", "L", 1.01, {"irreversible": False}),
            ("JPEG2000", "I;16", 1.01, {"irreversible": False}),
            ("AVIF", "RGB", 8, {"quality": 100, "subsampling": "4:4:4"}),
            ("TIFF", "RGB", 1.01, {"compression": "tiff_lzw"}),
            ("TIFF", "CMYK", 1.01, {"compression": "packbits"}),
            ("TIFF", "LAB", 4, {}),
            ("TIFF", "P", 1.01, {}),
            ("PNG", "RGBA", 1.01, {}),
        ]
        if one[0] in Image.SAVE
    ]
    format, mode, tolerance, options = rng.choice(encoders)
    bands = {"RGB": 3, "RGBA": 4, "CMYK": 4, "LAB": 3}.get(mode, 1)
    values = scene(rng, bands, block=16 if tolerance > 1.01 and mode != "LAB" else 1)
    samples = np.rint(values * 255).astype(np.uint8)
    v = samples / 255
    if mode == "I;16":
        wide = np.rint(values * 65535).astype(np.uint16)
        picture, levels = Image.fromarray(wide[..., 0]), gray(255 * values)
    elif mode == "P":
        colors = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (256, 3), np.uint8)
        picture = Image.fromarray(samples[..., 0]).convert("P")
        picture.putpalette(colors.tobytes())
        levels = colors[samples[..., 0]].astype(float)
    elif mode == "1":
        picture = Image.fromarray(np.where(samples[..., 0] > 127, 255, 0).astype(np.uint8)).convert("1")
        levels = gray(np.where(samples[..., 0] > 127, 255.0, 0.0))
    elif mode == "CMYK":
        picture = Image.frombytes("CMYK", samples.shape[1::-1], samples.tobytes())
        levels = 255 * (1 - v[..., :3]) * (1 - v[..., 3:])
    elif mode == "LAB":
        samples = np.dstack([samples[..., 0], np.zeros_like(samples[..., 1:])])
        picture = Image.frombytes("LAB", samples.shape[1::-1], samples.tobytes())
        lightness = samples[..., 0] / 255 * 100
        y = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness * 27 / 24389)
        levels = gray(255 * encoded(y))
    else:
        picture = Image.fromarray(samples[..., 0] if bands == 1 else samples)
        levels = 255.0 * (gray(v) if bands == 1 else v[..., :3])
    icc = None
    if format in ("JPEG", "WEBP", "AVIF", "PNG", "TIFF") and mode in ("RGB", "RGBA", "L"):
        icc, effect, more = some_profile(rng, color=mode != "L", steep=format not in ("JPEG", "AVIF"))
        if icc is not None:
            options = {**options, "icc_profile": icc}
            levels = effect(v[..., :3] if bands > 1 else v[..., :1])
            levels = gray(levels) if bands == 1 else levels
            tolerance = max(more, 8) + (18 if format in ("JPEG", "AVIF") else 0)
    if mode == "RGBA":
        levels = over_white(levels, v[..., 3])
    if format in ("JPEG", "WEBP", "AVIF", "PNG", "TIFF") and rng.random() < 0.5:
        turn = rng.choice(list(TURNS))
        exif = Image.Exif()
        exif[0x0112] = turn
        options, levels = {**options, "exif": exif}, TURNS[turn](levels)
    if format == "ICO":
        options = {**options, "sizes": [picture.size]}
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return Generated(f"{format} {mode}{' profile' if icc else ''}", stream.getvalue(), levels, tolerance)


KINDS = (png_gray, png_color, png_palette, pnm, tiff, tiff, by_pillow)


def generate(rng: random.Random) -> Generated:
    """One file of any kind."""
    return rng.choice(KINDS)(rng)


def verdict(one: Generated, load: Callable) -> str:
    """ "right", "noted" or "refused" where each is allowed; else what is wrong.

    Args:
        load: gives, of bytes and (H, W), an object with `array` uint8 [H, W, 3] and `notes`, or raises.
    """
    try:
        photo = load(one.data, one.levels.shape[:2])
    except Exception as error:
        said = f"{error} | {getattr(error, 'hint', '')}"
        plain = (
            type(error).__name__ == "ImageError" and "band" in str(error) and "not an image" not in str(error)
        )
        return "refused" if one.refusable and plain else f"error: {type(error).__name__}: {said}"
    got = photo.array.astype(float)
    off = float(np.abs(got - one.levels).max())
    if off <= one.tolerance:
        return "right" if not one.guessed or photo.notes else "wrong: a guess without a note"
    if not photo.notes:
        return f"wrong: {off:.0f} levels off, without a note"
    if not one.guessed and not one.refusable:
        return f"wrong: {off:.0f} levels off, with {photo.notes}"
    spread = np.corrcoef(got.reshape(-1), one.levels.reshape(-1))[0, 1] if got.std() else 0
    if spread < 0.9 or got.max() < 64:
        return f"wrong: black or in another order ({spread:.2f}), with {photo.notes}"
    return "noted"
