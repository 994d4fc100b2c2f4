"""A gallery on disk: whole or not at all, in any number, and nothing else is ever replaced."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from saliency_client import Explanation
from saliency_client._files import whole_folder
from saliency_client.gallery import Entry, write_gallery
from saliency_client.images import load_image
from saliency_client.web.shown import ShownClass, is_right


def entry(number: int = 0, *, signs: bool = True, **more: object) -> Entry:
    values = np.arange(12, dtype=np.float32).reshape(1, 3, 4) + number
    outputs = {
        "saliency": values,
        "class_index": np.array([number], np.int32),
        "label": np.array([f"class {number}, so called"], object),
        "probability": np.array([0.25], np.float32),
        "relative_error": np.array([np.inf], np.float32),
        "standard_error": np.array([1.0], np.float32),
    }
    if signs:
        outputs["gradients"] = -values[..., None]
    return Entry(
        load_image(np.zeros((3, 4, 3), np.uint8), (3, 4)),
        [Explanation(outputs, method="own", model="net", version=7)],
        **more,  # type: ignore[arg-type]
    )


def data(page: Path) -> dict:
    (block,) = re.findall(r'id="page-data">(.*?)</script>', page.read_text(encoding="utf-8"))
    return json.loads(block)


def test_the_index_says_what_is_known(tmp_path: Path) -> None:
    page = write_gallery(tmp_path / "page", [entry(2, truth="So Called", numbers={"own": {"deletion": 0.5}})])
    found = data(page)
    assert found["about"]["models"] == [["net", 7]]
    assert found["numbers"] == ["relative_error", "deletion"]
    ((_, argument, width, height, box, png, truth, right, classes),) = found["photos"]
    assert (argument, width, height, box, png, truth, right) == (0, 4, 3, 0, 1, "So Called", 1)
    ((class_index, label, probability, score, rank, maps),) = classes
    assert (class_index, found["labels"][label]) == (2, "class 2, so called")
    assert (probability, score, rank) == (0.25, None, None)
    # The 99th percentile of 2..13.
    assert maps == [[0, 2.0, 12.89, 12.89, ["inf", 0.5]]]
    assert {path.name for path in page.parent.iterdir()} == {
        "index.html", "viewer.js", "gallery.js", "style.css", "pictures",
    }  # fmt: skip
    assert page.parent.parent == tmp_path


def test_entries_are_taken_one_at_a_time_and_folders_hold_500(tmp_path: Path) -> None:
    written = []

    def entries() -> Iterator[Entry]:
        for number in range(501):
            if number in (1, 2, 500):
                written.append(len(list(tmp_path.rglob("*-small.png"))))
            yield entry(signs=False)

    page = write_gallery(tmp_path / "page", entries())
    assert written == [1, 2, 500]
    assert len(list((page.parent / "pictures/0").iterdir())) == 3 * 500
    assert len(list((page.parent / "pictures/1").iterdir())) == 3


def failing() -> Iterator[Entry]:
    yield entry()
    raise KeyboardInterrupt


@pytest.mark.parametrize("single_file", [False, True])
def test_what_ends_it_midway_leaves_nothing(tmp_path: Path, single_file: bool) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_gallery(tmp_path / "page.html", failing(), single_file=single_file)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("single_file", [False, True])
def test_what_ends_it_midway_leaves_the_one_that_was_there(tmp_path: Path, single_file: bool) -> None:
    to = tmp_path / "page.html"
    page = write_gallery(to, [entry()], single_file=single_file)
    before = page.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_gallery(to, failing(), single_file=single_file, overwrite=True)
    assert page.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_gallery_is_replaced_whole(tmp_path: Path) -> None:
    write_gallery(tmp_path / "page", [entry(), entry()])
    with pytest.raises(FileExistsError):
        write_gallery(tmp_path / "page", [entry()])
    page = write_gallery(tmp_path / "page", [entry()], overwrite=True)
    assert len(data(page)["photos"]) == 1
    assert not (page.parent / "pictures/0/1.png").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["page"]


def test_no_other_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "index.html").write_text("<html>mine</html>")
    with pytest.raises(FileExistsError):
        write_gallery(tmp_path / "page", [entry()], overwrite=True)
    assert (tmp_path / "page" / "index.html").read_text() == "<html>mine</html>"


def test_without_photos_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no photo"):
        write_gallery(tmp_path / "page", [])
    with pytest.raises(ValueError, match="no explanation"):
        write_gallery(tmp_path / "page", [Entry(entry().photo, [])])
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    dead, alive, other = (tmp_path / name for name in (".page.0.part", ".page.1.part", ".pages.0.part"))
    for folder in (dead, alive, other):
        folder.mkdir()
    lock = os.open(alive, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        with whole_folder(tmp_path / "page", may_replace=lambda _: False) as folder:
            (folder / "file").write_text("whole")
    finally:
        os.close(lock)
    assert {path.name for path in tmp_path.iterdir()} == {"page", alive.name, other.name}


@pytest.mark.parametrize(
    ("truth", "index", "label", "right"),
    [
        (282, 282, "tiger cat", True),
        ("282", 282, None, True),
        ("Tiger Cat", 282, "tabby, tiger cat", True),
        ("cat", 282, "tiger cat", False),
        (None, 282, "tiger cat", None),
        ("282", None, None, None),
        # Of digits, the name counts: class 3 may be called 7.
        ("7", 3, "7", True),
        ("3", 3, "7", False),
    ],
)
def test_what_is_right(
    truth: str | int | None, index: int | None, label: str | None, right: bool | None
) -> None:
    assert is_right(truth, ShownClass(index, label, None, None, None, ())) is right
