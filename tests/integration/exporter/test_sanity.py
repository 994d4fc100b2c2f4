"""The randomisation test of a served version, held to the Keras model with weights in the same order."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import keras
import models
import numpy as np
import preloaded
import pytest
import tensorflow as tf
from click.testing import CliRunner
from exports import THREE
from PIL import Image

from saliency_client.evaluation.similarity import spearman
from saliency_exporter.cli import main
from saliency_exporter.errors import ExportError
from saliency_exporter.evaluation.card import read_card
from saliency_exporter.evaluation.randomisation import permuted
from saliency_exporter.evaluation.sanity import check_sanity
from saliency_exporter.runtime.servable import load_servable

LAYERS = ["dense", "batch_normalization", "conv2d", "depthwise_conv2d", "conv2d_1"]


def images(count: int) -> dict[str, np.ndarray]:
    pixels = np.random.default_rng(3).integers(0, 256, (count, 32, 32, 3), np.uint8)
    return {f"image {number}": one for number, one in enumerate(pixels)}


def saliency(model: keras.Model, pixels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """max |gradient| of the logit, by TensorFlow's own tape on the Keras model."""
    logits = keras.Model(model.inputs, model.layers[-2].output)
    x = tf.constant(pixels, tf.float32) / 127.5 - 1
    with tf.GradientTape() as tape:
        tape.watch(x)
        score = tf.gather(logits(x, training=False), classes, batch_dims=1)
    return np.abs(tape.gradient(score, x).numpy()).max(-1)


def test_maps_are_those_of_the_keras_model_whose_top_layer_is_permuted(uncompiled_version: Path) -> None:
    chosen = images(3)
    card = check_sanity(uncompiled_version, chosen, methods=["gradients"], depths=5)
    model, pixels = models.classifier(), np.stack(list(chosen.values()))
    classes = np.argmax(model.predict(pixels / 127.5 - 1, verbose=0), -1)
    trained = saliency(model, pixels, classes)
    # The bias, all zeros, is drawn first: it is nearer to the scores.
    rng, dense = np.random.default_rng([0, 0]), model.layers[-2]
    bias = permuted(dense.bias.numpy(), rng)
    dense.set_weights([permuted(dense.kernel.numpy(), rng), bias])
    expected = [spearman(a, b) for a, b in zip(trained, saliency(model, pixels, classes), strict=True)]
    assert card.methods["gradients"].spearman[0] == pytest.approx(expected, abs=2e-3)
    assert max(expected) < 0.9


def test_the_version_is_walked_from_the_dense_layer_down_and_left_as_it_is(uncompiled_version: Path) -> None:
    before = {path: path.read_bytes() for path in uncompiled_version.rglob("*") if path.is_file()}
    said: list[str] = []
    card = check_sanity(uncompiled_version, images(2), depths=2, samples=4, progress=said.append)
    assert len(card.layers) == 5
    assert card.layers[0] == "dense"
    assert card.depths == (1, 5)
    assert list(card.methods) == list(THREE)
    assert card.methods["smooth"].parameters == {"num_samples": 4}
    assert [words.split(", down to ")[0] for words in said if words.startswith("depth")] == [
        "depth 1 of 2: explaining with 1 of 5 layers random",
        "depth 2 of 2: explaining with 5 of 5 layers random",
    ]
    assert {path: path.read_bytes() for path in uncompiled_version.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_the_draw_depends_on_the_seed_alone(uncompiled_version: Path) -> None:
    of = [
        check_sanity(uncompiled_version, images(2), methods=["gradients"], depths=depths, seed=seed)
        for depths, seed in ((1, 0), (5, 0), (1, 1))
    ]
    last = [card.methods["gradients"].spearman[-1] for card in of]
    # At whichever depths maps were made before.
    assert last[0] == last[1]
    assert last[0] != last[2]


def test_a_method_that_is_not_exported_is_named(uncompiled_version: Path) -> None:
    with pytest.raises(ExportError, match="no method 'rise'") as error:
        check_sanity(uncompiled_version, images(1), methods=["rise"])
    assert error.value.hint == "its methods are gradients, guided, smooth"


def test_the_command_keeps_the_card_and_inspect_shows_it(uncompiled_version: Path, tmp_path: Path) -> None:
    version = shutil.copytree(uncompiled_version, tmp_path / "model" / "1")
    for name, pixels in images(2).items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    photos = [part for name in images(2) for part in ("--images", str(tmp_path / f"{name}.png"))]
    run = CliRunner().invoke
    done = run(main, ["sanity", str(version), *photos, "--methods", "gradients", "--depths", "2", "--json"])
    assert done.exit_code == 0, done.output
    card = read_card(version / "assets.extra")
    assert card is not None
    assert json.loads(done.stdout) == card.to_json()
    assert card.images == ("image 0", "image 1")
    shown = run(main, ["inspect", str(version)])
    assert "gradients" in shown.stdout.split("sanity", 1)[1]
    assert json.loads(run(main, ["inspect", str(version), "--json"]).stdout)["sanity"] == card.to_json()
    # The version is served as it was.
    load_servable(version).close()


def test_the_command_fails_maps_that_do_not_depend_on_what_was_learned(
    brightness_version: Path, tmp_path: Path
) -> None:
    """Of scores of the mean, gradient × input is the image times a number, and the gradient is a number."""
    version = shutil.copytree(brightness_version, tmp_path / "model" / "1")
    photos: list[str] = []
    for name, pixels in images(4).items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        photos += ["--images", str(tmp_path / f"{name}.png")]
    command = [sys.executable, "-m", "saliency_exporter", "sanity", str(version), *photos]
    done = preloaded.run(command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = {line.split()[0]: line.split(maxsplit=1)[1] for line in done.stdout.splitlines()}
    assert said["gradient_x_input"] == (
        "fails: its maps stay as they are when the upper layers are random (rank correlation 1.00 ± 0.00)"
    )
    assert said["gradients"] == "unclear: with the trained weights, its maps are the same everywhere"
    card = read_card(version / "assets.extra")
    assert card is not None
    # Both layers have other weights, and still every pixel has its place.
    assert (card.layers, card.depths, card.unchanged) == (("classes", "hidden"), (1, 2), ())
    assert np.array(card.methods["gradient_x_input"].spearman) == pytest.approx(np.ones((2, 4)), abs=1e-3)
    assert set(card.methods["gradients"].spearman) == {(None,) * 4}


def test_an_option_of_a_model_is_refused_for_a_version(uncompiled_version: Path) -> None:
    done = CliRunner().invoke(main, ["sanity", str(uncompiled_version), "--preprocessing", "tf"])
    assert done.exit_code == 2
    assert "--preprocessing says how a model is loaded" in done.stderr


def test_a_model_is_exported_for_the_test_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(models.__file__).parent)
    arguments = ["sanity", "models:classifier", "--preprocessing", "tf", "--methods", "gradients"]
    done = CliRunner().invoke(main, [*arguments, "--depths", "1", "-o", str(tmp_path / "card")])
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (tmp_path / "card").iterdir()) == ["sanity.json", "sanity.png"]
    assert done.stdout.startswith("gradients  ")


def test_an_export_is_tested_before_it_has_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(models.__file__).parent)
    arguments = ["export", "models:classifier", str(tmp_path / "model"), "--preprocessing", "tf", "--sanity"]
    arguments += ["--methods", "gradients", "--compile", "none", "--batch-sizes", "4", "--no-verify"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    card = read_card(tmp_path / "model" / "1" / "assets.extra")
    assert card is not None
    assert done.stdout == f"{tmp_path / 'model' / '1'}\n"
    assert f"gradients  {card.verdict('gradients')}: " in done.stderr

    def fails(*arguments: object, **options: object) -> None:
        raise ExportError("the test cannot be made")

    monkeypatch.setattr("saliency_exporter.cli.sanity.run", fails)
    assert CliRunner().invoke(main, arguments).exit_code == 1
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["1"]
