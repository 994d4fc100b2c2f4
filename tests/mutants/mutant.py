"""What a mutant is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One break: in a file of a package, one text for another, and the test that must fail."""

    name: str
    file: str
    old: str
    new: str
    test: str
    package: str = "saliency_exporter"
