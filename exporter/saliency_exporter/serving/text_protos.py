"""Configuration files of TensorFlow Serving: messages in text form."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from saliency_exporter.errors import ExportError

M = TypeVar("M", bound=Message)


def read_text_proto(path: Path, message: M) -> M:
    """Fills a message from a file.

    Raises:
        ExportError: the file cannot be read or parsed.
    """
    try:
        return text_format.Parse(path.read_text(), message)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ExportError(
            f"cannot read {path}: {error}", hint=f"it is a {message.DESCRIPTOR.name} text proto"
        ) from error
