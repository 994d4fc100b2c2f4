"""--withhold-defaults: metadata as a TFRT servable has it, and a server that fills nothing in either."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pytest
from serving_models import predict_request
from tensorflow_serving.apis import get_model_metadata_pb2

from saliency_exporter.serving.batching import BatchingParameters

IMAGES = np.array([[1.0, 2.0]], np.float32)
GIVEN = {"images": IMAGES, "class_index": np.array([-1], np.int32)}
MISSING = (
    "Request inputs do not match required inputs for model `small`. "
    "Send extra: {%s}. Missing but required: {%s}."
)


@pytest.fixture
def withholding(start_local, stubs_to, saved_versions: dict[int, Path]):
    """Starts a server of the small model that withholds defaults; gives its stubs."""

    def start(withheld: str, **options):
        return stubs_to(
            start_local({"small": saved_versions[1].parent}, withhold_defaults=withheld, **options).target
        )

    return start


def metadata(stubs) -> dict:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "small"
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert stubs.metadata(request, timeout=20).metadata["signature_def"].Unpack(signatures)
    return dict(signatures.signature_def)


def refused(call, request) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as raised:
        call(request, timeout=20)
    return raised.value.code(), raised.value.details()


@pytest.mark.parametrize("withheld", ["metadata", "all"])
def test_metadata_has_everything_but_defaults(withholding, stubs, withheld):
    whole, bare = metadata(stubs), metadata(withholding(withheld))
    assert whole["explain"].defaults.keys() == {"class_index"}
    for signature in whole.values():
        signature.ClearField("defaults")
    assert bare == whole


def test_a_tfrt_servable_fills_in_what_it_does_not_tell(withholding, stubs):
    request = predict_request("small", "explain", images=IMAGES)
    assert withholding("metadata").predict(request, timeout=20) == stubs.predict(request, timeout=20)


def test_all_fills_nothing_in_and_answers_what_is_sent_in_full(withholding, stubs):
    bare = withholding("all")
    request = predict_request("small", "explain", **GIVEN)
    assert bare.predict(request, timeout=20) == stubs.predict(request, timeout=20)
    assert refused(bare.predict, predict_request("small", "explain", images=IMAGES)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        MISSING % ("", "class_index"),
    )


def test_a_missing_input_is_told_in_the_words_of_a_tfrt_servable(withholding):
    told = withholding("metadata")
    assert refused(told.predict, predict_request("small", "explain", pictures=IMAGES)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        MISSING % ("pictures", "images"),
    )
    every = ("gradients", "class_index", "label", "version")
    request = predict_request("small", "explain", outputs=every, pictures=IMAGES)
    assert refused(told.predict, request)[1] == MISSING % ("pictures", "images")


def test_with_some_of_the_outputs_the_words_are_those_of_other_servables(withholding):
    request = predict_request("small", "explain", outputs=("gradients",), images=IMAGES)
    assert refused(withholding("all").predict, request) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "input size does not match signature: 1!=2 len({images}) != len({class_index,images}). "
        "Sent extra: {}. Missing but required: {class_index}.",
    )


def test_an_unknown_signature_is_told_as_ever(withholding):
    assert refused(withholding("all").predict, predict_request("small", "nothing", images=IMAGES)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        'Serving signature key "nothing" not found.',
    )


def test_withholding_goes_with_batching(withholding, stubs):
    batched = withholding("all", batching=BatchingParameters(batch_timeout_micros=1000))
    request = predict_request("small", "explain", **GIVEN)
    assert batched.predict(request, timeout=20) == stubs.predict(request, timeout=20)
    assert refused(batched.predict, predict_request("small", "explain", images=IMAGES))[1] == MISSING % (
        "",
        "class_index",
    )


def test_the_command_line_has_the_switch(start_server, saved_versions, stubs_to):
    process = start_server(f"small={saved_versions[1].parent}", "--withhold-defaults", "all", "--poll", "0")
    bare = stubs_to(process.target)
    assert not any(signature.defaults for signature in metadata(bare).values())
    assert refused(bare.predict, predict_request("small", "explain", images=IMAGES))[1] == MISSING % (
        "",
        "class_index",
    )
