"""Views of a raw gradient and their scaling for display: numbers in, numbers out."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from saliency_client._numbers import is_real

FloatArray = npt.NDArray[np.float32]

Polarity = Literal["positive", "negative", "both"]
"""Which values of a map with signs are shown."""

DEFAULT_CLIP = 99.0
_FEW_CHANNELS = 4


def absolute(gradients: npt.ArrayLike) -> FloatArray:
    """Sum over channels of the gradient's magnitude.

    Args:
        gradients: [..., H, W, C], the signed derivative of the score.

    Returns:
        float32 [..., H, W], not negative.

    Example:
        >>> from saliency_client import maps
        >>> maps.absolute([[[1.0, -2.0, 0.5]]])  # one pixel, three channels
        array([[3.5]], dtype=float32)
    """
    return _floats(np.abs(_floats(gradients)).sum(axis=-1))


def positive(gradients: npt.ArrayLike) -> FloatArray:
    """Sum over channels of relu(g): where more of a channel raises the score.

    Args:
        gradients: [..., H, W, C], the signed derivative of the score.

    Returns:
        float32 [..., H, W], not negative.

    Example:
        >>> from saliency_client import maps
        >>> maps.positive([[[1.0, -2.0, 0.5]]])
        array([[1.5]], dtype=float32)
    """
    return _floats(np.maximum(_floats(gradients), 0).sum(axis=-1))


def negative(gradients: npt.ArrayLike) -> FloatArray:
    """Sum over channels of relu(-g): where more of a channel lowers the score.

    Args:
        gradients: [..., H, W, C], the signed derivative of the score.

    Returns:
        float32 [..., H, W], not negative.

    Example:
        >>> from saliency_client import maps
        >>> maps.negative([[[1.0, -2.0, 0.5]]])
        array([[2.]], dtype=float32)
    """
    return _floats(np.maximum(-_floats(gradients), 0).sum(axis=-1))


def signed(gradients: npt.ArrayLike) -> FloatArray:
    """Sum over channels of g, sign kept: `positive` minus `negative`.

    Args:
        gradients: [..., H, W, C], the signed derivative of the score.

    Returns:
        float32 [..., H, W].

    Example:
        >>> from saliency_client import maps
        >>> maps.signed([[[1.0, -2.0, 0.5]]])
        array([[-0.5]], dtype=float32)
    """
    each = _floats(gradients)
    if each.ndim == 0 or not 0 < each.shape[-1] <= _FEW_CHANNELS:
        return _floats(each.sum(axis=-1))
    # Along an axis of three values NumPy's sum takes several times as long.
    total: FloatArray = each[..., 0].copy()
    for channel in range(1, each.shape[-1]):
        total += each[..., channel]
    return total


def polarized(values: npt.ArrayLike, polarity: Polarity) -> FloatArray:
    """The part of a map with signs that is to be shown.

    Args:
        values: [..., H, W], such as `signed` gives: a pixel's channels are summed before.
        polarity: "positive" keeps what raises the score, "negative" what lowers it, without its sign; "both"
            keeps the map.

    Returns:
        float32 [..., H, W]; not negative, unless both are kept.

    Raises:
        ValueError: there is no such polarity.

    Example:
        >>> from saliency_client import maps
        >>> maps.polarized([[1.0, -2.0]], "negative")
        array([[0., 2.]], dtype=float32)
    """
    if polarity not in get_args(Polarity):
        raise ValueError(f"polarity is {polarity!r}; it is one of {', '.join(get_args(Polarity))}")
    shown = _floats(values)
    if polarity == "both":
        return shown
    return _floats(np.maximum(shown if polarity == "positive" else -shown, 0))


def normalize(
    values: npt.ArrayLike, *, clip: float = DEFAULT_CLIP, clip_low: float = 0.0, signed: bool = False
) -> FloatArray:
    """Scale each map for display: its minimum is 0 and its `clip`-th percentile, and all above, is 1.

    A few extreme pixels would otherwise leave the rest of the map black. A signed map is divided by the
    percentile of its magnitude, so that 0 stays 0. A constant map has nothing to show: it comes back as 0.

    Args:
        values: [..., H, W]; each map is scaled by itself.
        clip: percentile in (0, 100]; 100 scales by the extremes.
        clip_low: percentile in [0, clip); it, and all below, is 0. Of a signed map, percentile of the
            magnitude.
        signed: keep the sign.

    Returns:
        float32 [..., H, W] in [0, 1], or in [-1, 1] if `signed`.

    Raises:
        ValueError: `clip` or `clip_low` is out of range, the map is empty, or it holds NaN or infinity.

    Example:
        >>> from saliency_client import maps
        >>> maps.normalize([[0.0, 1.0, 2.0, 4.0]], clip=100)
        array([[0.  , 0.25, 0.5 , 1.  ]], dtype=float32)
        >>> maps.normalize([[0.0, 1.0, 2.0, 3.0, 4.0]], clip=100, clip_low=50)
        array([[0. , 0. , 0. , 0.5, 1. ]], dtype=float32)
        >>> maps.normalize([[-4.0, 0.0, 2.0]], clip=100, signed=True)
        array([[-1. ,  0. ,  0.5]], dtype=float32)
    """
    low, high = limits(values, clip=clip, clip_low=clip_low, signed=signed)
    given = _floats(values)
    scaled = np.maximum(rescale(np.abs(given) if signed else given, low, high), 0)
    return np.copysign(scaled, given) if signed else scaled


def limits(
    values: npt.ArrayLike, *, clip: float = DEFAULT_CLIP, clip_low: float = 0.0, signed: bool = False
) -> tuple[FloatArray, FloatArray]:
    """The values that `normalize` shows as 0 and as 1.

    Args:
        values: [..., H, W].
        clip: percentile in (0, 100].
        clip_low: percentile in [0, clip).
        signed: of the magnitude, with 0 shown as 0.

    Returns:
        Two float32 [..., 1, 1]: low and high. They are equal for a map that is constant.

    Raises:
        ValueError: as `normalize`.

    Example:
        >>> from saliency_client import maps
        >>> low, high = maps.limits([[3.0, 1.0, 2.0, 5.0]], clip=100)
        >>> float(low.item()), float(high.item())
        (1.0, 5.0)
    """
    maps = _checked_maps(values)
    if not is_real(clip) or not 0 < clip <= 100:
        raise ValueError(f"clip is {clip!r}; it is a percentile above 0 and at most 100")
    if not is_real(clip_low) or not 0 <= clip_low < clip:
        raise ValueError(
            f"clip_low is {clip_low!r}; it is a percentile from 0 and below clip, which is {clip:g}"
        )
    magnitudes = np.abs(maps) if signed else maps
    if signed and clip_low == 0:
        low = np.zeros_like(maps[..., :1, :1])
    elif clip_low == 0:
        low = magnitudes.min(axis=(-2, -1), keepdims=True)
    else:
        low = np.percentile(magnitudes, clip_low, axis=(-2, -1), keepdims=True).astype(np.float32)
    high = np.percentile(magnitudes, clip, axis=(-2, -1), keepdims=True).astype(np.float32)
    # Where fewer pixels than the percentile differ from the background, the percentile is the background.
    high = np.where(high > low, high, magnitudes.max(axis=(-2, -1), keepdims=True))
    return low, high


def areas(values: npt.ArrayLike, *, clip_low: float, signed: bool = False) -> npt.NDArray[np.int8]:
    """Where a smoothed map is above a percentile, as areas that a line can be drawn around.

    Hot pixels of a map of gradients seldom touch one another. So each value becomes the mean of those around
    it
    first: three times that of a square, a fiftieth of the map's shorter side in reach, which is nearly a
        Gaussian.

    Args:
        values: [H, W].
        clip_low: the percentile of the smoothed map, in [0, 100); of its magnitude if `signed`.
        signed: the map has a sign.

    Returns:
        int8 [H, W]: 1 in an area, -1 in an area of negative values if `signed`, else 0. A constant map has no
        areas.

    Raises:
        ValueError: `clip_low` is out of range, or the map is not [H, W], or holds NaN or infinity.

    Example:
        >>> import numpy as np
        >>> from saliency_client import maps
        >>> maps.areas(np.array([[0.0, 0.0, 5.0, -9.0]]), clip_low=50, signed=True)
        array([[ 0,  0,  1, -1]], dtype=int8)
    """
    maps = _checked_maps(values)
    if maps.ndim != 2:
        raise ValueError(f"a map is [H, W]; this one has shape {list(maps.shape)}")
    if not 0 <= clip_low < 100:
        raise ValueError(f"clip_low is {clip_low:g}; it is a percentile from 0 and below 100")
    reach = round(min(maps.shape) / 50)
    soft = maps.astype(np.float64)
    for _ in range(3):
        soft = _around(_around(soft, reach).T, reach).T
    magnitudes = np.abs(soft) if signed else soft
    edge = np.percentile(magnitudes, clip_low)
    # What rounding leaves of a constant map is not above it.
    hot = magnitudes > edge + 1e-9 * np.abs(soft).max()
    return np.where(hot, np.sign(soft) if signed else 1, 0).astype(np.int8)


def near(mask: npt.NDArray[np.bool_], reach: int) -> npt.NDArray[np.bool_]:
    """The pixels that have one of a mask within a square of so many pixels on each side; [H, W].

    Example:
        >>> import numpy as np
        >>> from saliency_client import maps
        >>> maps.near(np.array([[True, False, False, False]]), 2)
        array([[ True,  True,  True, False]])
    """
    for axis in (0, 1) if reach else ():
        size = mask.shape[axis]
        counts = np.cumsum(mask, axis=axis, dtype=np.int32)
        places = np.arange(size)
        to = np.minimum(places + reach, size - 1)
        below = np.take(counts, np.maximum(places - reach - 1, 0), axis=axis)
        begins = places - reach - 1 < 0
        begins = begins[:, np.newaxis] if axis == 0 else begins
        mask = np.take(counts, to, axis=axis) > np.where(begins, 0, below)
    return mask


def rescale(values: npt.ArrayLike, low: npt.ArrayLike, high: npt.ArrayLike) -> FloatArray:
    """Scale linearly, `low` to 0 and `high` to 1, clipped to [-1, 1]; zeros where `high` is not above `low`.

    Args:
        values: [..., H, W].
        low: broadcast against `values`; shown as 0.
        high: broadcast against `values`; shown as 1.

    Returns:
        float32 [..., H, W].

    Example:
        >>> from saliency_client import maps
        >>> maps.rescale([[1.0, 2.0, 3.0, 9.0]], 1, 5)
        array([[0.  , 0.25, 0.5 , 1.  ]], dtype=float32)
    """
    # In float64, because the span of two float32 values can be infinite or vanish in float32.
    start = np.asarray(low, np.float64)
    span = np.asarray(high, np.float64) - start
    shifted = np.subtract(_floats(values), start, dtype=np.float64)
    if np.all(span > 0):
        scaled = np.divide(shifted, span, out=shifted)
    else:
        scaled = np.divide(
            shifted, span, out=np.zeros_like(shifted), where=np.broadcast_to(span > 0, shifted.shape)
        )
    return np.clip(scaled, -1, 1, out=scaled).astype(np.float32)


def _around(values: npt.NDArray[np.float64], reach: int) -> npt.NDArray[np.float64]:
    """The mean over the rows up to so many before and after each, as far as there are any; [H, W]."""
    sums = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
    rows = np.arange(len(values))
    first, end = np.maximum(rows - reach, 0), np.minimum(rows + reach + 1, len(values))
    means: npt.NDArray[np.float64] = (sums[end] - sums[first]) / (end - first)[:, np.newaxis]
    return means


def _floats(values: npt.ArrayLike) -> FloatArray:
    return np.asarray(values, dtype=np.float32)


def _checked_maps(values: npt.ArrayLike) -> FloatArray:
    maps = _floats(values)
    if maps.ndim < 2 or maps.size == 0:
        raise ValueError(
            f"a map is [..., H, W] with at least one pixel; this one has shape {list(maps.shape)}"
        )
    if not np.isfinite(maps).all():
        count = int(np.count_nonzero(~np.isfinite(maps)))
        raise ValueError(f"the map holds {count} of {maps.size} values that are NaN or infinite")
    return maps
