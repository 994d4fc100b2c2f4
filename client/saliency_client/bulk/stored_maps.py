"""How a map is stored in a row: as bytes and the scale that they are multiplied by. No I/O here."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from saliency_client._errors import InputError, OptionError

MapFormat = Literal["float16", "uint8", "png"]
"""float16: little-endian, row by row, with signs; uint8: so too, 255 steps from 0; png: a picture."""

_PNG_LEVEL = 1
_BRIGHTEST = 255


def check_map_format(map_format: str) -> None:
    """Raise OptionError unless it is one of `MapFormat`."""
    if map_format not in get_args(MapFormat):
        raise OptionError(
            f"map_format is {map_format!r}; it must be one of {', '.join(map(repr, get_args(MapFormat)))}"
        )


def store_map(values: npt.NDArray[Any], map_format: MapFormat) -> tuple[bytes, float]:
    """A map as bytes, and its scale: `read_map` gives it back.

    float16 keeps 11 bits of each value that is not below 2⁻¹⁴ of the largest. The scale is the power of two
    that brings the largest magnitude into [1, 2), so that no value overflows and the division is exact. uint8
    and png keep 255 equal steps from 0 to the largest value.

    Args:
        values: [H, W] or [H, W, C] float32, finite.
        map_format: see `MapFormat`; png takes [H, W] alone.

    Raises:
        OptionError: a map with signs or channels in a format that keeps none.

    Example:
        >>> import numpy
        >>> from saliency_client.bulk import read_map, store_map
        >>> content, scale = store_map(numpy.array([[0.0, 3.0], [6.0, 1.5]], numpy.float32), "float16")
        >>> len(content), scale
        (8, 4.0)
        >>> read_map(content, scale, (2, 2), "float16")
        array([[0. , 3. ],
               [6. , 1.5]], dtype=float32)
    """
    largest = float(np.abs(values).max(initial=0.0))
    if map_format == "float16":
        # The exponent is held where the division by it stays in float32.
        exponent = max(-126, min(126, math.frexp(largest)[1] - 1)) if largest else 0
        scale = math.ldexp(1.0, exponent)
        return np.ascontiguousarray(values / np.float32(scale), "<f2").tobytes(), scale
    if values.ndim != 2 or values.min(initial=0.0) < 0:
        raise OptionError(
            f"a map {list(values.shape)} with signs or channels does not fit in {map_format}",
            hint="map_format 'float16' keeps them",
        )
    scale = float(np.float32(largest / _BRIGHTEST)) or 1.0
    levels = np.rint(np.clip(values / np.float32(scale), 0, _BRIGHTEST)).astype(np.uint8)
    if map_format == "uint8":
        return levels.tobytes(), scale
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG", compress_level=_PNG_LEVEL)
    return file.getvalue(), scale


def read_map(
    content: bytes | None, scale: float, shape: Sequence[int], map_format: MapFormat
) -> npt.NDArray[np.float32]:
    """A map that was stored, float32, as the server gave it to the precision of its format.

    Args:
        content: column `map`.
        scale: column `map_scale`.
        shape: column `map_shape`: (H, W), or (H, W, C).
        map_format: as the job's manifest states it.

    Raises:
        OptionError: there is no such format.
        InputError: there is no map, or its bytes are not of that shape.

    Example:
        >>> from saliency_client.bulk import read_map
        >>> read_map(bytes([0, 255]), 0.5, (1, 2), "uint8")
        array([[  0. , 127.5]], dtype=float32)
    """
    check_map_format(map_format)
    if content is None:
        raise InputError("the row has no map", hint="its column error says why; leave such rows out")
    if map_format == "png":
        from PIL import Image

        levels = np.asarray(Image.open(io.BytesIO(content)))
    else:
        levels = np.frombuffer(content, "<f2" if map_format == "float16" else np.uint8)
    if levels.size != math.prod(shape):
        raise InputError(
            f"{len(content)} bytes are no {map_format} map of {list(shape)}",
            hint="_job/job.json of a job, and the metadata of its files, name the format",
        )
    read: npt.NDArray[np.float32] = levels.astype(np.float32).reshape(tuple(shape)) * np.float32(scale)
    return read
