"""XRAI ranks regions as PAIR's own package does, and faster."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from saliency_client import regions

GOLDEN = Path(__file__).parent / "golden" / "xrai.npz"


def pair_xrai(
    attributions: np.ndarray, segments: np.ndarray, min_pixels: int
) -> tuple[np.ndarray, np.ndarray]:
    """PAIR's algorithm by its definition, as `saliency` 0.2 writes it; the values [H, W] and the ranks."""
    merged = attributions.max(axis=-1) if attributions.ndim == 3 else attributions
    covered, left, taken = np.zeros(merged.shape, bool), dict(enumerate(segments)), []
    values = np.zeros(merged.shape)
    while True:
        best = (-np.inf, -1)
        for key in list(left):
            added = left[key] & ~covered
            if added.sum() < min_pixels:
                del left[key]
            elif (gain := merged[added].mean()) > best[0]:
                best = (gain, key)
        if not left:
            break
        added = left.pop(best[1]) & ~covered
        taken.append((best[0], added))
        values[added], covered = best[0], covered | added
    ranks = np.zeros(merged.shape, int)
    for rank, (_, added) in enumerate(sorted(taken, key=lambda one: -one[0]), 1):
        ranks[added] = rank
    if not covered.all():
        values[~covered], ranks[~covered] = merged[~covered].mean(), len(taken) + 1
    return values, ranks


def test_ranks_and_values_are_those_that_pairs_own_package_computed() -> None:
    with np.load(GOLDEN) as known:
        size = known["ranks"].shape
        bits = np.unpackbits(known["segments"])
        segments = (
            bits[: bits.size // (size[0] * size[1]) * size[0] * size[1]].reshape(-1, *size).astype(bool)
        )
        found = regions.xrai(known["attributions"], segments)
        assert known["ranks"].max() > 10
        np.testing.assert_array_equal(found.ranks, known["ranks"])
        np.testing.assert_array_equal(found.saliency, known["saliency"])
        assert (found.saliency.dtype, found.ranks.dtype) == (np.float32, np.int32)
        np.testing.assert_array_equal(regions.segment(known["image"]), segments)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 12),
    dtype=st.sampled_from([np.float32, np.float64]),
    kind=st.sampled_from(["noise", "steps", "constant"]),
    min_pixels=st.sampled_from([1, 3, 50]),
)
def test_it_is_the_algorithm_to_the_bit_whatever_the_map_and_the_segments(
    seed: int, count: int, dtype: type, kind: str, min_pixels: int
) -> None:
    """Also where means are equal, or differ by less than rounding: then the order decides."""
    draw = np.random.default_rng(seed)
    shape = tuple(draw.integers(1, 24, 2))
    attributions = draw.normal(size=(*shape, 3))
    if kind == "steps":
        attributions = np.rint(attributions)
    if kind == "constant":
        attributions = np.full((*shape, 3), 0.1)
    attributions = attributions.astype(dtype)
    segments = draw.random((count, *shape)) < draw.random((count, 1, 1))
    segments[draw.integers(count)] = segments[0]
    values, ranks = pair_xrai(attributions, segments, min_pixels)
    found = regions.xrai(attributions, segments, min_pixels=min_pixels)
    np.testing.assert_array_equal(found.ranks, ranks)
    np.testing.assert_array_equal(found.saliency, values)


def test_the_largest_channel_counts_and_a_map_without_channels_is_taken_as_it_is() -> None:
    draw = np.random.default_rng(0)
    attributions, segments = draw.normal(size=(9, 7, 3)), draw.random((5, 9, 7)) < 0.4
    with_channels = regions.xrai(attributions, segments, min_pixels=1)
    without = regions.xrai(attributions.max(axis=-1), segments, min_pixels=1)
    np.testing.assert_array_equal(with_channels.ranks, without.ranks)


def test_the_best_regions_cover_at_least_what_is_asked_for_and_no_region_more() -> None:
    found = regions.Regions(np.zeros((2, 5)), np.array([[1, 1, 2, 2, 2], [3, 3, 3, 3, 4]], np.int32))
    for percent, most in ((1, 1), (20, 1), (21, 2), (50, 2), (50.5, 3), (90, 3), (100, 4)):
        np.testing.assert_array_equal(found.top(percent), found.ranks <= most)
    for percent in (0, 101, float("nan")):
        with pytest.raises(ValueError, match="percent is"):
            found.top(percent)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ValueError, match=r"with the attributions' \[4, 5\]; these have shape \[1, 5, 4\]"):
        regions.xrai(np.zeros((4, 5)), np.ones((1, 5, 4), bool))
    with pytest.raises(ValueError, match=r"attributions are \[H, W, C\]"):
        regions.xrai(np.zeros((1, 4, 5, 3)), np.ones((1, 4, 5), bool))
    with pytest.raises(ValueError, match="NaN"):
        regions.xrai([[np.nan]], [[[True]]])
    with pytest.raises(ValueError, match="an image is"):
        regions.segment(np.zeros((1, 4, 5, 3)))
    with pytest.raises(ValueError, match="NaN"):
        regions.segment(np.full((4, 5, 3), np.inf))


def test_a_uniform_image_is_one_segment_and_gray_needs_no_channels() -> None:
    assert regions.segment(np.full((20, 30), 7, np.uint8), scales=(100,)).shape == (1, 20, 30)
    gray = skimage.data.camera()[::8, ::8]
    np.testing.assert_array_equal(
        regions.segment(gray, scales=(100,)), regions.segment(gray[..., None], scales=(100,))
    )


@pytest.mark.parametrize("radius", [0, 1, 5, 9])
def test_segments_grow_as_by_scikit_images_dilation_with_a_disk(radius: int) -> None:
    from skimage.morphology import dilation, disk

    draw = np.random.default_rng(radius)
    labels = np.kron(draw.integers(2, 9, (7, 5)), np.ones((6, 7), int))
    labels[draw.random(labels.shape) < 0.02] = 12
    grown = regions._grown(labels, radius)
    for mask, label in zip(grown, range(labels.min(), labels.max() + 1), strict=True):
        np.testing.assert_array_equal(mask, dilation(labels == label, footprint=disk(radius)))


def test_without_scikit_image_the_error_has_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="regions need scikit-image") as error:
        regions.segment(np.zeros((4, 4, 3)))
    assert "pip install 'saliency-serving[regions]'" in error.value.hint  # type: ignore[attr-defined]


def photo(name: str, size: int) -> np.ndarray:
    picture = Image.fromarray(getattr(skimage.data, name)())
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return np.asarray(picture.crop((left, top, left + side, top + side)).resize((size, size)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chelsea", "coffee", "rocket", "astronaut"])
@pytest.mark.parametrize(("size", "dtype"), [(224, np.float32), (224, np.float64), (300, np.float32)])
def test_it_agrees_with_pairs_package_on_photos_and_takes_a_fifth_of_the_time(
    name: str, size: int, dtype: type
) -> None:
    xrai = pytest.importorskip("saliency.core.xrai", reason="PAIR's package `saliency` is not installed")
    image = photo(name, size)
    segments = xrai._get_segments_felzenszwalb(image)
    np.testing.assert_array_equal(regions.segment(image), np.stack(segments))
    near = np.exp(-((np.indices((size, size)) - size / 2) ** 2).sum(0) / size**2 * 10)[..., None]
    attributions = (np.random.default_rng(1).normal(size=image.shape) * near).astype(dtype)
    wanted = xrai.XRAIParameters()
    wanted.return_xrai_segments = True
    times: dict[str, list[float]] = {"theirs": [], "ours": []}
    for _ in range(2):
        started = time.perf_counter()
        theirs = xrai.XRAI().GetMaskWithDetails(
            image, None, base_attribution=attributions, segments=segments, extra_parameters=wanted
        )
        times["theirs"].append(time.perf_counter() - started)
        started = time.perf_counter()
        ours = regions.xrai(attributions, segments)
        times["ours"].append(time.perf_counter() - started)
    np.testing.assert_array_equal(ours.ranks, theirs.segments)
    np.testing.assert_array_equal(ours.saliency, theirs.attribution_mask)
    assert min(times["theirs"]) > 5 * min(times["ours"])


def test_the_algorithm_needs_numpy_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("skimage", "scipy")]:
        monkeypatch.delitem(sys.modules, name)
    regions.xrai(np.zeros((2, 2)), np.ones((1, 2, 2), bool))
    assert not any(name.partition(".")[0] in ("skimage", "scipy") for name in sys.modules)
