"""What both clients are made of: their options, their conversations and their channels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from saliency_client._calls import Calls
from saliency_client._channel import (
    TLS,
    ChannelOptions,
    Channels,
    MetadataItems,
    Rotation,
    checked_metadata,
    parse_targets,
)
from saliency_client._errors import Approach, CopyError, OptionError
from saliency_client._numbers import is_whole
from saliency_client._proxies import is_local
from saliency_client._requests import ModelName
from saliency_client._retry import RetryPolicy

ChannelT = TypeVar("ChannelT")


class BaseClient(ABC, Generic[ChannelT]):
    """Options and state of a client; the subclasses add only how steps are carried out.

    Args:
        target: 'host:port', 'dns:///name:port' (round robin over its addresses), 'unix:/path', or several of
            these, taken in turn.
        model: the model's name on the server.
        version: a version number; None: the latest.
        label: a version label, such as 'stable', instead of a number.
        timeout: seconds for a whole call, retries included; None, infinity, or more than 10⁹: no limit.
        retry: how UNAVAILABLE is met.
        tls: True, or certificates; False: plain text.
        token: a bearer token, or what returns one; asked before every attempt, so it may refresh. In plain
            text it goes to targets on this machine alone, which are reached without a proxy.
        metadata: sent with every call, as in {'x-tenant': 'a'}.
        interceptors: gRPC's own, first one outermost; they see every attempt.
        keepalive: seconds between pings while a call waits, for networks that drop silent connections; a
            gRPC server cuts off clients that ping more often than it allows (every 300 s by default).
        compression: 'gzip' or 'deflate' of requests, for slow networks; pictures' bytes hardly shrink.
        user_agent: put before the library's own.
        max_answer_bytes: refuse larger answers; None: no limit.
        channel_options: gRPC channel arguments, which win over this library's.
        channel: a ready-made channel instead of a target; it stays open when the client closes.

    Raises:
        OptionError: an option, or two together, cannot work.
    """

    _intercepts_injected_channel = True

    def __init__(
        self,
        target: str | Sequence[str] | None = None,
        *,
        model: str,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = 60.0,
        retry: RetryPolicy | None = None,
        tls: bool | TLS = False,
        token: str | Callable[[], Any] | None = None,
        metadata: MetadataItems | None = None,
        interceptors: Sequence[Any] = (),
        keepalive: float | None = None,
        compression: str | None = None,
        user_agent: str | None = None,
        max_answer_bytes: int | None = None,
        channel_options: Mapping[str, Any] | None = None,
        channel: ChannelT | None = None,
    ) -> None:
        if retry is not None and not isinstance(retry, RetryPolicy):
            raise OptionError(f"retry is {retry!r}; it must be a RetryPolicy, or None for the default")
        if not isinstance(tls, (bool, TLS)):
            # Its value may be a key.
            raise OptionError(
                f"tls is of type {type(tls).__name__}; it must be True, False, or TLS(…)",
                hint="tls=TLS(ca='ca.pem') names the authority's file",
            )
        self._options = ChannelOptions(
            tls=TLS() if tls is True else tls or None,
            keepalive=keepalive,
            compression=compression,
            user_agent=user_agent,
            max_answer_bytes=max_answer_bytes,
            extra=tuple((channel_options or {}).items()),
        )
        self._interceptors = tuple(interceptors)
        self._injected = channel
        if channel is not None:
            if target is not None or self._options != ChannelOptions():
                raise OptionError(
                    "a ready-made channel goes without target and connection options of its own"
                )
            if interceptors and not self._intercepts_injected_channel:
                raise OptionError(
                    "an asyncio channel cannot be intercepted later: give the interceptors to the channel"
                )
            targets: tuple[str, ...] = ("the injected channel",)
        elif target is None:
            raise OptionError("no target is given", hint="give 'host:8500', or channel=…")
        else:
            targets = parse_targets(target)
            if token is not None and not tls:
                self._check_token_stays_here(targets)
        self._calls = Calls(
            _model_name(model, version, label),
            Rotation(targets),
            retry=retry or RetryPolicy(),
            timeout=timeout,
            token=token,
            metadata=checked_metadata(metadata),
            approach=self._approach,
        )
        self._channels: Channels[ChannelT] = Channels(self._open_channel, owned=channel is None)
        self._targets = targets
        if self._options.tls is not None:
            self._options.tls.credentials()  # a certificate that cannot be read is told here, not in a call

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._targets)!r}, model={str(self._calls.model)!r})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse to be pickled or copied.

        Raises:
            CopyError: always.
        """
        kind = type(self).__name__
        raise CopyError(
            f"{self!r} cannot be pickled or copied: it holds connections, and perhaps a token",
            hint=f"hand its options over instead, and make {kind}(…) of them where it is used, once in each "
            "process; one process can share one client",
        )

    @property
    def model(self) -> str:
        """The model's name on the server."""
        return self._calls.model.name

    def _check_token_stays_here(self, targets: Sequence[str]) -> None:
        away = [target for target in targets if not self._options.stays_here(target)]
        if not away:
            return
        if is_local(away[0]):
            raise OptionError(
                f"a token for {away[0]} would reach a proxy in plain text, by channel_options",
                hint="leave grpc.http_proxy and grpc.enable_http_proxy out of them, or give tls=True",
            )
        raise OptionError(
            "a token would cross the network in plain text",
            hint="give tls=True, or put the token into metadata=… if that is really meant",
        )

    def _approach(self, target: str) -> Approach:
        if self._injected is not None:
            return Approach()
        tls = self._options.tls
        return Approach(
            tls=tls is not None,
            certificate=tls is not None and tls.certificate is not None,
            proxy=self._options.proxy(target),
        )

    @abstractmethod
    def _open_channel(self, target: str) -> ChannelT:
        """A channel of grpc or of grpc.aio, the one thing that the two clients do not share."""


def given(class_index: Any, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters of a call by name; None stands for the model's default."""
    return parameters if class_index is None else {"class_index": class_index, **parameters}


def _model_name(name: str, version: int | None, label: str | None) -> ModelName:
    if not isinstance(name, str) or not name:
        raise OptionError(f"model is {name!r}; it must be the model's name on the server")
    if version is not None and label is not None:
        raise OptionError(f"version {version} and label {label!r} are both given; give one of them")
    if label is not None and (not isinstance(label, str) or not label):
        raise OptionError(f"label is {label!r}; it must be a version label's name")
    if version is None:
        return ModelName(name, None, label)
    if not is_whole(version) or not 0 <= version < 2**63:
        raise OptionError(f"version is {version!r}; it must be a whole number from 0 to 2⁶³ - 1")
    return ModelName(name, int(version), None)
