from __future__ import annotations

from saliency_exporter.version.base_path import next_version


def test_versions_count_up(tmp_path):
    assert next_version(tmp_path) == 1
    for name in ("1", "12", "3", "notes", "latest", ".saliency-export-13-1-1"):
        (tmp_path / name).mkdir()
    assert next_version(tmp_path) == 13
