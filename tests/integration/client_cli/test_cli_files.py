"""Inputs are found where people mean them; outputs never overwrite, collide, escape or stay half written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_harness import Cli
from PIL import Image
from scripted_server import ScriptedServer

from saliency_client._files import write_whole


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
    "url", ["https://example.org/cat.jpg", "s3://bucket/cat.jpg", "data:image/png;base64,AA=="]
)
def test_urls_are_refused_with_the_next_step(cli: Cli, url: str) -> None:
    run = cli("explain", url)
    assert run.code == 2
    assert f"error: {url} is a URL" in run.err
    assert "hint: curl" in run.err


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
        (cli.folder / f"cat-gradients-top{rank}.png").touch()
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


def test_two_images_for_one_file_are_refused_before_any_work(cli: Cli, server: ScriptedServer) -> None:
    make_photos(cli.folder, "x/cat.png", "y/cat.png")
    run = cli("explain", "x/cat.png", "y/cat.png")
    assert run.code == 1
    assert "x/cat.png and y/cat.png would both be written to" in run.err
    assert not server.requests


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
        (["-o", "out.png", "cat.png", "cat.png/../cat.png"], "is one file, and there are 2"),
        (["-o", "out.png", "cat.png", "--top", "2"], "is one file, and there are 2"),
        (["-o", "out.png", "cat.png", "-f", "png", "-f", "npy"], "is one file, and there are 2"),
        (["-o", "out.bmp", "cat.png"], "files are png, jpg, npy or npz"),
        (["-o", "out.png", "cat.png", "-f", "npy"], "contradict"),
        (["-o", "-", "cat.png", "--top", "2"], "writes one file, and there are 2"),
        (["cat.png", "--overwrite", "--skip-existing"], "exclude one another"),
        (["cat.png", "--class", "1", "--top", "2"], "exclude one another"),
        (["cat.png", "--json", "-q"], "exclude one another"),
        (["cat.png", "--signed", "--style", "masked"], "--signed is for overlay and heatmap"),
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
