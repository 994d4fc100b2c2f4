"""What a job does is written down, in an order that is the same for all who work on it."""

from __future__ import annotations

import os

import pyarrow
import pyarrow.parquet
import pytest

from saliency_client import OptionError
from saliency_client.bulk.job import Extent
from saliency_client.bulk.pipeline import Waiting
from saliency_client.bulk.plan import Entry, LeftOut, Plan, find_entries, listed_entries, write_plan
from saliency_client.bulk.shards import ShardName
from saliency_client.bulk.storage import Place


def entries(*inputs, left_out=None, **how) -> list[Entry]:
    return list(find_entries([str(one) for one in inputs], left_out or LeftOut(), shard_rows=4, **how))


def files(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def test_a_folder_gives_the_pictures_below_it_sorted_by_name_without_hidden_ones(tmp_path):
    folder = files(tmp_path / "in", "b.jpg", "a/z.png", "a/k.JPG", ".hidden/x.jpg", "a/.y.jpg", "c.txt", "d")
    left_out = LeftOut()

    found = entries(folder, left_out=left_out)

    assert [one.path for one in found] == [f"{folder}/{name}" for name in ("a/k.JPG", "a/z.png", "b.jpg")]
    assert {one.kind for one in found} == {"picture"}
    assert left_out.notes() == [
        f"left out 2 files, such as {folder}/c.txt: it is not named as a picture, Parquet, TFRecord or tar"
    ]


def test_links_are_what_they_lead_to_and_no_folder_is_entered_twice(tmp_path):
    files(tmp_path / "elsewhere", "c.jpg", "d.jpg")
    folder = files(tmp_path / "in", "a.jpg")
    (folder / "b.jpg").symlink_to(tmp_path / "elsewhere" / "c.jpg")
    (folder / "broken.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    (folder / "round").symlink_to(folder)
    os.mkfifo(folder / "pipe.jpg")
    left_out = LeftOut()

    found = entries(folder, left_out=left_out)

    assert [one.path for one in found] == [
        f"{folder}/{name}" for name in ("a.jpg", "b.jpg", "broken.jpg", "linked/c.jpg", "linked/d.jpg")
    ]
    assert left_out.notes() == [
        f"left out 2 files, such as {folder}/more: it leads to a folder that is read already",
        f"left out {folder}/pipe.jpg: it is a named pipe, a socket or a device",
    ]


def test_paths_are_named_as_they_were_typed(tmp_path, monkeypatch):
    files(tmp_path / "in", "a.jpg")
    monkeypatch.chdir(tmp_path)

    assert entries("in/")[0].path == "in/a.jpg"
    assert entries("in/a.jpg")[0].path == "in/a.jpg"


def test_a_pattern_gives_its_matches_and_one_that_matches_nothing_is_refused(tmp_path):
    files(tmp_path, "s-1.tar", "s-0.tar", "t-0.tar")

    assert [one.path for one in entries(tmp_path / "s-*.tar")] == [f"{tmp_path}/s-{n}.tar" for n in (0, 1)]
    with pytest.raises(OptionError, match="matches no file"):
        entries(tmp_path / "u-*.tar")


def test_what_is_not_there_and_what_has_no_kind_is_refused(tmp_path):
    files(tmp_path, "data.bin")

    with pytest.raises(OptionError, match="nowhere does not exist"):
        entries(tmp_path / "nowhere")
    with pytest.raises(OptionError, match="is not named as a picture") as caught:
        entries(tmp_path / "data.bin")
    assert "--input-format" in caught.value.hint
    assert entries(tmp_path / "data.bin", kind="tfrecord")[0].kind == "tfrecord"


def test_a_list_names_images_whatever_their_suffix_and_paths_count_from_its_folder():
    lines = ["cat.jpg\n", "\n", "/abs/dog\n", "s3://bucket/x.bin\r\n", "data.tar"]

    found = list(listed_entries(lines, beside="lists", shard_rows=4))

    assert [(one.path, one.kind) for one in found] == [
        ("lists/cat.jpg", "picture"),
        ("/abs/dog", "picture"),
        ("s3://bucket/x.bin", "picture"),
        ("lists/data.tar", "tar"),
    ]


def test_row_groups_go_together_up_to_a_shard(tmp_path):
    table = pyarrow.table({"image": [b"x"] * 13})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=3)

    found = entries(tmp_path / "a.parquet")

    assert [(one.groups, one.rows) for one in found] == [((0, 2), 6), ((2, 4), 6), ((4, 5), 1)]
    assert [one.first_row for one in found] == [0, 6, 12]


def plan_of(tmp_path, found: list[Entry], of="this", shard_rows=2) -> Plan:
    place = Place(str(tmp_path / "plan.parquet"))
    write_plan(place, iter(found), of)
    return Plan(place, shard_rows)


PICTURES = [Entry(f"{n}.jpg", "picture", rows=1) for n in range(6)]
TAR, ROWS = Entry("a.tar", "tar"), Entry("a.parquet", "parquet", (0, 2), 6)


def test_pictures_are_grouped_into_shards_and_files_of_many_stand_alone(tmp_path):
    plan = plan_of(tmp_path, [*PICTURES[:3], TAR, ROWS, *PICTURES[3:]])

    units = list(plan.units())

    assert [unit.number for unit in units] == list(range(6))
    assert [[one.path for one in unit.entries] for unit in units] == [
        ["0.jpg", "1.jpg"],
        ["2.jpg"],
        ["a.tar"],
        ["a.parquet"],
        ["3.jpg", "4.jpg"],
        ["5.jpg"],
    ]
    assert [unit.rows for unit in units] == [2, 1, None, 6, 2, 1]
    assert units[3].entries[0].groups == (0, 2)
    assert plan.size() == (12, None)


def test_a_plan_of_pictures_knows_how_many_rows_it_has(tmp_path):
    assert plan_of(tmp_path, PICTURES).size() == (6, 0)


def test_rows_of_files_that_are_not_counted_are_judged_by_what_has_been_read(tmp_path):
    files = [Entry("a.tar", "tar", bytes=1000), Entry("b.tar", "tar", bytes=3000)]
    extent = Extent(*plan_of(tmp_path, [*PICTURES, *files]).size())
    shard = ShardName(0, 0)

    assert extent.rows is None
    extent.take(Waiting(shard, "a.tar", 0, None, None, read=250))
    assert extent.rows == 6 + 16
    for number in (1, 2, 3):
        extent.take(Waiting(shard, "a.tar", number, None, None, read=250 * (number + 1)))
    extent.take(Waiting(shard, "b.tar", 0, None, None, read=600))
    assert extent.rows == 6 + round(4000 * 5 / 1600)
    resumed = Extent(0, 4000)
    resumed.take(Waiting(shard, "a.tar", 3, None, None, read=1000))
    assert resumed.rows == 16
    extent.take(Waiting(shard, "4.jpg", 0, None, None))
    assert extent.rows == 6 + round(4000 * 5 / 1600)


def test_a_plan_that_is_there_stays_and_one_of_something_else_is_replaced(tmp_path):
    first = plan_of(tmp_path, PICTURES[:1])

    assert list(plan_of(tmp_path, PICTURES[:2]).units()) == list(first.units())
    assert len(list(plan_of(tmp_path, PICTURES[:4], of="that").units())) == 2


def test_a_plan_of_nothing_is_refused_and_not_written(tmp_path):
    with pytest.raises(OptionError, match="there is no image in what was given"):
        plan_of(tmp_path, [])

    assert list(tmp_path.iterdir()) == []
