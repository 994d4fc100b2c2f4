"""Where the files of docker/ are, and how flags are read from them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"


def flags_in(text: str) -> set[str]:
    """Names of the long options in a text that have the server's form, words with underscores."""
    return set(re.findall(r"--([a-z]+(?:_[a-z]+)*)(?![\w-])", text))
