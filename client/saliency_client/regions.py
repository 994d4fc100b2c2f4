"""XRAI: from a map of pixels to a map of regions, ranked by how much they count. Arrays in, arrays out.

Kapishnikov, Bolukbasi, Viégas, Terry 2019, arXiv 1906.02825. An image is cut into segments at several scales,
and segments are taken greedily, the one with the largest mean attribution over what it adds first. `xrai`
gives the same regions, ranks and values as `saliency.XRAI` of PAIR 0.2 from the same attributions and
segments, to the bit. It needs NumPy alone; `segment` needs scikit-image, which comes with the extra
`regions`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saliency_client._errors import SaliencyError

BoolArray = npt.NDArray[np.bool_]

SCALES = (50, 100, 150, 250, 500, 1200)
SIGMA = 0.8
MIN_SEGMENT = 150
DILATION = 5
MIN_PIXELS = 50
TOP_PERCENT = 30.0
"""PAIR's values: Felzenszwalb's scales, smoothing and smallest segment; by how many pixels segments grow;
what a segment must add to be taken; and how much of an image its examples show."""

_SIDE = 224
_LOW, _HIGH = -1.0, 1.0
# A mean of n values by pairwise summation, in blocks of 128 with 8 sums each, is within 28 roundings of Σ|x|
# ⁄ n; running sums in float64 of up to 2¹⁶ values are within 2⁻³⁶ of what they began with.
_ROUNDINGS, _DRIFT = 64, 2.0**-36


class RegionsUnavailable(SaliencyError, ImportError):
    """scikit-image, which cuts images into segments, is not installed.

    Example:
        >>> from saliency_client.regions import RegionsUnavailable
        >>> issubclass(RegionsUnavailable, ImportError)
        True
    """


@dataclass(frozen=True)
class Regions:
    """What XRAI makes of a map.

    Attributes:
        saliency: [H, W], float32 or float64 as the attributions: of each pixel the mean attribution of the
            region that it belongs to, over what that region added.
        ranks: [H, W] int32 from 1: the region with the largest mean is 1. What no segment covered is the
            last.

    Example:
        >>> import numpy as np
        >>> from saliency_client import regions
        >>> halves = [np.arange(100).reshape(10, 10) < 50, np.arange(100).reshape(10, 10) >= 50]
        >>> found = regions.xrai(np.arange(100.0).reshape(10, 10), halves)
        >>> float(found.saliency[0, 0]), float(found.saliency[9, 9]), int(found.ranks[0, 0])
        (24.5, 74.5, 2)
    """

    saliency: npt.NDArray[Any]
    ranks: npt.NDArray[np.int32]

    def top(self, percent: float = TOP_PERCENT) -> BoolArray:
        """[H, W]: the best regions, as many as it takes to cover so many percent of the image.

        Raises:
            ValueError: `percent` is not in (0, 100].

        Example:
            >>> import numpy as np
            >>> from saliency_client.regions import Regions
            >>> Regions(np.array([[3.0, 3.0, 1.0, 2.0]]), np.array([[1, 1, 3, 2]])).top(60)
            array([[ True,  True, False,  True]])
        """
        if not 0 < percent <= 100:
            raise ValueError(f"percent is {percent:g}; it must be above 0 and at most 100")
        covered = np.cumsum(np.bincount(self.ranks.ravel()))
        last = int(np.searchsorted(covered, self.ranks.size * percent / 100))
        return self.ranks <= last


def check_installed() -> None:
    """Raise RegionsUnavailable, with the line that installs it, unless scikit-image is there.

    Example:
        >>> from saliency_client import regions
        >>> regions.check_installed()
    """
    if importlib.util.find_spec("skimage") is None:
        raise RegionsUnavailable(
            "regions need scikit-image, which is not installed",
            hint="pip install 'saliency-serving[regions]', or in a clone: pip install -e '.[regions]'",
        )


def segment(image: npt.ArrayLike, *, scales: Sequence[float] = SCALES, dilation: int = DILATION) -> BoolArray:
    """Cut an image into segments, at several scales, by Felzenszwalb and Huttenlocher's method (2004).

    As PAIR does: the image's values are stretched to [-1, 1], the image is brought to 224 x 224 pixels,
    segmented with σ 0.8 and a smallest segment of 150 pixels, and the segments are brought back and grown by
    `dilation`.

    Args:
        image: [H, W, C] or [H, W], any real dtype and range: the model input.
        scales: Felzenszwalb's scales; a larger one gives larger segments.
        dilation: in pixels of the image; 0: none.

    Returns:
        bool [N, H, W], one mask for each segment of each scale; they overlap.

    Raises:
        RegionsUnavailable: scikit-image is not installed.
        ValueError: not such an array.

    Example:
        >>> import numpy as np
        >>> from saliency_client import regions
        >>> regions.segment(np.zeros((32, 32, 3), np.uint8), scales=(100,)).shape
        (1, 32, 32)
    """
    check_installed()
    from skimage.segmentation import felzenszwalb
    from skimage.transform import resize

    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]
    if pixels.ndim != 3 or pixels.size == 0 or pixels.dtype.kind not in "fiu":
        raise ValueError(f"an image is [H, W, C] of numbers; this has shape {list(np.shape(image))}")
    if not np.isfinite(pixels).all():
        raise ValueError("the image holds values that are NaN or infinite")
    # In the image's own dtype, as PAIR does: in another one, a pixel on a segment's edge may fall to its
    # neighbor.
    low, high = np.min(pixels), np.max(pixels)
    stretched = (pixels - low) / (high - low) if high > low else np.zeros(pixels.shape)
    stretched = stretched * (_HIGH - _LOW) + _LOW
    settings: dict[str, Any] = {"mode": "constant", "preserve_range": True}
    small = resize(stretched, (_SIDE, _SIDE), order=3, anti_aliasing=True, **settings)
    masks = []
    for scale in scales:
        labels = felzenszwalb(small, scale=scale, sigma=SIGMA, min_size=MIN_SEGMENT)
        labels = resize(labels, pixels.shape[:2], order=0, anti_aliasing=False, **settings).astype(int)
        masks.append(_grown(labels, dilation))
    return np.concatenate(masks)


def xrai(attributions: npt.ArrayLike, segments: npt.ArrayLike, *, min_pixels: int = MIN_PIXELS) -> Regions:
    """Rank an image's segments by the attribution that they hold.

    Of the segments that are left, the one with the largest mean attribution over its pixels that no earlier
    one covered is taken, until none adds `min_pixels`. The largest attribution of a pixel's channels counts,
    as in PAIR's code (so the result is not complete, as its input may be).

    Args:
        attributions: [H, W, C] or [H, W]: shares of a score, or any map; float32 stays float32.
        segments: bool [N, H, W], or a list of masks [H, W]; they may overlap.
        min_pixels: what a segment must add, in pixels.

    Returns:
        The regions.

    Raises:
        ValueError: shapes that do not fit, or attributions that are NaN or infinite.

    Example:
        >>> import numpy as np
        >>> from saliency_client import regions
        >>> left, right = np.eye(2, dtype=bool)[:, None, :]
        >>> regions.xrai([[1.0, 5.0]], [left, right], min_pixels=1).ranks
        array([[2, 1]], dtype=int32)
    """
    values = _merged(attributions)
    masks = np.asarray(segments, bool)
    if masks.ndim != 3 or masks.shape[1:] != values.shape:
        raise ValueError(
            f"segments are [N, H, W] with the attributions' {list(values.shape)}; these have shape "
            f"{list(masks.shape)}"
        )
    flat = values.ravel()
    saliency, ranks = np.empty_like(flat), np.empty(flat.size, np.int32)
    free = np.ones(flat.size, bool)
    taken: list[tuple[Any, npt.NDArray[np.intp]]] = []
    open_segments = _Open(flat, masks.reshape(len(masks), -1))
    while (best := open_segments.best(free, min_pixels)) is not None:
        gain, added = best
        taken.append((gain, added))
        saliency[added] = gain
        free[added] = False
        open_segments.cover(added)
    taken.sort(key=lambda region: -region[0])
    for rank, (_, added) in enumerate(taken, 1):
        ranks[added] = rank
    if free.any():
        saliency[free], ranks[free] = flat[free].mean(), len(taken) + 1
    return Regions(saliency.reshape(values.shape), ranks.reshape(values.shape))


class _Open:
    """The segments that are not taken, each with the number and the sum of its pixels that are still free.

    A pixel is covered once, so all updates together touch each pixel of each segment once. The running sums
    tell which segments may be the best; among those, the means are computed as NumPy does, so that rounding
    does not change the choice.
    """

    def __init__(self, values: npt.NDArray[Any], masks: BoolArray) -> None:
        self._values, self._segments, size = values, len(masks), masks.shape[1]
        owners, self._pixels = np.divmod(np.flatnonzero(masks), size)
        self._ends = np.cumsum(np.bincount(owners, minlength=self._segments))
        # By pixel: which segments hold it. A sort of 16 bits is a radix sort.
        small = self._pixels.astype(np.uint16 if size <= 1 << 16 else np.int64)
        self._owners = owners[np.argsort(small, kind="stable")]
        self._degrees = np.bincount(self._pixels, minlength=size)
        self._starts = np.cumsum(self._degrees) - self._degrees
        self._weights = values.astype(np.float64)
        self._counts = np.bincount(owners, minlength=self._segments)
        self._sums = np.bincount(owners, self._weights[self._pixels], self._segments)
        self._magnitudes = np.bincount(owners, np.abs(self._weights[self._pixels]), self._segments)
        self._drift = _DRIFT * self._magnitudes
        self._rounding = _ROUNDINGS * np.finfo(values.dtype).eps
        self._left = np.ones(self._segments, bool)

    def best(self, free: BoolArray, min_pixels: int) -> tuple[Any, npt.NDArray[np.intp]] | None:
        """The largest mean and the free pixels of the segment that has it, which is taken; None: none."""
        # A segment without a pixel has no mean.
        self._left &= self._counts >= max(min_pixels, 1)
        left = np.flatnonzero(self._left)
        if left.size == 0:
            return None
        counts = self._counts[left]
        means = self._sums[left] / counts
        margins = (self._rounding * self._magnitudes[left] + 2 * self._drift[left]) / counts
        best: tuple[Any, npt.NDArray[np.intp]] | None = None
        chosen = -1
        for segment in left[means + margins >= np.max(means - margins)]:
            start = self._ends[segment - 1] if segment else 0
            pixels = self._pixels[start : self._ends[segment]]
            pixels = pixels[free[pixels]]
            mean = self._values[pixels].mean()
            if best is None or mean > best[0]:
                best, chosen = (mean, pixels), segment
        self._left[chosen] = False
        return best

    def cover(self, pixels: npt.NDArray[np.intp]) -> None:
        """Take pixels out of all segments that hold them."""
        degrees = self._degrees[pixels]
        ends = np.cumsum(degrees)
        places = np.arange(ends[-1]) + np.repeat(self._starts[pixels] - (ends - degrees), degrees)
        owners = self._owners[places]
        weights = np.repeat(self._weights[pixels], degrees)
        self._counts -= np.bincount(owners, minlength=self._segments)
        self._sums -= np.bincount(owners, weights, self._segments)
        self._magnitudes -= np.bincount(owners, np.abs(weights), self._segments)


def _merged(attributions: npt.ArrayLike) -> npt.NDArray[Any]:
    """[H, W]: the largest attribution of a pixel's channels."""
    values = np.asarray(attributions)
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    if values.ndim not in (2, 3) or values.size == 0:
        raise ValueError(f"attributions are [H, W, C] or [H, W]; these have shape {list(values.shape)}")
    if not np.isfinite(values).all():
        raise ValueError("the attributions hold values that are NaN or infinite")
    return values.max(axis=-1) if values.ndim == 3 else values


def _grown(labels: npt.NDArray[np.intp], radius: int) -> BoolArray:
    """A mask for each label from the smallest to the largest, grown by a disk of a radius.

    The nearest pixel of a segment to one outside lies on the segment's edge: so it suffices to draw disks
    around the pixels that have a neighbor of another label.
    """
    height, width = labels.shape
    labels = labels - labels.min()
    wide = width + 2 * radius
    masks = np.zeros((labels.max() + 1, height + 2 * radius, wide), bool)
    rows, columns = np.arange(height)[:, np.newaxis], np.arange(width)
    masks[labels, rows + radius, columns + radius] = True
    edge = np.zeros(labels.shape, bool)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    y, x = np.nonzero(edge)
    centers = (labels[y, x] * masks.shape[1] + y + radius) * wide + x + radius
    flat = masks.reshape(-1)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if dx * dx + dy * dy <= radius * radius:
                flat[centers + dy * wide + dx] = True
    return masks[:, radius : radius + height, radius : radius + width]
