"""Files of many images, written by other programs than this one."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from saliency_client import ItemError, OptionError
from saliency_client.bulk.sources.records import MOST_BYTES, Damaged, Fields, kind_of, reader
from saliency_client.bulk.storage import Place


def picture(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (number, 0, 0)).save(file, "PNG")
    return file.getvalue()


def read(path: Path, kind: str, fields: Fields | None = None, start: int = 0, groups=None) -> list:
    place = Place(str(path))
    return [(one.key, one.image) for one in reader(kind)(place, fields or Fields(), start, groups)]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a/cat.JPG", "picture"),
        ("cat.npy", "picture"),
        ("data.parquet", "parquet"),
        ("train.tfrecord", "tfrecord"),
        ("train.tfrecord.gz", "tfrecord"),
        ("train-00012-of-01024", "tfrecord"),
        ("flowers-train.tfrecord-00012-of-01024", "tfrecord"),
        ("part.parquet-00000-of-00002", "parquet"),
        ("shard-000.tar", "tar"),
        ("shard.tar.gz", "tar"),
        ("shard.tgz", "tar"),
        ("shard.tar.xz", "tar"),
        ("shard.tbz2", "tar"),
        ("notes.txt", None),
        ("README", None),
        ("jpg", None),
    ],
)
def test_what_a_file_holds_is_known_by_its_name(name, kind):
    assert kind_of(name) == kind


# Tar, as webdataset writes it.


def tar_of(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


MEMBERS = {
    "0001.png": picture(1),
    "0001.cls": b"3",
    "sub/0002.JPEG": picture(2),
    "sub/._0002.JPEG": b"what macOS adds",
    "0003.json": b"{}",
    "0004.webp": picture(4),
}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_the_pictures_of_a_tar_come_in_its_order_by_their_names(tmp_path, mode):
    path = tar_of(tmp_path / "a.tar", MEMBERS, mode)

    assert read(path, "tar") == [
        ("0001.png", picture(1)),
        ("sub/0002.JPEG", picture(2)),
        ("0004.webp", picture(4)),
    ]


def test_reading_a_tar_from_a_number_on_gives_the_rest(tmp_path):
    path = tar_of(tmp_path / "a.tar", MEMBERS)

    assert [key for key, _ in read(path, "tar", start=1)] == ["sub/0002.JPEG", "0004.webp"]
    assert read(path, "tar", start=3) == []


def test_a_tar_that_is_cut_off_gives_what_is_whole_and_then_says_where_it_ends(tmp_path):
    path = tar_of(tmp_path / "a.tar", {f"{n}.png": picture(n) + bytes(5000) for n in range(4)})
    content = path.read_bytes()
    path.write_bytes(content[:9000])
    found = []

    with pytest.raises(Damaged, match=r"a\.tar") as caught:
        found.extend(one.key for one in reader("tar")(Place(str(path)), Fields(), 0, None))

    assert found == ["0.png"]
    assert "behind image 1" in str(caught.value)


def test_members_that_climb_out_of_a_folder_are_read_and_written_nowhere(tmp_path):
    (tmp_path / "in").mkdir()
    members = {"../out.png": picture(1), f"{tmp_path}/abs.png": picture(2)}
    path = tar_of(tmp_path / "in" / "a.tar", members)

    assert read(path, "tar") == list(members.items())
    assert sorted(one.name for one in tmp_path.rglob("*")) == ["a.tar", "in"]


def test_a_member_above_the_bound_is_an_error_and_is_not_read(tmp_path):
    path = tmp_path / "a.tar"
    with open(path, "wb") as file:
        big = tarfile.TarInfo("big.png")
        big.size = MOST_BYTES + 1
        file.write(big.tobuf())
        file.seek(-(-big.size // 512) * 512, os.SEEK_CUR)  # a hole, which takes no place on the disk
        small = tarfile.TarInfo("small.png")
        small.size = len(picture(3))
        file.write(small.tobuf() + picture(3).ljust(512, b"\0") + bytes(1024))

    (name, error), (_, good) = read(path, "tar")

    assert name == "big.png"
    assert "has 1073741825 bytes, above the bound of 1073741824" in str(error)
    assert good == picture(3)


def test_what_is_no_tar_is_said_to_be_damaged(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"these are no headers of a tar" * 100)

    with pytest.raises(Damaged, match="is no tar file, or is damaged"):
        read(tmp_path / "a.tar", "tar")


def test_a_name_in_a_tar_that_is_not_utf_8_is_a_key_with_escapes(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(picture(1))
        tar.addfile(info, io.BytesIO(picture(1)))

    assert read(tmp_path / "a.tar", "tar") == [("caf\\udce9.png", picture(1))]


# Parquet, as pyarrow and Hugging Face's datasets write it.


def parquet_of(path: Path, columns: dict[str, list], group: int = 2) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=group)
    return path


def test_a_column_of_images_and_one_of_keys_are_found_by_their_names(tmp_path):
    path = parquet_of(
        tmp_path / "a.parquet",
        {"label": [1, 2, 3], "id": [10, 20, 30], "bytes": [picture(n) for n in range(3)]},
    )

    assert read(path, "parquet") == [("10", picture(0)), ("20", picture(1)), ("30", picture(2))]


def test_hugging_faces_structs_of_bytes_and_path_are_images(tmp_path):
    images = [{"bytes": picture(n), "path": f"{n}.png"} for n in range(3)]
    path = parquet_of(tmp_path / "a.parquet", {"image": images, "label": [0, 1, 0]})

    assert read(path, "parquet") == [(f"{n}.png", picture(n)) for n in range(3)]


def test_a_struct_with_a_path_alone_says_so(tmp_path):
    images = pyarrow.array(
        [{"bytes": None, "path": "7.png"}],
        pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]),
    )
    path = parquet_of(tmp_path / "a.parquet", {"image": images})

    ((key, error),) = read(path, "parquet")

    assert key == "7.png"
    assert str(error) == "column 'image' holds the path '7.png' alone, not the bytes of an image"


@pytest.mark.parametrize(
    "written",
    [
        lambda images: pyarrow.array(images, pyarrow.large_binary()),
        lambda images: pyarrow.array(images, pyarrow.binary_view()),
        lambda images: pyarrow.array(images).dictionary_encode(),
        lambda images: pyarrow.array(images, pyarrow.binary(len(images[0]))),
    ],
    ids=["large", "view", "dictionary", "fixed size"],
)
def test_bytes_of_images_are_read_in_whatever_way_arrow_keeps_them(tmp_path, written):
    images = [picture(3)] * 2
    path = parquet_of(tmp_path / "a.parquet", {"image": written(images), "key": [b"a", b"b"]})

    assert read(path, "parquet") == [("a", images[0]), ("b", images[1])]


def test_usual_names_are_found_in_capitals_too_and_as_they_are_first(tmp_path):
    path = parquet_of(tmp_path / "a.parquet", {"Image": [picture(1)], "ID": ["a"]})
    assert read(path, "parquet") == [("a", picture(1))]

    path = parquet_of(tmp_path / "b.parquet", {"IMAGE": [b"other"], "image": [picture(2)]})
    assert read(path, "parquet") == [(None, picture(2))]


def test_row_groups_and_a_start_choose_rows(tmp_path):
    path = parquet_of(
        tmp_path / "a.parquet", {"image": [picture(n) for n in range(7)], "key": list("abcdefg")}
    )

    def keys(**which) -> str:
        return "".join(key for key, _ in read(path, "parquet", **which))

    assert keys(groups=(1, 3)) == "cdef"
    assert keys(groups=(1, 3), start=1) == "def"
    assert keys(groups=(1, 3), start=3) == "f"
    assert keys(groups=(1, 3), start=4) == ""
    assert keys(start=5) == "fg"


def test_empty_cells_are_errors_of_their_own_and_a_column_of_another_type_is_refused(tmp_path):
    path = parquet_of(tmp_path / "a.parquet", {"image": [None, picture(1), b""], "key": ["a", "b", "c"]})

    (_, nothing), (_, good), (_, empty) = read(path, "parquet")

    assert isinstance(nothing, ItemError)
    assert isinstance(empty, ItemError)
    assert good == picture(1)
    path = parquet_of(tmp_path / "b.parquet", {"image": ["a.png"]})
    with pytest.raises(OptionError, match="column 'image' holds string, not the bytes of images") as caught:
        read(path, "parquet")
    assert "paths of images are taken by --list" in caught.value.hint


def test_a_column_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    path = parquet_of(tmp_path / "a.parquet", {"a": [1], "b": [2]})

    with pytest.raises(OptionError, match=r"a\.parquet: there is no column 'photo'; there are a, b"):
        read(path, "parquet", Fields("photo"))


def test_a_column_that_is_named_is_found_in_small_and_capital_letters_as_usual_ones_are(tmp_path):
    one = parquet_of(tmp_path / "one.parquet", {"Photo": [picture(1)], "ID": ["a"]})
    two = parquet_of(tmp_path / "two.parquet", {"photo": [picture(1)], "Photo": [picture(2)]})

    assert read(one, "parquet", Fields("photo", "Id")) == [("a", picture(1))]
    assert read(two, "parquet", Fields("Photo")) == [(None, picture(2))]
    with pytest.raises(OptionError, match="'PHOTO' may be the column photo or Photo") as caught:
        read(two, "parquet", Fields("PHOTO"))
    assert caught.value.hint == "give --image-column in the same letters"


def test_what_is_no_parquet_is_said_to_be_none(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR?" * 30)

    with pytest.raises(Damaged, match="is no Parquet file that can be read"):
        read(tmp_path / "a.parquet", "parquet")
