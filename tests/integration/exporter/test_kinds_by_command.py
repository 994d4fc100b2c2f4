"""Kinds of models that once went wrong, through the whole of `export`: what it says, and that it exports.

That values are right is held by the tests of each kind, and by the export itself, which compares its gradient
with the model's own. Here nothing between loading and publishing may stumble over such a model.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from saliency_exporter.cli import main
from saliency_exporter.version.manifest import read_manifest

OPTIONS = ("--target", "cpu", "--compile", "none", "--batch-sizes", "1", "--no-verify")


def export(folder: Path, monkeypatch: pytest.MonkeyPatch, model: str, *options: str) -> Result:
    monkeypatch.chdir(folder)
    if "--preprocessing" not in options:
        options = (*options, "--preprocessing", "none")
    return CliRunner().invoke(main, ["export", f"kinds_by_command:{model}", "m", *OPTIONS, *options])


EXPORTED = {
    "cond": (),
    "turns": (),
    "each": (),
    "gradient_penalty": (),
    "lstm": (),
    "gru": (),
    "conv_lstm": (),
    "masking": (),
    "mixed_float16": (),
    "mixed_bfloat16": (),
    "float64": (),
    "int8": (),
    "int4": (),
    "float8": (),
    "keras_gradient": (),
    "reshaped": (),
    "pooled": (),
    # The last of an option counts: compiled, and verified.
    "enlarged": ("--compile", "xla", "--verify"),
    "average": (),
    "batch_of_one": (),
    "one_picture": (),
    "stateful": (),
    "counts": (),
    "uint8": ("--preprocessing", "pixels"),
    "graph_only": ("--input-shape", "8,8,3"),
    "pruned": (),
    "spectrum": (),
    "gray": (),
    "arcface": (),
    "first": ("--channels", "first"),
    "einsum": ("--channels", "first"),
    "series_first": ("--channels", "first"),
    "frames": ("--output", "[-1]"),
}
_QUICK = ("cond", "int8", "one_picture", "pooled")


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
@pytest.mark.parametrize(
    "model", [name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow) for name in EXPORTED]
)
def test_what_it_exports_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    done = export(tmp_path, monkeypatch, model, *EXPORTED[model])
    assert done.exit_code == 0, done.stderr
    manifest = read_manifest(tmp_path / "m" / "1")
    assert {"gradients", "smooth", "integrated_gradients"} <= set(manifest.methods)
    assert not any("zero everywhere" in note for note in manifest.notes), manifest.notes
    held = manifest.gradient_agreement
    assert held is not None
    assert held.examples == (0 if model == "uint8" else 2)
    heads = {"average": ("output", True), "pooled": ("softmax", False), "reshaped": ("softmax", False)}
    if model in heads:
        assert (manifest.score.head, manifest.score.is_probability) == heads[model]
        assert not manifest.score.head_assumed


def test_a_gradient_of_its_own_in_a_loop_leaves_methods_that_need_none(tmp_path, monkeypatch) -> None:
    done = export(tmp_path, monkeypatch, "in_a_loop", "--methods", "occlusion,rise")
    assert done.exit_code == 0, done.stderr
    assert set(read_manifest(tmp_path / "m" / "1").methods) == {"occlusion", "rise"}


REFUSED = {
    "votes": ((), "(ArgMax)", "differentiable"),
    "contrast": ((), "(AdjustContrastv2)", "--preprocessing module:function"),
    "saturation": ((), "(AdjustSaturation)", "--preprocessing module:function"),
    "hue": ((), "(AdjustHue)", "--preprocessing module:function"),
    "first": ((), "channels first", "--channels first"),
    "einsum": ((), "channels first", "--channels first"),
    "series_first": ((), "channels first", "--channels first"),
    "as_it_trains": ((), "of_the_batch/mean (Mean)", "training=False"),
    "dropped": (("--image-size", "8", "8"), "are random", "training=False"),
    "keras_error": ((), "input_shape=(8, 8, 3), target_shape=(5,)", "must return the model"),
    "frames": ((), "[B, 7, 3]", "--output"),
    "graph_only": ((), "any size", "--image-size H W"),
    "in_a_loop": ((), "map/while", "unroll"),
}


@pytest.mark.parametrize("model", REFUSED)
def test_what_it_refuses_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    options, reason, step = REFUSED[model]
    done = export(tmp_path, monkeypatch, model, *options)
    assert done.exit_code == 1, done.stderr
    assert "Traceback" not in done.output
    error, hint = done.stderr[done.stderr.index("error: ") :].split("hint: ")
    assert reason in error
    assert step in hint
    assert not (tmp_path / "m").exists()
