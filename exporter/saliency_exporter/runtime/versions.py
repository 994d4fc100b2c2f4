"""Versions of TensorFlow, as text. Needs no TensorFlow."""

from __future__ import annotations


def minor(version: str) -> str:
    """The minor version of a version: 2.20 of 2.20.1."""
    return ".".join(version.split(".")[:2])


def version_numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version, by which versions are ordered.

    Raises:
        ValueError: it has others than numbers.
    """
    return tuple(map(int, version.split(".")))
