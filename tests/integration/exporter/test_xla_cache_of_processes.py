from __future__ import annotations

from pathlib import Path

import numpy as np
from server_process import ServerProcess

from saliency_exporter.runtime.xla_cache import cache_part
from saliency_exporter.version.warmup import write_warmup


def serve_once(start_server, model_dir: Path, cache: Path) -> dict[str, int]:
    """Starts and stops a server; returns the cache's entries and when each was last written."""
    server = start_server(f"small={model_dir}", "--xla-cache", cache)
    assert server.target
    assert server.stop() == (0, "")
    return {entry.name: entry.stat().st_mtime_ns for entry in cache_part(cache).glob("*.pb")}


def test_a_second_process_compiles_nothing_and_a_damaged_entry_is_compiled_again(
    model_dir, tmp_path, start_server, monkeypatch
):
    records = [
        ("explain", {"images": np.ones([rows, 2], np.float32), "class_index": np.zeros(rows, np.int32)})
        for rows in (1, 2)
    ]
    write_warmup(model_dir / "1", records, "small")
    cache = tmp_path / "cache"
    # A new interpreter: what its strings' hashes or addresses might change is not as in the others.
    with monkeypatch.context() as patch:
        patch.setattr(ServerProcess, "forked", False)
        first = serve_once(start_server, model_dir, cache)
    assert len(first) == 2
    assert serve_once(start_server, model_dir, cache) == first
    damaged, kept = sorted(first)
    entry = cache_part(cache) / damaged
    content = bytearray(entry.read_bytes())
    content[len(content) // 2] ^= 0xFF
    entry.write_bytes(content)
    third = serve_once(start_server, model_dir, cache)
    assert third.keys() == first.keys()
    assert third[kept] == first[kept]
    assert entry.read_bytes() != bytes(content)
