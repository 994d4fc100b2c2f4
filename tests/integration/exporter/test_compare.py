"""Two versions compared: held to the Keras model's own gradients of the classes that the names say."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import models
import numpy as np
import preloaded
import pytest
from click.testing import CliRunner
from exports import export_classifier
from PIL import Image
from test_sanity import saliency

from saliency_client.evaluation.similarity import spearman
from saliency_exporter.cli import main
from saliency_exporter.version.manifest import read_manifest, write_manifest


@pytest.fixture
def photos(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A folder of three pictures, and their pixels."""
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.random.default_rng(8).integers(0, 256, (3, 32, 32, 3), np.uint8)
    for number, one in enumerate(pixels):
        Image.fromarray(one).save(folder / f"{number}.png")
    return folder, pixels


@pytest.fixture
def renamed(uncompiled_version: Path, tmp_path: Path) -> Path:
    """The same version with its class names in the opposite order, and without smooth."""
    version = shutil.copytree(uncompiled_version, tmp_path / "model" / "2")
    manifest = read_manifest(version)
    assert manifest.labels is not None
    methods = {name: entry for name, entry in manifest.methods.items() if name != "smooth"}
    write_manifest(version, replace(manifest, labels=manifest.labels[::-1], methods=methods))
    return version


def test_maps_of_the_class_of_that_name_are_compared(
    uncompiled_version: Path, renamed: Path, photos: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    folder, pixels = photos
    arguments = ["compare", str(uncompiled_version), str(renamed), "--images", str(folder), "--json"]
    done = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    model = models.classifier()
    classes = np.argmax(model.predict(pixels / 127.5 - 1, verbose=0), -1)
    pairs = zip(saliency(model, pixels, classes), saliency(model, pixels, 4 - classes), strict=True)
    expected = [spearman(a, b) for a, b in pairs]
    found = json.loads(done.stdout)["images"]
    assert [one["methods"]["gradients"]["spearman"] for one in found] == pytest.approx(expected, abs=2e-3)
    # The scores are the same ones, and have other names.
    assert [one["changed"] for one in found] == [bool(index != 2) for index in classes]
    assert "note: smooth is in the first version alone" in done.stderr
    assert "matched by name" in done.stderr
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_a_version_is_like_itself(uncompiled_version: Path, photos: tuple[Path, np.ndarray]) -> None:
    arguments = ["compare", str(uncompiled_version), str(uncompiled_version), "--images", str(photos[0])]
    done = CliRunner().invoke(main, [*arguments, "--methods", "gradients"])
    assert done.exit_code == 0, done.output
    assert done.stdout.split("\n")[1].split()[:4] == ["gradients", "1.00", "1.00", "1.00"]
    assert "0 of 3 images have another class" in done.stdout


def test_versions_that_learned_something_else_differ_as_the_keras_models_do(
    uncompiled_version: Path, photos: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    folder, pixels = photos
    options = ("--compile", "none", "--no-verify", "--methods", "gradients")
    other = export_classifier(tmp_path / "other", *options, model="models:other_classifier") / "1"
    command = [sys.executable, "-m", "saliency_exporter", "compare", str(uncompiled_version), str(other)]
    done = preloaded.run([*command, "--images", str(folder), "--json"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = models.classifier(), models.other_classifier()
    classes, others = (np.argmax(one.predict(pixels / 127.5 - 1, verbose=0), -1) for one in (first, second))
    pairs = zip(saliency(first, pixels, classes), saliency(second, pixels, classes), strict=True)
    expected = [spearman(a, b) for a, b in pairs]
    found = json.loads(done.stdout)["images"]
    assert [one["methods"]["gradients"]["spearman"] for one in found] == pytest.approx(expected, abs=2e-3)
    assert max(expected) < 0.9
    assert [one["changed"] for one in found] == list(classes != others)
    assert any(one["changed"] for one in found)


def test_maps_that_are_the_same_everywhere_are_not_compared(
    uncompiled_version: Path, brightness_version: Path, photos: tuple[Path, np.ndarray]
) -> None:
    command = [sys.executable, "-m", "saliency_exporter", "compare"]
    command += [str(uncompiled_version), str(brightness_version), "--images", str(photos[0])]
    done = preloaded.run(command, cwd=photos[0])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split()[:5] == ["gradients", "–", "–", "–", "–"]
    assert (
        "note: gradients: on 3 of 3 images a map is the same everywhere, and is not compared" in done.stderr
    )
    assert "note: gradient_x_input is in the second version alone" in done.stderr


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--methods", "rise"], "do not both have the method 'rise'"),
        (["--images", "missing.png"], "missing.png does not exist"),
    ],
)
def test_mistakes_are_named(uncompiled_version: Path, more: list[str], said: str) -> None:
    done = CliRunner().invoke(main, ["compare", str(uncompiled_version), str(uncompiled_version), *more])
    assert done.exit_code == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
