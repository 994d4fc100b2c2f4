"""Wrong usage is exit code 2 in every command, said before any work; and what beginners met besides."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from cli_harness import Cli
from PIL import Image
from scripted_server import ScriptedServer, nobody

from saliency_client.cli.explain_run import notes_of

OUT = {
    "explain": ("-o", "new.png"),
    "gallery": ("-o", "page"),
    "evaluate": ("-M", "gradients", "--no-controls"),
    "job": ("-o", "maps", "--decoders", "0"),
}
EXPLAINING = pytest.mark.parametrize("command", list(OUT))


def a_class(cli: Cli, command: str, name: str):
    return cli(command, "cat.png", *OUT[command], "--class", name)


@EXPLAINING
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("horse", "no class is named 'horse'"),
        ("4", "class_index is 4; it must be in [0, 3], or -1 for the predicted class"),
        ("-2", "--class is -2; an index is 0 or above"),
    ],
)
def test_a_class_that_the_model_has_not_is_wrong_usage(
    cli: Cli, photo: Path, server: ScriptedServer, command: str, name: str, says: str
) -> None:
    server.model.bounded = True

    run = a_class(cli, command, name)

    assert run.code == 2
    assert says in run.err
    assert "signatures()" not in run.err, "a name of the library"
    assert server.requests == []
    assert cli.files() == {"cat.png"}


@EXPLAINING
def test_minus_1_is_the_predicted_class_as_messages_say(
    cli: Cli, photo: Path, server: ScriptedServer, command: str
) -> None:
    assert a_class(cli, command, "-1").code == 0
    asked = [request.inputs["class_index"] for request in server.requests if request.inputs["class_index"]]
    assert {value for one in asked for value in one.int_val} <= {-1, 2}, "the photo is of class 2"


@EXPLAINING
def test_a_model_without_class_names_makes_a_name_wrong_usage(
    cli: Cli, photo: Path, server: ScriptedServer, command: str
) -> None:
    server.hidden = {"class_labels"}

    run = a_class(cli, command, "class 0")

    assert (run.code, "has no class names" in run.err) == (2, True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--method", "magic"), "the model offers no method 'magic'"),
        (("--param", "steps=3"), "explain_gradients takes no steps"),
        (("--class", "horse"), "no class is named 'horse'"),
        (("--class", "9"), "class_index is 9"),
        (("--method", "smooth", "--noise-level", "7"), "noise_level is 7"),
        (("--metadata", "x"), "--metadata 'x' is not KEY=VALUE"),
        (("--version", "1", "--label", "x"), "both given"),
    ],
)
def test_explain_says_what_is_wrong_usage_before_that_a_file_is_there(
    cli: Cli, photo: Path, server: ScriptedServer, options: tuple[str, ...], says: str
) -> None:
    server.model.bounded = True
    (cli.folder / "map.png").write_bytes(b"here")

    run = cli("explain", photo, "-o", "map.png", *options)

    assert run.code == 2
    assert says in run.err
    assert server.requests == []
    right = cli("explain", photo, "-o", "map.png")
    assert (right.code, "map.png exists" in right.err) == (1, True)


def test_that_a_file_is_there_is_said_where_no_server_answers(cli: Cli, photo: Path) -> None:
    (cli.folder / "map.png").write_bytes(b"here")

    with nobody() as target:
        begun = time.monotonic()
        run = cli("explain", photo, "-o", "map.png", "--method", "magic", "--server", target)

    assert (run.code, "map.png exists" in run.err) == (1, True)
    assert time.monotonic() - begun < 8


@pytest.mark.parametrize("command", [*OUT, "predict"])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--metadata", "x"), "--metadata 'x' is not KEY=VALUE"),
        (("--version", "1", "--label", "x"), "both given"),
        (("--model", ""), "model is ''"),
        (("--server", "a:b:c"), "target 'a:b:c' is not 'host:port'"),
    ],
)
def test_options_of_the_connection_are_checked_before_a_file_is_looked_at(
    cli: Cli, command: str, options: tuple[str, ...], says: str
) -> None:
    run = cli(command, "nowhere.png", *OUT.get(command, ()), *options)

    assert run.code == 2
    assert says in run.err
    assert cli.files() == set()


def test_more_classes_than_the_model_has_are_wrong_usage_said_once(cli: Cli, server: ScriptedServer) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (20, 20)).save(cli.folder / name)

    run = cli("explain", "a.png", "b.png", "--top", "5", "-o", "out/")

    assert run.code == 2
    assert run.err.count("--top is 5, and the model has 4 classes") == 1
    assert server.requests == []


@pytest.mark.parametrize("name", ["folder", "nowhere.txt"])
def test_a_list_that_is_no_file_is_wrong_usage_of_a_job_before_a_server_is_asked(cli: Cli, name: str) -> None:
    (cli.folder / "folder").mkdir()
    with nobody() as target:
        run = cli("job", "--list", name, "-o", "maps", "--server", target)

    assert run.code == 2
    assert name in run.err
    assert "--list" in run.err
    assert not (cli.folder / "maps").exists()


@EXPLAINING
def test_a_tilde_that_the_shell_has_left_makes_no_folder_of_that_name(
    cli: Cli, photo: Path, server: ScriptedServer, command: str
) -> None:
    run = cli(command, photo, "--out=~/maps")

    assert run.code == 2
    assert "would make a folder that is called ~" in run.err
    assert "-o ~/maps" in run.err
    assert server.requests == []
    assert [path.name for path in cli.folder.iterdir()] == ["cat.png"]


@pytest.mark.parametrize("options", [(), ("--class", "class 0")])
def test_a_job_soon_says_that_a_server_has_no_model_of_that_name(
    cli: Cli, photo: Path, options: tuple[str, ...]
) -> None:
    begun = time.monotonic()

    run = cli("job", photo, "-o", "maps", "--model", "nonesuch", "--decoders", "0", *options)

    assert time.monotonic() - begun < 6
    assert run.code == 69
    assert "nonesuch" in run.err
    assert "hint: compare --model, --version and --label" in run.err
    assert not (cli.folder / "maps").exists()


def test_a_job_waits_for_a_server_that_is_not_there_yet_as_long_as_it_may(cli: Cli, photo: Path) -> None:
    with nobody() as target:
        begun = time.monotonic()
        run = cli("job", photo, "-o", "maps", "--decoders", "0", "--server", target, "--wait", "3.5")

    assert 3.4 < time.monotonic() - begun < 10
    assert run.code == 68
    assert "was not ready after 3.5 s: no server answers" in run.err


@pytest.mark.parametrize(
    "options", [("--image-column", "count"), ("--image-column", "magic"), ("--key-column", "magic")]
)
@pytest.mark.parametrize("kind", ["a file", "a folder", "a pattern"])
def test_a_job_of_a_wrong_column_leaves_nothing(
    cli: Cli, photo: Path, options: tuple[str, ...], kind: str
) -> None:
    (cli.folder / "data").mkdir()
    columns = {"image": [photo.read_bytes()] * 3, "count": [1, 2, 3]}
    pyarrow.parquet.write_table(pyarrow.table(columns), cli.folder / "data" / "rows.parquet")
    given = {"a file": "data/rows.parquet", "a folder": "data", "a pattern": "data/*.parquet"}[kind]

    run = cli("job", given, "-o", "maps", "--decoders", "0", *options)

    assert run.code == 2
    assert "rows.parquet: " in run.err
    assert options[0] in run.err
    assert not (cli.folder / "maps").exists()


@pytest.mark.parametrize("options", [("--image-column", "magic"), ("--key-column", "magic")])
def test_a_job_of_a_wrong_feature_leaves_nothing(cli: Cli, photo: Path, options: tuple[str, ...]) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    feature = tensorflow.train.Feature(bytes_list=tensorflow.train.BytesList(value=[photo.read_bytes()]))
    example = tensorflow.train.Example(features=tensorflow.train.Features(feature={"image": feature}))
    with tensorflow.io.TFRecordWriter(str(cli.folder / "rows.tfrecord")) as writer:
        writer.write(example.SerializeToString())

    run = cli("job", "rows.tfrecord", "-o", "maps", "--decoders", "0", *options)

    assert run.code == 2
    assert "there is no feature 'magic'; there are image" in run.err
    assert not (cli.folder / "maps").exists()


def test_parquet_in_a_folder_that_holds_no_images_is_left_out_with_a_note(cli: Cli, photo: Path) -> None:
    (cli.folder / "data").mkdir()
    (cli.folder / "data" / "cat.png").write_bytes(photo.read_bytes())
    pyarrow.parquet.write_table(pyarrow.table({"label": ["cat"]}), cli.folder / "data" / "labels.parquet")

    run = cli("job", "data", "-o", "maps", "--decoders", "0")

    assert run.code == 0
    assert "left out data/labels.parquet: no column of it is called like one of images" in run.err
    assert "1 row in" in run.out


def test_the_error_of_a_job_names_its_image_once(cli: Cli, photo: Path) -> None:
    (cli.folder / "empty.png").write_bytes(b"")
    (cli.folder / "cut.png").write_bytes(photo.read_bytes()[:60])
    (cli.folder / "names.txt").write_text("cat.png\nempty.png\ncut.png\ngone.png\n")

    run = cli("job", "--list", "names.txt", "-o", "maps", "--decoders", "0")

    assert run.code == 1
    lines = [line for line in run.err.splitlines() if line.startswith("note: ")]
    for name in ("empty.png", "cut.png", "gone.png"):
        assert [line.count(name) for line in lines if name in line] == [1], lines


def test_what_the_sign_of_an_error_is_stands_once_below_lines_that_show_it(cli: Cli) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (20, 20), (0, 0, 250)).save(cli.folder / name)
    run = cli("explain", "a.png", "b.png", "-M", "smooth", "-o", "out/")

    assert run.out.count("  ±14 %  ") == 2
    assert run.err.count("± is the relative error of a map") == 1
    assert "±" not in cli("explain", "a.png", "-M", "smooth", "-o", "one.png").err, "said in words there"
    assert "±" not in cli("explain", "a.png", "b.png", "-o", "plain/").err, "there is none"
    for option in ("--json", "-q"):
        run = cli("explain", "a.png", "b.png", "-M", "smooth", "-o", f"out{option}/", option)
        assert "±" not in run.err


def test_a_note_about_the_photo_stands_once_below_the_lines_of_several_methods(cli: Cli) -> None:
    frames = [Image.new("RGB", (20, 20), (0, 0, blue)) for blue in (250, 100)]
    frames[0].save(cli.folder / "moving.gif", save_all=True, append_images=frames[1:])

    run = cli("explain", "moving.gif", "-M", "gradients,smooth", "-o", "maps.png")

    notes = [line for line in run.err.splitlines() if line.startswith("note: ")]
    assert notes == ["note: moving.gif: first frame of an animation"]


def test_a_note_about_one_of_several_methods_names_it() -> None:
    def record(method: str, *notes: str) -> dict[str, object]:
        return {"method": method, "notes": ["first frame", *notes]}

    noisy = "the map is mostly noise"
    several = [record("gradients"), record("smooth", noisy), record("rise", noisy)]
    assert notes_of(several) == ["first frame", "smooth, rise: the map is mostly noise"]
    assert notes_of([record("smooth", noisy)]) == ["first frame", noisy]
    both = [record("smooth", "the map of smooth is zero everywhere"), record("gradients")]
    assert notes_of(both) == ["first frame", "the map of smooth is zero everywhere"], "it says so itself"
