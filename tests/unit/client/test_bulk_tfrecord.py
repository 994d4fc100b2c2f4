"""TFRecord files that TensorFlow wrote, read without it."""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path

import pytest
import tensorflow as tf
from PIL import Image

from saliency_client import ItemError, OptionError
from saliency_client.bulk.sources.records import Damaged, Fields
from saliency_client.bulk.sources.tfrecord import records
from saliency_client.bulk.storage import Place


def picture(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (number, 0, 0)).save(file, "PNG")
    return file.getvalue()


def read(path: Path, fields: Fields | None = None, start: int = 0) -> list:
    return [(one.key, one.image) for one in records(Place(str(path)), fields or Fields(), start)]


def tfrecord_of(path: Path, examples: list[dict[str, object]], compression: str = "") -> Path:
    def feature(value: object) -> tf.train.Feature:
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        return tf.train.Feature(float_list=tf.train.FloatList(value=value))

    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for example in examples:
            features = {name: feature(value) for name, value in example.items()}
            message = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(message.SerializeToString())
    return path


EXAMPLES = [
    {
        "image/encoded": picture(n),
        "image/filename": f"n{n}.png".encode(),
        "image/class/label": n,
        "image/bbox": [0.1, 0.2],
    }
    for n in range(5)
]


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_the_images_of_a_tfrecord_come_with_their_names(tmp_path, compression):
    path = tfrecord_of(tmp_path / "a.tfrecord", EXAMPLES, compression)

    assert read(path) == [(f"n{n}.png", picture(n)) for n in range(5)]
    assert [key for key, _ in read(path, start=3)] == ["n3.png", "n4.png"]


def test_features_of_a_tfrecord_are_named_and_a_number_is_a_key_too(tmp_path):
    path = tfrecord_of(tmp_path / "a", [{"photo": picture(7), "number": -12}])

    assert read(path, Fields("photo", "number")) == [("-12", picture(7))]
    with pytest.raises(
        OptionError, match=r"record 0: no feature is called .*; there are number, photo"
    ) as caught:
        read(path)
    assert "--image-column" in caught.value.hint


def test_a_record_without_the_bytes_of_one_image_is_an_error_of_its_own(tmp_path):
    path = tfrecord_of(tmp_path / "a", [{"image": 3}, {"image": picture(1)}])

    (_, first), (_, second) = read(path)

    assert isinstance(first, ItemError)
    assert "not the bytes of one" in str(first)
    assert second == picture(1)


@pytest.mark.parametrize(("at", "where"), [(3, "behind record 1"), (200, "within record 1")])
def test_a_byte_that_changed_is_found_by_the_checksums_of_a_tfrecord(tmp_path, at, where):
    path = tfrecord_of(tmp_path / "a.tfrecord", EXAMPLES)
    content = bytearray(path.read_bytes())
    second = 12 + struct.unpack("<Q", content[:8])[0] + 4
    content[second + at] ^= 4
    path.write_bytes(content)
    found = []

    with pytest.raises(Damaged, match=where):
        found.extend(one.key for one in records(Place(str(path)), Fields()))

    assert found == ["n0.png"]


@pytest.mark.parametrize("zipped", [False, True])
def test_a_tfrecord_that_is_cut_off_says_where(tmp_path, zipped):
    path = tfrecord_of(tmp_path / "a.tfrecord", EXAMPLES)
    content = gzip.compress(path.read_bytes()) if zipped else path.read_bytes()
    path.write_bytes(content[:-20])

    with pytest.raises(Damaged, match="record"):
        read(path)
