"""The command line knows no method: what one takes and gives comes from the server's metadata."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_harness import HOT_COLUMNS, HOT_ROWS, Cli
from PIL import Image
from scripted_server import ScriptedServer

ATTRIBUTIONS = 0.5 * 10 - 0.25 * 20 + 250
"""The sum over channels of a hot pixel's shares: weights times the blue photo's values."""


@pytest.fixture
def server(server: ScriptedServer) -> ScriptedServer:
    server.model.shares = True
    return server


def sent(server: ScriptedServer, name: str, dtype: str) -> float:
    return float(np.frombuffer(server.requests[-1].inputs[name].tensor_content, dtype)[0])


def test_a_method_that_it_has_never_heard_of_is_told_with_its_own_numbers(
    cli: Cli, photo: Path, server: ScriptedServer
) -> None:
    options = ["-M", "shares", "--param", "num_steps=8", "--param", "baseline=0.5"]
    record = cli("explain", photo, *options, "--json").record
    assert record["outputs"] == {"completeness_error": 0.125, "steps_used": 8}
    assert (record["relative_error"], record["class_index"], record["label"]) == (None, 2, "class 2")
    assert record["file"] == "cat-shares.png"
    assert (sent(server, "num_steps", "<i4"), sent(server, "baseline", "<f4")) == (8, 0.5)
    with Image.open(cli.folder / "cat-shares.png") as picture:
        assert json.loads(picture.info["Saliency"])["outputs"] == record["outputs"]
    out = cli("explain", photo, *options, "--overwrite").out
    assert "completeness error 0.12, steps used 8" in out


def test_arrays_of_such_a_method_are_saved_by_name(cli: Cli, photo: Path, server: ScriptedServer) -> None:
    assert cli("explain", photo, "-M", "shares", "-f", "npz", "-f", "npy").code == 0
    with np.load(cli.folder / "cat-shares.npz") as saved:
        assert set(saved) == {
            *("attributions", "saliency", "class_index", "score", "probability", "label", "box"),
            *("completeness_error", "steps_used"),
        }
        np.testing.assert_allclose(saved["attributions"][5, 11], [5, -5, 250])
    np.testing.assert_allclose(np.load(cli.folder / "cat-shares.npy")[HOT_ROWS, HOT_COLUMNS], ATTRIBUTIONS)


@pytest.mark.parametrize(
    ("options", "large"),
    [([], False), (["--signed"], True), (["--style", "panel"], True), (["-f", "npz"], True)],
)
def test_its_large_output_is_asked_for_only_where_a_file_is_made_of_it(
    cli: Cli, photo: Path, server: ScriptedServer, options: list[str], large: bool
) -> None:
    assert cli("explain", photo, "-M", "shares", *options).code == 0
    assert ("attributions" in server.requests[-1].output_filter) == large
    assert "steps_used" in server.requests[-1].output_filter


def test_signed_shows_the_map_that_the_method_gives(cli: Cli, photo: Path, server: ScriptedServer) -> None:
    cli("explain", photo, "-M", "shares", "--signed", "-f", "npy")
    signed = np.load(cli.folder / "cat-shares-signed.npy")
    np.testing.assert_allclose(signed[HOT_ROWS, HOT_COLUMNS], ATTRIBUTIONS)


@pytest.mark.parametrize("options", [["--signed"], ["--style", "panel"]])
def test_what_has_no_signs_is_not_drawn_with_them(
    cli: Cli, photo: Path, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    """As of the CAM family, whose maps have none."""
    import scripted_server

    original = scripted_server.signature_defs

    def without_map(model: object) -> object:
        signatures = original(model)
        del signatures["explain_shares"].outputs["attributions"]
        return signatures

    monkeypatch.setattr(scripted_server, "signature_defs", without_map)
    run = cli("explain", photo, "-M", "shares", *options)
    assert run.code == 2
    assert "method shares gives no signed map, which --signed and the panel show; it gives class" in run.err
    assert not server.requests
    assert cli("explain", photo, "-M", "shares", "--style", "heatmap").code == 0


@pytest.mark.parametrize("command", ["explain", "bench"])
@pytest.mark.parametrize(
    ("options", "error", "hint"),
    [
        (
            ["--param", "steps=3"],
            "explain_shares takes no steps; it takes baseline=0.0, class_index=-1, num_st",
            "",
        ),
        (["--param", "num_step=3"], "explain_shares takes no num_step;", "did you mean num_steps?"),
        (["--seed", "3"], "explain_shares takes no seed;", "seed is a parameter of smooth"),
        (["--param", "images=3"], "explain_shares takes no images;", ""),
        (["--param", "method=3"], "explain_shares takes no method;", ""),
        (["--param", "num_steps=2.5"], "num_steps is 2.5; it takes whole numbers", ""),
        (["--param", "num_steps"], "--param 'num_steps' is not NAME=VALUE", ""),
        (["--param", "=5"], "--param '=5' is not NAME=VALUE", ""),
        (["--param", "num_steps="], "num_steps is ''; it takes a number", ""),
        (["--param", "num_steps=many"], "num_steps is 'many'; it takes a number", ""),
        (
            ["--param", "baseline=nan"],
            "baseline is 'nan'; it takes a finite number",
            "as in --param baseline=1",
        ),
        (
            ["--param", "baseline=inf"],
            "baseline is 'inf'; it takes a finite number",
            "as in --param baseline=1",
        ),
        (
            ["--param", "baseline=1e999"],
            "baseline is '1e999'; it takes a finite number",
            "as in --param baseline=1",
        ),
        (["--noise-level", "nan"], "noise_level is 'nan'; it takes a finite number", "as in --noise-level 1"),
        (
            ["--param", "noise_level=inf"],
            "noise_level is 'inf'; it takes a fi",
            "as in --param noise_level=1",
        ),
        (["--num-samples", "many"], "num_samples is 'many'; it takes a number", "as in --num-samples 1"),
        (["--param", "num_steps=3", "--param", "num_steps=3"], "num_steps is given twice", ""),
        (["--param", "seed=3", "--seed", "3"], "seed is given twice", ""),
        (["--seed", "3", "--seed", "4"], "seed is given twice", ""),
    ],
)
def test_a_parameter_that_cannot_work_is_a_usage_error(
    cli: Cli, photo: Path, server: ScriptedServer, command: str, options: list[str], error: str, hint: str
) -> None:
    run = cli(command, photo, "-M", "shares", *options)
    assert run.code == 2, run.err
    assert f"error: {error}" in run.err
    assert f"hint: {hint}" in run.err
    assert not server.requests


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--num-samples", "2.5"], "as in --num-samples 1"),
        (["--param", "num_samples=2.5"], "as in --param num_samples=1"),
    ],
)
def test_a_hint_names_the_option_that_was_typed(cli: Cli, photo: Path, options: list[str], hint: str) -> None:
    run = cli("explain", photo, "-M", "smooth", *options)
    assert run.code == 2
    assert run.err == f"error: num_samples is 2.5; it takes whole numbers\nhint: {hint}\n"


@pytest.mark.parametrize("option", [["--class-index", "1"], ["--class", "1"], ["--top", "2"]])
def test_the_class_is_a_parameter_like_any_and_is_given_once(
    cli: Cli, photo: Path, server: ScriptedServer, option: list[str]
) -> None:
    record = cli("explain", photo, "--param", "class_index=1", "--json").record
    assert (record["class_index"], record["file"]) == (1, "cat-gradients-class1.png")
    run = cli("explain", photo, "--param", "class_index=1", *option)
    assert (run.code, "class_index is given twice" in run.err) == (2, True)


@pytest.mark.parametrize("wrong", ["-2", "1.5"])
def test_a_class_given_as_a_parameter_has_the_bounds_of_its_option(cli: Cli, photo: Path, wrong: str) -> None:
    assert cli("explain", photo, "--param", f"class_index={wrong}").code == 2


def test_a_shorthand_means_what_the_parameter_means(cli: Cli, photo: Path, server: ScriptedServer) -> None:
    short = ["--num-samples", "4", "--noise-level", "0.5", "--seed", "7"]
    long = ["--param", "num_samples=4", "--param", "noise_level=0.5", "--param", "seed=7"]
    for options in (short, long):
        assert cli("explain", photo, "-M", "smooth", *options, "--overwrite").code == 0
        assert cli("bench", photo, "-M", "smooth", *options, "--requests", 1, "--warmup", 0).code == 0
    inputs = [{name: one.tensor_content for name, one in call.inputs.items()} for call in server.requests]
    assert all(one == inputs[0] for one in inputs)
    assert (sent(server, "num_samples", "<i4"), sent(server, "noise_level", "<f4")) == (4, 0.5)


def test_bounds_are_the_servers_and_told_in_its_words(cli: Cli, photo: Path, server: ScriptedServer) -> None:
    import grpc

    server.fail(grpc.StatusCode.INVALID_ARGUMENT, "num_steps is 0; it must be in [1, 1000]")
    run = cli("explain", photo, "-M", "shares", "--param", "num_steps=0")
    assert (run.code, "num_steps is 0; it must be in [1, 1000]" in run.err) == (67, True)


def test_predicting_takes_no_parameters(cli: Cli, photo: Path, server: ScriptedServer) -> None:
    run = cli("bench", photo, "-M", "predict", "--param", "seed=3")
    assert (run.code, "serving_default takes no seed; it takes no parameters" in run.err) == (2, True)
