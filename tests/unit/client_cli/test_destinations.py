"""Every image's results get a place of their own (cli/destinations.py)."""

from __future__ import annotations

import itertools
import unicodedata
from pathlib import Path

import pytest

from saliency_client.cli.destinations import places
from saliency_client.cli.inputs import STDIN, Input


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["cat.jpg", "dog.jpg"], ["cat", "dog"]),
        (["cat.jpg", "cat.png"], ["cat-jpg", "cat-png"]),
        (["x/cat.jpg", "y/cat.png"], ["cat-jpg", "cat-png"]),
        (["x/1.jpg", "y/1.jpg", "y/2.jpg"], ["x/1", "y/1", "y/2"]),
        (["../x/1.jpg", "../y/z/1.jpg"], ["x/1", "y/z/1"]),
        (["1.jpg", "x/1.jpg", STDIN], ["1", "x/1", "stdin"]),
        (["IMG_1.jpg", "img_1.jpg"], ["IMG_1", "img_1-2"]),
        (["a", "a.jpg"], ["a", "a-jpg"]),
        (["a.jpg", "a.png", "a-jpg.gif"], ["a-jpg", "a-png", "a-jpg-2"]),
        (["a.jpg", "A.jpg", "a-2.jpg"], ["a", "A-2", "a-2-2"]),
    ],
)
def test_images_are_told_apart(sources: list[str], expected: list[str]) -> None:
    found = [str(folder / stem) for folder, stem in places([Input(source) for source in sources])]
    assert found == expected


def test_no_two_images_share_a_place_on_any_disk() -> None:
    """Disks that fold letter case, and those that fold the ways to write an accent, as Unicode does."""
    names = ["a", "A", "a-1", "a-2", "\u00e9", "e\u0301", "E\u0301", "stra\u00dfe", "STRASSE", "a-jpg"]
    sources = [
        Input(f"{folder}/{name}{suffix}", Path(below))
        for folder, below in (("p", "."), ("p/q", "q"), ("p/Q", "Q"), ("r", "."))
        for name, suffix in itertools.product(names, (".jpg", ".JPG", ".png"))
    ]
    found = [str(folder / stem) for folder, stem in places(sources)]
    for fold in (str.casefold, str.lower, str.upper):
        for form in ("NFC", "NFD"):
            assert len({unicodedata.normalize(form, fold(name)) for name in found}) == len(sources)
    assert not any(Path(name).is_absolute() or ".." in Path(name).parts for name in found)
