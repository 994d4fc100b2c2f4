"""Views of a raw gradient and their scaling for display: numbers in, numbers out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from saliency_client._numbers import is_real

FloatArray = npt.NDArray[np.float32]

DEFAULT_CLIP = 99.0


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
    return _floats(_floats(gradients).sum(axis=-1))


def normalize(values: npt.ArrayLike, *, clip: float = DEFAULT_CLIP, signed: bool = False) -> FloatArray:
    """Scale each map for display: its minimum is 0 and its `clip`-th percentile, and all above, is 1.

    A few extreme pixels would otherwise leave the rest of the map black. A signed map is divided by the
    percentile of its magnitude, so that 0 stays 0. A constant map has nothing to show: it comes back as 0.

    Args:
        values: [..., H, W]; each map is scaled by itself.
        clip: percentile in (0, 100]; 100 scales by the extremes.
        signed: keep the sign.

    Returns:
        float32 [..., H, W] in [0, 1], or in [-1, 1] if `signed`.

    Raises:
        ValueError: `clip` is out of range, the map is empty, or it holds NaN or infinity.

    Example:
        >>> from saliency_client import maps
        >>> maps.normalize([[0.0, 1.0, 2.0, 4.0]], clip=100)
        array([[0.  , 0.25, 0.5 , 1.  ]], dtype=float32)
        >>> maps.normalize([[-4.0, 0.0, 2.0]], clip=100, signed=True)
        array([[-1. ,  0. ,  0.5]], dtype=float32)
    """
    low, high = limits(values, clip=clip, signed=signed)
    return rescale(values, low, high)


def limits(
    values: npt.ArrayLike, *, clip: float = DEFAULT_CLIP, signed: bool = False
) -> tuple[FloatArray, FloatArray]:
    """The values that `normalize` shows as 0 and as 1.

    Args:
        values: [..., H, W].
        clip: percentile in (0, 100].
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
    magnitudes = np.abs(maps) if signed else maps
    low = np.zeros_like(maps[..., :1, :1]) if signed else maps.min(axis=(-2, -1), keepdims=True)
    high = np.percentile(magnitudes, clip, axis=(-2, -1), keepdims=True).astype(np.float32)
    # Where fewer pixels than the percentile differ from the background, the percentile is the background.
    high = np.where(high > low, high, magnitudes.max(axis=(-2, -1), keepdims=True))
    return low, high


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
    shifted = _floats(values).astype(np.float64) - start
    scaled = np.divide(
        shifted, span, out=np.zeros_like(shifted), where=np.broadcast_to(span > 0, shifted.shape)
    )
    return np.clip(scaled, -1, 1).astype(np.float32)


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
