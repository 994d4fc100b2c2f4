"""Images in a TFRecord file of `tf.train.Example`s, without TensorFlow.

Sources: https://www.tensorflow.org/tutorials/load_data/tfrecord (the framing, and masked CRC32C);
tensorflow/core/example/feature.proto and example.proto (the message).
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

from google.protobuf.message import DecodeError

from saliency_client._errors import ItemError, OptionError
from saliency_client._varints import BYTES, varint
from saliency_client.bulk.sources.records import MOST_BYTES, Damaged, Fields, Record, chosen, usual
from saliency_client.bulk.storage import Place

_IMAGES = ("image/encoded", "image", "image_raw", "encoded", "jpeg", "jpg", "png")
_KEYS = ("image/filename", "image/source_id", "image/key/sha256", "filename", "file_name", "id", "key")
_MASK = 0xA282EAD8
_GZIP = b"\x1f\x8b"


def records(
    place: Place, fields: Fields, start: int = 0, groups: tuple[int, int] | None = None
) -> Iterator[Record]:
    """The image and the key of each example.

    Args:
        place: the file, compressed by gzip or not.
        fields: names of the features.
        start: the number of the first record that is given.
        groups: not used.

    Raises:
        Damaged: a checksum does not fit, or the file ends too early.
        OptionError: no feature holds images, or the first record has no key of the name that was given.
        StorageError: it cannot be opened.
    """
    with place.open() as file:
        for number, payload in enumerate(_payloads(place, file)):
            if number < start:
                continue
            try:
                features = _features(payload)
                if number == 0 and fields.key is not None:
                    # Of later ones, one without a key may be meant.
                    chosen(list(features), (), fields.key, "feature", option="--key-column")
                yield replace(_record(features, fields), read=file.tell())
            except DecodeError as error:
                yield Record(None, ItemError(f"record {number} is no tf.train.Example: {error}"))
            except OptionError as error:
                raise type(error)(f"{place}, record {number}: {error}", hint=error.hint) from error


def _payloads(place: Place, raw: BinaryIO) -> Iterator[bytes]:
    import google_crc32c

    def masked(content: bytes) -> int:
        crc: int = google_crc32c.value(content)
        return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF

    zipped = raw.read(2) == _GZIP
    raw.seek(0)
    file: BinaryIO = gzip.GzipFile(fileobj=raw) if zipped else raw  # type: ignore[assignment]
    number = 0
    try:
        while header := file.read(12):
            if len(header) < 12 or masked(header[:8]) != struct.unpack("<I", header[8:])[0]:
                raise Damaged(f"{place} is no TFRecord file, or is damaged behind record {number}")
            (length,) = struct.unpack("<Q", header[:8])
            if length > MOST_BYTES:
                raise Damaged(f"{place}: record {number} has {length} bytes, above the bound of {MOST_BYTES}")
            payload, footer = file.read(length), file.read(4)
            if len(footer) < 4 or masked(payload) != struct.unpack("<I", footer)[0]:
                raise Damaged(f"{place} is damaged, or ends, within record {number}")
            number += 1
            yield payload
    except (OSError, EOFError) as error:
        raise Damaged(f"{place} is damaged behind record {number}: {error}") from error


def _record(features: dict[str, list[bytes | int]], fields: Fields) -> Record:
    image_name = chosen(list(features), _IMAGES, fields.image, "feature", option="--image-column")
    key_name = usual(list(features), _KEYS if fields.key is None else (fields.key,))
    keys = features.get(key_name, []) if key_name is not None else []
    key = keys[0].decode("utf-8", "replace") if keys and isinstance(keys[0], bytes) else None
    if keys and isinstance(keys[0], int):
        key = str(keys[0])
    values = features[image_name]
    if len(values) == 1 and isinstance(values[0], bytes):
        return Record(key, values[0])
    return Record(key, ItemError(f"feature {image_name!r} holds {len(values)} values, not the bytes of one"))


def _fields_of(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """The fields of a message: their numbers, and their bytes or numbers."""
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == BYTES:
            length, at = varint(message, at)
            if at + length > len(message):
                raise DecodeError("a field is cut short")
            yield number, message[at : at + length]
            at += length
        elif wire == 0:
            value, at = varint(message, at)
            yield number, value
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise DecodeError(f"a field is of wire type {wire}")


def _features(payload: bytes) -> dict[str, list[bytes | int]]:
    """Features of bytes and of whole numbers, by name: Example.features (1) → map feature (1)."""
    found: dict[str, list[bytes | int]] = {}
    for number, features in _fields_of(memoryview(payload)):
        if number != 1 or isinstance(features, int):
            continue
        for inner, entry in _fields_of(features):
            if inner != 1 or isinstance(entry, int):
                continue
            name, values = "", list[bytes | int]()
            for part, content in _fields_of(entry):
                if part == 1 and not isinstance(content, int):
                    name = bytes(content).decode("utf-8", "replace")
                elif part == 2 and not isinstance(content, int):
                    values = _values(content)
            found[name] = values
    return found


def _values(feature: memoryview) -> list[bytes | int]:
    """Of a Feature: its list of bytes (1) or of whole numbers (3), packed or not; floats are none of ours."""
    values: list[bytes | int] = []
    for kind, content in _fields_of(feature):
        if isinstance(content, int):
            continue
        for number, value in _fields_of(content):
            if number != 1:
                continue
            if kind == 1 and not isinstance(value, int):
                values.append(bytes(value))
            elif kind == 3 and isinstance(value, int):
                values.append(_signed(value))
            elif kind == 3 and not isinstance(value, int):
                at = 0
                while at < len(value):
                    one, at = varint(value, at)
                    values.append(_signed(one))
    return values


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
