"""Pictures of all modes, depths, profiles and containers against an independent reading of their samples."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from generated_pictures import generate, verdict

from saliency_client.images import Photo, load_image

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def read(data: bytes, size: tuple[int, int]) -> Photo:
    return load_image(data, size, resize="stretch")


@pytest.mark.parametrize(
    "part", [*range(2), *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 50))]
)
def test_no_generated_picture_is_read_wrong_without_a_note(part: int) -> None:
    seen: Counter[str] = Counter()
    for index in range(200 * part, 200 * (part + 1)):
        one = generate(random.Random(index))
        seen[
            result
            if (result := verdict(one, read)) in ("right", "noted", "refused")
            else f"{index} {one.kind}: {result}"
        ] += 1
    assert set(seen) <= {"right", "noted", "refused"}, seen
    assert seen["right"] > 150
