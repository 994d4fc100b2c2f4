"""Requests are parsed after gRPC has handed them over: gRPC for Python leaks those that it cannot parse.

Answers that are serialized already pass as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]


class Messages(grpc.ServerInterceptor):  # type: ignore[type-arg]  # at run time it takes no arguments
    """Answers INTERNAL to bytes that are no message of the method, as gRPC does; lets a method answer bytes.

    A request whose deserializer raises is never freed by grpcio (20 KB each with 1.85): so
    many broken requests would fill the memory. Here no deserializer raises; the method's behavior parses.
    """

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The method's handler, taking bytes; handlers of streams of requests are left as they are."""
        handler = continuation(handler_call_details)
        if handler is None or handler.request_streaming or handler.request_deserializer is None:
            return handler
        parse, serialize = handler.request_deserializer, _unless_bytes(handler.response_serializer)
        if handler.response_streaming:
            assert handler.unary_stream is not None
            return grpc.unary_stream_rpc_method_handler(
                _parsed(parse, handler.unary_stream), response_serializer=serialize
            )
        assert handler.unary_unary is not None
        return grpc.unary_unary_rpc_method_handler(
            _parsed(parse, handler.unary_unary), response_serializer=serialize
        )


def _unless_bytes(serialize: Callable[[Any], bytes] | None) -> Callable[[Any], bytes] | None:
    if serialize is None:
        return None
    return lambda answer: answer if isinstance(answer, bytes) else serialize(answer)


def _parsed(parse: Callable[[bytes], Any], behavior: Callable[[Any, grpc.ServicerContext], Any]) -> Any:
    def call(content: bytes, context: grpc.ServicerContext) -> Any:
        try:
            request = parse(content)
        except Exception:
            context.abort(grpc.StatusCode.INTERNAL, "The request is not a message of this method")
        return behavior(request, context)

    return call
