"""For PyInstaller, which asks the entry point `hook-dirs` where a package's hooks are."""

from __future__ import annotations

from pathlib import Path


def hook_folders() -> list[str]:
    """The folder of this package, with its hook."""
    return [str(Path(__file__).parent)]
