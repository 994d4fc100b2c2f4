from __future__ import annotations

import os
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import skimage.data
from click.testing import CliRunner
from PIL import Image

from saliency_exporter import demo
from saliency_exporter.cli import main
from saliency_exporter.errors import ExportError
from saliency_exporter.manifest import CONTRACT_VERSION, write_manifest

RESULT = {
    "photo": "chelsea",
    "method": "smooth",
    "class_index": 285,
    "label": "Egyptian cat",
    "probability": 0.3846,
    "relative_error": 0.7571,
    "milliseconds": 812.3,
    "file": "out/chelsea-smooth.png",
}


def test_the_photos_are_saved_without_loss_and_kept(tmp_path: Path) -> None:
    files = demo.save_photos(tmp_path)
    assert [file.name for file in files] == ["chelsea.png", "coffee.png"]
    for file in files:
        np.testing.assert_array_equal(np.asarray(Image.open(file)), getattr(skimage.data, file.stem)())
    before = [file.stat().st_mtime_ns for file in files]
    assert demo.save_photos(tmp_path) == files
    assert [file.stat().st_mtime_ns for file in files] == before
    assert len(list(tmp_path.iterdir())) == 2


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    with pytest.raises(ExportError, match="needs skimage") as error:
        demo.save_photos(tmp_path)
    assert "saliency-serving[demo]" in error.value.hint


def version(model_dir: Path, number: int, **manifest) -> Path:
    directory = model_dir / str(number)
    directory.mkdir(parents=True)
    (directory / "saved_model.pb").touch()
    facts = {"contract_version": CONTRACT_VERSION, "batch_sizes": list(demo.BATCH_SIZES), "verification": {}}
    write_manifest(directory, {**facts, **manifest})
    return directory


def test_a_verified_export_of_this_exporter_is_not_made_again(tmp_path: Path) -> None:
    version(tmp_path, 9, verification=None)
    version(tmp_path, 10)
    assert demo.is_current(tmp_path)


def test_an_export_is_made_where_there_is_none_or_an_older_one(tmp_path: Path) -> None:
    assert not demo.is_current(tmp_path)
    directory = version(tmp_path, 1)
    os.utime(directory / "saved_model.pb", (0, 0))
    assert not demo.is_current(tmp_path)


@pytest.mark.parametrize(
    "manifest",
    [{"verification": None}, {"batch_sizes": [64]}, {"contract_version": 0}],
    ids=["unverified", "other sizes", "another contract"],
)
def test_an_export_that_is_not_the_demos_is_made_again(tmp_path: Path, manifest: dict) -> None:
    version(tmp_path, 1)
    version(tmp_path, 2, **manifest)
    assert not demo.is_current(tmp_path)


def test_another_class_than_the_photos_is_an_error() -> None:
    demo.check_classes([RESULT])
    with pytest.raises(ExportError, match=r"chelsea was taken for class 281 \(tabby\) by smooth.* class 285"):
        demo.check_classes([RESULT, {**RESULT, "class_index": 281, "label": "tabby"}])


def test_the_table_says_what_was_found_and_where_it_is() -> None:
    plain = {**RESULT, "method": "gradients", "relative_error": None}
    head, smooth, gradients = click.unstyle(demo.table([RESULT, plain])).strip().splitlines()
    expected = "chelsea smooth Egyptian cat (285) 0.385 0.76 812 out/chelsea-smooth.png"
    assert " ".join(smooth.split()) == expected
    assert "0.76" not in gradients
    assert smooth.index("out/") == gradients.index("out/") == head.index("file")


def test_a_directory_that_cannot_be_made_is_told_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = CliRunner().invoke(main, ["demo", str(tmp_path / "file" / "demo")])
    assert done.exit_code == 1
    assert "cannot be written: Not a directory" in done.output
    assert "hint: name another directory" in done.output
