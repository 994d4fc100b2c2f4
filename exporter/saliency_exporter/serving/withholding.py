"""Servers that keep a model's parameter defaults to themselves, for tests of clients.

A TFRT servable of TensorFlow Serving returns no SignatureDef.defaults with GetModelMetadata, since they can
be large (tfrt_servable.cc, from 2.20 on); Predict still fills them in (tfrt_predict_util.cc). A server that
does not fill them in either shows whether a client sends every input.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Literal

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import predict_pb2

from saliency_exporter.runtime.servable import ServableError, SignatureDefs

Withheld = Literal["metadata", "all"]
"""Where defaults are missing: from GetModelMetadata, as from a TFRT servable; or at Predict as well."""


def without_defaults(signatures: SignatureDefs) -> SignatureDefs:
    """Copies of signatures, by name, that know inputs and outputs and no defaults."""
    bare = {}
    for name, signature in signatures.items():
        bare[name] = meta_graph_pb2.SignatureDef()
        bare[name].CopyFrom(signature)
        bare[name].ClearField("defaults")
    return MappingProxyType(bare)


def check_inputs(request: predict_pb2.PredictRequest, signature: meta_graph_pb2.SignatureDef | None) -> None:
    """Refuses a request that lacks an input, in the words of a TFRT servable.

    Source: PreProcessPredictionWithoutOutputFilter in tensorflow_serving/servables/tensorflow/
    tfrt_predict_util.cc. With some of the outputs alone, it takes the path of other servables, and so does
    the local server.

    Args:
        request: what a client sent.
        signature: the one that it asks for, with the defaults that Predict fills in; None is left to others.

    Raises:
        ServableError: INVALID_ARGUMENT.
    """
    if signature is None or set(request.output_filter) not in (set(), set(signature.outputs)):
        return
    given, known = set(request.inputs), set(signature.inputs)
    if missing := known - given - set(signature.defaults):
        raise ServableError(
            tf.errors.INVALID_ARGUMENT,
            f"Request inputs do not match required inputs for model `{request.model_spec.name}`. "
            f"Send extra: {{{','.join(sorted(given - known))}}}. "
            f"Missing but required: {{{','.join(sorted(missing))}}}.",
        )
