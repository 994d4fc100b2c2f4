"""The local server: TensorFlow Serving's gRPC protocol on the embedded TensorFlow.

It is for development and tests; production is TensorFlow Serving.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saliency_exporter.serving.server import LocalServer, local_target, serve

__all__ = ["LocalServer", "local_target", "serve"]


def __getattr__(name: str) -> Any:
    # Not imported at the top: TensorFlow takes seconds, and `--help` needs none of it.
    if name in __all__:
        from saliency_exporter.serving import server

        return getattr(server, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
