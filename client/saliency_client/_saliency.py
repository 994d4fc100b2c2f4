"""How `saliency` is made of a method's own map, as the contract has it, by the name of the map's output."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from saliency_client._contract import COARSE_MAP, MAPS, SIGNED_MAPS
from saliency_client._tensors import Array

FloatArray = npt.NDArray[np.float32]


def own_map(outputs: Container[str]) -> str | None:
    """The output that holds a method's own map, of which `saliency` is made; None: none that is known."""
    return next((name for name in MAPS if name in outputs), None)


def saliency_of(name: str, values: Array, sizes: Sequence[int], *, channels: bool = True) -> FloatArray:
    """`saliency` [B, *sizes] of a method's own map.

    Of `gradients` the largest magnitude over channels (Simonyan et al. 2013, arXiv 1312.6034); of
    `attributions` |sum over channels|; of `cam` its positive part, enlarged bilinearly; else the map itself.

    Args:
        name: the output that holds the map.
        values: the map: [B, *sizes, C], of `cam` [B, *cells].
        sizes: of an image without its channels, as (height, width).
        channels: whether the last axis of a map with signs holds channels.
    """
    if name in SIGNED_MAPS:
        apart = values if channels else values[..., np.newaxis]
        made = np.abs(apart).max(axis=-1) if name == SIGNED_MAPS[0] else np.abs(apart.sum(axis=-1))
    elif name == COARSE_MAP:
        made = enlarged(np.maximum(values, 0), sizes)
    else:
        made = values
    return np.asarray(made, np.float32)


def enlarged(cells: Array, sizes: Sequence[int]) -> Array:
    """A coarse map, [B, *cells], at the size of the image, [B, *sizes]: linear along each axis.

    A cell's value is at its centre (half-pixel centres); beyond the outer centres the map is constant.
    """
    for axis, size in enumerate(sizes, start=1):
        count = cells.shape[axis]
        places = np.clip((np.arange(size) + 0.5) * count / size - 0.5, 0, count - 1)
        before = np.floor(places).astype(np.intp)
        behind = np.minimum(before + 1, count - 1)
        share = _along(places - before, axis, cells.ndim)
        cells = cells.take(before, axis) * (1 - share) + cells.take(behind, axis) * share
    return cells


def _along(values: Array, axis: int, dimensions: int) -> Any:
    return values.reshape([-1 if one == axis else 1 for one in range(dimensions)])
