"""The server's configuration messages that tensorflow-serving-api does not ship, by name and field number.

From tensorflow_serving/servables/tensorflow/session_bundle_config.proto (BatchingParameters) and
tensorflow_serving/config/{monitoring_config,ssl_config}.proto.
"""

from __future__ import annotations

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

_FIELD = descriptor_pb2.FieldDescriptorProto
_WRAPPER = ".google.protobuf."
_PACKAGE = "tensorflow.serving"

# name: (number, type, repeated)
_MESSAGES = {
    "BatchingParameters": {
        "max_batch_size": (1, _WRAPPER + "Int64Value", False),
        "batch_timeout_micros": (2, _WRAPPER + "Int64Value", False),
        "max_enqueued_batches": (3, _WRAPPER + "Int64Value", False),
        "num_batch_threads": (4, _WRAPPER + "Int64Value", False),
        "thread_pool_name": (5, _WRAPPER + "StringValue", False),
        "allowed_batch_sizes": (6, _FIELD.TYPE_INT64, True),
        "pad_variable_length_inputs": (7, _FIELD.TYPE_BOOL, False),
        "enable_large_batch_splitting": (8, _WRAPPER + "BoolValue", False),
        "max_execution_batch_size": (9, _WRAPPER + "Int64Value", False),
    },
    "PrometheusConfig": {
        "enable": (1, _FIELD.TYPE_BOOL, False),
        "path": (2, _FIELD.TYPE_STRING, False),
    },
    "MonitoringConfig": {"prometheus_config": (1, f".{_PACKAGE}.PrometheusConfig", False)},
    "SSLConfig": {
        "server_key": (1, _FIELD.TYPE_STRING, False),
        "server_cert": (2, _FIELD.TYPE_STRING, False),
        "custom_ca": (3, _FIELD.TYPE_STRING, False),
        "client_verify": (4, _FIELD.TYPE_BOOL, False),
    },
}


def _messages() -> dict[str, type]:
    # A pool of its own: the same names in the default pool would clash with the official package.
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(
        name="server_messages.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=["google/protobuf/wrappers.proto"],
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, repeated) in fields.items():
            label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
            if isinstance(kind, str):
                message.field.add(
                    name=field, number=number, label=label, type=_FIELD.TYPE_MESSAGE, type_name=kind
                )
            else:
                message.field.add(name=field, number=number, label=label, type=kind)
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _MESSAGES
    }


MESSAGES = _messages()
