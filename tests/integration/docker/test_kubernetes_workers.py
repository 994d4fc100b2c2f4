"""The command lines of the Indexed Job's pods, run as processes on a local server."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from manifests import arguments, rendered
from PIL import Image

pq = pytest.importorskip("pyarrow.parquet", reason="the job writes Parquet")

PHOTOS = 11
# Smaller than a cluster's: photos of a file, and what a pod has and this machine has not. Photos so few are
# decoded sooner than processes for it start.
SMALL = ("--shard-rows=2", "--decoders=0", "--metrics=127.0.0.1:0", "--num-samples=2")


def run_pods(commands: list[list[str]]) -> list[int]:
    """Exit codes of all, which run side by side."""
    pods = [
        subprocess.Popen(
            [sys.executable, "-m", "saliency_client", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in commands
    ]
    ends = []
    try:
        for pod in pods:
            output, _ = pod.communicate(timeout=120)
            ends.append(pod.returncode)
            assert pod.returncode in (0, 1), output
    finally:
        for pod in pods:
            pod.kill()
    return ends


def rows_of(folder: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    for file in folder.glob("*.parquet"):
        found.update(Path(path).name for path in pq.read_table(file, columns=["path"])["path"].to_pylist())
    return found


def test_the_pods_of_the_job_explain_every_photo_once(uncompiled_version, start_server, tmp_path):
    server = start_server(f"classifier={uncompiled_version.parent}", "--no-warmup")
    photos = tmp_path / "photos"
    photos.mkdir()
    noise = np.random.default_rng(0)
    for number in range(PHOTOS):
        image = noise.integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(image).save(photos / f"{number}.jpg")
    (photos / "broken.jpg").write_bytes(b"no photo")
    job = rendered("job/overlays/volume")["Job"]["spec"]
    here = {"INPUT": str(photos), "OUTPUT": str(tmp_path / "maps"), "MODEL": "classifier"}

    def pod(index: int, drop: str = "") -> list[str]:
        words = [word for word in arguments(job, index, here) if word != drop]
        ours = {word.partition("=")[0] for word in SMALL} | {"--server"}
        kept = [word for word in words if word.partition("=")[0] not in ours]
        return [*kept, *SMALL, f"--server={server.target}"]

    workers = job["completions"]
    assert run_pods([pod(index) for index in range(workers)]) == [0] * workers
    expected = Counter({f"{number}.jpg": 1 for number in range(PHOTOS)} | {"broken.jpg": 1})
    assert rows_of(tmp_path / "maps") == expected
    # A pod that is started again has nothing left to do. The broken photo is a failure where failures count.
    assert run_pods([pod(0)]) == [0]
    codes = run_pods([pod(index, drop="--allow-failures") for index in range(workers)])
    assert sorted(codes) == [0] * (workers - 1) + [1]
    assert rows_of(tmp_path / "maps") == expected
