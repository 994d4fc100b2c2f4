"""`saliency-client job`: whole data sets into Parquet, whatever happens meanwhile."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pyarrow
import pyarrow.dataset
import pyarrow.parquet
import pytest
from cli_harness import SIZE
from PIL import Image
from scripted_server import from_proto
from waiting import until

from saliency_client import SaliencyClient
from saliency_client.bulk import read_map
from saliency_client.images import load_image

QUEUE_FULL = "The batch scheduling queue to which this task was submitted is full; currently 10 enqueued"
JOB = ("-o", "maps", "--decoders", "0", "--batch-size", "2", "--shard-rows", "4")


def picture(number: int) -> bytes:
    """Blue, more or less, by its number; a photo of 30x20."""
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[..., 2] = 100 + number
    pixels[:, ::3, 1] = 2 * number
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def photos(cli) -> Path:
    """Ten photos in two folders."""
    for number in range(10):
        path = cli.folder / "photos" / str(number // 5) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    return cli.folder / "photos"


def first_number(request) -> int:
    """Of the photos in a request; `picture` is as blue as its number says."""
    return int(from_proto(request.inputs["images"])[:, 0, 0, 2].min()) - 100


def rows_of(folder: Path) -> list[dict]:
    return pyarrow.dataset.dataset(folder).to_table().to_pylist()


def paths_of(folder: Path) -> list[str]:
    return [row["path"] for row in rows_of(folder)]


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("part-*.parquet")
    }


def all_photos() -> list[str]:
    return [f"photos/{number // 5}/{number}.png" for number in range(10)]


def test_each_photo_has_a_row_that_says_what_explain_says(cli, photos, server):
    run = cli("job", "photos", *JOB, "--method", "smooth", "--num-samples", "16")

    assert (run.code, run.err) == (0, "")
    assert run.out.startswith("maps: 10 rows in ")
    rows = rows_of(cli.folder / "maps")
    assert [row["path"] for row in rows] == all_photos()
    with SaliencyClient(server.target, model="linear") as client:
        for number, row in enumerate(rows):
            photo = load_image(picture(number), (SIZE, SIZE))
            asked = client.explain(photo.array, method="smooth", num_samples=16)
            assert row["class_index"] == asked.class_index[0]
            assert row["label"] == asked.label[0]
            assert row["score"] == pytest.approx(asked.score[0], rel=1e-6)
            assert row["probability"] == pytest.approx(asked.probability[0], rel=1e-6)
            assert row["relative_error"] == 0.25
            assert (row["row"], row["key"], row["error"], row["version"]) == (0, None, None, 1)
            stored = read_map(row["map"], row["map_scale"], row["map_shape"], "float16")
            np.testing.assert_allclose(stored, asked.saliency[0], rtol=2.0**-11, atol=2.0**-24)


def test_shards_say_what_the_job_was_and_the_manifest_what_is_done(cli, photos):
    cli("job", "photos", *JOB)

    out = cli.folder / "maps"
    manifest = json.loads((out / "_job" / "manifest.json").read_text())
    assert (manifest["rows"], manifest["failed"], manifest["version"]) == (10, 0, [1])
    assert [one["rows"] for one in manifest["shards"]] == [4, 4, 2]
    assert {one["file"]: one["sha256"] for one in manifest["shards"]} == digests(out)
    said = pyarrow.parquet.read_schema(out / "part-0000000-00000.parquet").metadata[b"saliency_job"]
    assert json.loads(said) == json.loads((out / "_job" / "job.json").read_text()) | {
        "plan": manifest["plan"]
    }
    assert json.loads(said)["parameters"] == {"class_index": -1}


def test_every_kind_of_input_goes_into_one_job(cli, photos):
    with tarfile.open(cli.folder / "some.tar", "w") as tar:
        for number in (11, 12):
            content = picture(number)
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    table = pyarrow.table(
        {"image": [picture(n) for n in range(20, 30)], "id": [f"n{n}" for n in range(20, 30)]}
    )
    pyarrow.parquet.write_table(table, cli.folder / "some.parquet", row_group_size=3)
    (cli.folder / "names.txt").write_text("photos/0/3.png\nphotos/1/7.png\n")

    run = cli("job", "some.tar", "some.parquet", "--list", "names.txt", *JOB)

    assert run.code == 0
    assert [(row["path"], row["row"], row["key"]) for row in rows_of(cli.folder / "maps")] == [
        ("some.tar", 0, "11.png"),
        ("some.tar", 1, "12.png"),
        *(("some.parquet", n - 20, f"n{n}") for n in range(20, 30)),
        ("photos/0/3.png", 0, None),
        ("photos/1/7.png", 0, None),
    ]


def test_an_image_that_cannot_be_explained_has_its_error_in_its_row(cli, photos):
    (photos / "0" / "2.png").write_bytes(b"no picture")
    (photos / "0" / "3.png").write_bytes(b"")
    np.save(photos / "1" / "8.npy", np.zeros((SIZE, SIZE + 1, 3), np.uint8))
    (cli.folder / "names.txt").write_text("photos/9/9.png\n")

    run = cli("job", "photos", "--list", "names.txt", *JOB)

    errors = {row["path"]: row["error"] for row in rows_of(cli.folder / "maps")}
    assert run.code == 1
    assert len(errors) == 12
    assert {path for path, error in errors.items() if error is None} == {*all_photos()} - {
        "photos/0/2.png",
        "photos/0/3.png",
    }
    assert errors["photos/0/2.png"] == "the file is not an image"
    assert errors["photos/0/3.png"] == "the file is empty"
    assert errors["photos/1/8.npy"] == "the file has shape [20, 21, 3], and the model takes [20, 20, 3]"
    assert errors["photos/9/9.png"] == "photos/9/9.png does not exist"
    assert "4 with an error, in the column error" in run.out
    assert "note: photos/0/2.png: the file is not an image" in run.err
    assert "note: 1 more have an error" in run.err
    assert cli("job", "photos", "--list", "names.txt", *JOB, "--resume", "--allow-failures").code == 0


def test_files_with_errors_are_made_anew_when_that_is_asked_for(cli, photos):
    (photos / "0" / "2.png").write_bytes(b"no picture")
    cli("job", "photos", *JOB)
    before = digests(cli.folder / "maps")
    (photos / "0" / "2.png").write_bytes(picture(2))

    run = cli("job", "photos", *JOB, "--resume", "--redo-failed")

    assert run.code == 0
    assert "4 rows in" in run.out
    assert [row["error"] for row in rows_of(cli.folder / "maps")] == [None] * 10
    after = digests(cli.folder / "maps")
    assert {name for name in before if before[name] != after[name]} == {"part-0000000-00000.parquet"}
    assert cli("job", "photos", *JOB, "--redo-failed").code == 2


def test_a_name_that_is_not_utf_8_is_left_out_with_a_note(cli, photos):
    (photos / "0" / os.fsdecode(b"lat\xe9in.png")).write_bytes(picture(1))

    run = cli("job", "photos", *JOB)

    assert run.code == 0
    assert "lat\\udce9in.png': its name is not UTF-8; rename it" in run.err
    assert paths_of(cli.folder / "maps") == all_photos()


def test_a_folder_that_cannot_be_read_is_a_row_with_an_error_and_the_others_are_explained(
    cli, photos, program, environment
):
    locked, out = photos / "1", cli.folder / "maps"
    os.symlink("self.png", photos / "0" / "self.png")
    os.mkfifo(photos / "0" / "camera.png")
    locked.chmod(0)
    # Root may look everywhere, unless it gives that up.
    rights = "-dac_override,-dac_read_search"
    as_others = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"] if os.geteuid() == 0 else []
    try:
        done = subprocess.run(
            [*as_others, *program, "job", "photos", *JOB],
            cwd=cli.folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        locked.chmod(0o755)

    assert done.returncode == 1
    errors = {row["path"]: row["error"] for row in rows_of(out)}
    assert [path for path, error in errors.items() if error is None] == all_photos()[:5]
    assert "Permission denied" in errors["photos/1"]
    assert "Too many levels of symbolic links" in errors["photos/0/self.png"]
    assert len(errors) == 7
    assert "left out photos/0/camera.png: it is a named pipe, a socket or a device" in done.stderr


def test_a_typed_name_that_is_not_utf_8_is_refused(cli, photos):
    name = os.fsdecode(b"lat\xe9in.png")
    (cli.folder / name).write_bytes(picture(1))

    run = cli("job", name, *JOB)

    assert run.code == 2
    assert "'lat\\udce9in.png' is not UTF-8" in run.err
    assert not (cli.folder / "maps").exists()


def test_files_of_many_images_that_hold_none_are_named(cli, photos):
    with tarfile.open(cli.folder / "none.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("labels.txt"))
    schema = pyarrow.schema([("image", pyarrow.binary())])
    pyarrow.parquet.write_table(schema.empty_table(), cli.folder / "none.parquet")
    nothing = ["there is no image in none.tar", "there is no image in none.parquet"]

    run = cli("job", "none.tar", "photos", "none.parquet", *JOB)

    assert run.code == 0
    assert [note in run.err for note in nothing] == [True, True]
    assert paths_of(cli.folder / "maps") == all_photos()
    alone = cli("job", "none.tar", "-o", "others", "--decoders", "0")
    assert (alone.code, alone.out) == (0, "others: there was no image to explain\n")
    assert nothing[0] in alone.err


def test_what_a_folder_without_an_image_holds_is_told(cli):
    (cli.folder / "photos").mkdir()
    (cli.folder / "photos" / "notes.txt").write_text("nothing to see")

    run = cli("job", "photos", *JOB)

    assert run.code == 2
    assert "left out photos/notes.txt" in run.err
    assert "there is no image in what was given" in run.err


def test_a_parquet_that_is_none_is_one_row_with_an_error(cli, photos):
    (photos / "0" / "data.parquet").write_bytes(b"PAR1?")

    run = cli("job", "photos", *JOB)

    rows = {row["path"]: row["error"] for row in rows_of(cli.folder / "maps")}
    assert run.code == 1
    assert len(rows) == 11
    assert "is no Parquet file that can be read" in rows["photos/0/data.parquet"]


def test_each_row_of_a_damaged_row_group_has_an_error_and_the_others_are_explained(cli):
    images = [picture(number) for number in range(12)]
    pyarrow.parquet.write_table(
        pyarrow.table({"image": images}), cli.folder / "a.parquet", row_group_size=4, compression="zstd"
    )
    column = pyarrow.parquet.ParquetFile(cli.folder / "a.parquet").metadata.row_group(1).column(0)
    content = bytearray((cli.folder / "a.parquet").read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    (cli.folder / "a.parquet").write_bytes(content)

    run = cli("job", "a.parquet", *JOB)

    rows = rows_of(cli.folder / "maps")
    assert run.code == 1
    assert [row["row"] for row in rows] == list(range(12))
    assert [row["error"] is None for row in rows] == [True] * 4 + [False] * 4 + [True] * 4
    assert "row group 1 of a.parquet is damaged" in rows[4]["error"]


def test_a_column_that_cannot_hold_images_is_refused(cli):
    pyarrow.parquet.write_table(pyarrow.table({"image": [1, 2], "id": ["a", "b"]}), cli.folder / "a.parquet")

    run = cli("job", "a.parquet", *JOB)

    assert run.code == 2
    assert "a.parquet: column 'image' holds int64, not the bytes of images" in run.err


@pytest.mark.parametrize("count", [1, 10])
def test_a_few_images_that_are_all_refused_stop_the_job_too(cli, photos, server, count):
    run = cli("job", f"photos/*/[0-{count - 1}].png", *JOB, "--class-index", "77")

    assert run.code == 64 + 3
    assert "class_index 77 is outside" in run.err
    assert not list((cli.folder / "maps").glob("part-*"))
    # Nothing is done, so that the corrected command begins the job.
    assert cli("job", f"photos/*/[0-{count - 1}].png", *JOB, "--class-index", "1").code == 0


def test_a_list_of_windows_is_read(cli, photos):
    (cli.folder / "names.txt").write_bytes("\ufeffphotos/0/1.png  \r\nphotos/0/2.png\r\n".encode())

    assert cli("job", "--list", "names.txt", *JOB).code == 0
    assert paths_of(cli.folder / "maps") == ["photos/0/1.png", "photos/0/2.png"]


def test_a_list_is_piped_in_and_the_job_that_goes_on_needs_it_no_more(cli, photos):
    names = "photos/1/7.png\nphotos/0/2.png\n"

    run = cli("job", "--list", "-", *JOB, stdin=names.encode())

    assert run.code == 0
    assert [(row["path"], row["error"]) for row in rows_of(cli.folder / "maps")] == [
        ("photos/1/7.png", None),
        ("photos/0/2.png", None),
    ]
    assert "2 were done before" in cli("job", "--list", "-", *JOB, "--resume").out


def test_names_that_end_in_nul_are_a_list_and_a_lonely_dash_is_none(cli, photos):
    names = b"photos/1/7.png\0photos/0/2.png\0"

    assert cli("job", "--list", "-", *JOB, stdin=names).code == 0
    assert paths_of(cli.folder / "maps") == ["photos/1/7.png", "photos/0/2.png"]
    lonely = cli("job", "-", "-o", "others", stdin=names)
    assert lonely.code == 2
    assert "--list - takes names that are piped in" in lonely.err


def test_a_named_pipe_is_a_list_whose_paths_count_from_here(cli, photos):
    pipe = cli.folder / "names" / "pipe"
    pipe.parent.mkdir()
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text("photos/1/7.png\n"), daemon=True)
    writer.start()

    assert cli("job", "--list", "names/pipe", *JOB).code == 0
    assert paths_of(cli.folder / "maps") == ["photos/1/7.png"]


def test_a_worker_without_a_share_says_so_and_the_last_one_that_all_is_done(cli, photos):
    few = [*JOB[:6], "--shard-rows", "100"]

    first = cli("job", "photos", *few, "--worker", "1/2")
    last = cli("job", "photos", *few, "--worker", "0/2", "--resume")

    assert "nothing to do: the job has 1 shares of 100 pictures for 2 workers" in first.out
    assert "the job is complete" in last.out


def test_maps_that_did_not_reach_the_target_are_counted(cli, photos, server):
    server.model.sampled = True

    run = cli("job", "photos", *JOB, "--method", "smooth", "--num-samples", "10", "--target-error", "0.001")

    assert run.code == 0
    assert "note: 10 of 10 rows did not reach a relative error of 0.001; they need more samples" in run.err


def test_a_script_without_a_guard_runs_one_job(cli, photos, server, environment):
    (cli.folder / "script.py").write_text(
        "from saliency_client.bulk import ExplainBatch, Job, run_job\n"
        f"step = ExplainBatch({server.target!r}, 'linear', numbers=None)\n"
        "summary = run_job(Job(step, inputs=('photos/',), out='maps/', decoders=2))\n"
        "print(summary.rows, summary.failed, summary.complete)\n"
    )

    run = subprocess.run(
        [sys.executable, "script.py"], cwd=cli.folder, capture_output=True, text=True, timeout=100
    )

    assert (run.stdout, run.stderr) == ("10 0 True\n", "")


def test_a_damaged_file_of_many_images_gives_what_is_whole_and_one_row_that_says_so(cli):
    with tarfile.open(cli.folder / "some.tar", "w") as tar:
        for number in range(6):
            content = picture(number) + bytes(5000)
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    content = (cli.folder / "some.tar").read_bytes()
    (cli.folder / "some.tar").write_bytes(content[: 512 + 5632 * 5])

    run = cli("job", "some.tar", *JOB)

    rows = rows_of(cli.folder / "maps")
    assert run.code == 1
    assert [row["key"] for row in rows] == ["0.png", "1.png", "2.png", "3.png", "4.png", None]
    assert [row["error"] is None for row in rows] == [True] * 5 + [False]
    assert "some.tar is damaged behind image 5" in rows[-1]["error"]
    assert "the images behind that are not explained" in rows[-1]["error"]


@pytest.mark.parametrize(
    ("code", "words", "exit_code"),
    [
        (grpc.StatusCode.UNAVAILABLE, "the replica is gone", 64 + 14),
        (grpc.StatusCode.UNAUTHENTICATED, "the token has expired", 64 + 16),
        (grpc.StatusCode.PERMISSION_DENIED, "not yours", 64 + 7),
    ],
)
def test_a_server_that_stops_answering_stops_the_job_and_what_is_done_stays(
    cli, photos, server, code, words, exit_code
):
    out = cli.folder / "maps"

    def fail(request, context):
        server.script.append(fail)
        if first_number(request) >= 4:
            until(lambda: (out / "_job" / "shards" / "0000000-00000.json").exists())
            context.abort(code, words)

    server.script.append(fail)

    run = cli("job", "photos", *JOB, "--wait", "1")

    done = digests(out)
    assert run.code == exit_code
    assert words in run.err
    assert "the same command with --resume goes on" in run.err
    assert list(done) == ["part-0000000-00000.parquet"]
    assert list(out.rglob(".*")) == []
    server.script.clear()
    asked = len(server.requests)
    resumed = cli("job", "photos", *JOB, "--resume")
    assert resumed.code == 0
    assert "6 rows in" in resumed.out
    assert "4 were done before" in resumed.out
    assert paths_of(out) == all_photos()
    assert digests(out).items() >= done.items()
    assert len(server.requests) - asked == 3  # of two images each


def test_a_server_that_is_away_for_a_while_or_full_costs_no_row(cli, photos, server):
    server.fail(grpc.StatusCode.UNAVAILABLE, QUEUE_FULL, times=4)
    server.script.append(lambda request, context: None)
    # Longer than the attempts of each of the four calls that are under way.
    server.fail(grpc.StatusCode.UNAVAILABLE, "starting", times=24)

    assert cli("job", "photos", *JOB, "--wait", "30").code == 0
    assert [row["error"] for row in rows_of(cli.folder / "maps")] == [None] * 10


def test_an_image_that_ends_the_servers_call_each_time_is_found_and_the_others_are_explained(
    cli, photos, server
):
    def crash(request, context):
        server.script.append(crash)
        if 106 in from_proto(request.inputs["images"])[:, 0, 0, 2]:
            context.abort(grpc.StatusCode.INTERNAL, "out of memory in a kernel")

    server.script.append(crash)

    run = cli("job", "photos", *JOB, "--concurrency", "1")

    errors = [row["error"] for row in rows_of(cli.folder / "maps")]
    assert run.code == 1
    assert [error is None for error in errors] == [number != 6 for number in range(10)]
    assert "out of memory in a kernel" in errors[6]


def test_what_the_server_refuses_from_the_first_image_on_is_no_images_fault(cli, server):
    (cli.folder / "photos").mkdir()
    for number in range(100):
        (cli.folder / "photos" / f"{number:02}.png").write_bytes(picture(number))

    run = cli("job", "photos", *JOB, "--class-index", "77")

    assert run.code == 64 + 3
    assert "class_index 77 is outside" in run.err
    assert not list((cli.folder / "maps").glob("part-*"))
    assert len(server.requests) < 100


def test_another_version_in_mid_run_is_refused_and_mixes_when_that_is_asked_for(cli, photos, server):
    out = cli.folder / "maps"

    def change(request, context):
        server.script.append(change)
        if first_number(request) >= 4:
            until(lambda: (out / "_job" / "shards" / "0000000-00000.json").exists())
            server.model.version = 2
            server.statuses = [(2, 30, 0, "")]

    server.script.append(change)

    run = cli("job", "photos", *JOB)

    assert run.code == 3
    assert "version 2 of the model answers, and the rows so far are of version 1" in run.err
    assert "--any-version" in run.err
    assert {row["version"] for row in rows_of(out)} == {1}
    again = cli("job", "photos", *JOB, "--resume")
    assert again.code == 3
    assert cli("job", "photos", *JOB, "--resume", "--any-version").code == 0
    assert [row["version"] for row in rows_of(out)] == [1] * 4 + [2] * 6
    assert paths_of(out) == all_photos()
    assert json.loads((out / "_job" / "manifest.json").read_text())["version"] == [1, 2]


def test_two_workers_share_a_job_and_the_last_one_writes_the_manifest(cli, photos):
    out = cli.folder / "maps"

    first = cli("job", "photos", *JOB, "--worker", "1/2")

    assert first.code == 0
    assert "other workers' shares are not all done" in first.out
    assert paths_of(out) == all_photos()[4:8]
    assert not (out / "_job" / "manifest.json").exists()
    assert cli("job", "photos", *JOB, "--worker", "0/2").code == 2  # without --resume
    assert cli("job", "photos", *JOB, "--worker", "0/2", "--resume").code == 0
    assert paths_of(out) == all_photos()
    assert (out / "_job" / "manifest.json").exists()


def test_a_job_goes_on_with_another_number_of_workers(cli, photos):
    out = cli.folder / "maps"
    cli("job", "photos", *JOB, "--worker", "1/2")
    before = digests(out)

    for worker in ("0/3", "1/3", "2/3"):
        assert cli("job", "photos", *JOB, "--worker", worker, "--resume").code == 0

    assert paths_of(out) == all_photos()
    assert digests(out).items() >= before.items()


def test_a_job_does_not_go_on_where_its_images_are_not(cli, photos):
    assert cli("job", "photos", *JOB, "--worker", "0/2").code == 0
    rows = rows_of(cli.folder / "maps")
    photos.rename(cli.folder / "elsewhere")

    run = cli("job", "photos", *JOB, "--resume")

    assert run.code == 2
    assert "photos does not exist, and images in it are left to do" in run.err
    assert rows_of(cli.folder / "maps") == rows
    (cli.folder / "elsewhere").rename(photos)
    assert cli("job", "photos", *JOB, "--resume").code == 0
    assert sorted(paths_of(cli.folder / "maps")) == sorted(all_photos())
    photos.rename(cli.folder / "elsewhere")
    assert cli("job", "photos", *JOB, "--resume").code == 0, "nothing is left to do"


def test_files_that_came_later_are_no_part_of_a_job_that_goes_on(cli, photos):
    cli("job", "photos", *JOB, "--worker", "1/2")
    (photos / "0" / "00.png").write_bytes(picture(0))

    cli("job", "photos", *JOB, "--worker", "0/2", "--resume")

    assert paths_of(cli.folder / "maps") == all_photos()


def test_a_shard_whose_file_is_gone_is_made_again(cli, photos):
    cli("job", "photos", *JOB)
    out = cli.folder / "maps"
    (out / "part-0000001-00000.parquet").unlink()

    run = cli("job", "photos", *JOB, "--resume")

    assert run.code == 0
    assert "1 shards were done and their files are gone" in run.err
    assert paths_of(out) == all_photos()


def test_files_of_a_tar_behind_one_that_is_gone_are_made_again_too(cli):
    with tarfile.open(cli.folder / "photos.tar", "w") as tar:
        for number in range(10):
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(picture(number))
            tar.addfile(member, io.BytesIO(picture(number)))
    out = cli.folder / "maps"
    cli("job", "photos.tar", *JOB)
    before = digests(out)
    assert sorted(before) == [f"part-0000000-0000{chunk}.parquet" for chunk in range(3)]
    (out / "part-0000000-00001.parquet").unlink()

    run = cli("job", "photos.tar", *JOB, "--resume")

    assert run.code == 0
    assert "6 rows in" in run.out
    assert "4 were done before" in run.out
    assert sorted(row["key"] for row in rows_of(out)) == [f"{number}.png" for number in range(10)]


def test_a_job_is_not_complete_while_another_workers_file_is_gone(cli, photos):
    out = cli.folder / "maps"
    cli("job", "photos", *JOB)
    (out / "_job" / "manifest.json").unlink()
    (out / "part-0000001-00000.parquet").unlink()

    run = cli("job", "photos", *JOB, "--resume", "--worker", "0/2")

    assert "other workers' shares are not all done" in run.out
    assert not (out / "_job" / "manifest.json").exists()
    assert "done" in cli("job", "photos", *JOB, "--resume", "--worker", "1/2", "--json").record["status"]
    assert (out / "_job" / "manifest.json").exists()
    assert paths_of(out) == all_photos()


def test_a_value_that_no_image_can_take_is_wrong_usage(cli, photos, server):
    server.model.bounded = True

    run = cli("job", "photos", *JOB, "--method", "smooth", "--seed", "99999999999")

    assert run.code == 2
    assert "seed is 99999999999; it must be in [-2147483648, 2147483647]" in run.err
    assert (server.requests, (cli.folder / "maps").exists()) == ([], False)


def test_a_list_that_is_none_is_refused(cli, photos):
    run = cli("job", "--list", "photos/0/0.png", *JOB)

    assert run.code == 2
    assert "photos/0/0.png is no list of names: it is not UTF-8" in run.err
    assert not (cli.folder / "maps").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "maps holds a job"),
        (("--resume", "--method", "smooth"), "was begun with method gradients, not smooth"),
        (("--resume", "--shard-rows", "5"), "was begun with shard_rows 4, not 5"),
        (("--resume", "--map-format", "png"), "was begun with map_format float16, not png"),
        (
            ("--resume", "--class-index", "1"),
            "was begun with class_index -1, not 1",
        ),
        (("--resume", "--list", "names.txt"), "was begun with lists none, not names.txt"),
    ],
)
def test_another_job_is_not_written_into_the_folder_of_one(cli, photos, arguments, says):
    cli("job", "photos", *JOB)
    before = digests(cli.folder / "maps")

    run = cli("job", "photos", *JOB, *arguments)

    assert run.code == 2
    assert says in run.err
    assert digests(cli.folder / "maps") == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("-o", "maps"), "no images are given"),
        (("nowhere", "-o", "maps"), "nowhere does not exist"),
        (("empty", "-o", "maps"), "there is no image in what was given"),
        (("photos", "-o", "photos"), "photos holds other files"),
        (("photos", "-o", "photos/0/0.png"), "photos/0/0.png is a file"),
        (("photos", "-o", "maps", "--worker", "2/2"), "--worker '2/2' is not I/N with I from 0 to N - 1"),
        (("photos", "-o", "maps", "--metrics", "x"), "--metrics 'x' is not [HOST:]PORT"),
        (("photos", "-o", "maps", "--method", "magic"), "magic"),
        (("photos", "-o", "maps", "--param", "steps=3"), "explain_gradients takes no steps"),
        (("photos", "-o", "maps", "--map", "cam"), "explain_gradients has no map 'cam'"),
        (("photos", "-o", "maps", "--map", "gradients", "--map-format", "png"), "may be below 0"),
        (("photos", "-o", "magic://maps"), "magic"),
    ],
)
def test_what_cannot_be_a_job_is_refused_and_leaves_nothing(cli, photos, arguments, says):
    (cli.folder / "empty").mkdir()

    run = cli("job", *arguments)

    assert run.code in (1, 2, 3)
    assert says in run.err
    assert "Traceback" not in run.err
    assert not (cli.folder / "maps").exists()
    assert len(list(photos.rglob("*"))) == 12


def test_a_class_is_named_as_in_explain(cli, photos):
    assert cli("job", "photos", *JOB, "--class", "class 3").code == 0

    assert {row["label"] for row in rows_of(cli.folder / "maps")} == {"class 3"}
    asked = json.loads((cli.folder / "maps" / "_job" / "job.json").read_text())
    assert asked["parameters"] == {"class_index": 3}
    unknown = cli("job", "photos", "-o", "other", "--class", "a dog")
    assert unknown.code == 2
    assert not (cli.folder / "other").exists()
    assert "no class is named 'a dog'" in unknown.err


def test_a_job_that_is_done_has_nothing_left_to_do(cli, photos):
    cli("job", "photos", *JOB)

    again = cli("job", "photos/", *JOB, "--resume")

    assert (again.code, again.out) == (0, "maps: nothing was left to do; 10 were done before\n")


def test_signed_maps_of_channels_are_stored_where_they_are_asked_for(cli, photos, server):
    assert cli("job", "photos", *JOB, "--map", "gradients").code == 0

    row = rows_of(cli.folder / "maps")[0]
    np.testing.assert_allclose(
        read_map(row["map"], row["map_scale"], row["map_shape"], "float16"),
        server.model.weights[row["class_index"]],
        rtol=2.0**-11,
    )


def test_a_job_without_maps_has_numbers_alone(cli, photos):
    assert cli("job", "photos", *JOB, "--map", "none").code == 0

    assert not {"map", "map_scale", "map_shape"} & set(rows_of(cli.folder / "maps")[0])


@pytest.mark.parametrize("map_format", ["uint8", "png"])
def test_maps_are_stored_as_asked(cli, photos, server, map_format):
    assert cli("job", "photos", *JOB, "--map-format", map_format).code == 0

    row = rows_of(cli.folder / "maps")[0]
    expected = np.abs(server.model.weights[row["class_index"]]).max(axis=-1)
    stored = read_map(row["map"], row["map_scale"], row["map_shape"], map_format)
    np.testing.assert_allclose(stored, expected, atol=expected.max() / 255 * 0.501)


def test_the_rows_of_a_tar_are_judged_while_it_is_read(cli, server, program, environment):
    with tarfile.open(cli.folder / "some.tar", "w") as tar:
        for number in range(10):
            content = picture(number) + bytes(20_000)
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    released = threading.Event()
    hold_from_the_fifth(server, released)
    command = [*program, "job", "some.tar", *JOB, "--metrics", "0"]
    with subprocess.Popen(
        command, cwd=cli.folder, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            address = process.stderr.readline().removeprefix("metrics: ").strip()

            def planned() -> float | None:
                with urllib.request.urlopen(address, timeout=10) as answer:
                    text = answer.read().decode()
                found = re.search(r"^saliency_job_rows_planned (.*)$", text, re.MULTILINE)
                return float(found[1]) if found else None

            until(lambda: planned() is not None, seconds=20)
            judged = planned()
        finally:
            released.set()
        assert process.wait(30) == 0
    # Blocks of 10 kB are read ahead, of images of 20 kB.
    assert 7 <= judged <= 13


def hold_from_the_fifth(server, released: threading.Event) -> None:
    """Answer of the first four photos alone until `released` is set."""

    def hold(request, context):
        server.script.append(hold)
        if first_number(request) >= 4:
            released.wait(60)

    server.script.append(hold)


def test_progress_is_served_for_prometheus_while_the_job_runs(cli, photos, server, program, environment):
    released = threading.Event()
    hold_from_the_fifth(server, released)
    command = [*program, "job", "photos", *JOB, "--metrics", "0"]
    with subprocess.Popen(
        command, cwd=cli.folder, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            address = process.stderr.readline().removeprefix("metrics: ").strip()

            def metrics() -> dict[str, float]:
                with urllib.request.urlopen(address, timeout=10) as answer:
                    lines = answer.read().decode().splitlines()
                pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
                return {name: float(value) for name, _, value in pairs}

            until(lambda: metrics().get("saliency_job_shards_total") == 1, seconds=20)
            seen = metrics()
        finally:
            released.set()
        assert process.wait(30) == 0
    assert seen["saliency_job_rows_planned"] == 10
    assert seen["saliency_job_failed_rows_total"] == 0
    assert seen["saliency_job_requests_in_flight"] == 3
    assert seen["saliency_job_rows_total"] == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_a_job_that_is_ended_goes_on_where_it_was(cli, photos, server, program, environment, number):
    held = threading.Event()
    hold_from_the_fifth(server, held)
    command = [*program, "job", "photos", *JOB[:2], "--decoders", "1", *JOB[4:]]
    out = cli.folder / "maps"
    try:
        process = subprocess.Popen(
            command, cwd=cli.folder, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True
        )
        until(lambda: (out / "_job" / "shards" / "0000000-00000.json").exists(), seconds=30)
        children = [int(pid) for pid in _children(process.pid)]
        process.send_signal(number)
        code = process.wait(30)
        process.stderr.close()
    finally:
        held.set()
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    assert children
    until(lambda: not any(_runs(pid) for pid in children), seconds=20)
    before = digests(out)
    if number != signal.SIGKILL:
        assert not list(out.glob(".*"))

    run = cli("job", "photos", *JOB, "--resume")

    assert run.code == 0
    assert paths_of(out) == all_photos()
    assert digests(out).items() >= before.items()
    assert not list(out.glob(".*"))


def test_a_job_goes_on_under_nohup_when_its_session_ends(cli, photos, server, program, environment):
    held = threading.Event()
    hold_from_the_fifth(server, held)
    command = ["nohup", *program, "job", "photos", *JOB]
    try:
        process = subprocess.Popen(
            command, cwd=cli.folder, env={**os.environ, **environment}, stderr=subprocess.DEVNULL
        )
        until(lambda: (cli.folder / "maps/_job/shards/0000000-00000.json").exists(), seconds=30)
        process.send_signal(signal.SIGHUP)
    finally:
        held.set()

    assert process.wait(30) == 0
    assert paths_of(cli.folder / "maps") == all_photos()


@pytest.mark.parametrize("decoders", ["0", "1"])
def test_how_pictures_were_read_is_told_of_each_kind_with_an_example(cli, decoders):
    folder = cli.folder / "odd"
    folder.mkdir()
    for number in range(3):
        gray = np.full((20, 30), 1000 + number, np.uint16)
        gray[0, 0] = 4000 + number
        Image.fromarray(gray).save(folder / f"{number}.png")
    frames = [Image.open(io.BytesIO(picture(number))) for number in range(2)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    (folder / "plain.png").write_bytes(picture(3))

    run = cli("job", "odd", "-o", "maps", "--batch-size", "2", "--decoders", decoders)

    assert run.code == 0
    assert run.err.splitlines() == [
        "note: odd/0.png and 2 more: gray values from 1000 to 4000, stored as 16 bits: 0 is taken as black "
        "and 4095 as white",
        "note: odd/moving.gif: first frame of an animation",
    ]


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_one_process_at_a_time_works_on_a_share(cli, photos, server, program, environment):
    held = threading.Event()
    server.script.append(lambda request, context: held.wait(60) and None)
    try:
        process = subprocess.Popen(
            [*program, "job", "photos", *JOB], cwd=cli.folder, env={**os.environ, **environment}
        )
        until(lambda: server.running == 1, seconds=30)

        run = cli("job", "photos", *JOB, "--resume")
    finally:
        held.set()
        assert process.wait(30) == 0

    assert run.code == 3
    assert "another process works on maps" in run.err


def test_json_says_what_a_run_came_to(cli, photos):
    (photos / "0" / "2.png").write_bytes(b"no picture")

    record = cli("job", "photos", *JOB, "--json").record

    assert record.pop("seconds") > 0
    assert record.pop("rows_per_second") > 0
    assert record == {
        "out": "maps",
        "status": "done",
        "rows": 10,
        "failed": 1,
        "rows_before": 0,
        "failed_before": 0,
        "model": "linear",
        "version": 1,
    }


def test_a_disk_that_is_full_stops_the_job_and_what_is_done_stays(cli, photos, program, environment):
    # No file may grow above 12 kB, as on a disk that has no more room: one shard of four maps does.
    (photos / "0" / "0.npy").write_bytes(b"")
    command = [*program, "job", "photos", "-o", "maps", "--map", "gradients", "--decoders", "0"]

    def run(shard_rows: int, *arguments: str, bound: int | None = None) -> subprocess.CompletedProcess[str]:
        # Not by preexec_fn: a fork of a process with gRPC's threads may break.
        bounded = f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({bound},) * 2); "
        through = [sys.executable, "-c", f"{bounded}os.execv(sys.argv[1], sys.argv[1:])"] if bound else []
        return subprocess.run(
            [*through, *command, "--shard-rows", str(shard_rows), *arguments],
            cwd=cli.folder,
            env={**os.environ, **environment, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=60,
        )

    full = run(4, bound=12_000)

    assert full.returncode == 3, full.stderr
    assert "part-0000000-00000.parquet cannot be written: File too large" in full.stderr
    assert "--resume goes on when there is room" in full.stderr
    assert not list((cli.folder / "maps").rglob("*.part"))
    assert not list((cli.folder / "maps").rglob(".*"))
    resumed = run(4, "--resume")
    assert resumed.returncode == 1, resumed.stderr
    assert len(paths_of(cli.folder / "maps")) == 11
