"""Apache Beam, photos in, Parquet out: rows are what `explain` gives, whoever is killed in the middle."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from engine_python import client_environment, engine_python, run_code
from PIL import Image
from rounding import ROUNDING, ULP, assert_equal_to_rounding
from server_process import ServerProcess

from saliency_client import SaliencyClient
from saliency_client.images import load_image

MODEL = "classifier"
PIPELINES = Path(__file__).with_name("beam_pipelines.py")
EXAMPLE = Path(__file__).parents[2] / "examples" / "beam_photos.py"
PHOTOS = 45
"""No multiple of a batch, so that bundles end with images that wait."""
SLOW = {"method": "smooth", "parameters": {"num_samples": 40}, "batch_size": 2, "patience": 60}
"""Seconds in all, so that there is a middle."""


@pytest.fixture(scope="session", autouse=True)
def _an_interpreter_with_beam() -> None:
    """Ask before anything is exported."""
    engine_python("beam", "apache_beam")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Cut from three photos, in two formats; and a file that is no picture."""
    folder = tmp_path_factory.mktemp("photos")
    taken = [skimage.data.chelsea(), skimage.data.coffee(), skimage.data.astronaut()]
    for i in range(PHOTOS):
        cut = Image.fromarray(taken[i % 3]).crop((2 * i, i, 2 * i + 240, i + 200))
        cut.save(folder / f"{i:02}.{'png' if i % 5 == 0 else 'jpg'}")
    (folder / "broken.jpg").write_bytes((folder / "01.jpg").read_bytes()[:300])
    return folder


@contextlib.contextmanager
def serving(version: Path, port: int = 0) -> Iterator[ServerProcess]:
    server = ServerProcess(f"{MODEL}={version.parent}", "--no-warmup", "--port", str(port))
    try:
        server.wait_for("^listening on")
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.process.kill()
        server.process.wait(30)
        server.process.stderr.close()


@pytest.fixture(scope="module")
def server(uncompiled_version) -> Iterator[ServerProcess]:
    with serving(uncompiled_version) as server:
        yield server


def options_of(target: str | list[str], **options: Any) -> str:
    return json.dumps({"target": target, "model": MODEL, **options})


@contextlib.contextmanager
def beam(*arguments: str | Path, modules: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """A pipeline in a process; what is left of it and of its workers is killed."""
    command = [engine_python("beam", "apache_beam", *modules), *map(str, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=client_environment(), start_new_session=True, **streams)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def finished(process: subprocess.Popen[str], seconds: float = 200) -> str:
    printed, said = process.communicate(timeout=seconds)
    assert process.returncode == 0, said
    return printed


def wait_for_rows(progress: Path, count: int, process: subprocess.Popen[str], seconds: float = 100) -> int:
    """Wait until so many rows are made; gives the process that made the last of them."""
    deadline = time.monotonic() + seconds
    while True:
        lines = progress.read_text().split() if progress.exists() else []
        if len(lines) >= count:
            assert len(lines) < PHOTOS, "the run was over before its middle"
            return int(lines[-1])
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def worked(server: ServerProcess) -> float:
    """Seconds of a processor that a server has used."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_until_busy(server: ServerProcess, process: subprocess.Popen[str], seconds: float = 100) -> None:
    """Wait until the server has worked for half a second."""
    before, deadline = worked(server), time.monotonic() + seconds
    while worked(server) < before + 0.5:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def table(output: Path) -> list[dict[str, Any]]:
    parquet = pytest.importorskip("pyarrow.parquet")
    return [row for file in glob.glob(f"{output}*.parquet") for row in parquet.read_table(file).to_pylist()]


def assert_each_photo_once(rows: list[dict[str, Any]], photos: Path) -> None:
    assert Counter(row["path"] for row in rows) == Counter(str(path) for path in photos.iterdir())
    assert [row["path"] for row in rows if row["error"]] == [str(photos / "broken.jpg")]


def assert_what_explain_gives(rows: list[dict[str, Any]], photos: Path, target: str, **asked: Any) -> None:
    """Rows beside explanations of one image at a time, read without the package's own reader."""
    assert_each_photo_once(rows, photos)
    with SaliencyClient(target, model=MODEL) as client:
        size = client.signatures()["explain_gradients"].image_size
        for row in rows:
            if row["error"] is not None:
                assert "cannot be decoded" in row["error"]
                assert {row[name] for name in ("class_index", "score", "map", "version")} == {None}
                continue
            want = client.explain(load_image(row["path"], size).array, **asked)
            assert row["class_index"] == want.class_index[0]
            assert row["label"] == want.label[0]
            assert row["version"] == 1
            for name in ("score", "probability"):
                assert_equal_to_rounding(np.array([row[name]], np.float32), want[name], name=name)
            want_map = want.saliency[0].astype(np.float64)
            got_map = np.frombuffer(row["map"], "<f2").reshape(row["map_shape"]) * row["map_scale"]
            # Half a unit of float16, that of its smallest numbers, and what two calls differ by.
            bound = 2.0**-11 * want_map + 2.0**-25 * row["map_scale"] + ROUNDING * ULP * want_map.max()
            assert (np.abs(got_map - want_map) <= bound).all(), row["path"]


def test_the_example_gives_what_explain_gives(server, photos, tmp_path):
    arguments = [f"{photos}/*", tmp_path / "rows", "--server", server.target, "--model", MODEL]
    with beam(EXAMPLE, *arguments, "--method", "smooth", "--param", "num_samples=5") as process:
        _, said = process.communicate(timeout=200)
        assert process.returncode == 0, said
    assert f"{PHOTOS + 1} rows, 1 of them with an error" in said
    asked = {"method": "smooth", "num_samples": 5}
    assert_what_explain_gives(table(tmp_path / "rows"), photos, server.target, **asked)


def test_two_worker_processes_give_what_explain_gives_and_count_it(server, photos, tmp_path):
    step, progress = options_of(server.target, batch_size=4), tmp_path / "progress"
    workers = ("--runner=FnApiRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2")
    with beam(
        PIPELINES, "rows", step, photos, tmp_path / "rows", "--progress", progress, *workers
    ) as process:
        counters = json.loads(finished(process))
    assert counters == {"rows": PHOTOS + 1, "failed": 1}
    assert len(set(progress.read_text().split())) == 2
    assert_what_explain_gives(table(tmp_path / "rows"), photos, server.target, method="gradients")


def test_run_inference_gives_what_explain_gives(server, photos, tmp_path):
    step = options_of(server.target, batch_size=4)
    with beam(PIPELINES, "handler", step, photos, tmp_path / "rows") as process:
        assert json.loads(finished(process)) == {"failed": 1}
    rows = table(tmp_path / "rows")
    assert {row["model_id"] for row in rows if not row["error"]} == {f"{MODEL}/1"}
    assert_what_explain_gives(rows, photos, server.target, method="gradients")


def test_a_row_keeps_the_timestamp_and_the_window_of_its_image(server, photos, tmp_path):
    step = options_of(server.target, batch_size=7)
    with beam(PIPELINES, "windows", step, photos, tmp_path / "places.json") as process:
        finished(process)
    places = json.loads((tmp_path / "places.json").read_text())
    paths = sorted(str(path) for path in photos.iterdir())
    want = [(path, 10.0 * i, 10.0 * i // 30 * 30, 10.0 * i // 30 * 30 + 30) for i, path in enumerate(paths)]
    assert sorted((path, *times) for path, _, *times in places) == want


def test_a_replica_killed_in_the_middle_costs_no_row(uncompiled_version, photos, tmp_path):
    progress = tmp_path / "progress"
    with serving(uncompiled_version) as one, serving(uncompiled_version) as other:
        step = options_of([one.target, other.target], **SLOW)
        arguments = ["rows", step, photos, tmp_path / "rows", "--progress", progress]
        before = {server: worked(server) for server in (one, other)}
        with beam(PIPELINES, *arguments) as process:
            wait_for_rows(progress, 12, process)
            # Nothing says whom the client asks first: the one that has worked more is in use.
            killed, left = sorted([one, other], key=lambda server: worked(server) - before[server])[::-1]
            assert worked(killed) > before[killed] + 0.1
            killed.process.kill()
            killed.process.wait(30)
            counters = json.loads(finished(process))
        assert counters == {"rows": PHOTOS + 1, "failed": 1}
        asked = {"method": SLOW["method"], **SLOW["parameters"]}
        assert_what_explain_gives(table(tmp_path / "rows"), photos, left.target, **asked)


def test_a_bundle_that_failed_while_the_server_was_away_is_run_again_and_gives_each_row_once(
    uncompiled_version, photos, tmp_path
):
    with serving(uncompiled_version) as server:
        port = int(server.target.rpartition(":")[2])
        step = options_of(server.target, **{**SLOW, "patience": 8})
        arguments = ["rows", step, photos, tmp_path / "rows", "--whole"]
        # The one local runner that runs a failed bundle again, four times. All photos are one bundle there.
        with beam(PIPELINES, *arguments, "--runner=BundleBasedDirectRunner") as process:
            wait_until_busy(server, process)
            server.process.kill()
            server.process.wait(30)
            time.sleep(12)
            with serving(uncompiled_version, port):
                _, said = process.communicate(timeout=200)
                assert process.returncode == 0, said
                # The bundle did fail: the step's patience was over before the server came back.
                assert "Unavailable" in said
                asked = {"method": SLOW["method"], **SLOW["parameters"]}
                assert_what_explain_gives(table(tmp_path / "rows"), photos, f"127.0.0.1:{port}", **asked)


def test_a_worker_killed_in_the_middle_is_replaced_and_each_row_comes_once(server, photos, tmp_path):
    progress = tmp_path / "progress"
    # DaskRunner is the one that runs here and replaces workers; it takes batches of 1, as ExplainImages says.
    step = options_of(server.target, **{**SLOW, "batch_size": 1})
    arguments = ["rows", step, photos, tmp_path / "rows", "--progress", progress, "--whole"]
    with beam(PIPELINES, *arguments, "--dask", "--dask_npartitions=12", modules=("distributed",)) as process:
        killed = wait_for_rows(progress, 8, process)
        before = progress.read_text().split().count(str(killed))
        os.kill(killed, signal.SIGKILL)
        _, said = process.communicate(timeout=200)
        assert process.returncode == 0, said
    assert progress.read_text().split().count(str(killed)) == before
    assert "was killed by signal 9" in said
    asked = {"method": SLOW["method"], **SLOW["parameters"]}
    assert_what_explain_gives(table(tmp_path / "rows"), photos, server.target, **asked)


def test_a_run_whose_worker_was_killed_leaves_no_rows_and_run_again_gives_each_once(server, photos, tmp_path):
    progress, output = tmp_path / "progress", tmp_path / "rows"
    arguments = ["rows", options_of(server.target, **SLOW), photos, output, "--progress", progress]
    workers = ("--runner=FnApiRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2")
    with beam(PIPELINES, *arguments, *workers) as process:
        killed = wait_for_rows(progress, 12, process)
        os.kill(killed, signal.SIGKILL)
        # The local runner replaces no worker: it waits for ever for the one that is gone, or fails.
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert process.wait(15) != 0
    assert table(output) == []
    with beam(PIPELINES, *arguments[:-2], *workers) as process:
        assert json.loads(finished(process)) == {"rows": PHOTOS + 1, "failed": 1}
    assert_each_photo_once(table(output), photos)


def test_run_inference_waits_for_a_server_that_comes_later(uncompiled_version, photos, tmp_path):
    with serving(uncompiled_version) as first:
        port = int(first.target.rpartition(":")[2])
    step = options_of(f"127.0.0.1:{port}", batch_size=4, patience=1)
    with beam(PIPELINES, "handler", step, photos, tmp_path / "rows") as process:
        time.sleep(8)
        with serving(uncompiled_version, port):
            _, said = process.communicate(timeout=200)
            assert process.returncode == 0, said
    assert "Retry with exponential backoff" in said
    assert_each_photo_once(table(tmp_path / "rows"), photos)


CODE = """
import doctest
import pickle
import apache_beam as beam
from saliency_client import (
    DeadlineExceeded, InvalidArgument, NotReady, QueueFull, ResourceExhausted, TLSError, Unavailable)
from saliency_client import OptionError
from saliency_client.bulk import ExplainBatch
from saliency_client.bulk.beam import ExplainHandler, ExplainImages, may_pass, parquet_schema

step = ExplainBatch("localhost:1", "m", batch_size=3)
assert all(map(may_pass, [kind("") for kind in
    (QueueFull, ResourceExhausted, Unavailable, DeadlineExceeded, NotReady)]))
assert not any(map(may_pass, [kind("") for kind in (InvalidArgument, TLSError, OptionError, ValueError)]))
handler = pickle.loads(pickle.dumps(ExplainHandler(step)))
assert handler.retry_filter is may_pass
assert handler.batch_elements_kwargs() == {"min_batch_size": 3, "max_batch_size": 3}
names = parquet_schema(step, "path").names
assert names[0] == "path" and set(names[1:]) == set(step.columns.kinds), names
for make in (lambda: ExplainImages(step, "score"), lambda: parquet_schema(step, "score")):
    try:
        make()
    except OptionError as error:
        assert "'score'" in str(error)
    else:
        raise AssertionError
class DaskRunner(beam.runners.DirectRunner): pass
try:
    beam.Pipeline(runner=DaskRunner()) | beam.Create([("a", b"")]) | ExplainImages(step)
except OptionError as error:
    assert "batch_size 3" in str(error)
else:
    raise AssertionError
for name in (ExplainHandler, may_pass, parquet_schema):
    (example,) = doctest.DocTestFinder(recurse=False).find(name, name.__name__, globs={})
    assert doctest.DocTestRunner().run(example).failed == 0
"""


def test_options_are_checked_where_the_pipeline_is_described():
    done = run_code(engine_python("beam", "apache_beam"), CODE)
    assert done.returncode == 0, done.stderr
