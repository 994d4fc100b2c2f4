"""`ExplainBatch` in Spark: the example as users run it, with a worker and a replica killed in its middle."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

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

parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is in the extra bulk")

EXAMPLE = ROOT / "tests" / "examples" / "spark_photos.py"
METHOD = "smooth"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java"),
]


def in_spark(photos: Path, folder: Path, *servers: str):
    options = ["--model", "classifier", "--method", METHOD, "--batch", "8", "--master", "local[2,4]"]
    for server in servers:
        options += ["--server", server]
    python = engine_python("spark", "pyspark", "pandas", "pyarrow")
    command = [python, EXAMPLE, photos, folder / "maps", *options]
    return running(command, folder, SPARK_LOCAL_IP="127.0.0.1")


def test_spark_gives_each_photo_one_row_when_a_worker_is_killed_with_a_request_on_its_way(
    photos, serve, tmp_path
):
    server = serve()
    with in_spark(photos, tmp_path, server.target) as process:
        stop_in_the_middle(server, tmp_path / "maps")
        assert "pyspark.daemon" in kill_a_waiting_client(server, process)
        server.process.send_signal(signal.SIGCONT)
        succeeded(process, tmp_path)
    rows = parquet.read_table(tmp_path / "maps").to_pylist()
    assert_each_photo_once(rows, photos, server.target, METHOD)


def test_spark_gives_each_photo_one_row_when_a_replica_is_killed_with_a_request_in_hand(
    photos, serve, tmp_path
):
    lost, kept = serve(), serve()
    with in_spark(photos, tmp_path, lost.target, kept.target) as process:
        stop_in_the_middle(lost, tmp_path / "maps")
        lost.process.kill()
        succeeded(process, tmp_path)
    rows = parquet.read_table(tmp_path / "maps").to_pylist()
    assert_each_photo_once(rows, photos, kept.target, METHOD)
