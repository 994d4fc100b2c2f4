from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from click.testing import CliRunner
from PIL import Image
from small_manifest import EXPORT

from saliency_exporter.cli import demo, main
from saliency_exporter.errors import ExportError
from saliency_exporter.runtime import xla_cache
from saliency_exporter.version.manifest import write_manifest

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


@pytest.fixture
def paths(tmp_path: Path) -> demo._Paths:
    """A directory that a first run left: one verified version, and what it was made of."""
    paths = demo._Paths(tmp_path)
    version(paths, 9, verification=None)
    version(paths, 10)
    record(paths, {"version": "10", "of": demo.made_of()})
    return paths


def version(paths: demo._Paths, number: int, **manifest) -> None:
    directory = paths.model / str(number)
    directory.mkdir(parents=True, exist_ok=True)
    write_manifest(directory, replace(EXPORT, **manifest))


def record(paths: demo._Paths, content: object) -> None:
    paths.made_of.write_text(json.dumps(content))


def test_a_verified_export_of_the_same_things_is_taken_as_it_is(paths: demo._Paths) -> None:
    assert demo.what_changed(paths) == ""
    assert demo.newest(paths.model) == paths.model / "10"


def test_an_export_is_made_where_there_is_none(tmp_path: Path) -> None:
    assert demo.what_changed(demo._Paths(tmp_path)) == "there is no export yet"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.setattr(demo, "SETTINGS", ("--target", "gpu")), "settings"),
        (lambda m: m.setattr(xla_cache, "_tensorflow_version", lambda: "9"), "TensorFlow or the processor"),
        (
            lambda m: m.setattr(xla_cache, "_device_lines", lambda: ["flags: mmx"]),
            "TensorFlow or the processor",
        ),
        (lambda m: m.setattr(demo, "_release", lambda name: f"9 of {name}"), "the package keras"),
        (lambda m: m.setenv("TF_ENABLE_ONEDNN_OPTS", "x"), "the variable TF_ENABLE_ONEDNN_OPTS"),
    ],
    ids=["settings", "tensorflow", "processor", "packages", "kernels"],
)
def test_an_export_of_other_things_is_made_again_and_said_why(
    paths: demo._Paths, monkeypatch: pytest.MonkeyPatch, change, said: str
) -> None:
    change(monkeypatch)
    assert demo.what_changed(paths).startswith("other than last time: ")
    assert said in demo.what_changed(paths)


def test_an_export_of_other_code_is_made_again(
    paths: demo._Paths, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By what the files hold and not by their times, which a checkout or an installation sets as it likes."""
    package = tmp_path / "package"
    shutil.copytree(demo.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(demo, "PACKAGE", package)
    os.utime(package / "errors.py")
    assert demo.what_changed(paths) == ""
    with (package / "rules" / "guided.py").open("a") as file:
        file.write("\n")
    os.utime(package / "rules" / "guided.py", (0, 0))
    assert demo.what_changed(paths) == "other than last time: the exporter's code"


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda paths: version(paths, 11, verification=None), "was not made by this command"),
        (lambda paths: version(paths, 11), "was not made by this command"),
        (lambda paths: version(paths, 10, verification=None), "was not made by this command"),
        (lambda paths: version(paths, 10, contract_version=0), "not known"),
        (lambda paths: paths.made_of.unlink(), "not known"),
        (lambda paths: paths.made_of.write_text("{"), "not known"),
        (lambda paths: record(paths, {"version": "10"}), "not known"),
        (lambda paths: record(paths, 10), "not known"),
    ],
    ids=["newer unverified", "newer", "unverified", "contract", "no record", "damaged", "half", "a number"],
)
def test_an_export_that_is_not_known_to_be_the_demos_is_made_again(
    paths: demo._Paths, break_it, said: str
) -> None:
    break_it(paths)
    assert said in demo.what_changed(paths)


def test_another_class_than_the_photos_is_an_error() -> None:
    demo.check_classes([RESULT])
    with pytest.raises(ExportError, match=r"chelsea was taken for class 281 \(tabby\) by smooth.* class 285"):
        demo.check_classes([RESULT, {**RESULT, "class_index": 281, "label": "tabby"}])


def test_the_table_says_what_was_found_and_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    plain = {**RESULT, "method": "gradients", "relative_error": None}
    demo.print_table([RESULT, plain])
    head, smooth, gradients = capsys.readouterr().out.strip().splitlines()
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
