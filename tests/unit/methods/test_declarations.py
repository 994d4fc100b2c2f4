"""What a method may declare, and that no module but its own file and the registry names it."""

from __future__ import annotations

import ast
import inspect
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from saliency_client import SaliencyClient
from saliency_client._contract import CALL_ARGUMENTS, SIGNED_MAPS
from saliency_exporter.errors import ExportError
from saliency_exporter.methods import registry
from saliency_exporter.methods.declarations import Method, Output, Parameter
from saliency_exporter.methods.gradients import METHOD
from saliency_exporter.methods.kinds import KINDS

PACKAGE = Path(registry.__file__).parents[1]
SEED = Parameter("seed", "int32", default=0, examples=(1, 2), help="of the noise")


def test_its_signature_is_named_after_it() -> None:
    assert METHOD.signature == "explain_gradients"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Grad-CAM"}, "'Grad-CAM' is not a lower-case name"),
        ({"name": ""}, "'' is not a lower-case name"),
        ({"kind": "heat"}, "kind is 'heat'; it must be one of sensitivity, attribution"),
        ({"parameters": (replace(SEED, name="images"),)}, "the name 'images' is taken"),
        ({"parameters": (replace(SEED, name="class_index"),)}, "the name 'class_index' is taken"),
        ({"parameters": (replace(SEED, name="timeout"),)}, "the name 'timeout' is taken"),
        ({"parameters": (SEED, SEED)}, "the name 'seed' is taken"),
        ({"outputs": (Output("gradients", "value", "the map"),)}, "the name 'gradients' is taken"),
        ({"outputs": (Output("file", "example", "its size"),)}, "the name 'file' is taken"),
        ({"outputs": (Output("label", "example", "a name"),)}, "the name 'label' is taken"),
        (
            {"outputs": (Output("rank", "value", "its rank", dtype="int32"),)},
            "the output rank is int32 per value; it must be float32$",
        ),
        (
            {"outputs": (Output("rank", "example", "its rank", dtype="int64"),)},
            "the output rank is int64 per example; it must be float32 or int32",
        ),
        ({"outputs": (Output("sum of all", "example", "a sum"),)}, "'sum of all' is not a lower-case name"),
    ],
)
def test_what_no_signature_can_be_made_of_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(METHOD, **changes)


def test_every_method_says_what_it_is_where_it_is_from_and_what_its_inputs_are() -> None:
    for method in registry.find_methods(registry.OWN):
        assert method.summary
        assert method.source
        for parameter in method.parameters:
            assert parameter.help
            first, second = parameter.examples
            assert first != second, f"an answer that mixes up {parameter.name} could be right"
            assert parameter.low is None or parameter.low <= min(first, second, parameter.default)
        assert all(output.help for output in method.outputs)


@pytest.mark.parametrize("sizes", [(5, 4), (9,), (3, 4, 5)], ids=["picture", "series", "volume"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_saliency_in_numpy_is_that_in_tensorflow(kind, sizes: tuple[int, ...]) -> None:
    cells = tuple(max(1, size // 2) for size in sizes)
    shape = {"images": (2, *sizes, 7), "cells": (2, *cells), "pixels": (2, *sizes)}[kind.like]
    map_ = tf.random.stateless_normal(shape, (1, 2))
    got = kind.saliency(map_, sizes).numpy()
    assert got.shape == (2, *sizes)
    assert kind.expected(map_.numpy(), sizes) == pytest.approx(got, abs=1e-6)


@pytest.mark.parametrize("kind", [k for k in KINDS.values() if k.like == "images"], ids=lambda k: k.name)
def test_a_map_without_channels_is_like_one_with_a_single_channel(kind) -> None:
    map_ = tf.random.stateless_normal((2, 5, 4), (1, 2))
    one = kind.saliency(map_[..., None], (5, 4)).numpy()
    assert kind.saliency(map_, (5, 4)).numpy() == pytest.approx(one)
    assert kind.expected(map_.numpy(), (5, 4)) == pytest.approx(np.abs(map_.numpy()))


def test_the_client_knows_every_kind_of_map_that_is_like_the_images() -> None:
    assert tuple(kind.output for kind in KINDS.values() if kind.like == "images") == SIGNED_MAPS


def test_no_parameter_can_be_named_like_an_argument_of_the_clients_calls() -> None:
    for call in (SaliencyClient.explain, SaliencyClient.explain_many):
        named = [p for p in inspect.signature(call).parameters.values() if p.kind is not p.VAR_KEYWORD]
        assert {p.name for p in named} - {"self"} <= set(CALL_ARGUMENTS)


def test_all_is_every_method_and_what_is_asked_for_twice_comes_once() -> None:
    names = [method.name for method in registry.find_methods([registry.ALL])]
    assert names == list(registry.method_names())
    assert len(registry.find_methods(["guided", " guided "])) == 1


@pytest.mark.parametrize(
    ("asked", "message", "hint"),
    [
        ("guided(smooth)", "guided is not made of another method", "take another are"),
        ("gradients(patch=3)", "gradients has no option patch", "write gradients without one"),
        ("smooth(no_such)", "there is no method 'no_such'", "the methods are"),
        ("smooth(guided", "'smooth(guided' is no method", "smooth(guided)"),
        ("smooth()", "is no method", "a method is a name"),
        ("grad-cam", "there is no method 'grad-cam'; did you mean grad_cam?", "the methods are"),
        ("", "is no method", "a method is a name"),
    ],
)
def test_what_is_no_method_is_refused_with_what_is(asked: str, message: str, hint: str) -> None:
    with pytest.raises(ExportError) as error:
        registry.find_methods([asked])
    assert message in str(error.value)
    assert hint in error.value.hint


def test_methods_come_in_their_order_and_an_unknown_one_is_told_with_those_that_exist() -> None:
    found = registry.find_methods(["smooth", "gradients", "smooth"])
    assert [method.name for method in found] == ["gradients", "smooth"]
    with pytest.raises(ExportError, match="no method 'smoth'; did you mean smooth") as error:
        registry.find_methods(["smoth"])
    assert "gradients, guided, smooth" in error.value.hint


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_module:METHOD", "cannot be loaded from no_such_module:METHOD"),
        ("saliency_exporter.methods.gradients:missing", "cannot be loaded"),
        ("saliency_exporter.methods.gradients:explain", "is a function, not a saliency_exporter"),
        ("saliency_exporter.methods.gradients:METHOD", "declares the method 'gradients' and its entry point"),
    ],
)
def test_a_plug_in_that_cannot_be_used_is_an_error_that_names_it(
    value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = EntryPoint("mine", value, registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    assert registry.method_names() == (*registry.OWN, "mine")
    with pytest.raises(ExportError, match=message):
        registry.find_methods(["mine"])


def test_a_plug_in_does_not_replace_a_method_of_the_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("smooth", "no_such_module:METHOD", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    assert registry.method_names() == registry.OWN
    (smooth,) = registry.find_methods(["smooth"])
    assert isinstance(smooth, Method)


def words_of(path: Path) -> set[str]:
    """The texts of a file that are a value: all but those that stand alone, as docstrings do."""
    tree = ast.parse(path.read_text())
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone
    }


def test_no_other_module_of_the_exporter_knows_a_method_by_name() -> None:
    known = {name for own in registry.OWN for name in (own, f"explain_{own}")}
    # An output has the name of a method: it is that of a kind of map.
    outputs = {kind.output for kind in KINDS.values()}
    own_files = {PACKAGE / "methods" / f"{name}.py" for name in (*registry.OWN, "registry")}
    for path in PACKAGE.rglob("*.py"):
        if path in own_files:
            continue
        found = words_of(path) & known
        if path == PACKAGE / "methods" / "kinds.py":
            found -= outputs
        assert not found, path
