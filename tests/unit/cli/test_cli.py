"""What the command says where it does nothing: mistakes, in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from saliency_exporter.cli import main

TESTS = Path(__file__).parents[2]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the command in this process, in a folder."""

    def invoke(*arguments: str, cwd: Path = TESTS) -> Result:
        monkeypatch.chdir(cwd)
        return CliRunner().invoke(main, arguments)

    return invoke


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["export", "no-such-model", "m"], "no model 'no-such-model'", "MODEL is"),
        (["export", "MobileNetv2", "m"], "no model 'MobileNetv2'", "did you mean MobileNetV2"),
        (["export", "missing.keras", "m"], "model missing.keras does not exist", "it was looked for in /"),
        (["export", "missing.onnx", "m"], "model missing.onnx does not exist", "it was looked for in /"),
        (["export", "model.py/x.keras", "m"], "x.keras does not exist", "no directory model.py either"),
        (["export", "models:classifier", "m"], "preprocessing", "--preprocessing"),
        (["export", "models:nothing", "m", "--preprocessing", "tf"], "'nothing'", "classifier"),
        (
            ["export", "models:classifier", "m", "--preprocessing", "tf", "--labels", "none.txt"],
            "labels file none.txt does not exist",
            "it was looked for in /",
        ),
        (["verify", "nowhere"], "nowhere is not an exported version", "name the directory of one version"),
        (["inspect", "nowhere"], "nowhere is not an exported version", "name the directory of one version"),
    ],
)
def test_a_mistake_is_one_sentence_a_next_step_and_exit_code_1(run, tmp_path, arguments, error, hint):
    done = run(*[str(tmp_path / "m") if a == "m" else a for a in arguments])
    assert (type(done.exception), done.exit_code) == (SystemExit, 1)
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert error in said[0]
    if hint:
        assert hint in done.stderr.split("hint: ", 1)[1]
    assert done.stdout == ""
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--batch-sizes", "4,2"], "must be positive and ascending"),
        (["--batch-sizes", "0,2"], "must be positive and ascending"),
        (["--batch-sizes", "two"], "is not a list of numbers"),
        (
            ["--preprocessing", "vgg"],
            "'vgg' is not one of auto, none, pixels, unit, tf, torch, caffe or module:cal",
        ),
        (
            ["--methods", "gradients,lime"],
            "there is no method 'lime'; the methods are gradients, guided, smooth",
        ),
        (
            ["--methods", "smoth"],
            "there is no method 'smoth'; did you mean smooth? The methods are gradients,",
        ),
        (["--method", "my_methods"], "'my_methods' is not of the form module:object"),
        (["--version", "0"], "0 is not in the range"),
        (["--kernels", "eigen"], "--kernels eigen is for a CPU\nhint: give --target cpu as well"),
        (["--max-samples", "0"], "0 is not in the range"),
    ],
)
def test_a_bad_option_is_a_usage_error_before_anything_is_loaded(run, tmp_path, option, message):
    done = run("export", "models:classifier", str(tmp_path / "m"), *option)
    assert done.exit_code == 2
    assert message in done.stderr


def test_the_names_that_the_command_line_knows_are_those_of_the_modules():
    from saliency_exporter.cli.export import BATCH_SIZES
    from saliency_exporter.cli.params import PREPROCESSINGS
    from saliency_exporter.contract.settings import DEFAULT_BATCH_SIZES
    from saliency_exporter.sources.preprocessing_choice import NAMES

    assert (*PREPROCESSINGS, "module:callable") == NAMES
    assert BATCH_SIZES == DEFAULT_BATCH_SIZES


def test_a_corrupt_model_file_is_named(run, tmp_path):
    (tmp_path / "broken.keras").write_bytes(b"PK\x03\x04 this is no model")
    done = run("export", "broken.keras", "m", cwd=tmp_path)
    assert (type(done.exception), done.exit_code) == (SystemExit, 1)
    assert "broken.keras" in done.stderr
