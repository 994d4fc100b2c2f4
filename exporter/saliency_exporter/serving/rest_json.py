"""TensorFlow Serving's JSON: a body to the tensors of a PredictRequest, and outputs to the text of an answer.

Sources: its page api_rest.md, and where that is silent tensorflow_serving/util/json_tensor.cc: which values
are taken for which dtype, the texts of refusals, the digits of numbers, and the spaces of answers, which are
most of the bytes of a columnar one. Not the same are the order of outputs, which there is that of a hash
table and here is sorted; where a syntax error is said to be; and lists nested deeper than Python reads, which
are refused.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from saliency_exporter.runtime.servable import ServableError
from saliency_exporter.runtime.tensor_protos import to_proto
from saliency_exporter.serving.calls import invalid

Format = Literal["row", "columnar"]
"""How a request lists its tensors, and so its answer: by example ("instances"), or by name ("inputs")."""

Infos = Mapping[str, meta_graph_pb2.TensorInfo]

_DEBUG_BYTES = 256
_INDENT = "    "
_BYTES_SUFFIX = "_bytes"
"""Outputs of strings whose names end so are bytes, and go as base64."""

_INT32 = (-(2**31), 2**31 - 1)
_INTEGERS: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("int32", "int16", "int8", "uint8"), _INT32),
    "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
}
"""What may be given for a dtype. What does not fit 8 or 16 bits is wrapped: 300 becomes the uint8 44."""
_FLOATS = ("float32", "float64")
_CALLED = {"float32": "float", "float64": "double", "float16": "half"}
"""TensorFlow's names for dtypes, where they are not NumPy's."""

_SYNTAX = {
    "Expecting value": "Invalid value.",
    "Expecting property name enclosed in double quotes": "Missing a name for object member.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Expecting ',' delimiter": "Missing a comma or a closing bracket after a value.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
    "Invalid \\escape": "Invalid escape character in string.",
}


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object that a body begins with; what follows it is not looked at.

    Raises:
        ServableError: INVALID_ARGUMENT.
    """
    text = body.decode("utf-8", "surrogateescape").removeprefix("\ufeff").lstrip(" \t\r\n")
    if not text:
        raise invalid("JSON Parse error: The document is empty")
    try:
        document, _ = json.JSONDecoder().raw_decode(text)
    except json.JSONDecodeError as error:
        problem = _SYNTAX.get(error.msg, f"{error.msg}.")
        raise invalid(f"JSON Parse error: {problem} at offset: {error.pos}") from error
    except RecursionError as error:
        raise invalid("JSON Parse error: The lists are nested too deeply") from error
    except ValueError as error:  # an integer of thousands of digits
        raise invalid("JSON Parse error: Number too big to be stored in double.") from error
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {_shown(document)} Is not object")
    return document


def signature_name(document: Mapping[str, Any]) -> str:
    """The signature that a body asks for; "" for the default one."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {_shown(document)} not formatted correctly. 'signature_name' key must be a string "
            "value."
        )
    return name


def read_inputs(
    document: Mapping[str, Any], infos: Infos
) -> tuple[Format, dict[str, tensor_pb2.TensorProto]]:
    """The tensors of a body, for a signature's inputs. Each of them has to be there: no default is filled in.

    Args:
        document: the body's object.
        infos: the signature's inputs by name.

    Raises:
        ServableError: INVALID_ARGUMENT, or UNIMPLEMENTED for a dtype that JSON is not defined for.
    """
    if "instances" in document and "inputs" in document:
        raise invalid(
            f"JSON Value: {_shown(document)} Not formatted correctly expecting only one of 'inputs' or "
            "'instances' keys to exist "
        )
    if "instances" in document:
        instances = document["instances"]
        if not isinstance(instances, list):
            raise invalid(f"JSON Value: {_shown(document)} Expecting 'instances' to be an list/array")
        if not instances:
            raise invalid(f"JSON Value: {_shown(document)} No values in 'instances' array")
        return "row", _of_instances(instances, infos)
    if "inputs" in document:
        return "columnar", _of_inputs(document["inputs"], infos)
    raise invalid("Missing 'inputs' or 'instances' key")


def examples_of(document: Mapping[str, Any]) -> list[Any]:
    """The list of tf.Examples of a body for classify or regress.

    Raises:
        ServableError: INVALID_ARGUMENT: there is none, or no list, or an empty one.
    """
    shown = f"JSON Value: {_shown(document)}"
    if "examples" not in document:
        raise invalid(f"{shown} When method is classify, key 'examples' is expected and was not found")
    examples = document["examples"]
    if not isinstance(examples, list):
        raise invalid(f"{shown} Expecting 'examples' value to be an list/array")
    if not examples:
        raise invalid(f"{shown} 'examples' value is an empty array")
    return examples


def answer_text(outputs: Mapping[str, np.ndarray], format_: Format) -> bytes:
    """The body of an answer, in UTF-8; a single output without its name.

    Args:
        outputs: arrays by name; strings as object arrays of bytes.
        format_: "row": `predictions`, a list with an entry for each example; "columnar": `outputs`.

    Raises:
        ServableError: INVALID_ARGUMENT: in rows, an output without a first dimension, or with another one
            than the others; or a dtype that JSON is not defined for.
    """
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")
    by_name = {name: np.asarray(outputs[name]) for name in sorted(outputs)}
    text = _rows(by_name) if format_ == "row" else _columns(by_name)
    return text.encode("utf-8", "surrogateescape")


def error_text(message: str) -> bytes:
    """The body of a refusal, in UTF-8."""
    return f'{{\n{_INDENT}"error": {_quoted(message)}\n}}'.encode("utf-8", "surrogateescape")


def _of_inputs(inputs: Any, infos: Infos) -> dict[str, tensor_pb2.TensorProto]:
    if not isinstance(inputs, dict) or _is_base64(inputs):
        if len(infos) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as "
                "per tensorinfo_map"
            )
        ((name, info),) = infos.items()
        return {name: _proto(*_tensor(inputs, info), info)}
    tensors = {}
    for name in sorted(infos):
        if name not in inputs:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
        tensors[name] = _proto(*_tensor(inputs[name], infos[name]), infos[name])
    return tensors


def _of_instances(instances: list[Any], infos: Infos) -> dict[str, tensor_pb2.TensorProto]:
    if not isinstance(instances[0], dict) and len(infos) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as "
            "per tensorinfo_map"
        )
    named = _is_named(instances[0])
    only = next(iter(infos))
    rows: dict[str, list[list[Any]]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for number, instance in enumerate(instances):
        if named != _is_named(instance):
            expected, found = ("object", "list") if named else ("value/list", "object")
            raise invalid(f"Expecting {expected} but got {found} at item {number} of input list")
        for name, value in instance.items() if named else ((only, instance),):
            try:
                if name not in infos:
                    raise invalid(f"JSON object: does not have named input: {name}")
                shape, leaves = _tensor(value, infos[name])
                _check_like_the_first(shapes.setdefault(name, shape), shape)
            except ServableError as error:
                key = f" key: {name}" if named else ""
                status = f"{_STATUS_NAMES.get(error.code, error.code)}: {error.message}"
                raise invalid(
                    f"Failed to process element: {number}{key} of 'instances' list. Error: {status}"
                ) from error
            rows.setdefault(name, []).append(leaves)
        if named and set(instance) != set(infos):
            raise invalid(
                f"Failed to process element: {number} of 'instances' list. JSON object: {_shown(instance)} "
                f"keys must be equal to: {','.join(sorted(infos))}"
            )
    return {
        name: _proto((len(instances), *shapes[name]), list(chain.from_iterable(leaves)), infos[name])
        for name, leaves in rows.items()
    }


_STATUS_NAMES = {tf.errors.INVALID_ARGUMENT: "INVALID_ARGUMENT", tf.errors.UNIMPLEMENTED: "UNIMPLEMENTED"}


def _check_like_the_first(first: tuple[int, ...], shape: tuple[int, ...]) -> None:
    sizes = [int(np.prod(one, dtype=np.int64)) for one in (first, shape)]
    if sizes[0] != sizes[1]:
        raise invalid(f"Expecting tensor size: {sizes[0]} but got: {sizes[1]}")
    if first != shape:
        raise invalid(f"Expecting shape {_dims(first)} but got: {_dims(shape)}")


def _dims(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _is_named(instance: Any) -> bool:
    return isinstance(instance, dict) and not _is_base64(instance)


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and list(value) == ["b64"] and isinstance(value["b64"], str)


def _tensor(value: Any, info: meta_graph_pb2.TensorInfo) -> tuple[tuple[int, ...], list[Any]]:
    """The shape of nested lists, which the first elements decide, and their values in order."""
    dtype = tf.dtypes.as_dtype(info.dtype).name
    shape, first = [], value
    while isinstance(first, list):
        shape.append(len(first))
        if not first:
            break
        first = first[0]
    leaves = [value]
    for size in shape:
        if set(map(type, leaves)) != {list} or set(map(len, leaves)) != {size}:
            return tuple(shape), list(_checked(value, 0, shape, dtype))
        leaves = list(chain.from_iterable(leaves))
    if not _all_taken(leaves, dtype):
        leaves = list(_checked(value, 0, shape, dtype))
    return tuple(shape), leaves


def _all_taken(leaves: list[Any], dtype: str) -> bool:
    kinds = set(map(type, leaves))
    if dtype in _FLOATS:
        return kinds <= {int, float}
    if dtype in _INTEGERS:
        least, most = _INTEGERS[dtype]
        return kinds <= {int} and (not leaves or (min(leaves) >= least and max(leaves) <= most))
    return kinds <= {bool} if dtype == "bool" else False


def _checked(value: Any, level: int, shape: Sequence[int], dtype: str) -> Iterator[Any]:
    """The values of nested lists, one by one; the first that is not as it should be is refused."""
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(
                f"JSON Value: {_shown(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        yield _leaf(value, dtype)
        return
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} "
            f"expected size: {shape[level]}"
        )
    for one in value:
        yield from _checked(one, level + 1, shape, dtype)


def _leaf(value: Any, dtype: str) -> Any:
    if isinstance(value, dict):
        if dtype != "string":
            raise _wrong_type(value, dtype)
        return _from_base64(value)
    if dtype == "string":
        if not isinstance(value, str):
            raise _wrong_type(value, dtype)
        return value.encode("utf-8", "surrogateescape")
    if dtype not in _FLOATS and dtype not in _INTEGERS and dtype != "bool":
        raise ServableError(
            tf.errors.UNIMPLEMENTED,
            f"Conversion of JSON Value: {_shown(value)} to type: {_CALLED.get(dtype, dtype)}",
        )
    if not _all_taken([value], dtype):
        raise _wrong_type(value, dtype)
    return value


def _wrong_type(value: Any, dtype: str) -> ServableError:
    return invalid(
        f"JSON Value: {_shown(value)} Type: {_type_name(value)} is not of expected type: "
        f"{_CALLED.get(dtype, dtype)}"
    )


def _from_base64(value: dict[str, Any]) -> bytes:
    if not _is_base64(value):
        raise invalid(f"JSON Value: {_shown(value)} not formatted correctly for base64 data")
    text = value["b64"]
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid("Unable to base64 decode") from error


def _proto(
    shape: tuple[int, ...], leaves: list[Any], info: meta_graph_pb2.TensorInfo
) -> tensor_pb2.TensorProto:
    dtype = tf.dtypes.as_dtype(info.dtype)
    if dtype == tf.string:
        proto = tensor_pb2.TensorProto(dtype=info.dtype, string_val=leaves)
    else:
        proto = to_proto(_numbers(leaves, dtype))
        proto.ClearField("tensor_shape")
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


def _numbers(leaves: list[Any], dtype: tf.DType) -> np.ndarray:
    # Of 8 and 16 bits, numbers pass through 32, as in the runtime; float32 through float64.
    wide = dtype.as_numpy_dtype
    if dtype.name in _FLOATS:
        wide = np.float64
    elif _INTEGERS.get(dtype.name) == _INT32:
        wide = np.int32
    try:
        with np.errstate(over="ignore"):
            return np.array(leaves, wide).astype(dtype.as_numpy_dtype)
    except OverflowError as error:
        raise invalid("JSON Parse error: Number too big to be stored in double.") from error


def _rows(outputs: Mapping[str, np.ndarray]) -> str:
    batch = -1
    for name, array in outputs.items():
        if not array.ndim:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if batch >= 0 and len(array) != batch:
            raise invalid(f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {batch}")
        batch = len(array)
    if not batch:
        return f'{{\n{_INDENT}"predictions": []\n}}'
    depth = 3 if len(outputs) > 1 else 2
    lists = {name: _row_texts(name, array, depth) for name, array in outputs.items()}
    if len(outputs) == 1:
        (entries,) = lists.values()
        listed = ", ".join(entries)
    else:
        objects = [_members([(name, texts[row]) for name, texts in lists.items()], 2) for row in range(batch)]
        listed = "".join(f"{',' if row else ''}\n{_INDENT * 2}{one}" for row, one in enumerate(objects))
    return f'{{\n{_INDENT}"predictions": [{listed}\n{_INDENT}]\n}}'


def _row_texts(name: str, array: np.ndarray, depth: int) -> list[str]:
    leaves = _leaf_texts(name, array, depth + array.ndim - 1)
    size = len(leaves) // len(array)
    return [
        _nested(leaves[row * size : (row + 1) * size], array.shape[1:], None) for row in range(len(array))
    ]


def _columns(outputs: Mapping[str, np.ndarray]) -> str:
    depth = 2 if len(outputs) > 1 else 1
    values = [
        (name, _nested(_leaf_texts(name, array, depth + array.ndim), array.shape, depth))
        for name, array in outputs.items()
    ]
    listed = _members(values, 1) if len(outputs) > 1 else values[0][1]
    return f'{{\n{_INDENT}"outputs": {listed}\n}}'


def _members(members: Sequence[tuple[str, str]], depth: int) -> str:
    """An object that stands in so many open brackets, each member on a line."""
    inner = ",".join(f"\n{_INDENT * (depth + 1)}{_quoted(name)}: {value}" for name, value in members)
    return f"{{{inner}\n{_INDENT * depth}}}"


def _nested(leaves: list[str], shape: Sequence[int], depth: int | None) -> str:
    """Lists of a shape; on one line where depth is None, else each value on a line, in so many brackets."""
    for axis in range(len(shape) - 1, -1, -1):
        size = shape[axis]
        count = int(np.prod(shape[:axis], dtype=np.int64))
        if not size:
            leaves = ["[]"] * count
            continue
        if depth is None:
            begin, between, end = "[", ", ", "]"
        else:
            line = "\n" + _INDENT * (depth + axis + 1)
            begin, between, end = f"[{line}", f",{line}", f"\n{_INDENT * (depth + axis)}]"
        leaves = [
            f"{begin}{between.join(leaves[row * size : (row + 1) * size])}{end}" for row in range(count)
        ]
    return leaves[0]


def _leaf_texts(name: str, array: np.ndarray, depth: int) -> list[str]:
    values = array.reshape(-1)
    if array.dtype.kind in "OSU":
        strings = [tf.compat.as_bytes(value) for value in values.tolist()]
        if name.endswith(_BYTES_SUFFIX):
            return [_members([("b64", _quoted(base64.b64encode(one).decode()))], depth) for one in strings]
        return [_quoted(one.decode("utf-8", "surrogateescape")) for one in strings]
    if array.dtype == np.bool_:
        return ["true" if value else "false" for value in values.tolist()]
    if array.dtype.name in _INTEGERS:
        return list(map(str, values.tolist()))
    if array.dtype.name in _FLOATS:
        return _decimals(values)
    called = _CALLED.get(array.dtype.name, array.dtype.name)
    raise invalid(f"Failed to write JSON value for tensor type: {called}")


def _decimals(values: np.ndarray) -> list[str]:
    """Six digits where they mean the same number, else 9 (float32) or 17 (float64), always as a decimal."""
    numbers = values.tolist()
    texts = list(map("%.6g".__mod__, numbers))
    read = np.array(list(map(float, texts))).astype(values.dtype)
    full = "%.9g" if values.dtype.name == "float32" else "%.17g"
    for index in np.flatnonzero(read != values).tolist():
        texts[index] = full % numbers[index]
    texts = [text if "." in text or "e" in text else f"{text}.0" for text in texts]
    for index in np.flatnonzero(~np.isfinite(values)).tolist():
        number = numbers[index]
        texts[index] = "NaN" if number != number else "Infinity" if number > 0 else "-Infinity"
    return texts


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _type_name(value: Any) -> str:
    names = {type(None): "Null", dict: "Object", list: "Array", str: "String"}
    if isinstance(value, bool):
        return str(value)
    return names.get(type(value), "Number")


def _shown(value: Any) -> str:
    """A value as refusals quote it: lists on one line, and cut where 256 bytes are full."""
    text = ""
    for piece in _pieces(value, 0):
        if len(text.encode("utf-8", "surrogateescape")) >= _DEBUG_BYTES:
            break
        text += piece
    return text


def _pieces(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, dict):
        yield "{"
        for number, (name, member) in enumerate(value.items()):
            yield f"{',' if number else ''}\n{_INDENT * (depth + 1)}{_quoted(name)}"
            yield from _after(": ", _pieces(member, depth + 1))
        yield f"\n{_INDENT * depth}}}" if value else "}"
    elif isinstance(value, list):
        yield "["
        for number, one in enumerate(value):
            yield from _after(", " if number else "", _pieces(one, depth + 1))
        yield "]"
    else:
        yield json.dumps(value, ensure_ascii=False)


def _after(prefix: str, pieces: Iterator[str]) -> Iterator[str]:
    yield prefix + next(pieces)
    yield from pieces
