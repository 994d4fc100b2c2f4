"""The gRPC services: TensorFlow Serving's answers and errors, on its official stubs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

import grpc
import numpy as np
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from saliency_client._varints import bytes_field
from saliency_exporter.runtime.servable import ServableError
from saliency_exporter.runtime.tensor_protos import Encoding, Piece, serialized
from saliency_exporter.serving.calls import Calls

MESSAGE_LIMIT = 1024

_OUTPUTS = predict_pb2.PredictResponse.DESCRIPTOR.fields_by_name["outputs"].number
_KEY, _VALUE = 1, 2  # of every map's entries
_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}
_Answer = TypeVar("_Answer")


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata; the services for tf.Example inputs stay UNIMPLEMENTED.

    A server of it needs the interceptor `Messages`: Predict answers in bytes.
    """

    def __init__(self, calls: Calls, encoding: Encoding) -> None:
        self._calls = calls
        self._encoding = encoding

    def Predict(self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext) -> bytes:
        """Runs one signature of one version; the answer is a serialized PredictResponse."""
        return _answer(context, lambda: self._predict(request, context))

    def GetModelMetadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Tells the signatures of one version, their defaults included unless they are withheld."""
        return _answer(context, lambda: self._calls.metadata(request))

    def _predict(self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext) -> bytes:
        return predict_answer(*self._calls.predict(request, context), self._encoding)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus; the configuration is given at start, so HandleReloadConfigRequest is UNIMPLEMENTED."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def GetModelStatus(
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Tells the state of one version, or of all that the server has known."""
        return _answer(context, lambda: self._calls.status(request))


def predict_answer(spec: model_pb2.ModelSpec, outputs: Mapping[str, np.ndarray], encoding: Encoding) -> bytes:
    """A serialized PredictResponse, put together with one copy of the arrays."""
    pieces: list[Piece] = [predict_pb2.PredictResponse(model_spec=spec).SerializeToString()]
    for alias, array in outputs.items():
        entry = [*bytes_field(_KEY, [alias.encode()]), *bytes_field(_VALUE, serialized(array, encoding))]
        pieces += bytes_field(_OUTPUTS, entry)
    return b"".join(pieces)


def _answer(context: grpc.ServicerContext, call: Callable[[], _Answer]) -> _Answer:
    try:
        return call()
    except ServableError as error:
        context.abort(_STATUS_CODES.get(error.code, grpc.StatusCode.UNKNOWN), _cut(error.message))
    except Exception as error:
        logging.getLogger(__name__).exception("request failed")
        context.abort(grpc.StatusCode.INTERNAL, _cut(f"{type(error).__name__}: {error}"))
    raise AssertionError("abort raises")


def _cut(message: str) -> str:
    """TensorFlow Serving's bound: a message travels in the trailers, which clients limit."""
    return message if len(message) <= MESSAGE_LIMIT else message[:MESSAGE_LIMIT] + "...TRUNCATED"
