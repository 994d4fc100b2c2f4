"""`ExplainBatch` in Ray Data: the example as users run it, with a worker or a replica killed midway."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
from bulk_engines import (
    ROOT,
    assert_each_photo_once,
    kill_a_waiting_client,
    running,
    stop_in_the_middle,
    succeeded,
)
from engine_python import engine_python

from saliency_client.bulk import ExplainBatch
from saliency_client.bulk.ray import ExplainBlocks

pa = pytest.importorskip("pyarrow", reason="pyarrow is in the extra bulk")
parquet = pytest.importorskip("pyarrow.parquet")

EXAMPLE = ROOT / "tests" / "examples" / "ray_photos.py"
METHOD = "smooth"


def command(photos: Path, output: Path, *servers: str) -> list[str | Path]:
    options = ["--model", "classifier", "--method", METHOD]
    options += ["--batch", "8", "--actors", "2", "2", "--cpus", "2"]
    for server in servers:
        options += ["--server", server]
    return [engine_python("ray", "ray.data", "pyarrow"), EXAMPLE, photos, output, *options]


def in_ray(photos: Path, folder: Path, *servers: str):
    return running(command(photos, folder / "maps", *servers), folder, RAY_USAGE_STATS_ENABLED="0")


@pytest.mark.timeout(400)
def test_ray_gives_each_photo_one_row_when_an_actor_is_killed_with_a_request_on_its_way(
    photos, serve, tmp_path
):
    server = serve()
    with in_ray(photos, tmp_path, server.target) as process:
        stop_in_the_middle(server, tmp_path / "maps")
        assert "MapBatches(ExplainBlocks)" in kill_a_waiting_client(server, process)
        server.process.send_signal(signal.SIGCONT)
        succeeded(process, tmp_path)
    rows = parquet.read_table(tmp_path / "maps").to_pylist()
    assert_each_photo_once(rows, photos, server.target, METHOD)


@pytest.mark.timeout(400)
def test_ray_gives_each_photo_one_row_when_a_replica_is_killed_with_a_request_in_hand(
    photos, serve, tmp_path
):
    lost, kept = serve(), serve()
    with in_ray(photos, tmp_path, lost.target, kept.target) as process:
        stop_in_the_middle(lost, tmp_path / "maps")
        lost.process.kill()
        succeeded(process, tmp_path)
    rows = parquet.read_table(tmp_path / "maps").to_pylist()
    assert_each_photo_once(rows, photos, kept.target, METHOD)


def test_blocks_without_an_error_or_with_nothing_else_have_one_schema(photos, serve):
    step = ExplainBatch(serve().target, "classifier", numbers=("relative_error",), patience=60)
    photo = (photos / "0000.jpg").read_bytes()
    images = {"fine": [photo, photo], "failed": [b"no picture", None], "nothing": []}
    schema = pa.schema([("n", pa.int64()), ("image", pa.binary())])
    try:
        blocks = {
            name: ExplainBlocks(step)(pa.table([range(len(values)), values], schema=schema))
            for name, values in images.items()
        }
        (row, _) = step.rows([photo, photo])
    finally:
        step.close()
    assert blocks["fine"].schema == blocks["failed"].schema == blocks["nothing"].schema
    assert blocks["fine"]["error"].null_count == blocks["failed"]["class_index"].null_count == 2
    assert blocks["failed"]["error"].to_pylist() == ["the file is not an image", "the row has no image"]
    assert blocks["failed"]["n"].to_pylist() == [0, 1]
    assert blocks["fine"]["label"].to_pylist() == [row["label"]] * 2
    np.testing.assert_allclose(blocks["fine"]["score"], [row["score"]] * 2, rtol=1e-6)
