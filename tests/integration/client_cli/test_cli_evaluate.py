"""`saliency-client evaluate` against a linear model whose measures are known."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import numpy as np
import pytest
from cli_harness import SIZE, Cli
from PIL import Image
from scripted_server import ScriptedServer

METHOD = ("--methods", "gradients")


@pytest.fixture
def photos(cli: Cli) -> list[Path]:
    """Three photos of noise, as large as the model's input."""
    folder = cli.folder / "photos"
    folder.mkdir()
    paths = []
    for number in range(3):
        values = np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        path = folder / f"{number}.png"
        Image.fromarray(values).save(path)
        paths.append(path)
    return paths


def results(records: list[dict]) -> list[dict]:
    return [one for one in records if one.get("kind") == "result"]


def test_every_image_method_and_measure_has_a_line(
    cli: Cli, photos: list[Path], server: ScriptedServer
) -> None:
    run = cli("evaluate", "photos", "--methods", "gradients,smooth", "--json")
    assert run.code == 0, run.err
    lines = results(run.records)
    assert {(Path(one["image"]).name, one["method"], one["measure"]) for one in lines} == {
        (f"{number}.png", method, measure)
        for number in range(3)
        for method in ("gradients", "smooth", "control:random", "control:sobel")
        for measure in ("deletion", "insertion")
    }
    assert all(one["status"] == "ok" and one["predictions"] == 11 for one in lines)
    load = run.records[-1]
    assert load["kind"] == "load"
    # Of each control the class of each image is asked for once, beside its paths.
    assert load["predictions"] == 11 * len(lines) + 2 * 3
    assert load["explanations"] == 3 * 2


def test_deletion_over_the_wire_is_that_of_the_model(
    cli: Cli, photos: list[Path], server: ScriptedServer
) -> None:
    """Deleting all at once: half of the probability of the photo and of black."""
    run = cli(
        "evaluate", photos[0], *METHOD, "--measures", "deletion", "--steps", 1, "--no-controls", "--json"
    )
    image = np.asarray(Image.open(photos[0]))
    both = server.model.predict(np.stack([image, np.zeros_like(image)]))["probabilities"]
    (line,) = results(run.records)
    expected = both[:, both[0].argmax()].mean()
    assert line["class_index"] == both[0].argmax()
    assert line["value"] == pytest.approx(expected, rel=1e-6)
    assert line["settings"] == {
        "class_index": int(both[0].argmax()),
        "substrate": "black",
        "steps": 1,
        "quantity": "probability",
        "seed": 0,
    }


def test_requests_are_full_and_run_together(cli: Cli, photos: list[Path], server: ScriptedServer) -> None:
    assert cli("evaluate", "photos", *METHOD, "--batch-size", 8, "--concurrency", 2).code == 0
    sizes = [request.inputs["images"].tensor_shape.dim[0].size for request in server.requests]
    assert max(sizes) == 8
    assert server.most_running <= 2
    # 207 predictions: as few requests as full ones, and a few more at the beginning and at the end.
    assert len([size for size in sizes if size == 8]) >= 20


def test_a_second_run_asks_nothing_and_another_setting_asks_anew(
    cli: Cli, photos: list[Path], server: ScriptedServer
) -> None:
    command = ("evaluate", "photos", *METHOD, "-o", "report", "--json")
    first = results(cli(*command).records)
    kept = (cli.folder / "report" / "results.jsonl").read_text()
    server.requests.clear()
    again = cli(*command)
    assert not server.requests
    assert [one["value"] for one in results(again.records)] == [one["value"] for one in first]
    assert again.records[-1]["kept"] == len(first)
    assert [one["kept"] for one in first + results(again.records)] == len(first) * [False] + len(first) * [
        True
    ]
    assert (cli.folder / "report" / "results.jsonl").read_text() == kept
    other = cli(*command, "--steps", 5)
    assert server.requests
    assert other.records[-1]["kept"] == 0
    server.requests.clear()
    values = np.zeros((SIZE, SIZE, 3), np.uint8)
    values[:, :9] = 200
    Image.fromarray(values).save(photos[1])
    changed = cli(*command)
    assert changed.records[-1]["kept"] == len(first) * 2 // 3


def test_a_run_that_was_cut_off_goes_on(cli: Cli, photos: list[Path], server: ScriptedServer) -> None:
    command = ("evaluate", "photos", *METHOD, "-o", "report", "--json")
    whole = results(cli(*command).records)
    path = cli.folder / "report" / "results.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:4]) + "\n" + lines[4][:40])
    run = cli(*command)
    assert run.records[-1]["kept"] == 4
    assert [one["value"] for one in results(run.records)] == [one["value"] for one in whole]
    assert len([line for line in path.read_text().splitlines() if line]) == len(lines) + 1


def test_a_control_is_named_where_a_method_does_no_better(cli: Cli, photos: list[Path]) -> None:
    """Class 2 is decided in the block where its map is hot; the score of class 3 is 0 whatever is removed."""
    command = ("evaluate", "photos", *METHOD, "--measures", "insertion", "--setting", "quantity=score")
    good = cli(*command, "--substrate", "black", "--class", 2)
    assert good.code == 0, good.err
    assert "not shown to be better than" not in good.out
    assert "not shown to be better than random and sobel" in cli(*command, "--class", 3).out


def test_a_verdict_on_few_images_says_that_chance_gives_it_too(cli: Cli, photos: list[Path]) -> None:
    few = cli("evaluate", *photos[:2], "--methods", "gradients", "--measures", "deletion")
    assert "2 images are few: by chance alone a method beats another on all of them, or on none, in 50%" in (
        " ".join(few.err.split())
    )
    assert "evaluate 6 or more" in few.err


def test_what_is_undefined_says_why(cli: Cli, photos: list[Path]) -> None:
    run = cli("evaluate", photos[0], *METHOD, "--measures", "completeness_gap", "--json")
    assert run.code == 0
    for line in results(run.records):
        assert (line["status"], line["value"]) == ("undefined", None)
        assert "promises no completeness" in line["note"]
    table = cli("evaluate", photos[0], *METHOD, "--measures", "completeness_gap")
    assert "undefined" in table.out
    assert "promises no completeness" in table.err


def test_a_model_without_probabilities_says_which_quantity_it_has(
    cli: Cli, photos: list[Path], server: ScriptedServer
) -> None:
    server.model.quantities = ("logits",)
    command = ("evaluate", "photos", *METHOD, "--measures", "deletion,road")
    run = cli(*command, "--json")
    assert run.code == 0, run.err
    assert {(one["status"], one["value"]) for one in results(run.records)} == {("undefined", None)}
    told = cli(*command).err
    # One sentence for all methods and images, and its next step can be taken.
    assert told.count("the model gives no probabilities") == 2
    assert "deletion of gradients, random, sobel: the model gives no probabilities" in told
    assert "quantity=score" in told
    better = cli(*command, "--setting", "quantity=score", "--json")
    assert all(one["status"] == "ok" for one in results(better.records)), better.err


def test_a_model_of_one_class_has_no_other_and_no_probability(
    cli: Cli, photos: list[Path], server: ScriptedServer
) -> None:
    server.model.weights = server.model.weights[2:3]
    run = cli("evaluate", "photos", *METHOD, "--measures", "deletion,random_logit,sparseness", "--json")
    assert run.code == 0, run.err
    notes = {(one["measure"], one["value"] is None, one["note"]) for one in results(run.records)}
    assert (
        "deletion",
        True,
        "the model has one class, whose probability is 1 for every image (measure with quantity=score)",
    ) in notes
    assert ("random_logit", True, "the model has one class: there is no other one to explain") in notes
    assert {undefined for measure, undefined, _ in notes if measure == "sparseness"} == {False}


def test_maps_of_a_constant_are_undefined_or_said_to_be_ordered_at_random(
    cli: Cli, photos: list[Path], server: ScriptedServer
) -> None:
    server.model.weights[:] = 0.001
    measures = "deletion,faithfulness_correlation,random_logit,sparseness,max_sensitivity"
    command = ("evaluate", "photos", *METHOD, "--measures", measures, "--setting", "subset_size=20")
    run = cli(*command, "--no-controls", "--json")
    assert run.code == 0, run.err
    found = {one["measure"]: one for one in results(run.records)}
    assert {name for name, one in found.items() if one["value"] is None} == {
        "faithfulness_correlation",
        "random_logit",
    }
    assert {name for name, one in found.items() if one["note"]} == found.keys() - {"max_sensitivity"}
    # It is constant near the images too, and so does not change: that 0 is the measure's own.
    assert found["max_sensitivity"]["value"] == 0


def test_a_method_of_shares_has_its_completeness_gap(
    cli: Cli, photos: list[Path], server: ScriptedServer
) -> None:
    server.model.shares = True
    run = cli(
        "evaluate",
        "photos",
        "--methods",
        "shares",
        "--measures",
        "completeness_gap",
        "--no-controls",
        "--json",
    )
    assert run.code == 0, run.err
    for line in results(run.records):
        assert line["value"] < 1e-6
        assert (line["map"], line["settings"]["baseline"]) == ("attributions", 0)


def test_an_image_that_fails_leaves_the_others(cli: Cli, photos: list[Path]) -> None:
    (cli.folder / "photos" / "broken.png").write_bytes(b"no picture")
    run = cli("evaluate", "photos", *METHOD, "--measures", "sparseness", "--json")
    assert run.code == 1
    (failed,) = [one for one in run.records if one.get("status") == "failed"]
    assert failed["image"].endswith("broken.png")
    assert len(results(run.records)) == 9


def test_a_server_that_refuses_batches_is_asked_one_by_one(
    cli: Cli, photos: list[Path], server: ScriptedServer
) -> None:
    def refuse(request, context):
        if request.inputs["images"].tensor_shape.dim[0].size > 1:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "one image at a time")

    server.script.extend([refuse] * 1000)
    run = cli("evaluate", photos[0], *METHOD, "--measures", "deletion", "--json")
    assert run.code == 0, run.err
    assert all(one["status"] == "ok" for one in results(run.records))
    # Those that were refused count as well: so many have been sent.
    assert run.records[-1]["requests"] == len(server.requests)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--measures", "deletoin"), "did you mean deletion?"),
        (
            ("--setting", "stepz=3"),
            "no measure that is asked for has a setting 'stepz'; there are quantity, seed",
        ),
        (("--setting", "road.noise=3"), "road.noise is of a measure that is not asked for"),
        (("--setting", "quantity=logit"), "quantity is 'logit'; it is one of probability, score"),
        (("--setting", "steps"), "is not NAME=VALUE"),
        (("--methods", "gradient"), "did you mean gradients?"),
        (("--steps", "500"), "steps is 500; it must be a whole number, 1 to 400"),
        (("--class", "9"), "class_index 9 is outside"),
    ],
)
def test_wrong_usage_names_what_is_wrong(
    cli: Cli, photos: list[Path], arguments: tuple[str, ...], words: str
) -> None:
    run = cli("evaluate", photos[0], *arguments)
    assert run.code != 0
    assert words in run.err
    assert "unexpected" not in run.err


def test_results_are_what_json_takes(cli: Cli, photos: list[Path]) -> None:
    run = cli(
        "evaluate",
        photos[0],
        *METHOD,
        "--measures",
        ",".join(("sparseness", "random_logit", "road")),
        "-o",
        "r",
    )
    assert run.code == 0, run.err
    for line in (cli.folder / "r" / "results.jsonl").read_text().splitlines():
        assert json.loads(line)["made_with"]["model"] == "linear"
