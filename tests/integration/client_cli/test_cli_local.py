"""The command line with a real exported model: in its own process, and behind the local server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import preloaded
import pytest
from cli_harness import Cli
from PIL import Image
from rounding import assert_equal_to_rounding

from saliency_exporter.runtime.servable import load_servable
from saliency_exporter.serving.server import LocalServer

LABELS = ("ant", "bee", "cat", "dog", "eel")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def pixels(folder: Path) -> np.ndarray:
    """A picture of the model's own size, so that its pixels are the model's input."""
    values = np.random.default_rng(5).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(values).save(folder / "noise.png")
    return values


@pytest.fixture(scope="module")
def reference(uncompiled_version: Path) -> Iterator[object]:
    servable = load_servable(uncompiled_version)
    yield servable.predict
    servable.close()


@pytest.fixture(scope="module")
def real_server(uncompiled_version: Path) -> Iterator[LocalServer]:
    with LocalServer({"classifier": uncompiled_version.parent}, warmup=False) as server:
        yield server


@pytest.fixture
def real_cli(folder: Path, real_server: LocalServer) -> Cli:
    return Cli(folder, {"SALIENCY_SERVER": real_server.target, "SALIENCY_MODEL": "classifier"})


def run(program: list[str], *arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    return preloaded.run([*program, *map(str, arguments)], cwd=folder)


def run_anew(program: list[str], *arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """In a new interpreter, which imports TensorFlow itself."""
    return subprocess.run(
        [*program, *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def test_local_explains_without_a_server_and_without_noise(
    folder: Path, pixels: np.ndarray, program: list[str], uncompiled_version: Path, reference: object
) -> None:
    done = run_anew(
        program, "explain", "noise.png", "--local", uncompiled_version, "-f", "npy", "-q", folder=folder
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "noise-gradients.npy\n", "")
    expected = reference("explain_gradients", {"images": pixels[None]})["saliency"][0]
    assert_equal_to_rounding(np.load(folder / "noise-gradients.npy")[None], expected[None])


def test_local_finds_a_class_by_the_names_of_the_export(
    folder: Path, pixels: np.ndarray, uncompiled_version: Path
) -> None:
    done = Cli(folder, {})("explain", "noise.png", "--local", uncompiled_version, "--class", "dog", "--json")
    assert done.code == 0, done.err
    assert '"class_index": 3, "label": "dog"' in done.out


def test_every_command_names_the_local_model_and_not_the_environments(
    folder: Path, pixels: np.ndarray, uncompiled_version: Path
) -> None:
    cli = Cli(folder, {"SALIENCY_MODEL": "another", "SALIENCY_SERVER": "127.0.0.1:1"})
    commands = [
        ["explain", "noise.png"],
        ["predict", "noise.png"],
        ["signatures"],
        ["bench", "--requests", "1"],
    ]
    for command in commands:
        run = cli(*command, "--json", "--local", uncompiled_version)
        assert run.code == 0, run.err
        assert run.record["model"] == uncompiled_version.parent.name, command


def test_local_without_tensorflow_says_what_to_install(
    folder: Path, pixels: np.ndarray, uncompiled_version: Path
) -> None:
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "from saliency_client.cli import main\n"
        f"main(['explain', 'noise.png', '--local', {str(uncompiled_version)!r}])"
    )
    done = run([sys.executable], "-c", code, folder=folder)
    assert done.returncode == 1
    assert "error: --local needs TensorFlow" in done.stderr
    assert "hint: pip install 'saliency-serving[exporter]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_local_wants_a_version_and_no_server(cli: Cli, photo: Path, uncompiled_version: Path) -> None:
    run = cli("explain", photo, "--local", uncompiled_version.parent)
    assert run.code == 1
    assert f"hint: name a version in it: --local {uncompiled_version}" in run.err
    for name in ("10", "2", "²", "٣"):
        (cli.folder / "base" / name).mkdir(parents=True)
        (cli.folder / "base" / name / "saved_model.pb").touch()
    (cli.folder / "base" / "11").mkdir()
    run = cli("explain", photo, "--local", "base")
    assert "hint: name a version in it: --local base/10\n" in run.err, "the highest number that has a model"
    run = cli("explain", photo, "--local", uncompiled_version, "--server", "localhost:8500")
    assert (run.code, "leave --server out" in run.err) == (2, True)
    run = cli("explain", photo, "--local", "nowhere")
    assert (run.code, "does not exist" in run.err) == (2, True)


def test_local_names_a_version_that_lies_one_level_deeper(cli: Cli, photo: Path) -> None:
    (cli.folder / "models" / "a").mkdir(parents=True)
    run = cli("explain", photo, "--local", "models")
    assert (run.code, "hint: export a model first\n" in run.err) == (1, True)
    for version in ("models/b/2", "models/b/10", "models/c/1"):
        (cli.folder / version).mkdir(parents=True)
        (cli.folder / version / "saved_model.pb").touch()
    run = cli("explain", photo, "--local", "models")
    assert (run.code, "hint: name a version in it: --local models/b/10\n" in run.err) == (1, True)


@pytest.mark.parametrize("method", ["gradients", "guided", "smooth"])
def test_every_method_of_a_real_model_gives_its_map(
    real_cli: Cli, pixels: np.ndarray, reference: object, method: str
) -> None:
    record = real_cli("explain", "noise.png", "-M", method, "-f", "npz", "-f", "png", "--json").record
    expected = reference(f"explain_{method}", {"images": pixels[None]})
    with np.load(real_cli.folder / f"noise-{method}.npz") as saved:
        for name in expected:
            if name != "label":
                assert_equal_to_rounding(saved[name][None], expected[name][:1], name=name)
    assert record["class_index"] == expected["class_index"][0]
    assert record["label"] == LABELS[record["class_index"]]
    assert record["probability"] == pytest.approx(expected["probability"][0], rel=1e-5)
    assert (record["relative_error"] is None) == (method != "smooth")
    assert record["version"] == 1


def test_predictions_of_a_real_model_have_names(real_cli: Cli, pixels: np.ndarray, reference: object) -> None:
    record = real_cli("predict", "noise.png", "--json").record
    probabilities = reference("serving_default", {"images": pixels[None]})["probabilities"][0]
    for one, index in zip(record["predictions"], np.argsort(-probabilities), strict=True):
        assert one["class_index"] == index
        assert one["label"] == LABELS[index]
        assert one["probability"] == pytest.approx(probabilities[index], rel=1e-4)


def test_a_real_server_answers_the_other_commands(real_cli: Cli, pixels: np.ndarray) -> None:
    assert real_cli("status", "--wait", 20, "-q").out == "AVAILABLE\n"
    record = real_cli("signatures", "--json").record
    assert record["methods"] == ["gradients", "guided", "smooth"]
    assert set(record["signatures"]) == {
        *("class_labels", "serving_default", "explain_gradients", "explain_guided", "explain_smooth")
    }
    assert real_cli("bench", "--requests", 4, "--concurrency", 2, "--json").record["errors"] == {}


def test_bounds_of_the_model_are_told_in_its_own_words(real_cli: Cli, pixels: np.ndarray) -> None:
    run = real_cli("explain", "noise.png", "--class-index", 5)
    assert run.code == 2
    assert "class_index is 5; it must be in [0, 4]" in run.err
    run = real_cli("explain", "noise.png", "-M", "smooth", "--num-samples", 201)
    assert run.code == 2
    assert "num_samples is 201; it must be in [1, 200]" in run.err
    inputs = real_cli("signatures", "--json").record["signatures"]["explain_smooth"]["inputs"]
    assert (inputs["num_samples"]["least"], inputs["num_samples"]["greatest"]) == (1, 200)
    assert os.listdir(real_cli.folder) == ["noise.png"]
