"""The private protocol subset against the official descriptors of tensorflow and tensorflow_serving."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    status_pb2,
)

from saliency_client import _requests
from saliency_client._proto import generate
from saliency_client._proto import saliency_client_tfs_pb2 as tfs

OFFICIAL: dict[str, Descriptor] = {
    message.DESCRIPTOR.name: message.DESCRIPTOR
    for message in (
        tensor_pb2.TensorProto,
        tensor_shape_pb2.TensorShapeProto,
        meta_graph_pb2.TensorInfo,
        meta_graph_pb2.SignatureDef,
        model_pb2.ModelSpec,
        predict_pb2.PredictRequest,
        predict_pb2.PredictResponse,
        get_model_metadata_pb2.SignatureDefMap,
        get_model_metadata_pb2.GetModelMetadataRequest,
        get_model_metadata_pb2.GetModelMetadataResponse,
        get_model_status_pb2.GetModelStatusRequest,
        get_model_status_pb2.GetModelStatusResponse,
        get_model_status_pb2.ModelVersionStatus,
        status_pb2.StatusProto,
    )
}
PACKED_AS_BYTES = {
    "float_val": FieldDescriptor.TYPE_FLOAT,
    "double_val": FieldDescriptor.TYPE_DOUBLE,
    "scomplex_val": FieldDescriptor.TYPE_FLOAT,
    "dcomplex_val": FieldDescriptor.TYPE_DOUBLE,
}


def field_pairs(
    private: Descriptor, official: Descriptor
) -> Iterator[tuple[FieldDescriptor, FieldDescriptor]]:
    for field in private.fields:
        yield field, official.fields_by_name[field.name]
    for nested in private.nested_types:
        yield from field_pairs(nested, official.nested_types_by_name[nested.name])


FIELDS = [
    pytest.param(private, official, id=private.full_name.removeprefix("saliency_client.tfs."))
    for name, message in tfs.DESCRIPTOR.message_types_by_name.items()
    for private, official in field_pairs(message, OFFICIAL[name])
]
ENUMS = [
    (tfs.DESCRIPTOR.enum_types_by_name["DataType"], types_pb2.DESCRIPTOR.enum_types_by_name["DataType"]),
    (tfs.ModelVersionStatus.State.DESCRIPTOR, get_model_status_pb2.ModelVersionStatus.State.DESCRIPTOR),
]


def shape_of(field: FieldDescriptor) -> tuple[object, ...]:
    return (
        field.number,
        field.type,
        field.is_repeated if hasattr(field, "is_repeated") else field.label,
        field.is_packed if hasattr(field, "is_packed") else field.has_options and field.GetOptions().packed,
        field.message_type.name if field.message_type else None,
        field.enum_type.name if field.enum_type else None,
    )


@pytest.mark.parametrize(("private", "official"), FIELDS)
def test_field_has_the_official_number_type_and_label(private: FieldDescriptor, official: FieldDescriptor):
    number, kind, repeated, packed, message, enum = shape_of(official)
    if private.name in PACKED_AS_BYTES:
        # One run of packed fixed-width values is the same on the wire as one bytes value.
        assert kind == PACKED_AS_BYTES[private.name]
        assert packed
        kind, packed = FieldDescriptor.TYPE_BYTES, False
    if private.full_name.endswith("StatusProto.error_code"):
        # An open enum and an int32 are the same on the wire.
        assert kind == FieldDescriptor.TYPE_ENUM
        kind, enum = FieldDescriptor.TYPE_INT32, None

    assert shape_of(private) == (number, kind, repeated, packed, message, enum)


def test_every_private_message_is_compared():
    assert set(tfs.DESCRIPTOR.message_types_by_name) == set(OFFICIAL)


def test_model_spec_chooses_between_version_and_label_as_the_official_one():
    def members(message: Descriptor) -> set[str]:
        return {field.name for field in message.oneofs_by_name["version_choice"].fields}

    assert members(tfs.ModelSpec.DESCRIPTOR) == members(model_pb2.ModelSpec.DESCRIPTOR)


@pytest.mark.parametrize(("private", "official"), ENUMS, ids=["DataType", "State"])
def test_enum_values_have_the_official_numbers(private: EnumDescriptor, official: EnumDescriptor):
    for value in private.values:
        assert official.values_by_name[value.name].number == value.number


class RecordingChannel:
    """Takes the place of a channel to learn which paths the official stubs call."""

    def __init__(self) -> None:
        self.methods: dict[str, tuple[type, type]] = {}

    def unary_unary(self, path, request_serializer, response_deserializer, **_):
        self.methods[path] = request_serializer, response_deserializer

    unary_stream = stream_unary = stream_stream = unary_unary


@pytest.mark.parametrize(
    ("path", "request_type", "response_type"),
    [
        (_requests.PREDICT, predict_pb2.PredictRequest, predict_pb2.PredictResponse),
        (
            _requests.METADATA,
            get_model_metadata_pb2.GetModelMetadataRequest,
            get_model_metadata_pb2.GetModelMetadataResponse,
        ),
        (
            _requests.STATUS,
            get_model_status_pb2.GetModelStatusRequest,
            get_model_status_pb2.GetModelStatusResponse,
        ),
    ],
    ids=["Predict", "GetModelMetadata", "GetModelStatus"],
)
def test_rpc_path_is_the_official_stubs_with_these_messages(path, request_type, response_type):
    channel = RecordingChannel()
    prediction_service_pb2_grpc.PredictionServiceStub(channel)
    model_service_pb2_grpc.ModelServiceStub(channel)

    assert channel.methods[path] == (request_type.SerializeToString, response_type.FromString)


def test_names_are_private_so_that_they_never_meet_tensorflows():
    assert tfs.DESCRIPTOR.package == "saliency_client.tfs"
    assert tfs.DESCRIPTOR.name == "saliency_client/_proto/saliency_client_tfs.proto"


def test_checked_in_modules_are_what_the_generator_makes(tmp_path: Path):
    pytest.importorskip(
        "grpc_tools", reason="grpcio-tools is not installed (it has no wheel for this Python)"
    )

    generate.generate(tmp_path)

    made = sorted(tmp_path.rglob("*.py*"))
    assert [path.name for path in made] == ["saliency_client_tfs_pb2.py", "saliency_client_tfs_pb2.pyi"]
    for path in made:
        checked_in = generate.SOURCE_ROOT / path.relative_to(tmp_path)
        assert checked_in.read_text() == path.read_text(), f"run {generate.__file__}"


TALK = """
from tensorflow_serving.apis import predict_pb2
request = tfs.PredictRequest(model_spec=tfs.ModelSpec(name="m"), output_filter=["saliency"])
official = predict_pb2.PredictRequest.FromString(request.SerializeToString())
assert official.model_spec.name == "m" and list(official.output_filter) == ["saliency"]
"""
OURS = """
from saliency_client import SaliencyClient
from saliency_client._proto import saliency_client_tfs_pb2 as tfs
"""


@pytest.mark.parametrize(
    "imports",
    [
        # Every command and server of tests imports them so (tests/tensorflow_imported.py).
        pytest.param(f"import tensorflow\n{OURS}", id="tensorflow first", marks=pytest.mark.slow),
        pytest.param(f"{OURS}\nimport tensorflow", id="client first"),
    ],
)
def test_client_and_tensorflow_live_in_one_process_in_either_import_order(imports: str):
    subprocess.run([sys.executable, "-c", f"{imports}\n{TALK}"], check=True, timeout=120)


def test_importing_the_whole_client_brings_in_neither_tensorflow_nor_the_exporter():
    code = """
import sys, pkgutil, importlib, saliency_client
for name in saliency_client.__all__:
    getattr(saliency_client, name)
for module in pkgutil.walk_packages(saliency_client.__path__, "saliency_client."):
    # The adapter of an engine is imported where that is installed.
    if not module.name.endswith(("__main__", "bulk.beam")):
        importlib.import_module(module.name)
imported = {name.partition(".")[0] for name in sys.modules}
unwanted = imported & {"tensorflow", "tensorflow_serving", "saliency_exporter", "keras"}
sys.exit(f"imported: {sorted(unwanted)}" if unwanted else 0)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
