"""`explain` writes what it says, says what it wrote, and asks the server for no more than it needs."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from cli_harness import HOT_COLUMNS, HOT_ROWS, SIZE, Cli, Run, known_model
from PIL import Image
from scripted_server import ScriptedServer

FIELDS = {
    *("image", "status", "file", "files", "method", "model", "version", "rank", "class_index", "label"),
    *("probability", "score", "relative_error", "baselines", "outputs", "milliseconds", "notes"),
}


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), np.int64)


def asked(server: ScriptedServer) -> list[set[str]]:
    return [set(request.output_filter) for request in server.requests]


def class_indices(server: ScriptedServer) -> list[int]:
    """Of all images, request by request."""
    return [
        int(index)
        for request in server.requests
        if request.model_spec.signature_name.startswith("explain")
        for index in (
            request.inputs["class_index"].int_val
            or np.frombuffer(request.inputs["class_index"].tensor_content, "<i4")
        )
    ]


def test_a_picture_goes_to_this_folder_and_its_path_is_printed(cli: Cli, photo: Path) -> None:
    run = cli("explain", photo)
    assert run.code == 0, run.err
    assert run.out.splitlines()[-1] == "cat-gradients.png"
    assert "class 2" in run.out
    assert cli.files() == {"cat.png", "cat-gradients.png"}


def test_the_picture_has_the_photos_size_and_is_hot_where_the_map_is_hot(cli: Cli, photo: Path) -> None:
    cli("explain", photo, "--opacity", 1)
    drawn = pixels(cli.folder / "cat-gradients.png")
    assert drawn.shape == (40, 60, 3)
    # The model sees columns 10..50 at half the size: the block is rows 8..16, columns 30..38 of the photo.
    hot = drawn[10:14, 32:36]
    gray = pixels(photo)[0, 0] @ [0.299, 0.587, 0.114]
    assert (hot.max(axis=-1) - hot.min(axis=-1) > 50).all()
    assert hot[..., 0].min() > 240
    np.testing.assert_allclose(drawn[20:, 12:48], gray, atol=1)
    assert drawn[:, :10].min() > 150
    assert drawn[:, 50:].min() > 150


def test_json_is_one_line_with_every_documented_field(cli: Cli, photo: Path) -> None:
    run = cli("explain", "cat.png", "--json")
    record = run.record
    assert set(record) == FIELDS
    logits = np.array([2.5, 5, 16 * (0.5 * 10 - 0.25 * 20 + 250), 0])
    exponents = np.exp((logits - logits.max()) / 1000)
    assert record["image"] == "cat.png"
    assert record["status"] == "ok"
    assert record["file"] == "cat-gradients.png"
    assert record["files"] == ["cat-gradients.png"]
    assert record["method"] == "gradients"
    assert record["model"] == "linear"
    assert record["version"] == 1
    assert record["rank"] is None
    assert record["class_index"] == 2
    assert record["label"] == "class 2"
    assert record["score"] == pytest.approx(logits[2])
    assert record["probability"] == pytest.approx(exponents[2] / exponents.sum(), rel=1e-5)
    assert (record["relative_error"], record["outputs"]) == (None, {})
    assert 0 < record["milliseconds"] < 10_000
    assert record["notes"] == []
    assert run.err == ""


def test_quiet_prints_the_file_alone(cli: Cli, photo: Path) -> None:
    run = cli("explain", photo, "-q")
    assert (run.out, run.err) == ("cat-gradients.png\n", "")
    assert cli("explain", photo, "-q", "-f", "npy", "-f", "npz").out.splitlines() == [
        "cat-gradients.npy",
        "cat-gradients.npz",
    ]


def test_smooth_sends_its_parameters_and_tells_the_relative_error(
    cli: Cli, photo: Path, server: ScriptedServer
) -> None:
    run = cli(
        "explain", photo, "-M", "smooth", "--num-samples", 16, "--noise-level", 0.25, "--seed", 7, "--json"
    )
    assert run.record["relative_error"] == 0.25  # the scripted server's 1/sqrt(n)
    assert run.record["outputs"] == {}, "what has a field of its own is not repeated"
    assert run.record["file"] == "cat-smooth.png"
    inputs = server.requests[-1].inputs
    assert np.frombuffer(inputs["num_samples"].tensor_content, "<i4") == 16
    assert np.frombuffer(inputs["noise_level"].tensor_content, "<f4") == 0.25
    assert np.frombuffer(inputs["seed"].tensor_content, "<i4") == 7


LIGHT = {"class_index", "score", "probability", "label"}


@pytest.mark.parametrize(
    ("options", "with_gradients"),
    [
        ([], False),
        (["--style", "heatmap"], False),
        (["--style", "masked"], False),
        (["--style", "panel", "-f", "npy"], False),
        (["--signed"], True),
        (["--style", "panel"], True),
        (["--style", "panel", "-f", "npy", "-f", "png"], True),
        (["--style", "overlay", "--style", "panel"], True),
        (["--style", "overlay", "--style", "panel", "-f", "npy"], False),
        (["-f", "npz"], True),
    ],
)
def test_the_gradient_is_asked_for_only_where_a_file_is_made_of_it(
    cli: Cli, photo: Path, server: ScriptedServer, options: list[str], with_gradients: bool
) -> None:
    assert cli("explain", photo, *options).code == 0
    assert asked(server) == [LIGHT | {"saliency"} | ({"gradients"} if with_gradients else set())]


def test_all_commands_together_ask_for_two_lists_of_outputs(
    cli: Cli, photo: Path, server: ScriptedServer
) -> None:
    """For each other list of outputs, a server would compile its signature once more."""
    for style in ("overlay", "heatmap", "masked", "panel"):
        for format in ("png", "npy", "npz"):
            cli("explain", photo, "--style", style, "-f", format)
    cli("explain", photo, "--class", "class 3")
    cli("explain", photo, "--signed")
    cli("explain", photo, "--top", 2)
    cli("predict", photo)
    cli("bench", "--requests", 2)
    explained = [r for r in server.requests if r.model_spec.signature_name == "explain_gradients"]
    assert len({tuple(sorted(request.output_filter)) for request in explained}) == 2


def test_npy_holds_the_map_as_the_server_sent_it(cli: Cli, photo: Path) -> None:
    cli("explain", photo, "--format", "npy")
    expected = np.zeros((SIZE, SIZE), np.float32)
    expected[HOT_ROWS, HOT_COLUMNS] = 1
    saved = np.load(cli.folder / "cat-gradients.npy")
    np.testing.assert_array_equal(saved, expected)
    assert saved.dtype == np.float32


def test_signed_npy_holds_the_sum_over_channels(cli: Cli, photo: Path) -> None:
    cli("explain", photo, "--format", "npy", "--signed")
    saved = np.load(cli.folder / "cat-gradients-signed.npy")
    assert saved[5, 11] == 0.5 - 0.25 + 1
    assert saved.sum() == 16 * 1.25


def test_npz_holds_all_outputs_and_where_the_map_lies_on_the_photo(cli: Cli, photo: Path) -> None:
    cli("explain", photo, "--format", "npz", "-M", "smooth")
    with np.load(cli.folder / "cat-smooth.npz", allow_pickle=False) as saved:
        assert set(saved) == {*LIGHT, "saliency", "gradients", "variance", "relative_error", "box"}
        np.testing.assert_array_equal(saved["gradients"], known_model().weights[2])
        np.testing.assert_array_equal(saved["box"], [10, 0, 50, 40])
        assert saved["label"] == "class 2"


def test_several_formats_come_of_one_request(cli: Cli, photo: Path, server: ScriptedServer) -> None:
    record = cli("explain", photo, "-f", "png", "-f", "npy", "-o", "maps/", "--json").record
    assert record["files"] == ["maps/cat-gradients.png", "maps/cat-gradients.npy"]
    assert record["file"] == record["files"][0]
    assert cli.files() == {"cat.png", *record["files"]}
    assert len(server.requests) == 1


def test_several_styles_come_of_one_request(cli: Cli, photo: Path, server: ScriptedServer) -> None:
    """Each is the picture that the style alone gives; the array is written once."""
    options = ["-f", "png", "-f", "npy", "--json"]
    record = cli("explain", photo, "--style", "overlay", "--style", "panel", "-o", "both/", *options).record
    names = ["cat-gradients.png", "cat-gradients.npy", "cat-gradients-panel.png"]
    assert record["files"] == [f"both/{name}" for name in names]
    assert len(server.requests) == 1
    for style in ("overlay", "panel"):
        cli("explain", photo, "--style", style, "-o", "apart/")
    for name in ("cat-gradients.png", "cat-gradients-panel.png"):
        both, apart = (Image.open(cli.folder / folder / name) for folder in ("both", "apart"))
        np.testing.assert_array_equal(np.asarray(both), np.asarray(apart))


def test_a_style_that_an_option_is_not_for_is_refused_among_several(cli: Cli, photo: Path) -> None:
    assert cli("explain", photo, "--style", "overlay", "--style", "panel", "--signed").code == 2


def test_several_styles_are_not_one_file(cli: Cli, photo: Path) -> None:
    run = cli("explain", photo, "--style", "overlay", "--style", "panel", "-o", "map.png")
    assert run.code == 2
    assert "is one file, and there are 2 to write" in run.err


def test_an_image_is_done_when_every_style_is_there(cli: Cli, photo: Path) -> None:
    cli("explain", photo)
    styles = ["--style", "overlay", "--style", "panel"]
    assert cli("explain", photo, *styles, "--skip-existing", "--json").record["status"] == "ok"
    assert cli("explain", photo, *styles, "--skip-existing", "--json").record["status"] == "skipped"


def test_pictures_carry_what_they_show(cli: Cli, photo: Path) -> None:
    cli("explain", photo, "-f", "png", "-f", "jpg")
    with Image.open(cli.folder / "cat-gradients.png") as png:
        assert png.info["Software"].startswith("saliency-client ")
        facts = json.loads(png.info["Saliency"])
    assert facts["class_index"] == 2
    assert facts["model"] == "linear"
    with Image.open(cli.folder / "cat-gradients.jpg") as jpg:
        assert jpg.format == "JPEG"
        assert jpg.size == (60, 40)
        assert b'"class_index": 2' in jpg.info["comment"]


@pytest.mark.parametrize("style", ["heatmap", "masked", "panel"])
def test_a_style_is_part_of_the_name(cli: Cli, photo: Path, style: str) -> None:
    assert cli("explain", photo, "--style", style, "-q").out == f"cat-gradients-{style}.png\n"
    drawn = Image.open(cli.folder / f"cat-gradients-{style}.png")
    assert drawn.size == (60, 40) or (style == "panel" and drawn.width > 1000)


def test_masked_shows_the_photo_where_the_map_is_hot(cli: Cli, photo: Path) -> None:
    cli("explain", photo, "--style", "masked")
    drawn = pixels(cli.folder / "cat-gradients-masked.png")
    np.testing.assert_array_equal(drawn[12, 34], (10, 20, 250))
    assert drawn[30].max() == 0


def test_a_colormap_is_used(cli: Cli, photo: Path) -> None:
    cli("explain", photo, "--style", "heatmap", "--colormap", "jet")
    drawn = pixels(cli.folder / "cat-gradients-heatmap.png")
    np.testing.assert_allclose(drawn[12, 34], (128, 0, 0), atol=1)  # the end of MATLAB's jet
    np.testing.assert_allclose(drawn[30, 20], (0, 0, 128), atol=1)  # and its beginning


def test_top_explains_the_most_probable_classes_in_order(
    cli: Cli, photo: Path, server: ScriptedServer
) -> None:
    records = cli("explain", photo, "--top", 3, "--json").records
    assert [record["rank"] for record in records] == [1, 2, 3]
    assert [record["class_index"] for record in records] == [2, 1, 0]
    assert [record["file"] for record in records] == [f"cat-gradients-top{rank}.png" for rank in (1, 2, 3)]
    probabilities = [record["probability"] for record in records]
    assert probabilities == sorted(probabilities, reverse=True)
    assert [request.model_spec.signature_name for request in server.requests] == [
        "serving_default",
        "explain_gradients",
    ]
    assert class_indices(server) == [2, 1, 0]


def test_more_classes_than_the_model_has_is_an_error(cli: Cli, photo: Path) -> None:
    run = cli("explain", photo, "--top", 5)
    assert run.code == 2
    assert "--top is 5, and the model has 4 classes" in run.err


@pytest.mark.parametrize("option", [["--class-index", "1"], ["--class", "1"]])
def test_a_class_is_given_by_index(cli: Cli, photo: Path, server: ScriptedServer, option: list[str]) -> None:
    record = cli("explain", photo, *option, "--json").record
    assert (record["class_index"], record["file"]) == (1, "cat-gradients-class1.png")
    assert class_indices(server) == [1]


def test_class_index_minus_one_is_the_predicted_class(cli: Cli, photo: Path, server: ScriptedServer) -> None:
    given = cli("explain", photo, "--class-index", -1, "--json").record
    (cli.folder / "cat-gradients.png").unlink()
    default = cli("explain", photo, "--json").record
    assert (given["class_index"], given["file"]) == (default["class_index"], "cat-gradients.png")


def test_a_class_is_given_by_the_name_that_the_server_knows(
    cli: Cli, photo: Path, server: ScriptedServer
) -> None:
    record = cli("explain", photo, "--class", "Class 0", "--json").record
    assert (record["class_index"], record["file"]) == (0, "cat-gradients-class-0.png")
    assert class_indices(server) == [0], "names cost no explanation"


def test_a_name_of_a_class_of_a_model_without_names_is_an_error(
    cli: Cli, photo: Path, server: ScriptedServer
) -> None:
    server.hidden = {"class_labels"}
    run = cli("explain", photo, "--class", "class 0")
    assert run.code == 2
    assert "the served model has no class names" in run.err
    assert "--labels FILE" in run.err
    assert server.requests == []


def test_a_class_is_given_by_a_name_of_a_file(cli: Cli, photo: Path, server: ScriptedServer) -> None:
    (cli.folder / "names.txt").write_text("ant\nbee\ncat, house cat\ndog\n")
    (cli.folder / "names.json").write_text('["ant", "bee", "cat, house cat", "dog"]')
    (cli.folder / "index.json").write_text('{"ant": 0, "bee": 1, "cat, house cat": 2, "dog": 3}')
    for labels, name in (("names.txt", "BEE"), ("names.json", "bee"), ("index.json", "bee")):
        record = cli("explain", photo, "--class", name, "--labels", labels, "--json", "--overwrite").record
        assert record["class_index"] == 1
    assert (
        cli("explain", photo, "--class", "house cat", "--labels", "names.txt", "--json").record["class_index"]
        == 2
    )
    assert len(server.requests) == 4


def test_a_class_that_no_one_knows_is_an_error(cli: Cli, photo: Path) -> None:
    (cli.folder / "names.txt").write_text("ant\nbee\ncat\ncat\n")
    run = cli("explain", photo, "--class", "zebra")
    assert run.code == 2
    assert "no class is named 'zebra'" in run.err
    assert "hint: the model has class 0, class 1, class 2, class 3" in run.err
    run = cli("explain", photo, "--class", "be", "--labels", "names.txt")
    assert "no class is named 'be'" in run.err
    assert "near ones: bee" in run.err
    run = cli("explain", photo, "--class", "cat", "--labels", "names.txt")
    assert "'cat' is the name of classes 2, 3" in run.err
    (cli.folder / "names.txt").write_text("crate\ntiger cat\noxcart\nSiamese cat, Siamese\n")
    run = cli("explain", photo, "--class", "Cat", "--labels", "names.txt")
    assert "near ones: tiger cat, Siamese cat, Siamese\n" in run.err, "whole words before likeness in letters"


def test_labels_of_a_file_name_classes_that_the_model_does_not(
    cli: Cli, photo: Path, server: ScriptedServer
) -> None:
    def drop_label(response: object) -> None:
        response.outputs["label"].string_val[:] = [b""]

    server.tamper = drop_label
    (cli.folder / "names.txt").write_text("ant\nbee\ncat\ndog\n")
    assert cli("explain", photo, "--labels", "names.txt", "--json").record["label"] == "cat"


@pytest.mark.parametrize(
    ("names", "count", "hint"),
    [
        ("ant\nbee\ncat\n", 3, "give one name for each class, in the order of the model's output"),
        ("background\nant\nbee\ncat\ndog\n", 5, "remove the background class from the file"),
        ('{"0": "ant", "1": "bee"}', 2, "give one name for each class"),
    ],
)
@pytest.mark.parametrize("command", ["explain", "predict"])
def test_a_file_with_names_for_another_number_of_classes_is_an_error(
    cli: Cli, photo: Path, server: ScriptedServer, command: str, names: str, count: int, hint: str
) -> None:
    (cli.folder / "names.txt").write_text(names)
    run = cli(command, photo, "--labels", "names.txt")
    assert run.code == 1
    assert f"labels file names.txt holds {count} names; the model has 4 classes" in run.err
    assert hint in run.err
    assert server.requests == []


def test_blank_lines_at_the_end_of_a_file_of_names_are_no_names(cli: Cli, photo: Path) -> None:
    (cli.folder / "names.txt").write_text("ant\nbee\ncat\ndog\n\n  \n")
    assert cli("predict", photo, "--labels", "names.txt", "--quiet").out == "cat\n"


def test_stdin_is_an_image(cli: Cli, photo: Path) -> None:
    record = cli("explain", "-", "--json", stdin=photo.read_bytes()).record
    assert (record["image"], record["file"], record["class_index"]) == ("-", "stdin-gradients.png", 2)


def test_stdout_gets_the_bytes_and_stderr_the_words(cli: Cli, photo: Path) -> None:
    run = cli("explain", photo, "-o", "-")
    assert Image.open(io.BytesIO(run.out_bytes)).size == (60, 40)
    assert "class 2" in run.err
    assert cli.files() == {"cat.png"}
    run = cli("explain", photo, "-o", "-", "--json", "-f", "npy")
    assert np.load(io.BytesIO(run.out_bytes)).shape == (SIZE, SIZE)
    assert json.loads(run.err)["file"] is None


def test_an_animation_is_noted(cli: Cli) -> None:
    first, second = (Image.new("RGB", (30, 30), color) for color in ("blue", "red"))
    first.save(cli.folder / "moving.gif", save_all=True, append_images=[second])
    run = cli("explain", "moving.gif")
    assert run.code == 0
    assert "note: moving.gif: first frame of an animation" in run.err
    run = cli("explain", "moving.gif", "--json", "--overwrite")
    assert run.record["notes"] == ["first frame of an animation"]


@pytest.mark.parametrize(
    ("resize", "box"), [("crop", [10, 0, 50, 40]), ("stretch", [0, 0, 60, 40]), ("pad", [0, -10, 60, 50])]
)
def test_resize_decides_what_the_model_sees(cli: Cli, photo: Path, resize: str, box: list[int]) -> None:
    cli("explain", photo, "--resize", resize, "-f", "npz")
    np.testing.assert_array_equal(np.load(cli.folder / "cat-gradients.npz")["box"], box)


def test_results_come_in_the_order_of_the_images(cli: Cli, photo: Path, server: ScriptedServer) -> None:
    for number in range(6):
        (cli.folder / f"{number}.png").write_bytes(photo.read_bytes())
    others_done = threading.Event()

    def slow(request: object, context: object) -> None:
        others_done.wait(5)

    def last(request: object, context: object) -> None:
        others_done.set()

    server.script.extend([slow, lambda *_: None, last])
    run = cli("explain", *[f"{number}.png" for number in range(6)], "--json", "--concurrency", 3)
    assert [record["image"] for record in run.records] == [f"{number}.png" for number in range(6)]
    assert others_done.is_set()
    assert server.most_running >= 2


def summary(run: Run) -> str:
    return run.err.splitlines()[-1]


def test_a_folder_with_one_broken_image_among_100_gives_99_pictures_and_one_error(cli: Cli) -> None:
    photos = cli.folder / "photos"
    photos.mkdir()
    for number in range(100):
        Image.new("RGB", (24, 24), (number, 0, 255)).save(photos / f"{number:03}.png")
    broken = photos / "042.png"
    broken.write_bytes(broken.read_bytes()[:50])
    run = cli("explain", "photos", "-o", "maps", "--json")
    assert run.code == 1
    assert len(list((cli.folder / "maps").iterdir())) == 99
    failed = [record for record in run.records if record["status"] != "ok"]
    assert [record["image"] for record in failed] == ["photos/042.png"]
    assert set(failed[0]) == {"image", "status", "error", "hint", "code"}
    assert "cannot be decoded" in failed[0]["error"]
    assert len(run.records) == 100
    assert run.err.count("error:") == 1
    assert "99 explained, 1 failed" in summary(run)


def test_fail_fast_stops_at_the_first_failure(cli: Cli, photo: Path, server: ScriptedServer) -> None:
    (cli.folder / "bad.png").write_text("no")
    later = [f"{number}.png" for number in range(30)]
    for name in later:
        (cli.folder / name).write_bytes(photo.read_bytes())
    run = cli("explain", "bad.png", *later, "--fail-fast", "--concurrency", 1, "-o", "maps/")
    assert run.code == 1
    assert not list((cli.folder / "maps").iterdir())
    assert "0 explained, 1 failed, 30 not tried" in summary(run)
    assert len(server.requests) <= 2


def test_a_model_of_floats_refuses_photos_and_takes_arrays(
    cli: Cli, photo: Path, server: ScriptedServer
) -> None:
    server.model = known_model("float32")
    run = cli("explain", photo)
    assert run.code == 1
    assert "the model takes float32" in run.err
    assert "preprocessing" in run.err
    assert ".npy" in run.err
    assert not server.requests
    array = np.zeros((SIZE, SIZE, 3), np.float32)
    array[..., 2] = 1
    np.save(cli.folder / "input.npy", array)
    record = cli("explain", "input.npy", "--json").record
    assert (record["class_index"], record["score"]) == (2, 16)
    assert Image.open(cli.folder / "input-gradients.png").size == (12 * SIZE, 12 * SIZE)
    record = cli("explain", "-", "--json", stdin=(cli.folder / "input.npy").read_bytes()).record
    assert record["class_index"] == 2


@pytest.mark.parametrize(
    ("size", "drawn"), [((32, 32), (256, 256)), ((28, 14), (252, 126)), ((50, 9), (50, 9))]
)
def test_a_picture_too_small_to_see_is_drawn_larger(
    cli: Cli, size: tuple[int, int], drawn: tuple[int, int]
) -> None:
    Image.new("RGB", size, "blue").save(cli.folder / "small.png")
    run = cli("explain", "small.png", "--format", "png", "--format", "npz", "-o", "maps/", "-q")
    assert run.code == 0, run.err
    with Image.open(cli.folder / "maps" / "small-gradients.png") as picture:
        assert picture.size == drawn
        # What the model did not see is pale: the map lies over the same part as before.
        width, height = size
        seen, pixels = min(size) * drawn[0] / width, np.asarray(picture.convert("L"), float)
        assert pixels.std() > 0
        if size == (28, 14):
            assert np.ptp(pixels[:, : int((drawn[0] - seen) / 2)]) == 0
    with np.load(cli.folder / "maps" / "small-gradients.npz") as arrays:
        assert arrays["box"].tolist() == [
            (width - min(size)) // 2,
            (height - min(size)) // 2,
            *((width + min(size)) // 2, (height + min(size)) // 2),
        ]
