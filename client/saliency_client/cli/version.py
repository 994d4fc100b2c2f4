"""Which release of the project this is."""

from __future__ import annotations


def release() -> str:
    """The installed version, or "unknown" where the package runs without being installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("saliency-serving")
    except PackageNotFoundError:
        return "unknown"
