"""`saliency-client gallery` against a linear model whose maps are known."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cli_harness import HOT_COLUMNS, HOT_ROWS, SIZE, Cli, known_model
from PIL import Image
from scripted_server import ScriptedServer, serving
from waiting import until

METHODS = ("--methods", "gradients,smooth")


@pytest.fixture
def photos(cli: Cli) -> Path:
    """Three photos: two blue ones, which are class 2, and one of pure red, which is class 1."""
    folder = cli.folder / "photos"
    folder.mkdir()
    for name, color in {"blue": (10, 20, 250), "sky": (0, 90, 255), "red": (255, 0, 0)}.items():
        Image.new("RGB", (60, 40), color).save(folder / f"{name}.png")
    return folder


def index(page: Path) -> dict[str, Any]:
    """The data of a page."""
    (block,) = re.findall(r'<script type="application/json" id="page-data">(.*?)</script>', page.read_text())
    return json.loads(block)


def test_a_page_shows_every_photo_with_the_maps_of_the_model(cli: Cli, photos: Path) -> None:
    run = cli("gallery", "photos", *METHODS, "-o", "page", "--json")
    assert run.code == 0, run.err
    assert run.record["kind"] == "gallery"
    assert (run.record["file"], run.record["photos"], run.record["failed"]) == ("page/index.html", 3, 0)
    data = index(cli.folder / "page/index.html")
    assert data["methods"] == ["gradients", "smooth"]
    assert [photo[0] for photo in data["photos"]] == ["blue.png", "red.png", "sky.png"]
    _, _, width, height, box, is_png, truth, right, classes = data["photos"][0]
    assert (width, height, box, is_png, truth, right) == (60, 40, [10, 0, 50, 40], 1, None, None)
    ((class_index, label, _, _, rank, maps),) = classes
    assert (class_index, data["labels"][label], rank) == (2, "class 2", None)
    # The gradient is 1 in the hot block, and 0 elsewhere; summed over channels it is 0.5 - 0.25 + 1.
    method, low, high, signed_high, _ = maps[0]
    assert (method, low, high, signed_high) == (0, 0, 1, 1.25)
    hot = np.zeros((SIZE, SIZE))
    hot[HOT_ROWS, HOT_COLUMNS] = 1
    saliency = np.asarray(Image.open(cli.folder / "page/pictures/0/0-0-0.png"))
    signed = np.asarray(Image.open(cli.folder / "page/pictures/0/0-0-0-signed.png"))
    np.testing.assert_array_equal(saliency, 255 * hot)
    np.testing.assert_array_equal(signed, 128 + 127 * hot)


def test_no_path_and_no_token_is_in_the_page(cli: Cli, photos: Path, tmp_path: Path) -> None:
    (cli.folder / "token").write_text("secret-token")
    run = cli(
        "gallery", photos, cli.folder / "photos/../photos/sky.png", "--token-file", cli.folder / "token",
        "--metadata", "x-key=secret-value", *METHODS, "-o", cli.folder / "page",
    )  # fmt: skip
    assert run.code == 0, run.err
    for path in (cli.folder / "page").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(tmp_path).encode() not in content
            assert b"secret" not in content


def test_the_command_of_the_page_makes_the_same_maps(cli: Cli, photos: Path, server: ScriptedServer) -> None:
    """The words of the page, with photo, methods and class as gallery.js puts them."""
    run = cli("gallery", "photos", *METHODS, "--num-samples", 3, "--param", "seed=7", "-o", "page")
    assert run.code == 0, run.err
    data = index(cli.folder / "page/index.html")
    words = ["explain", data["photos"][0][1] or data["photos"][0][0], *data["about"]["command"]]
    words += ["--method", "gradients,smooth", "--class-index", "2", "--format", "npz", "-o", "again.npz"]
    assert shlex.split(shlex.join(words)) == words
    again = cli(*words)
    assert again.code == 0, again.err
    with np.load(cli.folder / "again.npz") as arrays:
        assert arrays["gradients/saliency"].max() == 1


CERTIFICATES = Path(__file__).parents[1] / "client" / "certificates"


def test_the_command_of_the_page_has_what_reaches_the_server_and_decides_the_maps(
    cli: Cli, photos: Path, server: ScriptedServer
) -> None:
    """With TLS both ways; files as they were typed from here, and none of what is in them."""
    for name in ("ca.pem", "client.pem", "client.key"):
        (cli.folder / name).write_bytes((CERTIFICATES / name).read_bytes())
    (cli.folder / "names.txt").write_text("".join(f"name {number}\n" for number in range(4)))
    (cli.folder / "token").write_text("secret-token")
    key, chain, root = ((CERTIFICATES / one).read_bytes() for one in ("server.key", "server.pem", "ca.pem"))
    credentials = grpc.ssl_server_credentials([(key, chain)], root, require_client_auth=True)
    with serving(known_model(), credentials=credentials) as secured:
        options = {
            "--server": secured.target, "--ca": "ca.pem", "--cert": "client.pem", "--key": "client.key",
            "--server-name": "serving.test", "--token-file": "token", "--timeout": "90.5",
            "--max-pixels": "3000", "--resize": "pad", "--clip": "95.25", "--num-samples": "3",
            "--labels": "names.txt",
        }  # fmt: skip
        given = [word for pair in options.items() for word in pair]
        run = cli("gallery", "photos", *METHODS, *given, "--metadata", "x-key=secret-value", "-o", "page")
        assert run.code == 0, run.err
        data = index(cli.folder / "page/index.html")
        words = data["about"]["command"]
        found = dict(zip(words[::2], words[1::2], strict=True))
        assert found == {**options, "--model": "linear"}
        assert data["about"]["left_out"] == ["--metadata"]
        assert data["version"] == 1
        words = ["explain", data["photos"][0][1], *words, "--version", "1", "--method", "smooth"]
        again = cli(*words, "--json", SALIENCY_SERVER="", SALIENCY_MODEL="")
        assert again.code == 0, again.err
        assert (again.record["version"], again.record["class_index"]) == (1, 2)


def test_a_server_that_is_a_file_of_the_machine_is_left_out_of_the_page(
    cli: Cli, photos: Path, tmp_path: Path
) -> None:
    address = f"unix:{tmp_path}/serving.sock"
    with serving(known_model(), address=address):
        run = cli("gallery", "photos", *METHODS, "--server", address, "-o", "page")
    assert run.code == 0, run.err
    about = index(cli.folder / "page/index.html")["about"]
    assert about["command"] == ["--model", "linear"]
    assert about["left_out"] == ["--server"]
    assert str(tmp_path) not in (cli.folder / "page/index.html").read_text()


def test_of_files_the_command_has_what_they_were_made_with(cli: Cli, photos: Path) -> None:
    made = cli(
        "explain", "photos", "--method", "smooth", "--num-samples", 4, "--resize", "stretch",
        "--format", "npz", "--format", "png", "--json", "-o", "maps/",
    )  # fmt: skip
    (cli.folder / "maps.jsonl").write_text(made.out)
    run = cli("gallery", "--from", "maps.jsonl", "--clip", 90, "-o", "page")
    assert run.code == 0, run.err
    data = index(cli.folder / "page/index.html")
    words = data["about"]["command"]
    known = dict(zip(words[::2], words[1::2], strict=True))
    assert known.items() >= {
        "--model": "linear", "--resize": "stretch", "--clip": "90", "--num-samples": "4",
    }.items()  # fmt: skip
    assert (data["about"]["left_out"], data["version"]) == (["--server"], 1)


def test_truth_says_what_is_right(cli: Cli, photos: Path) -> None:
    (cli.folder / "truth.csv").write_text("image,label\nblue.png,2\nred.png,class 3\n")
    run = cli("gallery", "photos", *METHODS, "--truth", "truth.csv", "-o", "page")
    assert run.code == 0, run.err
    assert "does not name 1 of 3 photos" in run.err
    found = {photo[0]: (photo[6], photo[7]) for photo in index(cli.folder / "page/index.html")["photos"]}
    assert found == {"blue.png": ("2", 1), "red.png": ("class 3", 0), "sky.png": (None, None)}


def test_several_classes_have_maps_of_their_own(cli: Cli, photos: Path) -> None:
    run = cli("gallery", "photos/blue.png", *METHODS, "--top", 2, "-o", "page")
    assert run.code == 0, run.err
    (photo,) = index(cli.folder / "page/index.html")["photos"]
    assert (photo[8][0][0], photo[8][0][4]) == (2, 1)
    assert len(photo[8]) == 2
    assert {"pictures/0/0-1-0.png", "pictures/0/0-1-1-signed.png"} <= {
        str(path.relative_to(cli.folder / "page")) for path in (cli.folder / "page").rglob("*.png")
    }


@pytest.mark.parametrize("formats", [("npz",), ("png", "npy")])
def test_files_of_explain_make_the_page_that_a_server_makes(
    cli: Cli, photos: Path, server: ScriptedServer, formats: tuple[str, ...]
) -> None:
    wanted = [word for name in formats for word in ("--format", name)]
    made = [
        cli("explain", "photos", "--method", method, *wanted, "--json", "-o", "maps/")
        for method in ("gradients", "smooth")
    ]
    assert [run.code for run in made] == [0, 0]
    (cli.folder / "maps.jsonl").write_text("".join(run.out for run in made))
    asked = len(server.requests)
    run = cli("gallery", "--from", "maps.jsonl", "-o", "from-files")
    assert run.code == 0, run.err
    assert len(server.requests) == asked
    assert cli("gallery", "photos", *METHODS, "-o", "served").code == 0
    from_files, served = (index(cli.folder / name / "index.html") for name in ("from-files", "served"))
    for one, other in zip(from_files["photos"], served["photos"], strict=True):
        assert one[2:6] == other[2:6]
        for (*known, maps), (*wanted_facts, wanted_maps) in zip(one[8], other[8], strict=True):
            assert known == wanted_facts
            # An npy holds the map that was drawn, and none with signs.
            assert [each[:3] for each in maps] == [each[:3] for each in wanted_maps]
            assert [each[3] for each in maps] == (
                [each[3] for each in wanted_maps] if formats == ("npz",) else [None, None]
            )
    picture = "pictures/0/0-0-0.png"
    assert (cli.folder / "from-files" / picture).read_bytes() == (
        cli.folder / "served" / picture
    ).read_bytes()


def test_what_an_evaluation_measured_is_shown(cli: Cli, photos: Path) -> None:
    run = cli("evaluate", "photos", "--methods", "gradients", "--measures", "sparseness", "-o", "report")
    assert run.code == 0, run.err
    assert cli("gallery", "photos", *METHODS, "--evaluation", "report", "-o", "page").code == 0
    data = index(cli.folder / "page/index.html")
    place = data["numbers"].index("sparseness")
    gradients, smooth = data["photos"][0][8][0][5]
    # The Gini index of 16 equal values among 400: 1 - 16 / 400.
    assert gradients[4][place] == pytest.approx(1 - 16 / 400, abs=2e-3)
    assert smooth[4][place] is None


def test_a_photo_that_fails_is_told_and_the_others_are_shown(cli: Cli, photos: Path) -> None:
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    run = cli("gallery", "photos", *METHODS, "-o", "page")
    assert run.code == 1
    assert "broken.png" in run.err
    assert [photo[0] for photo in index(cli.folder / "page/index.html")["photos"]] == [
        "blue.png", "red.png", "sky.png",
    ]  # fmt: skip


def test_where_all_fail_there_is_no_page(cli: Cli, photos: Path, server: ScriptedServer) -> None:
    server.fail(grpc.StatusCode.INVALID_ARGUMENT, "no", times=20)
    run = cli("gallery", "photos", *METHODS, "-o", "page")
    assert run.code == 1
    assert not (cli.folder / "page").exists()
    assert [path.name for path in cli.folder.iterdir()] == ["photos"]


def test_a_gallery_is_replaced_on_demand_and_nothing_else_ever(cli: Cli, photos: Path) -> None:
    other = cli.folder / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    assert cli("gallery", "photos", *METHODS, "-o", "page").code == 0
    again = cli("gallery", "photos/red.png", *METHODS, "-o", "page")
    assert (again.code, "--overwrite" in again.err) == (1, True)
    assert len(index(cli.folder / "page/index.html")["photos"]) == 3
    assert cli("gallery", "photos/red.png", *METHODS, "-o", "page", "--overwrite").code == 0
    assert len(index(cli.folder / "page/index.html")["photos"]) == 1
    refused = cli("gallery", "photos", *METHODS, "-o", "other", "--overwrite")
    assert (refused.code, "something else in it" in refused.err) == (1, True)
    assert [path.name for path in other.iterdir()] == ["mine.txt"]


def test_pictures_of_a_gallery_are_no_photos_for_the_next(cli: Cli, photos: Path) -> None:
    assert cli("gallery", "photos", *METHODS, "-o", "photos/page").code == 0
    run = cli("gallery", "photos", "--recursive", *METHODS, "-o", "again", "--json")
    assert run.code == 0, run.err
    assert run.record["photos"] == 3


def test_one_file_holds_all(cli: Cli, photos: Path) -> None:
    run = cli("gallery", "photos", *METHODS, "--single-file", "-o", "all.html")
    assert run.code == 0, run.err
    text = (cli.folder / "all.html").read_text()
    assert text.count('<script type="text/plain"') == 3 * (2 + 4)
    assert not re.search(r'(src|href)="(?!#)', text)
    assert {path.name for path in cli.folder.iterdir()} == {"photos", "all.html"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("photos", "-o", "page.html"), "--single-file"),
        (("photos", "--single-file", "-o", "page"), "page.html"),
        (("-o", "page"), "--from"),
        (("photos", "--from", "maps.jsonl", "-o", "page"), "--from"),
        (("photos", "-o", ""), "-o is empty"),
        (("photos", "--methods", ",", "-o", "page"), "--methods"),
        (("photos", "--class", "2", "--top", "2", "-o", "page"), "--top"),
        (("photos", "--truth", "t.csv", "--class", "2", "-o", "page"), "--truth"),
        (("photos", "--param", "class_index=2", "-o", "page"), "--class"),
    ],
)
def test_options_that_do_not_go_together_are_named(
    cli: Cli, photos: Path, server: ScriptedServer, words: tuple[str, ...], said: str
) -> None:
    (cli.folder / "t.csv").write_text("blue.png,2\n")
    (cli.folder / "maps.jsonl").write_text("{}\n")
    run = cli("gallery", *words)
    assert run.code == 2, run.err
    assert said in run.err
    assert not server.requests
    assert not (cli.folder / "page").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no line"),
        ("blue.png\n", "line 1"),
        ("blue.png,2\nblue.png,1\n", "line 2"),
        ("other.png,2\n", "names none of the photos"),
        ("blue.png,4\n", "no such class of 4"),
        ("blue.png,tabby\n", "no such class of 4"),
        ('{"blue.png": [2]}', "which is no class"),
        ("{]", "no JSON"),
    ],
)
def test_a_truth_file_that_does_not_fit_is_refused_before_any_work(
    cli: Cli, photos: Path, server: ScriptedServer, text: str, said: str
) -> None:
    (cli.folder / "truth").write_text(text)
    run = cli("gallery", "photos", *METHODS, "--truth", "truth", "-o", "page")
    assert run.code == 1, run.err
    assert said in run.err
    assert "Traceback" not in run.err
    assert not (cli.folder / "page").exists()


def test_pictures_of_the_page_are_whole_files(cli: Cli, photos: Path) -> None:
    assert cli("gallery", "photos", *METHODS, "-o", "page").code == 0
    for path in (cli.folder / "page").rglob("*.png"):
        Image.open(io.BytesIO(path.read_bytes())).load()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_gallery_that_is_ended_leaves_nothing(
    cli: Cli,
    server: ScriptedServer,
    program: list[str],
    environment: dict[str, str],
    number: signal.Signals,
) -> None:
    (cli.folder / "in").mkdir()
    for name in range(12):
        Image.new("RGB", (20, 20), (0, 0, 20 * name)).save(cli.folder / "in" / f"{name}.png")
    held = threading.Event()

    def hold(*_: object) -> None:
        held.wait(30)

    server.script += [lambda *_: None, *[hold] * 20]
    command = [*program, "gallery", "in", "-M", "gradients", "-o", "page", "--batch-size", "1"]
    try:
        process = subprocess.Popen(
            command, cwd=cli.folder, env={**os.environ, **environment}, stderr=subprocess.DEVNULL
        )
        until(lambda: any(path.name.endswith(".part") for path in cli.folder.iterdir()), seconds=30)
        process.send_signal(number)
        assert process.wait(30) == 130
    finally:
        held.set()
    assert [path.name for path in cli.folder.iterdir()] == ["in"]
