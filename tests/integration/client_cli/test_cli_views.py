"""Baselines, regions, several methods, polarity and outlines of `explain`, against maps that are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_harness import HOT_COLUMNS, HOT_ROWS, Cli
from PIL import Image
from scripted_server import ScriptedServer

from saliency_client import regions

WEIGHTS = np.array([0.5, -0.25, 1.0])
PIXEL = np.array([10, 20, 250])
"""Of the hot block of the model, and of the blue photo."""


@pytest.fixture
def server(server: ScriptedServer) -> ScriptedServer:
    server.model.shares = True
    return server


def shares(baseline: float) -> float:
    """A hot pixel's share of the score."""
    return float((WEIGHTS * (PIXEL - baseline)).sum())


def sent(server: ScriptedServer, name: str = "baseline") -> list[float]:
    return [
        float(np.frombuffer(call.inputs[name].tensor_content, "<f4")[0])
        for call in server.requests
        if name in call.inputs
    ]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), np.int64)


@pytest.mark.parametrize(
    ("options", "levels"),
    [
        (["--baseline", "white"], [255]),
        (["--baseline", "grey"], [127.5]),
        (["--baseline", "black,white"], [0, 255]),
        (["--baseline", "black", "--baseline", "64.5"], [0, 64.5]),
        (["--baseline", "0,black"], [0]),
    ],
)
def test_the_map_is_the_average_over_the_baselines_one_request_for_each(
    cli: Cli, photo: Path, server: ScriptedServer, options: list[str], levels: list[float]
) -> None:
    record = cli("explain", photo, "-M", "shares", *options, "-f", "npy", "--json").record
    assert record["baselines"] == levels
    assert sent(server) == levels
    average = np.mean([shares(level) for level in levels])
    saliency = np.load(cli.folder / "cat-shares.npy")
    np.testing.assert_allclose(saliency[HOT_ROWS, HOT_COLUMNS], abs(average), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "hint"),
    [
        (["-M", "gradients", "--baseline", "black"], "explain_gradients takes no baseline", "of shares"),
        (
            ["-M", "shares", "--baseline", "pink"],
            "--baseline is 'pink'; it takes black, white, gray or a",
            "",
        ),
        (["-M", "shares", "--baseline", "nan"], "--baseline is 'nan'", ""),
        (["-M", "shares", "--baseline", ""], "--baseline is ''", "as in --baseline black,white"),
        (
            ["-M", "shares", "--baseline", "0", "--param", "baseline=1"],
            "baseline is given twice, by --param and by --baseline",
            "give it once",
        ),
        (["--top-regions", "10"], "--top-regions is for --regions", ""),
        (["--regions", "--signed"], "--regions ranks regions by the whole map; --signed is not", ""),
        (["--regions", "--polarity", "positive"], "--polarity positive is not for it", ""),
        (
            ["--regions", "--style", "masked", "--clip-low", "5"],
            "--clip-low is not for masked with",
            "--top-reg",
        ),
        (["--signed", "--polarity", "negative"], "--signed and --polarity negative exclude one another", ""),
        (["--polarity", "both", "--style", "masked"], "--signed is for overlay, heatmap and outlines", ""),
        (
            ["--polarity", "positive", "--style", "panel"],
            "panel shows the positive and the negative part",
            "",
        ),
        (["--clip-low", "99"], "--clip-low is 99 and --clip is 99; it must be the smaller one", ""),
        (["--clip-low", "1", "--style", "panel"], "--clip-low is not for panel", ""),
        (["--photo-colors", "--style", "heatmap"], "--photo-colors is for overlay, not for heatmap", ""),
        (["-M", "gradients,shares", "--style", "panel"], "--style panel shows one method", "choose heatmap"),
        (["-M", "gradients,nothing"], "the model offers no method 'nothing'", ""),
        (["-M", "gradients,"], "the model offers no method ''", ""),
        (
            ["-M", "gradients,shares", "--seed", "3"],
            "explain_gradients takes no seed",
            "seed is a parameter of sm",
        ),
        (["-M", "gradients,shares", "-f", "npy"], "npy holds one map, and 2 methods are asked for", "npz"),
    ],
)
def test_options_that_cannot_work_are_usage_errors_before_anything_is_sent(
    cli: Cli, photo: Path, server: ScriptedServer, options: list[str], error: str, hint: str
) -> None:
    run = cli("explain", photo, *options)
    assert run.code == 2, run.err
    assert error in run.err
    assert hint in run.err
    assert not server.requests
    assert cli.files() == {"cat.png"}


def test_names_of_gray_levels_are_for_photos(cli: Cli, server: ScriptedServer) -> None:
    server.model.dtype = "float32"
    np.save(cli.folder / "input.npy", np.full((20, 20, 3), 2, np.float32))
    run = cli("explain", "input.npy", "-M", "shares", "--baseline", "black")
    assert run.code == 2
    assert "--baseline black is a gray level of photos, and the model takes float32 values" in run.err
    record = cli("explain", "input.npy", "-M", "shares", "--baseline", "1,3", "--json").record
    assert record["baselines"] == [1, 3]


def test_regions_are_ranked_by_the_average_over_black_and_white(
    cli: Cli, photo: Path, server: ScriptedServer
) -> None:
    run = cli("explain", photo, "-M", "shares", "--regions", "-f", "npz", "-f", "npy", "--json")
    assert (run.record["baselines"], sent(server)) == ([0, 255], [0, 255])
    assert run.record["file"] == "cat-shares-regions.npz"
    with np.load(cli.folder / "cat-shares-regions.npz") as saved:
        attributions = saved["attributions"]
        np.testing.assert_allclose(attributions[5, 11], WEIGHTS * (PIXEL - 127.5))
        found = regions.xrai(attributions, regions.segment(np.full((20, 20, 3), PIXEL, np.uint8)))
        np.testing.assert_array_equal(saved["region_ranks"], found.ranks)
        np.testing.assert_array_equal(saved["region_saliency"], found.saliency)
        np.testing.assert_array_equal(np.load(cli.folder / "cat-shares-regions.npy"), found.saliency)


def test_regions_of_a_method_without_shares_are_ranked_by_its_saliency(
    cli: Cli, server: ScriptedServer
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 5, 3), np.uint8)
    Image.fromarray(noise).resize((20, 20), Image.Resampling.NEAREST).save(cli.folder / "cat.png")
    record = cli("explain", "cat.png", "--class", "2", "--regions", "-f", "npz", "--json").record
    assert record["baselines"] is None
    with np.load(cli.folder / record["file"]) as saved:
        image = np.asarray(Image.open(cli.folder / "cat.png"))
        found = regions.xrai(saved["saliency"], regions.segment(image))
        np.testing.assert_array_equal(saved["region_ranks"], found.ranks)


@pytest.mark.parametrize("style", ["overlay", "heatmap", "masked", "outlines", "panel"])
def test_every_style_shows_regions(cli: Cli, photo: Path, style: str) -> None:
    options = ["-M", "shares", "--regions", "--top-regions", "20", "--style", style, "-o", "map.png"]
    assert cli("explain", photo, *options).code == 0
    with Image.open(cli.folder / "map.png") as picture:
        facts = json.loads(picture.info["Saliency"])
        assert facts["drawn"]["top_regions"] == 20
        assert picture.size == (60, 40) or style == "panel"


def test_without_scikit_image_the_run_ends_before_it_asks(
    cli: Cli, photo: Path, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    run = cli("explain", photo, "--regions")
    assert (run.code, server.metadata_calls) == (1, 0)
    assert "error: regions need scikit-image, which is not installed" in run.err
    assert "hint: pip install 'saliency-serving[regions]'" in run.err


def test_several_methods_share_a_picture_and_have_a_record_each(
    cli: Cli, photo: Path, server: ScriptedServer
) -> None:
    run = cli("explain", photo, "-M", "gradients,smooth,shares", "--num-samples", "7", "--json")
    assert [one["method"] for one in run.records] == ["gradients", "smooth", "shares"]
    assert {one["file"] for one in run.records} == {"cat-gradients-smooth-shares.png"}
    assert [one["outputs"].get("steps_used") for one in run.records] == [None, None, 32]
    assert [one["relative_error"] is None for one in run.records] == [True, False, True]
    samples = [call.inputs["num_samples"] for call in server.requests if "num_samples" in call.inputs]
    assert [int(np.frombuffer(one.tensor_content, "<i4")[0]) for one in samples] == [7]
    picture = pixels(cli.folder / "cat-gradients-smooth-shares.png")
    assert picture.shape[1] > 4 * 256
    with Image.open(cli.folder / "cat-gradients-smooth-shares.png") as drawn:
        facts = json.loads(drawn.info["Saliency"])
    assert (facts["method"], facts["class_index"]) == ("gradients,smooth,shares", 2)


def test_people_see_a_line_for_each_method_and_scripts_the_file_once(cli: Cli, photo: Path) -> None:
    out = cli("explain", photo, "-M", "gradients,shares").out
    assert [line.split()[1] for line in out.splitlines()] == ["gradients", "shares"]
    quiet = cli("explain", photo, "-M", "gradients,shares", "--quiet", "--overwrite").out
    assert quiet == "cat-gradients-shares.png\n"


def test_arrays_of_several_methods_are_saved_under_their_names(cli: Cli, photo: Path) -> None:
    assert cli("explain", photo, "-M", "gradients,shares", "-f", "npz").code == 0
    with np.load(cli.folder / "cat-gradients-shares.npz") as saved:
        assert {"box", "gradients/gradients", "shares/attributions", "shares/steps_used"} <= set(saved)
        np.testing.assert_allclose(saved["shares/attributions"][5, 11], WEIGHTS * PIXEL)


def test_one_method_that_fails_fails_the_image(cli: Cli, photo: Path, server: ScriptedServer) -> None:
    import grpc

    def refuse(request: object, context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such luck")

    server.script.extend([lambda request, context: None, refuse])
    run = cli("explain", photo, "-M", "gradients,shares")
    assert (run.code, "no such luck" in run.err, cli.files()) == (67, True, {"cat.png"})


def test_polarity_draws_a_part_of_the_sum_over_channels(cli: Cli, photo: Path) -> None:
    assert shares(300) < 0
    for polarity in ("positive", "negative", "both"):
        options = ["-M", "shares", "--baseline", "300", "--polarity", polarity, "-f", "npy"]
        assert cli("explain", photo, *options).code == 0
        name = "signed" if polarity == "both" else polarity
        values = np.load(cli.folder / f"cat-shares-{name}.npy")[HOT_ROWS, HOT_COLUMNS]
        known = {"positive": 0, "negative": -shares(300), "both": shares(300)}[polarity]
        np.testing.assert_allclose(values, known, rtol=1e-6)


def test_a_map_without_signs_is_all_positive(cli: Cli, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of the CAM family."""
    import scripted_server

    original = scripted_server.signature_defs

    def without_map(model: object) -> object:
        signatures = original(model)
        del signatures["explain_shares"].outputs["attributions"]
        return signatures

    monkeypatch.setattr(scripted_server, "signature_defs", without_map)
    assert cli("explain", photo, "-M", "shares", "--polarity", "positive", "-f", "npy").code == 0
    run = cli("explain", photo, "-M", "shares", "--polarity", "negative")
    assert (run.code, "method shares gives no signed map" in run.err) == (2, True)
    assert cli("explain", photo, "-M", "shares", "--regions", "--style", "outlines").code == 0


def test_what_is_drawn_otherwise_is_made_anew(cli: Cli, photo: Path) -> None:
    base = ["explain", photo, "-M", "shares", "--skip-existing", "--json"]
    assert cli(*base).record["status"] == "ok"
    assert cli(*base).record["status"] == "skipped"
    for options in (["--baseline", "white"], ["--clip-low", "50"], ["--photo-colors"]):
        assert cli(*base, *options).record["status"] == "ok"
        assert cli(*base, *options).record["status"] == "skipped"


def test_outlines_are_the_photo_with_a_line_around_the_hot_block(cli: Cli, photo: Path) -> None:
    assert cli("explain", photo, "--style", "outlines", "--colormap", "gray", "-o", "out.png").code == 0
    drawn, before = pixels(cli.folder / "out.png"), pixels(photo)
    seen = slice(10, 50)
    changed = (drawn[:, seen] != before[:, seen]).any(axis=-1)
    rows, columns = changed.nonzero()
    # The block's edges are rows 8 and 16, columns 20 and 28 of the crop.
    assert 5 <= rows.min() <= 8
    assert 15 <= rows.max() <= 18
    assert 17 <= columns.min() <= 20
    assert 27 <= columns.max() <= 30
    assert not changed[11:13, 23:25].any()


@pytest.mark.parametrize("format", ["png", "npy", "npz"])
def test_a_map_that_is_not_finite_has_no_regions(
    cli: Cli, photo: Path, server: ScriptedServer, format: str
) -> None:
    server.model.weights[2, 0, 0, 0] = np.nan
    run = cli("explain", photo, "-M", "shares", "--class", "2", "--regions", "-f", format)
    assert run.code == 1
    assert "error: regions cannot be ranked: the attributions hold values that are NaN or infinite" in run.err
    assert "hint: --format npz without --regions keeps the raw values" in run.err
    assert cli("explain", photo, "-M", "shares", "--class", "2", "-f", "npz").code == 0


def test_a_map_that_shows_nothing_is_said(cli: Cli, photo: Path, server: ScriptedServer) -> None:
    server.model.weights[:] = 0
    run = cli("explain", photo, "--json")
    assert run.record["notes"] == ["the map of gradients is zero everywhere"]
    assert "cat.png: the map of gradients is zero everywhere" in run.err
