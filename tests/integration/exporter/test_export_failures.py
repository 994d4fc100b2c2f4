"""What an export says where it fails for the disk, for the memory or for the model's own code."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from callables import source_of
from covering import covering

from saliency_exporter.cli import verifier as verifiers
from saliency_exporter.contract.settings import Settings
from saliency_exporter.errors import ExportError
from saliency_exporter.methods.registry import find_methods
from saliency_exporter.runtime.memory import enough_memory
from saliency_exporter.sources.preprocessing import builtin
from saliency_exporter.version import write

EXHAUSTED = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[9]")
FULL = OSError(errno.ENOSPC, "No space left on device")


def scores(x: tf.Tensor) -> tf.Tensor:
    return tf.nn.relu(tf.reshape(x, [-1, 12])[:, :3])


def raising(error: Exception) -> Any:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


def refused(model_dir: Path, call: Any = scores) -> ExportError:
    settings = Settings(methods=find_methods(["gradients"]), batch_sizes=(1,), compile="none", target="cpu")
    job = write.Export(source_of(call, (2, 2, 3), name="mine"), builtin("none"), settings, "mine")
    with pytest.raises(ExportError) as failure:
        write.export(job, model_dir)
    assert not model_dir.exists()
    return failure.value


def test_an_error_of_the_models_own_function_is_not_one_of_the_disk(tmp_path: Path) -> None:
    failure = refused(
        tmp_path / "m", raising(OSError(errno.ENOENT, "No such file or directory", "table.txt"))
    )
    assert "mine cannot be traced into a TensorFlow graph" in str(failure)
    assert "No such file or directory: 'table.txt'" in str(failure)
    assert "written" not in str(failure)
    assert "space" not in failure.hint


@pytest.mark.parametrize(
    ("step", "error"),
    covering(["_save", "_write_reference", "write_manifest", "publish"], [FULL, EXHAUSTED]),
)
def test_a_full_disk_is_said_with_the_directory(tmp_path: Path, monkeypatch, step: str, error) -> None:
    monkeypatch.setattr(write, step, raising(error))
    failure = refused(tmp_path / "m")
    assert str(failure).startswith(f"{tmp_path / 'm'} cannot be written: ")
    assert "free some space" in failure.hint


@pytest.mark.parametrize("error", [MemoryError(), EXHAUSTED], ids=["of Python", "of TensorFlow"])
def test_a_memory_that_is_too_small_is_said_wherever_it_is(tmp_path: Path, monkeypatch, error) -> None:
    failure = refused(tmp_path / "m", raising(error))
    assert str(failure).startswith("the memory is too small: ")
    assert "--batch-sizes" in failure.hint
    monkeypatch.setattr("saliency_exporter.version.reference._answers", raising(error))
    assert str(refused(tmp_path / "m")) == str(failure)


def test_an_error_that_was_raised_from_want_of_memory_is_one() -> None:
    unreadable = ExportError("the model cannot be read")
    unreadable.__cause__ = MemoryError()
    with (
        pytest.raises(ExportError, match="the memory is too small: MemoryError") as failure,
        enough_memory("h"),
    ):
        raise unreadable
    assert failure.value.hint == "h"
    with pytest.raises(ZeroDivisionError), enough_memory("h"):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("code", "said", "hint"),
    [
        (
            f"os.kill(os.getpid(), {int(signal.SIGKILL)})",
            "was killed, most likely because the memory",
            "--batch",
        ),
        (f"os.kill(os.getpid(), {int(signal.SIGABRT)})", "was ended by SIGABRT", "--compile none"),
        ("sys.exit(3)", "ended with exit code 3", None),
        ("print(json.dumps({'problems': ['x differs']})); sys.exit(1)", "its verification: x differs", "XLA"),
    ],
)
def test_a_verification_that_does_not_come_to_its_end_says_how(
    tmp_path: Path, monkeypatch, code: str, said: str, hint: str | None
) -> None:
    class Replaced(subprocess.Popen):
        def __init__(self, command: list[str], **options: Any) -> None:
            super().__init__([sys.executable, "-c", f"import json, os, sys; {code}"], **options)

    monkeypatch.setattr(subprocess, "Popen", Replaced)
    with pytest.raises(ExportError, match=said) as failure, verifiers.verifier(None, at_once=True) as verify:
        verify(tmp_path)
    assert hint is None or hint in failure.value.hint
    if hint is not None and "none" in failure.value.hint:
        # A person who has done that is told something else.
        with (
            pytest.raises(ExportError, match=said) as failure,
            verifiers.verifier(None, at_once=True, compiled=False) as verify,
        ):
            verify(tmp_path)
        assert "--no-lowering" in failure.value.hint
