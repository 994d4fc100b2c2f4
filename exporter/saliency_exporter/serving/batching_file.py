"""Reads TensorFlow Serving's batching parameters file, so that one file configures both servers.

Its message, BatchingParameters of session_bundle_config.proto, is not in the tensorflow-serving-api package:
the fields are declared here under a package name of our own, which conflicts with nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2
from google.protobuf.message import Message

from saliency_exporter.errors import ExportError
from saliency_exporter.serving.batching import BatchingParameters
from saliency_exporter.serving.text_protos import read_text_proto

_Field = descriptor_pb2.FieldDescriptorProto
_WRAPPERS = {
    "max_batch_size": (1, "Int64Value"),
    "batch_timeout_micros": (2, "Int64Value"),
    "max_enqueued_batches": (3, "Int64Value"),
    "num_batch_threads": (4, "Int64Value"),
    "thread_pool_name": (5, "StringValue"),
    "enable_large_batch_splitting": (8, "BoolValue"),
    "max_execution_batch_size": (9, "Int64Value"),
}


def read_batching_file(path: Path) -> BatchingParameters:
    """Reads a BatchingParameters text proto.

    Raises:
        ExportError: the file cannot be read or parsed, or asks for splitting of large requests or padding of
            other dimensions, which the local server does not do.
    """
    # Its fields are declared below, so no checker knows them.
    message: Any = read_text_proto(path, _message_class()())
    for name, asked in (
        ("enable_large_batch_splitting", message.enable_large_batch_splitting.value),
        ("pad_variable_length_inputs", message.pad_variable_length_inputs),
    ):
        if asked:
            raise ExportError(f"{path} asks for {name}, which the local server does not do")
    given = {
        name: getattr(message, name).value
        for name in ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
        if message.HasField(name)
    }
    return BatchingParameters(**given, allowed_batch_sizes=tuple(message.allowed_batch_sizes))


def _message_class() -> type[Message]:
    file = descriptor_pb2.FileDescriptorProto(
        name="saliency_exporter/batching_parameters.proto",
        package="saliency_exporter",
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    message = file.message_type.add(name="BatchingParameters")
    for name, (number, wrapper) in _WRAPPERS.items():
        message.field.add(
            name=name,
            number=number,
            label=_Field.LABEL_OPTIONAL,
            type=_Field.TYPE_MESSAGE,
            type_name=f".google.protobuf.{wrapper}",
        )
    message.field.add(
        name="allowed_batch_sizes", number=6, label=_Field.LABEL_REPEATED, type=_Field.TYPE_INT64
    )
    message.field.add(
        name="pad_variable_length_inputs", number=7, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_BOOL
    )
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("saliency_exporter.BatchingParameters"))
