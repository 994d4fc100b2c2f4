"""XLA's persistent cache: a second process loads what the first compiled, and damage is never loaded."""

from __future__ import annotations

import os
import stat
from importlib import metadata
from pathlib import Path

import pytest

from saliency_exporter.errors import ExportError
from saliency_exporter.runtime import xla_cache
from saliency_exporter.runtime.xla_cache import (
    cache_environment,
    cache_part,
    discard_unvouched,
    use_xla_cache,
    vouch_for_entries,
)


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(b""), lambda path: path.unlink()])
def test_only_unchanged_vouched_entries_are_kept(tmp_path, change):
    for name in ("a.pb", "b.pb"):
        (tmp_path / name).write_bytes(name.encode())
    vouch_for_entries(tmp_path)
    (tmp_path / "late.pb").write_bytes(b"never vouched for")
    change(tmp_path / "a.pb")
    discard_unvouched(tmp_path)
    assert [path.name for path in sorted(tmp_path.glob("*.pb"))] == ["b.pb"]


@pytest.mark.parametrize("vouched", [b"", b"{", b"[]", b'{"a.pb": 7}'])
def test_a_damaged_record_vouches_for_nothing(tmp_path, vouched):
    (tmp_path / "a.pb").write_bytes(b"a")
    (tmp_path / "vouched.json").write_bytes(vouched)
    assert [path.name for path in discard_unvouched(tmp_path)] == ["a.pb"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", "--tf_xla_persistent_cache_directory=/cache"),
        ("--tf_xla_auto_jit=2", "--tf_xla_auto_jit=2 --tf_xla_persistent_cache_directory=/cache"),
    ],
)
def test_flags_that_are_there_are_kept(flags, expected):
    assert cache_environment(Path("/cache"), {"TF_XLA_FLAGS": flags}) == {"TF_XLA_FLAGS": expected}


def test_a_cache_that_the_user_chose_wins():
    assert (
        cache_environment(Path("/cache"), {"TF_XLA_FLAGS": "--tf_xla_persistent_cache_directory=/own"}) == {}
    )


def test_flags_in_a_file_are_kept(tmp_path):
    file = tmp_path / "flags"
    file.write_text("--tf_xla_auto_jit=2\n")
    assert cache_environment(Path("/cache"), {"TF_XLA_FLAGS": str(file)}) == {
        "TF_XLA_FLAGS": "--tf_xla_auto_jit=2 --tf_xla_persistent_cache_directory=/cache"
    }


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir, lambda path: path.write_bytes(b"\xff")])
def test_a_file_of_flags_that_cannot_be_read_is_named(tmp_path, make):
    file = tmp_path / "flags"
    make(file)
    with pytest.raises(ExportError, match=f"TF_XLA_FLAGS names the file {file}, which cannot be read"):
        cache_environment(Path("/cache"), {"TF_XLA_FLAGS": str(file)})


def test_flags_with_an_open_quotation_are_refused():
    with pytest.raises(ExportError, match="TF_XLA_FLAGS cannot be read: No closing quotation"):
        cache_environment(Path("/cache"), {"TF_XLA_FLAGS": "--tf_xla_auto_jit='2"})


def test_an_entry_or_a_record_that_cannot_be_read_or_written_is_no_traceback(tmp_path):
    (tmp_path / "vouched.json").mkdir()
    with pytest.raises(ExportError, match="cannot keep compiled programs"):
        vouch_for_entries(tmp_path)
    part = cache_part(tmp_path)
    (part / "a.pb").mkdir(parents=True)
    with pytest.raises(ExportError, match="cannot keep compiled programs"):
        use_xla_cache(tmp_path)


def test_a_path_with_white_space_is_refused():
    with pytest.raises(ExportError, match="white space"):
        cache_environment(Path("/my cache"), {})


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match=str(tmp_path / "file")):
        use_xla_cache(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    part = cache_part(tmp_path)
    part.mkdir(parents=True)
    part.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(ExportError, match="not writable"):
        use_xla_cache(tmp_path)


def test_each_TensorFlow_version_and_device_has_its_own_part(tmp_path, monkeypatch):
    here = cache_part(tmp_path)
    assert here == cache_part(tmp_path)
    monkeypatch.setattr("saliency_exporter.runtime.xla_cache._device_lines", lambda: ["another processor"])
    other_device = cache_part(tmp_path)
    monkeypatch.setattr("saliency_exporter.runtime.xla_cache._tensorflow_version", lambda: "9.9.9")
    assert len({here, other_device, cache_part(tmp_path)}) == 3


def test_the_version_is_that_of_whichever_distribution_is_installed(monkeypatch):
    def version_of(*installed: str) -> str:
        def version(name: str) -> str:
            if name not in installed:
                raise metadata.PackageNotFoundError(name)
            return f"{name} 2.20"

        monkeypatch.setattr(metadata, "version", version)
        return xla_cache._tensorflow_version()

    assert version_of("tensorflow") == "tensorflow 2.20"
    assert version_of("tensorflow-cpu") == "tensorflow-cpu 2.20"
    assert version_of() == "unknown"
