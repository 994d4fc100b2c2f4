"""A manifest of any size or content is shown, or an error in one sentence; it never acts on a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from saliency_exporter.cli import main
from saliency_exporter.errors import ExportError
from saliency_exporter.version import manifest
from saliency_exporter.version.manifest import manifest_path, read_manifest

CLEAR_SCREEN, RIGHT_TO_LEFT, ONE_BYTE_ESCAPE = "\x1b[2J", "\u202e", "\x9b2J"


@pytest.fixture
def good(uncompiled_version: Path) -> dict:
    return read_manifest(uncompiled_version).to_json()


def version(tmp_path: Path, content: bytes) -> Path:
    path = manifest_path(tmp_path / "1")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return tmp_path / "1"


def inspect(directory: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["inspect", str(directory), *options])


@pytest.mark.parametrize("value", [None, [], {}, "", 7, [[7]], {"a": None}, "gone"], ids=repr)
def test_a_part_of_another_form_or_none_is_told(tmp_path, good, value):
    for key in good.keys() - {"contract_version"}:
        parts = {**good, key: value}
        if value == "gone":
            del parts[key]
        done = inspect(version(tmp_path, json.dumps(parts).encode()))
        assert done.exception is None or isinstance(done.exception, SystemExit), key
        if done.exit_code:
            assert "saliency.json is not as an export writes it: " in done.stderr, key
            assert done.stderr.count("\n") == 2, key


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b"7",
        b"null",
        b'{"contract_version": 1}',
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
    ids=["empty", "not UTF-8", "deep", "a number", "null", "another version", "a long number"],
)
def test_what_is_no_manifest_is_refused(tmp_path, content):
    done = inspect(version(tmp_path, content))
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert "saliency.json" in done.stderr


def test_a_manifest_beyond_the_bound_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "MAX_BYTES", 1000)
    with pytest.raises(ExportError, match="at most 1000 bytes"):
        read_manifest(version(tmp_path, b" " * 1001))


def test_verify_tells_it_before_it_loads_anything(tmp_path, good):
    from saliency_exporter.version.verify import verify

    del good["score"]
    with pytest.raises(ExportError, match=r"is not as an export writes it: .*`score`"):
        verify(version(tmp_path, json.dumps(good).encode()))


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["words", "JSON"])
def test_nothing_in_it_acts_on_the_terminal(tmp_path, good, options):
    evil = f"a{CLEAR_SCREEN}b{RIGHT_TO_LEFT}c{ONE_BYTE_ESCAPE}\nmodel  forged"
    parts = {**good, "model": evil, "source": evil, "labels": [evil] * 5, "exporter": evil}
    done = inspect(version(tmp_path, json.dumps(parts).encode()), *options)
    assert done.exit_code == 0
    assert all(character.isprintable() or character == "\n" for character in done.stdout)
    assert "\nmodel  forged" not in done.stdout
    if options:
        assert json.loads(done.stdout) == parts


def test_an_error_does_not_either(tmp_path):
    done = inspect(tmp_path / f"a{CLEAR_SCREEN}")
    assert done.exit_code == 1
    assert r"a\x1b[2J" in done.stderr
    assert "\x1b" not in done.stderr
