"""What this tool writes into its files about how they were made, and reading it again."""

from __future__ import annotations

import json
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO

from saliency_client.cli.text import plain_json

NAME = "saliency-client"
SOFTWARE_KEY, FACTS_KEY = "Software", "Saliency"
"""Of the text fields of a PNG."""
IMAGE_FILE = "image_file"
"""The fact that tells the image's file from another of the same name."""
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_ZIP = b"PK\x03\x04"
_START_OF_SCAN, _COMMENT = 0xDA, 0xFE
# Our own are far below this; a chunk of another's file may claim anything.
_LONGEST = 1 << 20


def text(facts: Mapping[str, Any]) -> str:
    """The facts as JSON, without those that are unknown."""
    return json.dumps({key: value for key, value in plain_json(facts).items() if value is not None})


def comment(software: str, facts: Mapping[str, Any]) -> bytes:
    """The comment of a JPEG or of an npz: who made the file, and the facts."""
    return f"{software} {text(facts)}".encode()


def of_file(path: str) -> dict[str, int] | None:
    """What tells a file from another of the same name, its size and checksum; None of a pipe, as of stdin."""
    checksum = size = 0
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return None
        with open(path, "rb") as file:
            while some := file.read(1 << 20):
                checksum, size = zlib.crc32(some, checksum), size + len(some)
    except OSError:
        return None
    return {"bytes": size, "crc32": checksum}


def is_of_another(facts: Mapping[str, Any], path: str, image: str) -> bool:
    """Whether the file `path`, which says `facts` of itself, was made of another file than is now at `image`.

    An image is read only where it is as large as the other was, and newer than what was made of it.
    """
    known = facts.get(IMAGE_FILE)
    if not isinstance(known, dict):
        return False
    try:
        now, made = os.stat(image), os.stat(path)
    except OSError:
        return False
    if now.st_size != known.get("bytes"):
        return True
    return now.st_mtime_ns > made.st_mtime_ns and of_file(image) not in (None, known)


def read_facts(path: str) -> dict[str, Any] | None:
    """What a file of this tool says of itself; None for any other file, and for one that cannot be read.

    The fields that this tool writes are read, and nothing else: a photo whose EXIF, caption or name speaks
    of this tool is a photo.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(8)
            if start == _PNG:
                return _facts(*_of_png(file))
            if start[:2] == _JPEG:
                file.seek(2)
                return _of_comment(_of_jpeg(file))
            if start[:4] == _ZIP:
                with zipfile.ZipFile(file) as archive:
                    return _of_comment(archive.comment)
    except (OSError, zipfile.BadZipFile, ValueError, struct.error):
        pass
    return None


def _of_png(file: BinaryIO) -> tuple[bytes, bytes]:
    """The two text fields, empty where there are none; they stand before the picture's data."""
    fields: dict[bytes, bytes] = {}
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in (b"IDAT", b"IEND"):
            break
        if kind == b"tEXt" and length <= _LONGEST:
            key, _, value = file.read(length).partition(b"\0")
            fields.setdefault(key, value)
            file.seek(4, 1)
        else:
            file.seek(length + 4, 1)
    return fields.get(SOFTWARE_KEY.encode(), b""), fields.get(FACTS_KEY.encode(), b"")


def _of_jpeg(file: BinaryIO) -> bytes:
    """The comment; empty where there is none before the picture's data."""
    while len(head := file.read(4)) == 4:
        mark, kind, length = struct.unpack(">BBH", head)
        if mark != 0xFF or kind == _START_OF_SCAN:
            break
        if kind == _COMMENT:
            return file.read(length - 2)
        file.seek(length - 2, 1)
    return b""


def _of_comment(comment: bytes) -> dict[str, Any] | None:
    software, brace, facts = comment.partition(b"{")
    return _facts(software, brace + facts)


def _facts(software: bytes, facts: bytes) -> dict[str, Any] | None:
    if not software.startswith(NAME.encode() + b" "):
        return None
    try:
        value = json.loads(facts)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
