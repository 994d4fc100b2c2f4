"""Inputs are found where people mean them; outputs never overwrite, collide, escape or stay half written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import grpc
import numpy as np
import pytest
import tifffile
from cli_harness import SIZE, Cli, known_model
from PIL import Image
from scripted_server import ScriptedServer

from saliency_client._files import write_whole
from saliency_client.cli import explain_run
from saliency_client.cli.errors import describe


def make_photos(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 24), "blue").save(path)


def images(cli: Cli, *arguments: object) -> list[str]:
    run = cli("explain", *arguments, "-o", "maps/", "--json")
    assert run.code == 0, run.err
    return [record["image"] for record in run.records]


def test_a_folder_gives_its_pictures_sorted_and_nothing_else(cli: Cli) -> None:
    make_photos(cli.folder, "in/b.png", "in/a.JPG", "in/.hidden.png", "in/sub/c.png")
    (cli.folder / "in" / "notes.txt").write_text("milk")
    assert images(cli, "in") == ["in/a.JPG", "in/b.png"]


def test_recursive_enters_subfolders_and_lays_results_out_the_same_way(cli: Cli) -> None:
    make_photos(cli.folder, "in/a.png", "in/x/a.png", "in/x/y/b.png", "in/.git/c.png")
    assert images(cli, "in", "--recursive") == ["in/a.png", "in/x/a.png", "in/x/y/b.png"]
    assert {name for name in cli.files() if name.startswith("maps")} == {
        "maps/a-gradients.png",
        "maps/x/a-gradients.png",
        "maps/x/y/b-gradients.png",
    }


def test_patterns_are_expanded_where_the_shell_did_not(cli: Cli) -> None:
    make_photos(cli.folder, "a1.png", "a2.png", "b1.png", "sub/a3.png")
    assert images(cli, "a*.png") == ["a1.png", "a2.png"]
    assert images(cli, "**/a3.png") == ["sub/a3.png"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(cli: Cli) -> None:
    make_photos(cli.folder, "a[1].png", "a1.png")
    assert images(cli, "a[1].png") == ["a[1].png"]


def test_an_image_named_twice_is_explained_once(cli: Cli, server: ScriptedServer) -> None:
    make_photos(cli.folder, "in/a.png")
    assert images(cli, "in/a.png", "in", "in/*.png") == ["in/a.png"]
    assert len(server.requests) == 1


def test_pictures_that_this_tool_made_are_not_explained_again(cli: Cli) -> None:
    make_photos(cli.folder, "in/a.png")
    for method in ("gradients", "smooth"):
        for format in ("png", "jpg"):
            assert cli("explain", "in", "-M", method, "-o", "in/", "-f", format).code == 0
    assert images(cli, "in") == ["in/a.png"]
    assert images(cli, "in/*.*g", "-M", "smooth") == ["in/a.png"]
    (cli.folder / "in" / "a.png").unlink()
    for where in ("in", "in/*.png"):
        run = cli("explain", where)
        assert run.code == 1
        assert "pictures that saliency-client made are passed over" in run.err


def test_no_images_is_an_error(cli: Cli) -> None:
    (cli.folder / "empty").mkdir()
    run = cli("explain", "empty")
    assert (run.code, "empty has no images" in run.err) == (1, True)
    assert "--recursive" in run.err
    run = cli("explain", "nothing-*.png")
    assert (run.code, "nothing-*.png matches no image" in run.err) == (1, True)


def test_a_file_named_like_a_url_is_a_file(cli: Cli) -> None:
    make_photos(cli.folder, "data:x.png", "data:y,z.png")
    assert images(cli, "data:x.png", "data:y,z.png") == ["data:x.png", "data:y,z.png"]
    assert "data:gone.jpg does not exist" in cli("explain", "data:gone.jpg", "-o", "maps/").err


def test_heic_pictures_of_a_folder_are_not_left_out_in_silence(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    make_photos(cli.folder, "roll/IMG_1.png")
    (cli.folder / "roll" / "IMG_2.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 40)
    run = cli("explain", "roll", "-o", "maps/")
    assert run.code == 1
    assert "IMG_2.HEIC is a HEIC picture, and pillow-heif, which reads these, is not installed" in run.err
    assert "pip install pillow-heif" in run.err
    assert "maps/IMG_1-gradients.png" in cli.files()


@pytest.mark.parametrize(
    ("url", "step"),
    [
        ("https://example.org/cat.jpg", "curl -sSfL 'https://example.org/cat.jpg' |"),
        ("file:///tmp/cat.jpg", "curl -sSfL 'file:///tmp/cat.jpg' |"),
        ("s3://bucket/cat.jpg", "aws s3 cp 's3://bucket/cat.jpg' - |"),  # curl knows neither these
        ("data:image/png;base64,AA==", "`echo … | base64 -d | saliency-client … -`"),
        ("DATA:,AA", "`echo … | base64 -d | saliency-client … -`"),
    ],
)
def test_urls_are_refused_with_the_next_step(cli: Cli, url: str, step: str) -> None:
    run = cli("explain", url)
    assert run.code == 2
    assert f"error: {url} is a URL" in run.err
    assert f"hint: {step}" in run.err


def test_an_empty_name_is_a_usage_error(cli: Cli) -> None:
    run = cli("explain", "")
    assert (run.code, "an image's name is empty" in run.err) == (2, True)
    run = cli("explain", "cat.png", "-o", "")
    assert (run.code, "-o is empty" in run.err) == (2, True)


def test_a_device_is_no_place_for_files(cli: Cli, photo: Path) -> None:
    run = cli("explain", photo.name, "-o", "/dev/null")
    assert run.code == 2
    assert "-o /dev/null is neither a folder nor a file" in run.err
    assert "hint: -o - writes one file to stdout" in run.err


def test_stdin_cannot_be_read_twice(cli: Cli) -> None:
    run = cli("explain", "-", "-", stdin=b"x")
    assert (run.code, "given twice" in run.err) == (2, True)
    run = cli("explain", "-", stdin=b"")
    assert (run.code, "stdin is empty" in run.err) == (1, True)


def test_a_file_is_never_overwritten_unasked(cli: Cli, photo: Path, server: ScriptedServer) -> None:
    target = cli.folder / "cat-gradients.png"
    target.write_text("precious")
    run = cli("explain", photo)
    assert run.code == 1
    assert "error: cat-gradients.png exists" in run.err
    assert "--overwrite" in run.err
    assert target.read_text() == "precious"
    assert not server.requests  # found before any work
    assert cli("explain", photo, "--overwrite").code == 0
    assert Image.open(target).size == (60, 40)


def test_one_existing_file_of_many_is_found_before_any_work(cli: Cli, server: ScriptedServer) -> None:
    make_photos(cli.folder, *(f"in/{number}.png" for number in range(5)))
    (cli.folder / "3-gradients.npy").touch()
    (cli.folder / "4-gradients.png").touch()
    run = cli("explain", "in", "-f", "png", "-f", "npy")
    assert "3-gradients.npy exists, and 1 more" in run.err
    assert not server.requests


def test_a_batch_is_resumed_by_skipping_what_is_done(cli: Cli, server: ScriptedServer) -> None:
    make_photos(cli.folder, "in/a.png", "in/b.png", "in/c.png")
    assert cli("explain", "in/a.png", "-o", "maps/").code == 0
    server.requests.clear()
    run = cli("explain", "in", "-o", "maps/", "--skip-existing", "--json")
    assert run.code == 0
    assert [(record["image"], record["status"]) for record in run.records] == [
        ("in/a.png", "skipped"),
        ("in/b.png", "ok"),
        ("in/c.png", "ok"),
    ]
    assert run.records[0] == {
        "image": "in/a.png",
        "status": "skipped",
        "file": "maps/a-gradients.png",
        "files": ["maps/a-gradients.png"],
    }
    assert len(server.requests) == 2
    assert "2 explained, 1 skipped" in run.err


def test_a_batch_that_is_done_needs_no_server(cli: Cli, photo: Path) -> None:
    for rank in (1, 2):
        (cli.folder / f"cat-gradients-top{rank}.png").write_bytes(b"anything")
    run = cli("explain", photo, "--top", 2, "--skip-existing", "--server", "127.0.0.1:1", "--json")
    assert run.code == 0, run.err
    assert run.record["files"] == ["cat-gradients-top1.png", "cat-gradients-top2.png"]


def test_an_image_with_some_of_its_files_is_not_done(cli: Cli, photo: Path) -> None:
    (cli.folder / "cat-gradients.npy").write_text("kept")
    run = cli("explain", photo, "-f", "png", "-f", "npy", "--skip-existing", "--json")
    assert run.code == 0, run.err
    assert run.record["status"] == "ok"
    assert (cli.folder / "cat-gradients.png").exists()
    assert (cli.folder / "cat-gradients.npy").read_text() == "kept"


def test_names_that_differ_in_their_suffix_alone_stay_apart(cli: Cli) -> None:
    make_photos(cli.folder, "in/cat.png", "in/cat.jpg", "in/dog.png")
    assert cli("explain", "in", "-o", "maps/").code == 0
    assert {name for name in cli.files() if name.startswith("maps")} == {
        "maps/cat-png-gradients.png",
        "maps/cat-jpg-gradients.png",
        "maps/dog-gradients.png",
    }


def maps(cli: Cli) -> set[str]:
    return {name.removeprefix("maps/") for name in cli.files() if name.startswith("maps/")}


@pytest.mark.parametrize("arguments", [["x", "y"], ["x/cat.png", "y/cat.png", "y/dog.png"], ["*/*.png"]])
def test_equal_names_of_two_folders_keep_their_folders(cli: Cli, arguments: list[str]) -> None:
    make_photos(cli.folder, "x/cat.png", "y/cat.png", "y/dog.png")
    run = cli("explain", *arguments, "-o", "maps/")
    assert run.code == 0, run.err
    assert maps(cli) == {"x/cat-gradients.png", "y/cat-gradients.png", "y/dog-gradients.png"}


def test_different_names_of_two_folders_lie_side_by_side(cli: Cli) -> None:
    make_photos(cli.folder, "x/cat.png", "y/dog.png")
    assert cli("explain", "x", "y", "-o", "maps/").code == 0
    assert maps(cli) == {"cat-gradients.png", "dog-gradients.png"}


def test_names_that_some_disk_takes_for_one_are_told_apart(cli: Cli) -> None:
    """Upper and lower case, and the two ways to write an accent; what the suffix tells apart gets it."""
    make_photos(cli.folder, "in/IMG_1.png", "in/img_1.png", "in/\u00e9.png", "in/e\u0301.png")
    make_photos(cli.folder, "in/a.png", "in/a.jpg", "in/a-png.gif")
    run = cli("explain", "in", "-o", "maps/")
    assert run.code == 0, run.err
    names = [unicodedata.normalize("NFC", name).casefold() for name in maps(cli)]
    assert len(set(names)) == 7
    assert {"IMG_1-gradients.png", "img_1-2-gradients.png", "a-jpg-gradients.png"} <= maps(cli)


def test_a_file_that_is_reached_by_two_ways_is_explained_once(cli: Cli, server: ScriptedServer) -> None:
    make_photos(cli.folder, "in/a.png")
    (cli.folder / "also").symlink_to("in")
    assert images(cli, "in/a.png", "./in/a.png", "also/a.png", "also") == ["in/a.png"]


def test_a_name_whose_result_does_not_fit_fails_alone_before_and_after_a_resume(
    cli: Cli, server: ScriptedServer
) -> None:
    long = "a" * 250 + ".png"
    make_photos(cli.folder, "in/short.png", f"in/{long}")
    for options in ([], ["--skip-existing"]):
        server.requests.clear()
        run = cli("explain", "in", "-o", "maps/", *options)
        assert run.code == 1
        assert "cannot be written: File name too long" in run.err
        assert run.err.count("error:") == 1
        assert maps(cli) == {"short-gradients.png"}
        assert len(server.requests) == (0 if options else 1)


@pytest.mark.parametrize("stem", ["\u6771" * 78, "\u6771" * 80 + "a", "a" * 241])
def test_a_name_whose_result_just_fits_is_explained(cli: Cli, stem: str) -> None:
    """File systems bound names by bytes: "-gradients.png" takes 14 of 255."""
    make_photos(cli.folder, f"in/{stem}.png")
    assert cli("explain", "in", "-o", "maps/").code == 0
    assert maps(cli) == {f"{stem}-gradients.png"}


def test_a_folder_in_the_way_fails_its_images_alone(cli: Cli) -> None:
    make_photos(cli.folder, "in/a.png", "in/x/b.png")
    (cli.folder / "maps").mkdir()
    (cli.folder / "maps" / "x").touch()
    run = cli("explain", "in", "-r", "-o", "maps/")
    assert run.code == 1
    assert "in/x/b.png: folder maps/x cannot be made" in run.err
    assert maps(cli) == {"x", "a-gradients.png"}


def test_linked_folders_are_entered_once_and_loops_noticed(cli: Cli, tmp_path: Path) -> None:
    make_photos(tmp_path, "store/cats/1.png", "store/cats/more/2.png")
    make_photos(cli.folder, "in/dogs/3.png")
    (cli.folder / "in" / "cats").symlink_to(tmp_path / "store" / "cats")
    (cli.folder / "in" / "again").symlink_to("dogs")
    (tmp_path / "store" / "cats" / "up").symlink_to(cli.folder / "in")
    run = cli("explain", "in", "-r", "-o", "maps/", "--json")
    assert run.code == 0, run.err
    assert [record["image"] for record in run.records] == [
        "in/cats/1.png",
        "in/cats/more/2.png",
        "in/dogs/3.png",
    ]
    assert maps(cli) == {
        "cats/1-gradients.png",
        "cats/more/2-gradients.png",
        "dogs/3-gradients.png",
    }
    assert "note: left out 2, such as in/again: it leads to a folder that is read already" in run.err


@pytest.mark.parametrize("recursive", [[], ["-r"]])
def test_a_link_that_leads_nowhere_is_a_failure(cli: Cli, recursive: list[str]) -> None:
    make_photos(cli.folder, "in/a.png")
    (cli.folder / "in" / "b.png").symlink_to("gone.png")
    (cli.folder / "in" / "unmounted").symlink_to(cli.folder / "gone")
    run = cli("explain", "in", *recursive, "-o", "maps/")
    assert run.code == 1
    assert "in/b.png is a link to gone.png, which cannot be read" in run.err
    assert ("in/unmounted is a link to" in run.err) == bool(recursive)
    assert maps(cli) == {"a-gradients.png"}


def test_a_folder_that_cannot_be_read_is_a_failure(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read every folder, so that the system's answer is put in its place here."""
    make_photos(cli.folder, "in/a/1.png", "in/b/2.png")
    scandir = os.scandir

    def refusing(path: str | Path) -> object:
        if Path(path) == Path("in/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    run = cli("explain", "in", "-r", "-o", "maps/", "--json")
    assert run.code == 1
    assert [record["status"] for record in run.records] == ["failed", "ok"]
    assert "error: in/b cannot be read: Permission denied" in run.err
    assert "1 explained, 1 failed" in run.err
    run = cli("explain", "in/b", "-o", "maps/")
    assert (run.code, "in/b cannot be read: Permission denied" in run.err) == (1, True)


@pytest.mark.parametrize("where", ["in", "in/*.png"])
def test_a_named_pipe_is_left_out_with_a_note(cli: Cli, where: str) -> None:
    make_photos(cli.folder, "in/a.png")
    os.mkfifo(cli.folder / "in" / "cam.png")
    run = cli("explain", where, "-o", "maps/")
    assert run.code == 0
    assert "note: left out in/cam.png: it is a named pipe" in run.err
    assert maps(cli) == {"a-gradients.png"}


def test_what_a_folder_has_beside_its_pictures_is_counted(cli: Cli) -> None:
    make_photos(cli.folder, "in/a.png", "in/sub/b.png", "in/sub/deep/c.png")
    (cli.folder / "in" / "raw.NEF").write_bytes(b"II*\0")
    (cli.folder / "in" / "bare").write_bytes((cli.folder / "in" / "a.png").read_bytes())
    (cli.folder / "in" / "empty").mkdir()
    run = cli("explain", "in", "-o", "maps/")
    assert run.code == 0, run.err
    assert "note: left out in/raw.NEF: pictures of this kind are not read" in run.err
    assert "note: left out in/sub: it is a subfolder with pictures" in run.err
    assert run.err.count("note:") == 2
    assert maps(cli) == {"a-gradients.png", "bare-gradients.png"}


def test_a_folder_gives_every_picture_that_is_read_by_its_suffix_or_its_beginning(cli: Cli) -> None:
    (cli.folder / "in").mkdir()
    picture = Image.new("RGB", (30, 24), "teal")
    for name, format in (("a.mpo", "JPEG"), ("b.apng", "PNG"), ("c.j2k", "JPEG2000"), ("d.jfif", "JPEG")):
        picture.save(cli.folder / "in" / name, format)
    for name, format in (("webp", "WEBP"), ("jp2", "JPEG2000"), ("gif", "GIF")):
        picture.save(cli.folder / "in" / name, format)
    run = cli("explain", "in", "-o", "maps/", "-q")
    assert run.code == 0, run.err
    assert {name.partition("-")[0] for name in maps(cli)} == {*"abcd", "webp", "jp2", "gif"}


def test_pillows_log_stays_off_the_terminal(cli: Cli, program: list[str]) -> None:
    tifffile.imwrite(cli.folder / "bands.tif", np.zeros((4, 5, 13), np.uint8), planarconfig="contig")
    done = subprocess.run(
        [*program, "explain", "bands.tif"],
        cwd=cli.folder,
        env={**os.environ, **cli.environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: bands.tif has 13 bands")


def test_a_current_folder_that_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(FileNotFoundError) as caught:
        os.getcwd()
    assert describe(caught.value)[0] == "the current folder does not exist any more"


def test_a_photo_that_speaks_of_this_tool_is_a_photo(cli: Cli) -> None:
    (cli.folder / "in").mkdir()
    picture, exif = Image.new("RGB", (24, 24), "blue"), Image.Exif()
    exif[0x010E] = exif[0x0131] = "saliency-client 1.0"  # ImageDescription, Software
    picture.save(cli.folder / "in" / "a.jpg", exif=exif, comment=b"as saliency-client shows")
    picture.save(cli.folder / "in" / "b.png", exif=exif)
    assert images(cli, "in") == ["in/a.jpg", "in/b.png"]
    run = cli("explain", "maps", "-o", "again/")
    assert run.code == 1
    assert "note: left out" not in run.err, "the error says it"


def save_array(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    np.save(path, array)


@pytest.mark.parametrize("command", ["explain", "predict"])
def test_a_folder_of_arrays_is_for_a_model_of_floats(cli: Cli, server: ScriptedServer, command: str) -> None:
    server.model = known_model("float32")
    make_photos(cli.folder, "in/photo.png")
    for name in ("a", "b"):
        save_array(cli.folder / "in" / f"{name}.npy", np.ones((SIZE, SIZE, 3), np.float32))
    save_array(cli.folder / "in" / "wrong.npy", np.ones((5, 5, 3), np.float32))
    save_array(cli.folder / "in" / "map.npy", np.ones((SIZE, SIZE), np.float32))
    out = ["-o", "maps/"] if command == "explain" else []
    run = cli(command, "in", *out, "--json")
    assert run.code == 1
    assert [(record["image"], record["status"]) for record in run.records] == [
        ("in/a.npy", "ok"),
        ("in/b.npy", "ok"),
        ("in/wrong.npy", "failed"),
    ]
    assert "note: left out in/photo.png: the model takes arrays (.npy), not photos" in run.err
    assert "note: left out in/map.npy: saliency-client made it" in run.err


def test_arrays_among_photos_are_for_a_model_of_photos_where_they_fit(cli: Cli) -> None:
    make_photos(cli.folder, "in/a.png")
    save_array(cli.folder / "in" / "a.npy", np.zeros(7, np.float32))
    save_array(cli.folder / "in" / "b.npy", np.zeros((SIZE, SIZE, 3), np.uint8))
    run = cli("explain", "in", "-o", "maps/")
    assert run.code == 0, run.err
    assert maps(cli) == {"a-gradients.png", "b-gradients.png"}
    assert "note: left out in/a.npy: it is no input of the model" in run.err


def rows(server: ScriptedServer) -> list[int]:
    """How many images each explain request had."""
    return [
        request.inputs["images"].tensor_shape.dim[0].size
        for request in server.requests
        if request.model_spec.signature_name.startswith("explain")
    ]


@pytest.mark.parametrize(
    ("options", "images", "batches"),
    [
        (["--concurrency", 1], 20, [8, 8, 4]),
        (["--concurrency", 1, "--batch-size", 3], 7, [3, 3, 1]),
        (["--concurrency", 4], 4, [1, 1, 1, 1]),
        (["--concurrency", 2], 12, [4, 4, 4]),
        (["--concurrency", 1, "--top", 3], 5, [8, 4, 3]),
    ],
)
def test_images_go_together_and_each_gets_its_own_answer(
    cli: Cli, server: ScriptedServer, options: list[object], images: int, batches: list[int]
) -> None:
    """Of any size; the maps are those that each gets alone."""
    (cli.folder / "in").mkdir()
    generator = np.random.default_rng(0)
    for number in range(images):
        size = generator.integers(20, 60, 2)
        pixels = np.zeros((*size, 3), np.uint8)
        pixels[..., number % 3] = 255  # each class of three has its images
        Image.fromarray(pixels).save(cli.folder / "in" / f"{number:02}.png")
    run = cli("explain", "in", "-o", "maps/", "-f", "png", "-f", "npz", "--json", *options)
    assert run.code == 0, run.err
    assert sorted(rows(server)) == sorted(batches)
    server.requests.clear()
    alone = [
        cli("explain", f"in/{n:02}.png", "-o", "alone/", "-f", "npz", "--json", *options).records
        for n in range(images)
    ]
    assert [[r[k] for k in ("image", "class_index", "score", "rank")] for r in run.records] == [
        [r[k] for k in ("image", "class_index", "score", "rank")] for records in alone for r in records
    ]
    for path in (cli.folder / "alone").iterdir():
        with np.load(path) as one, np.load(cli.folder / "maps" / path.name) as among:
            assert set(one) == set(among)
            for name in one:
                np.testing.assert_array_equal(one[name], among[name])


def test_one_that_is_refused_fails_alone_in_its_batch(cli: Cli, server: ScriptedServer) -> None:
    make_photos(cli.folder, *(f"in/{number}.png" for number in range(8)))
    server.most_rows = 2  # as a server's batching may bound them
    assert cli("explain", "in", "-o", "maps/", "--concurrency", 1).code == 0
    assert len(maps(cli)) == 8


def test_a_batch_of_n_has_n_times_the_time(cli: Cli, server: ScriptedServer) -> None:
    make_photos(cli.folder, *(f"in/{number}.png" for number in range(8)))
    server.script.append(lambda *_: time.sleep(0.6))
    assert cli("explain", "in", "-o", "maps/", "--concurrency", 1, "--timeout", 0.3).code == 0


def test_a_picture_of_another_name_is_counted_and_a_text_is_none(cli: Cli) -> None:
    make_photos(cli.folder, "in/a.png")
    picture = (cli.folder / "in" / "a.png").read_bytes()
    for name in ("b.png~", "c.jpg_original", "photo.jpg?width=600"):
        (cli.folder / "in" / name).write_bytes(picture)
    Image.new("RGB", (30, 24), "teal").save(cli.folder / "in" / "bitmap", "BMP")
    (cli.folder / "in" / "README").write_bytes(b"BMP and other files lie here")
    (cli.folder / "in" / "notes.txt").write_bytes(b"BMP and other files lie here")
    run = cli("explain", "in", "-o", "maps/")
    assert run.code == 0, run.err
    assert "note: left out 3, such as in/b.png~: it begins as a picture and is not named as one" in run.err
    assert run.err.count("note:") == 1
    assert maps(cli) == {"a-gradients.png", "bitmap-gradients.png"}
    run = cli("explain", "in/photo.jpg?width=600", "-o", "named.png", "-q")  # as the note says
    assert run.code == 0, run.err


def refuse(code: grpc.StatusCode) -> object:
    def answer(request: object, context: grpc.ServicerContext) -> None:
        context.abort(code, "gone")

    return answer


@pytest.mark.parametrize("mode", [[], ["--json"]])
def test_a_server_that_goes_away_ends_the_run_with_one_sentence(
    cli: Cli, server: ScriptedServer, mode: list[str]
) -> None:
    make_photos(cli.folder, *(f"in/{number:02}.png" for number in range(40)))
    server.script += [lambda *_: None] * 2 + [refuse(grpc.StatusCode.PERMISSION_DENIED)] * 100
    options = ["-o", "maps/", "--concurrency", 1, "--batch-size", 4]
    run = cli("explain", "in", *options, *mode)
    assert run.code == 1
    assert run.err.count("error:") == 1
    assert "error: in/08.png and 11 others: " in run.err
    assert "8 explained, 12 failed, 20 not tried" in run.err
    assert "--skip-existing" in run.err
    if mode:
        assert [record["status"] for record in run.records] == ["ok"] * 8 + ["failed"] * 12
    server.script.clear()
    run = cli("explain", "in", *options, "--skip-existing")
    assert run.code == 0, run.err
    assert "32 explained, 8 skipped" in run.err
    assert len(maps(cli)) == 40


def test_a_few_failures_of_a_server_that_goes_on_end_nothing(cli: Cli, server: ScriptedServer) -> None:
    make_photos(cli.folder, *(f"in/{number:02}.png" for number in range(12)))
    server.script += [refuse(grpc.StatusCode.PERMISSION_DENIED), lambda *_: None] * 3
    run = cli("explain", "in", "-o", "maps/", "--concurrency", 1, "--batch-size", 1)
    assert run.code == 1
    assert run.err.count("error:") == 3
    assert "9 explained, 3 failed" in run.err


def test_wait_waits_for_a_server_that_comes_back(cli: Cli, server: ScriptedServer) -> None:
    make_photos(cli.folder, "in/a.png", "in/b.png")
    # More than the client's own retries.
    server.script += [refuse(grpc.StatusCode.UNAVAILABLE)] * 6
    run = cli("explain", "in", "-o", "maps/", "--concurrency", 1, "--wait", 30)
    assert run.code == 0, run.err
    assert maps(cli) == {"a-gradients.png", "b-gradients.png"}


@pytest.mark.parametrize("format", ["png", "jpg", "npz"])
def test_what_was_made_with_something_else_is_made_anew(
    cli: Cli, photo: Path, server: ScriptedServer, format: str
) -> None:
    def again(*options: object) -> str:
        run = cli("explain", photo, "-M", "smooth", "-f", format, "--skip-existing", "--json", *options)
        assert run.code == 0, run.err
        return run.record["status"]

    assert again("--num-samples", 16) == "ok"
    assert again("--num-samples", 16) == "skipped"
    assert again("--num-samples", 32) == "ok"
    assert again("--num-samples", 32) == "skipped"
    assert again("--num-samples", 32, "--resize", "stretch") == "ok"
    server.model.version = 2
    server.statuses = [(2, *server.statuses[0][1:])]
    try:
        assert again("--num-samples", 32, "--resize", "stretch") == "ok"
        assert again("--num-samples", 32, "--resize", "stretch") == "skipped"
    finally:
        server.statuses = [(1, *server.statuses[0][1:])]


@pytest.mark.parametrize("format", ["png", "jpg", "npz"])
def test_what_was_made_of_another_photo_of_the_same_name_is_made_anew(
    cli: Cli, photo: Path, format: str
) -> None:
    def again() -> tuple[str, str]:
        run = cli("explain", photo, "-f", format, "--skip-existing", "--json")
        assert run.code == 0, run.err
        return run.record["status"], run.err

    first = photo.read_bytes()
    assert again()[0] == "ok"
    os.utime(photo)  # as after a clone: newer, and the same
    assert again()[0] == "skipped"
    other = bytearray(first)
    other[-1] ^= 1  # of the same size, behind the picture's data
    photo.write_bytes(other)
    later = time.time() + 5
    os.utime(photo, (later, later))
    status, err = again()
    assert (status, "of another image" in err) == ("ok", True)
    photo.write_bytes(first + b"more")
    os.utime(photo, (0, 0))  # another size is another photo, however old
    assert again()[0] == "ok"
    assert again()[0] == "skipped"


@pytest.mark.parametrize("format", ["png", "npy"])
def test_an_empty_file_is_no_result(cli: Cli, photo: Path, format: str) -> None:
    result = cli.folder / f"cat-gradients.{format}"
    result.write_bytes(b"")

    run = cli("explain", photo, "-f", format, "--skip-existing", "--json")

    assert run.record["status"] == "ok"
    assert f"{result.name} was made by" in run.err
    assert "or is empty; it is made anew" in run.err
    assert result.stat().st_size > 0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("more.zip", "archives are not entered"),
        ("more.tar", "`saliency-client job` reads a tar"),
        ("more.parquet", "`saliency-client job` reads the images in it"),
    ],
)
def test_files_of_many_pictures_in_a_folder_are_counted_with_what_reads_them(
    cli: Cli, name: str, says: str
) -> None:
    make_photos(cli.folder, "in/cat.png")
    (cli.folder / "in" / name).write_bytes(b"anything")

    run = cli("explain", "in", "-o", "maps/")

    assert run.code == 0
    assert f"left out in/{name}: " in run.err
    assert says in run.err


@pytest.mark.usefixtures("hasty")
def test_what_is_done_needs_no_server_where_the_files_say_enough(cli: Cli, photo: Path) -> None:
    assert cli("explain", photo).code == 0
    gone = ["--skip-existing", "--server", "127.0.0.1:1", "--json"]
    run = cli("explain", photo, *gone, "--version", 1)
    assert (run.code, run.record["status"], run.err) == (0, "skipped", "")
    run = cli("explain", photo, *gone)
    assert (run.code, run.record["status"]) == (0, "skipped")
    assert "note: the version of the files that are there is not compared: no server answers" in run.err


def test_two_runs_over_one_folder_do_not_fail_each_other(cli: Cli, server: ScriptedServer) -> None:
    make_photos(cli.folder, *(f"in/{number}.png" for number in range(6)))
    made: list[int] = []

    def meanwhile(*_: object) -> None:
        made.append(cli("explain", "in", "-o", "maps/", "--skip-existing").code)

    server.script.append(meanwhile)
    run = cli("explain", "in", "-o", "maps/", "--skip-existing", "--concurrency", 1, "--batch-size", 2)
    assert (run.code, made) == (0, [0]), run.err
    assert len(maps(cli)) == 6
    assert "2 explained, 4 skipped" in run.err


def test_the_photo_itself_is_never_the_output(cli: Cli, photo: Path) -> None:
    before = photo.read_bytes()
    run = cli("explain", photo, "-o", photo, "--overwrite")
    assert (run.code, "is one of the images" in run.err) == (1, True)
    (cli.folder / "link.png").symlink_to(photo)
    run = cli("explain", photo, "-o", "link.png", "--overwrite")
    assert (run.code, "is one of the images" in run.err) == (1, True)
    assert photo.read_bytes() == before


def test_one_of_the_photos_is_never_the_output_of_another(cli: Cli, photo: Path) -> None:
    make_photos(cli.folder, "cat-gradients.png")
    before = (cli.folder / "cat-gradients.png").read_bytes()
    run = cli("explain", photo, "cat-gradients.png", "--overwrite")
    assert (run.code, "is one of the images" in run.err) == (1, True)
    assert (cli.folder / "cat-gradients.png").read_bytes() == before


def test_a_file_that_comes_while_the_server_works_is_not_overwritten(
    cli: Cli, photo: Path, server: ScriptedServer
) -> None:
    target = cli.folder / "cat-gradients.png"
    server.script.append(lambda *_: target.write_text("precious") and None)
    run = cli("explain", photo)
    assert (run.code, "cat-gradients.png exists" in run.err) == (1, True)
    assert target.read_text() == "precious"


def test_results_do_not_leave_their_folder_through_a_link(cli: Cli, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    make_photos(cli.folder, "in/sub/a.png")
    (cli.folder / "maps").mkdir()
    (cli.folder / "maps" / "sub").symlink_to(elsewhere)
    run = cli("explain", "in", "-r", "-o", "maps")
    assert (run.code, "is outside maps" in run.err) == (1, True)
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("method", ["../../evil", "/etc/evil"])
def test_a_methods_name_cannot_lead_out_of_the_folder(cli: Cli, photo: Path, method: str) -> None:
    assert cli("explain", photo, "-M", method).code == 2
    assert cli.files() == {"cat.png"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "out.png", "cat.png", "dog.png"], "is one file, and there are 2"),
        (["-o", "out.png", "cat.png", "--top", "2"], "is one file, and there are 2"),
        (["-o", "out.png", "cat.png", "-f", "png", "-f", "npy"], "is one file, and there are 2"),
        (["-o", "out.bmp", "cat.png"], "files are png, jpg, npy or npz"),
        (["-o", "out.png", "cat.png", "-f", "npy"], "contradict"),
        (["-o", "-", "cat.png", "--top", "2"], "writes one file, and there are 2"),
        (["cat.png", "--overwrite", "--skip-existing"], "exclude one another"),
        (["cat.png", "--class", "1", "--top", "2"], "exclude one another"),
        (["cat.png", "--json", "-q"], "exclude one another"),
        (["cat.png", "--signed", "--style", "masked"], "--signed is for overlay, heatmap and outlines"),
        (["cat.png", "--opacity", "0.5", "--style", "heatmap"], "--opacity is for overlay"),
        (["cat.png", "--colormap", "infernal"], "no color map 'infernal'"),
        (
            ["cat.png", "--num-samples", "5"],
            "explain_gradients takes no num_samples; it takes class_index",
        ),
        (["cat.png", "--num-samples", "5"], "hint: num_samples is a parameter of smooth"),
        (["cat.png", "--class-index", "-2"], "-2 is not in the range x>=-1"),
        (["cat.png", "--opacity", "2"], "0<=x<=1"),
        (["cat.png", "--style", "cubist"], "'cubist'"),
        (["--json"], "Missing argument 'IMAGE...'"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_any_work(
    cli: Cli, photo: Path, server: ScriptedServer, options: list[str], message: str
) -> None:
    run = cli("explain", *options)
    assert run.code == 2
    assert message in run.err
    assert run.err.startswith("error: ")
    assert "hint: " in run.err
    assert run.out == ""
    assert not server.requests
    assert cli.files() == {"cat.png"}


def test_a_folder_that_cannot_be_made_is_said_before_any_work(
    cli: Cli, photo: Path, server: ScriptedServer
) -> None:
    (cli.folder / "file").touch()
    run = cli("explain", photo, "-o", "file/maps/")
    assert (run.code, "cannot be made: Not a directory" in run.err) == (1, True)
    assert not server.requests


def test_a_full_disk_leaves_no_half_of_a_file(
    cli: Cli, photo: Path, environment: dict[str, str], program: list[str]
) -> None:
    """A bound on the size of files stands for the disk: writing beyond it fails in the same way."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)).save(
        cli.folder / "noise.png"
    )
    done = subprocess.run(
        # 5 blocks of 512 bytes, or of 1024 in some shells.
        ["sh", "-c", 'ulimit -f 5; exec "$@"', "sh", *program, "explain", "noise.png", "-o", "maps/"],
        cwd=cli.folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "error: maps/noise-gradients.png cannot be written: File too large" in done.stderr
    assert list((cli.folder / "maps").iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_is_full_ends_the_run_with_one_sentence(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    make_photos(cli.folder, *(f"in/{number:02}.png" for number in range(40)))
    written = []

    def write(path: Path, write: object, *, overwrite: bool) -> None:
        written.append(path)
        if len(written) > 8:
            raise OSError(code, os.strerror(code))
        write_whole(path, write, overwrite=overwrite)

    monkeypatch.setattr(explain_run, "write_whole", write)
    options = ["-o", "maps/", "--concurrency", 1, "--batch-size", 4]
    run = cli("explain", "in", *options)
    assert run.code == 1
    assert run.err.count("error:") == 1
    assert (
        f"error: in/08.png and 11 others: maps/08-gradients.png cannot be written: {os.strerror(code)}"
        in (run.err)
    )
    assert "8 explained, 12 failed, 20 not tried" in run.err
    assert "--skip-existing goes on" in run.err
    monkeypatch.undo()
    run = cli("explain", "in", *options, "--skip-existing")
    assert "32 explained, 8 skipped" in run.err


def test_a_file_that_comes_while_one_is_written_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "map.png"

    def write(file: object) -> None:
        path.write_text("precious")
        file.write(b"new")

    with pytest.raises(FileExistsError):
        write_whole(path, write, overwrite=False)
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failing_writer_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    path.write_text("precious")

    def write(file: object) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, write, overwrite=True)
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_new_files_have_the_usual_permissions(tmp_path: Path) -> None:
    write_whole(tmp_path / "map.png", lambda file: file.write(b"x"), overwrite=False)
    (tmp_path / "plain").touch()
    assert (tmp_path / "map.png").stat().st_mode == (tmp_path / "plain").stat().st_mode
