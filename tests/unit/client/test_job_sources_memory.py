"""What a job's sources hold while they read: one image, or some, however many there are."""

from __future__ import annotations

import gc
import io
import tarfile
from pathlib import Path

from saliency_client.bulk.sources import tar
from saliency_client.bulk.sources.records import Fields
from saliency_client.bulk.storage import Place


def test_a_tar_is_read_without_keeping_its_members(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "many.tar", "w") as file:
        for number in range(500):
            member = tarfile.TarInfo(f"{number}.png")
            member.size = 3
            file.addfile(member, io.BytesIO(b"png"))
    held = []
    for number, record in enumerate(tar.records(Place(str(tmp_path / "many.tar")), Fields())):
        assert (record.key, record.image) == (f"{number}.png", b"png")
        if number % 100 == 99:
            held.append(sum(isinstance(one, tarfile.TarInfo) for one in gc.get_objects()))
    assert len(held) == 5
    assert max(held) - min(held) < 5
