"""Where a model comes from. Every source gives one thing: a `Source`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saliency_exporter.sources.load import load_source
    from saliency_exporter.sources.source import Source

__all__ = ["Source", "load_source"]


def __getattr__(name: str) -> Any:
    # Not imported at the top: TensorFlow takes seconds, and the labels of a file need none of it.
    if name == "load_source":
        from saliency_exporter.sources.load import load_source

        return load_source
    if name == "Source":
        from saliency_exporter.sources.source import Source

        return Source
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
