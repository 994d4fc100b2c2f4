"""Saliency maps from TensorFlow Serving over gRPC, without TensorFlow.

    with SaliencyClient("localhost:8500", model="efficientnet-lite0") as client:
        explanation = client.explain(images, method="smooth")

Names are imported on first use, so that a command that needs few of them starts fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saliency_client._bulk import ItemResult
    from saliency_client._calls import UNSET
    from saliency_client._channel import TLS
    from saliency_client._errors import (
        AccessDenied,
        AnswerError,
        AnswerTooLarge,
        CallError,
        Cancelled,
        ClientClosed,
        CompilationUnavailable,
        CopyError,
        DeadlineExceeded,
        InputError,
        InvalidArgument,
        ItemError,
        MissingOutput,
        ModelFailed,
        ModelNotFound,
        NotReady,
        OptionError,
        QueueFull,
        ResourceExhausted,
        SaliencyError,
        ServerError,
        SignatureNotFound,
        TLSError,
        TokenError,
        Unavailable,
        UnknownMethod,
        UnknownParameter,
    )
    from saliency_client._explanation import Explanation
    from saliency_client._requests import VersionStatus
    from saliency_client._retry import RetryPolicy
    from saliency_client._signatures import Signature, TensorSpec
    from saliency_client.aio import AsyncSaliencyClient
    from saliency_client.client import SaliencyClient

_HOMES = {
    "_bulk": ("ItemResult",),
    "_calls": ("UNSET",),
    "_channel": ("TLS",),
    "_errors": (
        "AccessDenied",
        "AnswerError",
        "AnswerTooLarge",
        "CallError",
        "Cancelled",
        "ClientClosed",
        "CompilationUnavailable",
        "CopyError",
        "DeadlineExceeded",
        "InputError",
        "InvalidArgument",
        "ItemError",
        "MissingOutput",
        "ModelFailed",
        "ModelNotFound",
        "NotReady",
        "OptionError",
        "QueueFull",
        "ResourceExhausted",
        "SaliencyError",
        "ServerError",
        "SignatureNotFound",
        "TLSError",
        "TokenError",
        "Unavailable",
        "UnknownMethod",
        "UnknownParameter",
    ),
    "_explanation": ("Explanation",),
    "_requests": ("VersionStatus",),
    "_retry": ("RetryPolicy",),
    "_signatures": ("Signature", "TensorSpec"),
    "aio": ("AsyncSaliencyClient",),
    "client": ("SaliencyClient",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022 - grouped
    "SaliencyClient",
    "AsyncSaliencyClient",
    "Explanation",
    "ItemResult",
    "Signature",
    "TensorSpec",
    "VersionStatus",
    "RetryPolicy",
    "TLS",
    "UNSET",
    "AccessDenied",
    "AnswerError",
    "AnswerTooLarge",
    "CallError",
    "Cancelled",
    "ClientClosed",
    "CompilationUnavailable",
    "CopyError",
    "DeadlineExceeded",
    "InputError",
    "InvalidArgument",
    "ItemError",
    "MissingOutput",
    "ModelFailed",
    "ModelNotFound",
    "NotReady",
    "OptionError",
    "QueueFull",
    "ResourceExhausted",
    "SaliencyError",
    "ServerError",
    "SignatureNotFound",
    "TLSError",
    "TokenError",
    "Unavailable",
    "UnknownMethod",
    "UnknownParameter",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
