"""The error tree."""

from __future__ import annotations

import inspect
import pickle
import re
import traceback

import grpc
import pytest

import saliency_client
from saliency_client import _errors
from saliency_client._errors import CallError, DeadlineExceeded, InputError, SaliencyError, from_rpc

CLASSES = [
    kind for kind in vars(_errors).values() if inspect.isclass(kind) and issubclass(kind, SaliencyError)
]


def drawn_tree() -> dict[str, tuple[str | None, str]]:
    """Name to (parent, other bases), read from the drawing at the top of the module."""
    tree, open_at = {}, {}
    for line in _errors.__doc__.splitlines():
        if match := re.match(r"([│ ├└─]*)(\w+)(?: \(([\w, ]+)\))?  ", line):
            indent, name, others = match.groups()
            depth = len(indent) // 4
            open_at[depth] = name
            tree[name] = (open_at.get(depth - 1), others or "")
    return tree


def test_the_drawn_tree_is_the_real_one():
    real = {
        kind.__name__: (
            None if kind is SaliencyError else kind.__bases__[0].__name__,
            ", ".join(base.__name__ for base in kind.__bases__[1:]),
        )
        for kind in CLASSES
    }

    assert drawn_tree() == real


def test_every_error_can_be_imported_from_the_package():
    for kind in CLASSES:
        assert getattr(saliency_client, kind.__name__) is kind
        assert kind.__name__ in saliency_client.__all__


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_survives_pickling_whole(kind: type[SaliencyError]):
    fields = {
        "hint": "go on",
        "code": grpc.StatusCode.INTERNAL,
        "details": "the server's words",
        "target": "localhost:8500",
        "model": "m",
        "signature": "explain_smooth",
        "attempts": 3,
    }

    copy = pickle.loads(pickle.dumps(kind("what happened", **fields)))

    assert type(copy) is kind
    assert str(copy) == "what happened"
    assert {name: getattr(copy, name) for name in fields} == fields


def test_the_hint_is_shown_under_an_uncaught_error():
    try:
        raise InputError("wrong size", hint="resize it")
    except InputError as error:
        shown = "".join(traceback.format_exception(error))
        if not hasattr(error, "add_note"):
            pytest.skip("notes came with Python 3.11")

    assert "hint: resize it" in shown


class Failed(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: str | None) -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str | None:
        return self._details


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
@pytest.mark.parametrize("details", ["the server's words", "", None])
def test_every_status_becomes_a_call_error_that_keeps_code_and_words(code, details):
    error = from_rpc(Failed(code, details), target="host:8500", model="m", signature="s", attempts=1)

    assert isinstance(error, CallError)
    assert error.code is code
    assert error.details == (details or "")
    assert "host:8500" in str(error)
    assert code.name in str(error)
    assert isinstance(error, DeadlineExceeded) == (code is grpc.StatusCode.DEADLINE_EXCEEDED)


def test_an_error_without_status_is_unknown():
    error = from_rpc(grpc.RpcError(), target="host:8500", model="m", signature=None, attempts=1)

    assert error.code is grpc.StatusCode.UNKNOWN


def test_what_an_assertion_in_the_graph_says_is_told_without_the_graph() -> None:
    from saliency_client._errors import _readable

    said = "class_index is 7; it must be in [0, 4], or -1 for the predicted class"
    graph = "[[{{function_node __inference_f_1}}{{node Assert_3/Assert}}]]"
    assert _readable(f"assertion failed: [{said}] {graph}") == said
    assert _readable(f"assertion failed: [{said}]\n\t {graph}") == said
    assert _readable("the queue is full") == "the queue is full"
