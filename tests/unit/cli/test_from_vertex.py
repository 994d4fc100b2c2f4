"""An ExplanationSpec becomes the commands that do the same, and every field that has no equivalent is "
"told."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from saliency_client.cli import main as client
from saliency_exporter.cli import main as exporter
from saliency_exporter.cli.from_vertex import commands_of, plan_of, read
from saliency_exporter.errors import ExportError

XRAI = {
    "parameters": {
        "xraiAttribution": {
            "stepCount": 40,
            "smoothGradConfig": {"noiseSigma": 0.2, "noisySampleCount": 10},
        },
        "topK": 3,
    },
    "metadata": {
        "inputs": {
            "image": {
                "inputTensorName": "input_1:0",
                "modality": "image",
                "inputBaselines": [-1, 1],
                "featureValueDomain": {"minValue": -1, "maxValue": 1},
                "visualization": {"overlayType": "ORIGINAL", "clipPercentLowerbound": 75},
            }
        },
        "outputs": {"scores": {"outputTensorName": "dense:0"}},
    },
}


def snake(value: Any) -> Any:
    """The same in snake_case, as the Python client and gcloud's older files write it."""

    if isinstance(value, dict):
        return {re.sub(r"([A-Z])", r"_\1", key).lower(): snake(one) for key, one in value.items()}
    return [snake(one) for one in value] if isinstance(value, list) else value


def explain_options(spec: dict[str, Any]) -> list[str]:
    """What follows the model in the explain command."""
    line = commands_of(plan_of(spec), "MODEL", "IMAGE")[2]
    return shlex.split(line)[7:]


def gradients(**settings: Any) -> dict[str, Any]:
    return {"parameters": {"integratedGradientsAttribution": settings}}


def with_image(**image: Any) -> dict[str, Any]:
    return {**gradients(stepCount=50), "metadata": {"inputs": {"x": {"modality": "image", **image}}}}


def test_a_whole_specification_becomes_three_commands() -> None:
    plan = plan_of(XRAI)
    export, serve, explain = commands_of(plan, "saved-model", "cat.jpg")
    assert (
        export
        == "saliency-exporter export saved-model models/my-model --methods 'smooth(integrated_gradients)' "
        "--preprocessing tf"
    )
    assert serve == "saliency-exporter serve my-model=models/my-model"
    assert explain == (
        "saliency-client explain cat.jpg --server localhost:8500 --model my-model "
        "--method smooth_integrated_gradients --param num_steps=40 --num-samples 10 --noise-level 0.1 "
        "--regions "
        "--baseline black,white --style overlay --photo-colors --colormap viridis --top-regions 25 --clip "
        "99.9 "
        "--top 3"
    )
    told = {note.partition(": ")[0].rpartition(".")[2] for note in plan.notes}
    assert told == {"inputTensorName", "outputTensorName", "noiseSigma"}


@pytest.mark.parametrize(
    "whole",
    [
        XRAI,
        snake(XRAI),
        {"explanationSpec": XRAI},
        {"model": {"displayName": "my model", "explanationSpec": XRAI}},
        {"deployedModels": [{"id": "1", "explanationSpec": XRAI}, {"id": "2", "explanationSpec": XRAI}]},
        {"instances": [{"b64": "…"}], "explanation_spec_override": snake(XRAI)},
    ],
    ids=["camel", "snake", "resource", "upload", "endpoint", "request"],
)
def test_a_specification_is_found_in_whatever_holds_it(whole: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(whole))
    spec, where, found = read(path)
    lines = commands_of(plan_of(spec, where, found), "saved-model", "cat.jpg")
    known = commands_of(plan_of(XRAI), "saved-model", "cat.jpg")
    assert [line.replace("my_model", "my-model") for line in lines] == known


def test_parameters_or_metadata_alone_are_enough(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(XRAI["parameters"]))
    assert "--regions" in commands_of(plan_of(read(path)[0]), "m", "i")[2]
    path.write_text(json.dumps({**XRAI["metadata"], "framework": "tensorflow"}))
    plan = plan_of(read(path)[0])
    assert any(
        "no method is given, as gcloud takes it from --explanation-method" in one for one in plan.notes
    )
    assert plan.methods == "integrated_gradients"


@pytest.mark.parametrize(
    ("image", "baseline", "guess"),
    [
        ({}, "black", False),
        ({"inputBaselines": [0]}, "black", True),
        ({"inputBaselines": [0, 1]}, "black,white", True),
        ({"inputBaselines": [0.5, 0.5]}, "gray", True),
        ({"inputBaselines": [0, 255]}, "black,white", True),
        ({"inputBaselines": [-1, 0]}, "black,gray", True),
        ({"inputBaselines": [51], "featureValueDomain": {"maxValue": 255}}, "51", False),
        ({"inputBaselines": [0], "featureValueDomain": {"minValue": -2, "maxValue": 2}}, "gray", False),
        ({"inputBaselines": [[[[0.2, 0.2]]]], "featureValueDomain": {"maxValue": 1}}, "51", False),
    ],
)
def test_baselines_are_gray_levels_in_the_images_own_unit(
    image: dict[str, Any], baseline: str, guess: bool
) -> None:
    plan = plan_of(with_image(**image))
    assert plan.options[plan.options.index("--baseline") + 1] == baseline
    assert any("which is a guess;" in note for note in plan.notes) == guess


def test_a_picture_as_a_baseline_is_told() -> None:
    plan = plan_of(with_image(inputBaselines=[[[0, 1]], 1]))
    assert plan.options[plan.options.index("--baseline") + 1] == "white"
    assert any("1 of 2 baselines are pictures" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("visualization", "options"),
    [
        (
            {"type": "PIXELS"},
            "--style heatmap --polarity positive --colormap Greens --clip 99.9 --clip-low 62",
        ),
        ({"type": "OUTLINES"}, "--style outlines --polarity positive --colormap Greens --clip-low 62"),
        (
            {"type": "pixels", "polarity": "BOTH", "overlayType": "GRAYSCALE"},
            "--style overlay --polarity both --colormap PiYG --clip 99.9 --clip-low 62",
        ),
        (
            {"type": "PIXELS", "polarity": "NEGATIVE", "colorMap": "RED_GREEN", "overlayType": "ORIGINAL"},
            "--style overlay --polarity negative --photo-colors --colormap Reds --clip 99.9 --clip-low 62",
        ),
        (
            {"type": "PIXELS", "polarity": "BOTH", "overlayType": "MASK_BLACK", "clipPercentUpperbound": 98},
            "--style masked --polarity positive --clip 98 --clip-low 62",
        ),
        (
            {"polarity": "POLARITY_UNSPECIFIED", "colorMap": "VIRIDIS", "clipPercentLowerbound": 80},
            "--style outlines --polarity positive --colormap viridis --clip-low 80",
        ),
    ],
)
def test_every_view_has_its_options(visualization: dict[str, Any], options: str) -> None:
    given = explain_options(with_image(visualization=visualization))
    assert shlex.join(given[given.index("--style") :]) == options


@pytest.mark.parametrize(
    ("parameters", "chosen"),
    [
        ({}, [[]]),
        ({"topK": 1}, [[]]),
        ({"topK": "4"}, [["--top", "4"]]),
        ({"topK": -1}, [[]]),
        ({"outputIndices": [3, 5]}, [["--class-index", "3"], ["--class-index", "5"]]),
        ({"outputIndices": [[7]], "topK": 2}, [["--class-index", "7"]]),
        ({"outputIndices": [[1, 2]]}, [[]]),
    ],
)
def test_classes_are_those_that_were_asked_for(parameters: dict[str, Any], chosen: list[list[str]]) -> None:
    spec = {"parameters": {"integratedGradientsAttribution": {"stepCount": 1}, **parameters}}
    assert plan_of(spec).classes == chosen


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (
            gradients(blurBaselineConfig={"maxBlurSigma": 2}),
            "blurBaselineConfig: there is no blurred baseline",
        ),
        (gradients(stepsCount=3), "stepsCount: no such field is known; left out; did you mean stepCount?"),
        ({"parameters": {"topK": -1}}, "topK: -1 asks for all classes; give their number to --top"),
        ({"parameters": {"sampledShapleyAttribution": {"pathCount": 9}}}, "pathCount: occlusion has no such"),
        (with_image(encoding="INDICATOR"), "x.encoding: not needed: images are one feature"),
        (with_image(groupName="g"), "x.groupName: there is one input"),
        (with_image(encodedBaselines=[1]), "x.encodedBaselines: a baseline is a gray level"),
        (with_image(indicesTensorName="g"), "x.indicesTensorName: sparse inputs are not explained"),
        (
            {"metadata": {"inputs": {"x": {"modality": "image"}, "age": {}}}},
            "inputs.age: one image is explained; other inputs are held at export: --hold NAME=VALUE",
        ),
        ({"metadata": {"latentSpaceSource": "s"}}, "latentSpaceSource: explanations by examples"),
        (
            gradients(smoothGradConfig={"featureNoiseSigma": {"noiseSigma": [{"name": "x", "sigma": 0.3}]}}),
            "featureNoiseSigma.noiseSigma[0].sigma: it is in the unit of the model's input",
        ),
        (
            {"metadata": {"outputs": {"y": {"indexDisplayNameMapping": ["a", "b"]}}}},
            "indexDisplayNameMapping: write its 2 names to labels.txt",
        ),
        ({"metadata": {"outputs": {"y": {"displayNameMappingKey": "k"}}}}, "--labels FILE"),
    ],
)
def test_each_field_without_an_equivalent_has_its_sentence(spec: dict[str, Any], told: str) -> None:
    assert [note for note in plan_of(spec).notes if told in note]


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ({"parameters": 3}, "parameters is 3; it is an object"),
        (
            gradients(stepCount=0),
            "integratedGradientsAttribution.stepCount is 0; it is a whole number from 1 to 100",
        ),
        (gradients(stepCount=2.5), "stepCount is 2.5; it is a whole number"),
        (gradients(stepCount="many"), 'stepCount is "many"; it is a number'),
        (gradients(stepCount=True), "stepCount is true; it is a number"),
        (gradients(stepCount=1, step_count=2), "has stepCount and step_count, which are the same field"),
        (gradients(smoothGradConfig={"noiseSigma": -1}), "noiseSigma is -1; it must be above 0"),
        (
            gradients(smoothGradConfig={"noisySampleCount": 51}),
            "noisySampleCount is 51; it is a whole number from 1",
        ),
        (gradients(smoothGradConfig={"noiseSigma": 1, "featureNoiseSigma": {}}), "one is allowed"),
        (gradients(smoothGradConfig={"featureNoiseSigma": {}}), "noiseSigma is null; it is a list of names"),
        ({"parameters": {"xraiAttribution": {}, "sampledShapleyAttribution": {}}}, "has two methods"),
        ({"parameters": {"examples": {"neighborCount": 3}}}, "asks for similar examples of a data set"),
        ({"parameters": {"outputIndices": 3}}, "outputIndices is 3; it is a list of whole numbers"),
        ({"parameters": {"outputIndices": ["a"]}}, 'outputIndices is "a"; it is a number'),
        ({"parameters": {"topK": -2}}, "topK is -2; it is a whole number from -1"),
        ({"metadata": {"inputs": []}}, "inputs is a list; it is an object with the inputs by name"),
        (
            {"metadata": {"inputs": {"a": {"modality": "image"}, "b": {"modality": "image"}}}},
            "has 2 images, a, b",
        ),
        (with_image(inputBaselines=3), "inputBaselines is 3; it is a list of baselines"),
        (with_image(inputBaselines=["dark"]), 'inputBaselines is "dark"; it is a number'),
        (
            with_image(inputBaselines=[0], featureValueDomain={"minValue": 1, "maxValue": 1}),
            "must be below maxV",
        ),
        (with_image(visualization={"type": "LINES"}), 'type is "LINES"; it is one of PIXELS, OUTLINES'),
        (
            with_image(visualization={"clipPercentLowerbound": 100}),
            "they are percentiles, the lower one first",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_place_and_value(spec: dict[str, Any], error: str) -> None:
    with pytest.raises(ExportError) as found:
        plan_of(spec)
    assert error in str(found.value)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "is not JSON: Expecting value in line 1, column 1"),
        (b"parameters:\n  topK: 1\n", "is not JSON"),
        (b"[1]", "holds a list, not a JSON object"),
        (b"3", "holds 3, not a JSON object"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"{}", "holds no ExplanationSpec: neither parameters nor metadata, but nothing"),
        (b'{"name": "m", "etag": ""}', "neither parameters nor metadata, but etag, name"),
        (b"[" * 100_000, "spec.json"),
        (b'{"topK": 1' + b"0" * 5000 + b"}", "spec.json"),
        (
            b'{"a": {"explanationSpec": {}}, "b": {"explanationSpec": {"parameters": {}}}}',
            "specifications that dif",
        ),
    ],
)
def test_a_file_that_holds_no_specification_is_refused(content: bytes, error: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_bytes(content)
    run = CliRunner().invoke(exporter, ["from-vertex", str(path)], prog_name="saliency-exporter")
    assert run.exit_code == 1
    assert error in run.stderr
    assert run.stdout == ""
    assert run.stderr.startswith("error: ")


def test_commands_go_to_stdout_and_notes_to_stderr(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    whole = {"displayName": "big\ncats", "artifactUri": "gs://b/m", "explanationSpec": XRAI}
    path.write_text(json.dumps(whole))
    run = CliRunner().invoke(exporter, ["from-vertex", str(path), "--model", "saved-model"])
    assert run.exit_code == 0
    lines = run.stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["export", "serve", "explain"]
    assert "models/big-cats" in lines[0]
    assert all(line.startswith("note: ") for line in run.stderr.splitlines())
    assert "gcloud storage cp -r gs://b/m ." in run.stderr


@pytest.mark.parametrize(
    "spec",
    [
        XRAI,
        with_image(visualization={"type": "PIXELS", "polarity": "BOTH", "overlayType": "ORIGINAL"}),
        with_image(visualization={"type": "OUTLINES", "colorMap": "RED"}),
        with_image(visualization={"type": "PIXELS", "overlayType": "MASK_BLACK"}),
        {"parameters": {"xraiAttribution": {"stepCount": 1}, "outputIndices": [1]}},
    ],
)
def test_the_explain_command_takes_the_options_that_are_printed(spec: dict[str, Any]) -> None:
    from saliency_client.cli.looks import Look

    for line in commands_of(plan_of(spec), "MODEL", "IMAGE")[2:]:
        program, name, *arguments = shlex.split(line)
        assert program == "saliency-client"
        command = client.get_command(click.Context(client), name)
        assert command is not None
        given = command.make_context(name, arguments).params
        look = Look(
            *(given["styles"][0], given["colormap"], given["opacity"], given["clip"], given["clip_low"]),
            *(given["polarity"], given["photo_colors"], given["regions"], given["top_regions"]),
        )
        look.check()


def test_tensorflow_is_not_imported() -> None:
    """By what the command's module imports: this process has imported TensorFlow already."""
    source = Path(sys.modules["saliency_exporter.cli.from_vertex"].__file__ or "").read_text()
    imported = {line.split()[1] for line in source.splitlines() if line.startswith(("import ", "from "))}
    heavy = ("tensorflow", "keras", "numpy", "saliency_exporter.sources", "saliency_exporter.runtime")
    assert not [name for name in imported if name.startswith(heavy)]


PAGE = Path(__file__).parents[3] / "exporter" / "VERTEX.md"


def test_the_page_has_every_field_that_is_known() -> None:
    from saliency_exporter.cli import from_vertex as module

    known = {
        *(*module._OF_PARAMETERS, *module._OF_METHOD, *module._OF_SMOOTH, *module._OF_VISUALIZATION),
        *(*module._OF_DOMAIN, *module._OF_METADATA, *module._NOT_NEEDED, *module._NO_EQUIVALENT),
        *("input_baselines", "modality", "output_tensor_name", "index_display_name_mapping"),
        "display_name_mapping_key",
    }
    page = PAGE.read_text()
    assert {name for name in map(module._camel, known) if not re.search(rf"\b{name}\b", page)} == set()
    assert {name for name in module._COLOR_MAPS if name not in page} == set()


def test_the_example_of_the_page_is_what_the_command_prints() -> None:
    parameters = {"xraiAttribution": {"stepCount": 50}, "topK": 3}
    metadata = {"inputs": {"x": {"modality": "image", "inputBaselines": [0, 255]}}}
    plan = plan_of({"parameters": parameters, "metadata": metadata})
    example = re.findall(r"```text\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    assert example.splitlines() == commands_of(plan, "saved-model/", "cat.jpg")


@pytest.mark.parametrize(
    ("image", "preprocessing", "told"),
    [
        ({"featureValueDomain": {"minValue": -1, "maxValue": 1}}, "tf", None),
        ({"featureValueDomain": {"maxValue": 255}}, "pixels", None),
        ({"featureValueDomain": {"maxValue": 1}}, "scaling:scaled", "return pixels / 255`"),
        (
            {"featureValueDomain": {"minValue": -2, "maxValue": 3}},
            "scaling:scaled",
            "return pixels / 51 + -2`",
        ),
        (
            {"featureValueDomain": {"originalMean": 120, "originalStddev": 60}},
            "scaling:scaled",
            "return (pixels - 120) / 60`",
        ),
        ({"inputBaselines": [0, 255]}, "pixels", "is 0 to 255 is a guess"),
        ({"inputBaselines": [-1]}, "tf", "is -1 to 1 is a guess"),
        ({}, "scaling:scaled", "that the model's input is 0 to 1 is a guess"),
    ],
)
def test_the_range_of_the_input_says_what_happens_to_pixels(
    image: dict[str, Any], preprocessing: str, told: str | None
) -> None:
    plan = plan_of(with_image(**image))
    assert plan.preprocessing == preprocessing
    found = [note for note in plan.notes if "guess" in note or "scaling.py" in note]
    assert (told is None and not found) or any(told in note for note in found if told)
