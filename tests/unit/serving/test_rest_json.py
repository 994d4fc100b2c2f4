"""TensorFlow Serving's JSON: what it takes, what it refuses in which words, and what it writes.

The expected values are those of tensorflow_serving/util/json_tensor_test.cc, of api_rest.md, and of a reading
of json_tensor.cc where these are silent.
"""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from saliency_exporter.runtime.servable import ServableError
from saliency_exporter.runtime.tensor_protos import to_array
from saliency_exporter.serving.rest_json import answer_text, error_text, read_inputs, read_object

INT = {"default": tf.int32}


def read(body: str, inputs: dict[str, tf.DType]) -> tuple[str, dict[str, np.ndarray]]:
    infos = {name: SimpleNamespace(dtype=dtype.as_datatype_enum) for name, dtype in inputs.items()}
    form, tensors = read_inputs(read_object(body.encode()), infos)
    return form, {name: to_array(tensor) for name, tensor in tensors.items()}


def refused(body: str, inputs: dict[str, tf.DType]) -> str:
    with pytest.raises(ServableError) as raised:
        read(body, inputs)
    assert raised.value.code == tf.errors.INVALID_ARGUMENT
    return raised.value.message


def written(outputs: dict[str, np.ndarray], form: str) -> str:
    return answer_text(outputs, form).decode()


def test_rows_become_one_tensor_with_a_leading_dimension():
    form, tensors = read('{"instances": [[1,2],[3,4],[5,6]]}', INT)
    assert form == "row"
    assert tensors["default"].dtype == np.int32
    np.testing.assert_array_equal(tensors["default"], [[1, 2], [3, 4], [5, 6]])


def test_rows_of_named_inputs_and_floats_that_are_not_numbers():
    inputs = {"int": tf.int32, "str": tf.string, "float": tf.float32, "double": tf.float64}
    _, tensors = read(
        '{"instances": [{"int": [[1,2]], "str": ["foo", {"b64": "aGVsbG8="}],'
        ' "float": [1.0, NaN], "double": [NaN]},'
        ' {"int": [[7,8]], "str": ["ä", "bat"], "float": [2, -Infinity], "double": [2.0]}]}',
        inputs,
    )
    np.testing.assert_array_equal(tensors["int"], [[[1, 2]], [[7, 8]]])
    assert tensors["str"].tolist() == [[b"foo", b"hello"], ["ä".encode(), b"bat"]]
    np.testing.assert_array_equal(tensors["float"], np.array([[1, np.nan], [2, -np.inf]], np.float32))
    np.testing.assert_array_equal(tensors["double"], [[np.nan], [2.0]])


def test_columns_by_name_and_alone():
    inputs = {"ints": tf.int32, "bytes": tf.string}
    form, tensors = read('{"inputs": {"ints": [[[1,2]]], "bytes": {"b64": "aGVsbG8="}, "more": 1}}', inputs)
    assert form == "columnar"
    np.testing.assert_array_equal(tensors["ints"], [[[1, 2]]])
    assert tensors["bytes"].shape == ()
    assert tensors["bytes"].item() == b"hello"
    np.testing.assert_array_equal(read('{"inputs": [[1,2]]}', INT)[1]["default"], [[1, 2]])


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        ("1435774380", 1435774336.0),
        ("1435774380.0", 1435774336.0),
        ("1.7976931348623157e308", math.inf),
        ("2.2250738585072014e-308", 0.0),
        ("5", 5.0),
    ],
)
def test_a_float_is_the_nearest_float32_or_infinity(number, expected):
    assert read(f'{{"inputs": [{number}]}}', {"x": tf.float32})[1]["x"].tolist() == [expected]


def test_a_pixel_beyond_its_eight_bits_is_wrapped_as_the_runtime_wraps_it():
    assert read('{"inputs": [1, 300, -1]}', {"x": tf.uint8})[1]["x"].tolist() == [1, 44, 255]


def test_what_follows_the_object_is_not_looked_at():
    assert read('{"instances": [1]}X', INT)[1]["default"].tolist() == [1]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "JSON Parse error: The document is empty"),
        ("instances = [1, 2]", "JSON Parse error: Invalid value. at offset: 0"),
        ("[1]", "JSON Value: [1] Is not object"),
        ('{"signature_name": "x"}', "Missing 'inputs' or 'instances' key"),
        (
            '{"instances": [1], "inputs": [1]}',
            'JSON Value: {\n    "instances": [1],\n    "inputs": [1]\n} Not formatted correctly expecting '
            "only one of 'inputs' or 'instances' keys to exist ",
        ),
        (
            '{"instances": 1}',
            "JSON Value: {\n    \"instances\": 1\n} Expecting 'instances' to be an list/array",
        ),
        ('{"instances": []}', "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array"),
        (
            '{"instances": [[1,2],[5,6,7]]}',
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor "
            "size: 2 but got: 3",
        ),
        (
            '{"instances": [[1,2],[[5,6]]]}',
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting shape [2] "
            "but got: [1,2]",
        ),
        (
            '{"instances": [[1,2],["a", "b"]]}',
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: \"a\" "
            "Type: String is not of expected type: int32",
        ),
        ('{"inputs": [1.0]}', "JSON Value: 1.0 Type: Number is not of expected type: int32"),
        ('{"inputs": [true]}', "JSON Value: true Type: True is not of expected type: int32"),
        ('{"inputs": [2147483648]}', "JSON Value: 2147483648 Type: Number is not of expected type: int32"),
        ('{"inputs": [null]}', "JSON Value: null Type: Null is not of expected type: int32"),
        ('{"inputs": [[1],[2,3]]}', "Encountered list at unexpected size: 2 at level: 1 expected size: 1"),
        ('{"inputs": [1,[2]]}', "Encountered list at unexpected level: 1 expected < 1"),
        (
            '{"inputs": [[1],2]}',
            "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
        ),
    ],
)
def test_the_words_of_a_refusal_are_those_of_json_tensor(body, message):
    assert refused(body, INT) == message


TWO = {"images": tf.uint8, "class_index": tf.int32}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            '{"inputs": [1]}',
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
            "tensorinfo_map",
        ),
        (
            '{"instances": [1]}',
            "instances is a plain list, but expecting list of objects as multiple input tensors required as "
            "per tensorinfo_map",
        ),
        ('{"inputs": {"images": [1]}}', "Missing named input: class_index in 'inputs' object."),
        (
            '{"instances": [{"images": 1}]}',
            "Failed to process element: 0 of 'instances' list. JSON object: {\n    \"images\": 1\n} keys "
            "must be equal to: class_index,images",
        ),
        (
            '{"instances": [{"images": 1, "klass": 2}]}',
            "Failed to process element: 0 key: klass of 'instances' list. Error: INVALID_ARGUMENT: JSON "
            "object: does not have named input: klass",
        ),
        (
            '{"instances": [{"images": 1, "class_index": 2}, [1]]}',
            "Expecting object but got list at item 1 of input list",
        ),
    ],
)
def test_every_input_has_to_be_there(body, message):
    assert refused(body, TWO) == message


def test_a_refusal_quotes_256_bytes_of_a_large_value():
    message = refused('{"instances": ' + json.dumps([1] * 1000) + ', "inputs": 1}', INT)
    quoted = message.removeprefix("JSON Value: ").partition(" Not formatted")[0]
    assert 256 <= len(quoted) < 262


@pytest.mark.parametrize("depth", [300, 500_000])
def test_nesting_beyond_any_tensor_is_refused(depth):
    with pytest.raises((ServableError, ValueError)):
        read('{"inputs": ' + "[" * depth + "1" + "]" * depth + "}", INT)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (9000000, "9e+06"),
        (999999, "999999.0"),
        (0.5, "0.5"),
        (0.0003, "0.0003"),
        (0.00003, "3e-05"),
        (555557.5, "555557.5"),
        (np.nan, "NaN"),
        (np.inf, "Infinity"),
        (-np.inf, "-Infinity"),
        (3, "3.0"),
        (-0.0, "-0.0"),
        (0.1, "0.1"),
    ],
)
def test_a_float_is_written_as_json_tensor_test_has_it(number, text):
    assert (
        written({"x": np.array([number], np.float32)}, "row") == f'{{\n    "predictions": [{text}\n    ]\n}}'
    )


def test_floats_read_back_to_the_bit():
    bits = np.random.default_rng(0).integers(0, 2**32, 20_000, np.uint32).view(np.float32)
    values = np.concatenate([bits[np.isfinite(bits)], np.float32([1e-45, 3.4028235e38, 1 / 3])])
    back = np.array(json.loads(written({"x": values}, "columnar"))["outputs"], np.float32)
    np.testing.assert_array_equal(back.view(np.uint32), values.view(np.uint32))
    doubles = np.random.default_rng(1).normal(size=2000)
    assert json.loads(written({"x": doubles}, "row"))["predictions"] == doubles.tolist()


OUTPUTS = {
    "label": np.array([b"cat", 'ä"'.encode()], object),
    "score": np.array([1.5, 2], np.float32),
    "map": np.array([[[1, 2]], [[3, 4]]], np.int32),
}


def test_rows_of_several_outputs_are_objects_with_lists_on_one_line():
    assert written(OUTPUTS, "row") == (
        "{\n"
        '    "predictions": [\n'
        "        {\n"
        '            "label": "cat",\n'
        '            "map": [[1, 2]],\n'
        '            "score": 1.5\n'
        "        },\n"
        "        {\n"
        '            "label": "ä\\"",\n'
        '            "map": [[3, 4]],\n'
        '            "score": 2.0\n'
        "        }\n"
        "    ]\n"
        "}"
    )


def test_columns_have_each_value_on_a_line():
    two = {"map": OUTPUTS["map"][:1], "score": OUTPUTS["score"][:1]}
    assert written(two, "columnar") == (
        "{\n"
        '    "outputs": {\n'
        '        "map": [\n'
        "            [\n"
        "                [\n"
        "                    1,\n"
        "                    2\n"
        "                ]\n"
        "            ]\n"
        "        ],\n"
        '        "score": [\n'
        "            1.5\n"
        "        ]\n"
        "    }\n"
        "}"
    )


def test_one_output_goes_without_its_name():
    assert written({"y": np.array([2.5, 3.0], np.float32)}, "row") == (
        '{\n    "predictions": [2.5, 3.0\n    ]\n}'
    )
    assert written({"y": np.array([2.5], np.float32)}, "columnar") == (
        '{\n    "outputs": [\n        2.5\n    ]\n}'
    )
    assert written({"y": np.float32(2)}, "columnar") == '{\n    "outputs": 2.0\n}'


@pytest.mark.parametrize("form", ["row", "columnar"])
def test_every_shape_reads_back(form):
    outputs = {
        "b": np.array([[True, False], [False, True]]),
        "n_bytes": np.array([[b"hello", b"\xff"], [b"tf", b""]], object),
        "u": np.array([0, 2**64 - 1], np.uint64),
        "none": np.zeros((2, 0, 3), np.float32),
    }
    read_back = json.loads(written(outputs, form))
    if form == "row":
        read_back = {name: [row[name] for row in read_back["predictions"]] for name in outputs}
    else:
        read_back = read_back["outputs"]
    assert read_back["b"] == [[True, False], [False, True]]
    assert read_back["n_bytes"] == [[{"b64": "aGVsbG8="}, {"b64": "/w=="}], [{"b64": "dGY="}, {"b64": ""}]]
    assert read_back["u"] == [0, 2**64 - 1]
    assert read_back["none"] == [[], []]


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({}, "Cannot convert empty tensor map to JSON"),
        ({"x": np.float32(1)}, "Tensor name: x has no shape information "),
        (
            {"x": np.zeros(2, np.float32), "y": np.zeros(3, np.float32)},
            "Tensor name: y has inconsistent batch size: 3 expecting: 2",
        ),
        ({"x": np.zeros(2, np.float16)}, "Failed to write JSON value for tensor type: half"),
        ({"x": np.zeros(2, np.complex64)}, "Failed to write JSON value for tensor type: complex64"),
    ],
)
def test_outputs_that_have_no_rows_are_refused(outputs, message):
    with pytest.raises(ServableError) as raised:
        answer_text(outputs, "row")
    assert (raised.value.code, raised.value.message) == (tf.errors.INVALID_ARGUMENT, message)


def test_no_rows_at_all():
    assert written({"x": np.zeros((0, 2), np.float32)}, "row") == '{\n    "predictions": []\n}'


def test_an_error_is_an_object():
    assert (
        error_text('Serving signature name: "x"') == b'{\n    "error": "Serving signature name: \\"x\\""\n}'
    )
