"""The GPU bundle, made here and run on the CPU backend of jax, which has an environment of its own."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
JAX = Path(os.environ.get("JAX_PYTHON", ROOT / ".venv-jax" / "bin" / "python"))
SECONDS = 1500

pytestmark = [
    pytest.mark.slow,
    # XLA compiles a program of the small network in ten seconds of a core, of which there may be one for all.
    pytest.mark.timeout(2 * SECONDS),
    pytest.mark.skipif(not JAX.exists(), reason="needs jax: make .venv-jax/.installed, or JAX_PYTHON"),
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network with every op, at batch size 8."""
    path = tmp_path_factory.mktemp("bundle") / "bundle.pyz"
    command = [
        sys.executable,
        ROOT / "tests/gpu/make_bundle.py",
        path,
        "--models",
        "every-op",
        "--batch-sizes",
        "8",
    ]
    subprocess.run([*map(str, command)], check=True, timeout=SECONDS, capture_output=True)
    return path


def run(bundle: Path, out: Path, *options: str) -> tuple[int, dict, str]:
    """Exit code, report and page of a run; the bundle brings the program along."""
    command = [str(JAX), str(bundle), "--out", str(out), "--seconds", str(SECONDS), *options]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, timeout=SECONDS + 60, cwd=bundle.parent, env={**environment, "JAX_PLATFORMS": "cpu"}
    )
    page = (out / "gpu-report.md").read_text(encoding="utf-8")
    return done.returncode, json.loads((out / "gpu-report.json").read_text()), page


def test_every_signature_agrees_with_the_reference_on_another_runtime(bundle, tmp_path):
    code, report, page = run(bundle, tmp_path, "--precisions", "default")
    assert (code, report["failures"], report["left_out"]) == (0, [], [])
    assert {row["verdict"] for row in report["programs"]} <= {
        "rounding",
        "in bounds",
        "not judged: an export refuses it",
    }
    assert all(check["right"] for check in report["checks"])
    # The predictions and twelve methods, and smooth once more; of this network an export refuses that.
    assert len(report["programs"]) == 14
    assert [row["samples_in"] for row in report["programs"]].count("bfloat16") == 1
    assert "samples in bfloat16 are here for their time alone, as an export refuses them" in page
    assert "It holds no figure of a GPU" in page


def test_with_the_highest_precision_every_product_is_in_full_float32(bundle, tmp_path):
    options = ("--precisions", "highest", "--signatures", "serving_default,explain_gradients")
    code, report, _ = run(bundle, tmp_path, *options)
    assert (code, len(report["programs"])) == (0, 2)
    # Each product has an attribute with the precision of both operands.
    assert all(row["raised"] == row["products"] > 0 for row in report["programs"])


def test_past_its_time_it_says_what_it_left_out(bundle, tmp_path):
    code, report, page = run(bundle, tmp_path, "--seconds", "0.001")
    assert code == 0
    assert (report["programs"], len(report["left_out"])) == ([], 2 * 13 + 2)
    assert "- every-op, explain_smooth, batch 8, default precision" in page


def changed(bundle: Path, path: Path, member: str, change: Callable[[dict[str, np.ndarray]], None]) -> Path:
    """A copy of the bundle with one of its files of arrays changed."""
    with zipfile.ZipFile(bundle) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == member:
                arrays = dict(np.load(io.BytesIO(data)))
                change(arrays)
                buffer = io.BytesIO()
                np.savez(buffer, **arrays)
                data = buffer.getvalue()
            new.writestr(name, data)
    return path


def one_weight(arrays: dict[str, np.ndarray]) -> None:
    """Changes the bias of one class, which gradients do not see and scores do."""
    name = next(name for name, value in sorted(arrays.items()) if value.shape == (10,))
    arrays[name][3] += 0.5


def one_map(arrays: dict[str, np.ndarray]) -> None:
    """Swaps the reference's guided maps of both examples."""
    arrays["explain_guided/gradients"] = arrays["explain_guided/gradients"][::-1]


def one_bit(arrays: dict[str, np.ndarray]) -> None:
    arrays["bits"][1, 0, 17] ^= 1


@pytest.mark.parametrize(
    ("member", "change", "only", "told"),
    [
        ("every-op/weights.npz", one_weight, "every-op", "scores differ by"),
        ("every-op/examples.npz", one_map, "every-op", "maps? differs? by"),
        ("noise.npz", one_bit, "noise", "other bits"),
    ],
    ids=["weight", "map", "bit"],
)
def test_what_is_wrong_is_reported(bundle, tmp_path, member, change, only, told):
    wrong = changed(bundle, tmp_path / "wrong.pyz", member, change)
    options = ("--only", only, "--precisions", "default", "--signatures", "serving_default,explain_guided")
    code, report, page = run(wrong, tmp_path / "out", *options)
    assert code == 1
    assert report["wrong"] > 0
    assert re.search(told, page)
    right = run(bundle, tmp_path / "right", *options)
    assert right[0] == 0
