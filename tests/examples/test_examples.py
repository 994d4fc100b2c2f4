"""The example pages run: exported, served and asked as a user does, and leave their pictures."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HERE = Path(__file__).parent
PAGES = {
    "mobilenet_v2_smoothgrad": ["--samples", "2"],
    "xception_smoothgrad": ["--samples", "2"],
    "guided_backprop": [],
    "vgg16_jet": [],
}


def run(page: str, output: Path, *options: str) -> str:
    command = [sys.executable, str(HERE / f"{page}.py"), str(output), "--compile", "none", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1700, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def pictures(output: Path) -> list[Path]:
    photos = {"chelsea.png", "coffee.png"}
    return [path for path in output.glob("*.png") if path.name not in photos]


def assert_shows_something(path: Path) -> None:
    with Image.open(path) as picture:
        # The colours of a map, and not one flat area: text and a photo alone have few saturated pixels.
        pixels = np.asarray(picture.convert("HSV")).reshape(-1, 3)
        assert (pixels[:, 1] > 64).mean() > 0.05, path
        assert pixels[:, 2].std() > 10, path


@pytest.mark.slow
def test_a_page_runs_from_export_to_picture(tmp_path):
    printed = run("mobilenet_v2_smoothgrad", tmp_path, "--quick", *PAGES["mobilenet_v2_smoothgrad"])
    assert "ImageNet weights of MobileNetV2 are not downloaded here" in printed
    (picture,) = pictures(tmp_path)
    assert picture.name == "mobilenetv2-chelsea.png"
    assert_shows_something(picture)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", [page for page in PAGES if page != "mobilenet_v2_smoothgrad"])
def test_the_other_pages_run(page, tmp_path):
    run(page, tmp_path, "--quick", *PAGES[page])
    made = pictures(tmp_path)
    assert len(made) == (3 if page == "guided_backprop" else 1)
    for picture in made:
        assert_shows_something(picture)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_page_runs_with_trained_weights_where_nothing_can_be_downloaded(tmp_path):
    printed = run("mobilenet_v2_smoothgrad", tmp_path, "--offline", "--samples", "4")
    assert "efficientnet-lite0" in printed
    names = {picture.name for picture in pictures(tmp_path)}
    models = ("efficientnet-lite0", "mobilenetv2")
    assert names == {f"{model}-{photo}.png" for model in models for photo in ("chelsea", "coffee")}


@pytest.mark.slow
def test_the_map_of_a_series_is_where_its_burst_is(tmp_path):
    printed = run("series", tmp_path)
    assert len(pictures(tmp_path)) == 8
    found = re.findall(r"12% of the steps and has (\d+)% of the (.*); its channel has (\d+)%", printed)
    assert len(found) == 16
    for of_steps, what, of_channels in found:
        # By chance 12 % and 50 %.
        bound = 90 if what == "gradient times series" else 55
        assert int(of_steps) > bound
        assert int(of_channels) > bound


@pytest.mark.slow
def test_the_map_of_a_spectrogram_is_where_its_tone_is(tmp_path):
    printed = run("spectrogram", tmp_path)
    made = pictures(tmp_path)
    assert len(made) == 3
    for picture in made:
        assert_shows_something(picture)
    found = re.findall(r"the tone is (\d+)% of the spectrogram and has (\d+)% of the map", printed)
    assert len(found) == 6
    for by_chance, of_map in found:
        assert int(of_map) > 3 * int(by_chance)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_how_the_numbers_of_its_source_translate_and_how_to_run_it(page):
    text = importlib.import_module(page).__doc__
    assert f"python tests/examples/{page}.py" in text
    assert "where they are here" in text


def test_the_noise_level_of_a_photo_from_black_to_white_is_that_of_the_notebook():
    from example_support import model_input_range

    pixels = np.array([[[[0, 0, 0], [255, 255, 255]]]], np.uint8)
    # stddev = noise / 2 = 0.1 on an input from −1 to 1
    np.testing.assert_allclose(0.1 / model_input_range(pixels, "tf"), [0.05])
