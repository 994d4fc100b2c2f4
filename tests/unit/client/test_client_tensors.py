"""What the codec makes of hostile and odd messages; agreement with TensorFlow is in tests/contract."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saliency_client._errors import AnswerError, InputError
from saliency_client._proto import saliency_client_tfs_pb2 as tfs
from saliency_client._tensors import decode, serialized

MEGABYTE = 2**20


def message(dtype: int, shape: list[int], **values) -> tfs.TensorProto:
    dims = [tfs.TensorShapeProto.Dim(size=size) for size in shape]
    return tfs.TensorProto(dtype=dtype, tensor_shape=tfs.TensorShapeProto(dim=dims), **values)


def test_a_decoded_array_is_a_read_only_view_of_the_received_bytes():
    content = np.arange(6, dtype=np.float32).tobytes()

    for proto in (
        message(tfs.DT_FLOAT, [2, 3], tensor_content=content),
        message(tfs.DT_FLOAT, [2, 3], float_val=[content]),
    ):
        array = decode(proto, "x")
        assert not array.flags.owndata
        assert not array.flags.writeable


HOSTILE = {
    "more values than memory": message(tfs.DT_FLOAT, [2**40], tensor_content=bytes(8)),
    "a product beyond 64 bits": message(tfs.DT_FLOAT, [2**62, 2**62, 2**62], float_val=[bytes(8)]),
    "one value for many": message(tfs.DT_FLOAT, [2**33], float_val=[bytes(4)]),
    "no value for many": message(tfs.DT_FLOAT, [2**33]),
    "many integers": message(tfs.DT_INT32, [2**33], int_val=[1]),
    "many strings": message(tfs.DT_STRING, [2**33], string_val=[b"a"]),
    "many strings in content": message(tfs.DT_STRING, [2**33], tensor_content=bytes(8)),
    "a string longer than the rest": message(tfs.DT_STRING, [1], tensor_content=b"\xff\xff\xff\xff\x0fabc"),
    "an endless varint": message(tfs.DT_STRING, [1], tensor_content=b"\xff" * 20),
    "a negative size": message(tfs.DT_FLOAT, [-1, 2], float_val=[bytes(8)]),
    "two negative sizes": message(tfs.DT_FLOAT, [-1, -2], float_val=[bytes(8)]),
    "a huge size beside a zero": message(tfs.DT_FLOAT, [0, 2**62, 2**62]),
    "a thousand dimensions": message(tfs.DT_FLOAT, [1] * 1000, float_val=[bytes(4)]),
    "bytes that are no whole values": message(tfs.DT_FLOAT, [1], tensor_content=bytes(5)),
    "typed bytes that are no whole values": message(tfs.DT_FLOAT, [1], float_val=[bytes(5)]),
    "integers that do not fit": message(tfs.DT_UINT8, [1], int_val=[300]),
    "negative bits of a half": message(tfs.DT_HALF, [1], half_val=[-1]),
    "booleans that are neither": message(tfs.DT_BOOL, [1], tensor_content=b"\x02"),
    "no dtype": message(tfs.DT_INVALID, [1], float_val=[bytes(4)]),
    "an unknown dtype": message(99, [1], float_val=[bytes(4)]),
    "an unknown rank": tfs.TensorProto(dtype=1, tensor_shape={"unknown_rank": True}, float_val=[bytes(4)]),
}


@pytest.mark.parametrize("fill", [False, True], ids=["answer", "default"])
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_message_is_an_error_and_takes_no_memory(case: str, fill: bool):
    tracemalloc.start()
    try:
        with pytest.raises(AnswerError, match="'x'"):
            decode(HOSTILE[case], "x", fill=fill)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < MEGABYTE


SIZES = st.one_of(st.integers(0, 4), st.sampled_from([-1, 2**31, 2**40, 2**62]))
MESSAGES = st.builds(
    message,
    st.integers(0, 30),
    st.lists(SIZES, max_size=5),
    tensor_content=st.binary(max_size=40),
    float_val=st.lists(st.binary(max_size=20), max_size=2),
    dcomplex_val=st.lists(st.binary(max_size=20), max_size=2),
    int_val=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
    half_val=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
    uint64_val=st.lists(st.integers(0, 2**64 - 1), max_size=4),
    string_val=st.lists(st.binary(max_size=20), max_size=4),
)


@given(MESSAGES, st.booleans())
@settings(max_examples=500, deadline=None)
def test_any_message_gives_an_array_of_its_shape_or_an_answer_error(proto: tfs.TensorProto, fill: bool):
    try:
        array = decode(proto, "x", fill=fill)
    except AnswerError:
        return
    assert list(array.shape) == [dim.size for dim in proto.tensor_shape.dim]


@pytest.mark.parametrize("dtype", ["datetime64[s]", "timedelta64[s]", np.longdouble, [("a", "f4")]])
def test_an_array_that_tensorflow_has_no_dtype_for_is_refused(dtype):
    with pytest.raises(InputError, match="cannot be sent"):
        serialized(np.zeros(2, dtype))


def test_an_array_of_objects_that_are_not_text_is_refused():
    with pytest.raises(InputError, match="only if all are text, not int"):
        serialized(np.array(["a", 1], dtype=object))
