"""XRAI beside PAIR's package `saliency`: ranking regions, and cutting photos into segments.

    python tests/benchmarks/regions.py [--rounds N]

Both take the same float32 attributions, random with a hot middle, of the middle of four of scikit-image's
photos at 224 x 224 pixels, and for the ranking the same segments. They take turns. It prints the median and
the range of each, in milliseconds, and the ratio of the medians; answers that differ end it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import skimage.data
from PIL import Image
from saliency.core import xrai

from saliency_client import regions

SIDE = 224


def photo(name: str) -> np.ndarray:
    picture = Image.fromarray(getattr(skimage.data, name)())
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return np.asarray(picture.crop((left, top, left + side, top + side)).resize((SIDE, SIDE)))


def timed(function: Callable[[], Any], times: list[float]) -> Any:
    started = time.perf_counter()
    result = function()
    times.append((time.perf_counter() - started) * 1000)
    return result


def told(times: list[float]) -> str:
    return f"{statistics.median(times):7.1f} ({min(times):.1f} to {max(times):.1f})"


def measure(name: str, rounds: int) -> None:
    image = photo(name)
    near = np.exp(-((np.indices((SIDE, SIDE)) - SIDE / 2) ** 2).sum(0) / 5000)[..., None]
    attributions = (np.random.default_rng(0).normal(size=image.shape) * near).astype(np.float32)
    segments = xrai._get_segments_felzenszwalb(image)
    wanted = xrai.XRAIParameters()
    wanted.return_xrai_segments = True

    def pair() -> Any:
        return xrai.XRAI().GetMaskWithDetails(
            image, None, base_attribution=attributions, segments=segments, extra_parameters=wanted
        )

    regions.xrai(attributions, regions.segment(image))
    ranking: tuple[list[float], list[float]] = ([], [])
    cutting: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        theirs, ours = (
            timed(pair, ranking[0]),
            timed(lambda: regions.xrai(attributions, segments), ranking[1]),
        )
        np.testing.assert_array_equal(ours.ranks, theirs.segments)
        np.testing.assert_array_equal(ours.saliency, theirs.attribution_mask)
        masks = timed(lambda: xrai._get_segments_felzenszwalb(image), cutting[0])
        np.testing.assert_array_equal(timed(lambda: regions.segment(image), cutting[1]), np.stack(masks))
    for what, (pairs, here) in (("ranking", ranking), ("cutting", cutting)):
        ratio = statistics.median(pairs) / statistics.median(here)
        print(f"{name:<10} {len(segments):>8}  {what:<8} {told(pairs):<28} {told(here):<28} {ratio:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    print(f"{'photo':<10} {'segments':>8}  {'':<8} {'PAIR, ms':<28} {'here, ms':<28} ratio")
    for name in ("chelsea", "coffee", "rocket", "astronaut"):
        measure(name, rounds)


if __name__ == "__main__":
    main()
