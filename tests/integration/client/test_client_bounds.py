"""Bounds of parameters: learnt with the signatures, and held to before an image is sent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scripted_server import CLASSES, LinearModel, ScriptedServer

from saliency_client import InputError


@pytest.fixture
def bounded(server: ScriptedServer) -> ScriptedServer:
    server.model.bounded, server.model.most_samples = True, 200
    return server


@pytest.fixture
def client(bounded: ScriptedServer, connect) -> Any:
    return connect(bounded)


def called(server: ScriptedServer) -> list[str]:
    return [request.model_spec.signature_name for request in server.requests]


def test_bounds_come_with_the_metadata_and_cost_no_call(bounded, client) -> None:
    bounds = client.signatures()["explain_smooth"].bounds
    assert bounds == {
        "class_index": (-1, CLASSES - 1),
        "num_samples": (1, 200),
        "noise_level": (0, 0.9),
        "seed": (None, None),
    }
    assert all(isinstance(bound, int) for bound in bounds["num_samples"])
    assert client.signatures()["serving_default"].bounds == {}
    assert (called(bounded), bounded.metadata_calls) == ([], 1)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"num_samples": 201}, "num_samples is 201; it must be in [1, 200]"),
        ({"num_samples": 0}, "num_samples is 0; it must be in [1, 200]"),
        ({"num_samples": [1, 200, 5000]}, "num_samples is 5000; it must be in [1, 200]"),
        ({"num_samples": np.uint8(201)}, "num_samples is 201; it must be in [1, 200]"),
        ({"noise_level": -0.25}, "noise_level is -0.25; it must be in [0, 0.9]"),
        ({"noise_level": float("nan")}, "noise_level is nan; it must be in [0, 0.9]"),
        ({"noise_level": 1e39}, "noise_level is inf; it must be in [0, 0.9]"),
        ({"seed": 99999999999}, "seed is 99999999999; it must be in [-2147483648, 2147483647]"),
        ({"noise_level": 2}, "noise_level is 2; it must be in [0, 0.9]"),
        ({"class_index": CLASSES}, "class_index is 4; it must be in [0, 3], or -1 for the predicted class"),
        ({"class_index": [0, -2, 1]}, "class_index is -2; it must be in [0, 3], or -1 for the predicted"),
    ],
)
def test_a_value_outside_is_refused_before_an_image_is_sent(
    bounded, client, images, parameters, words
) -> None:
    client.signatures()
    with pytest.raises(InputError) as caught:
        client.explain(images, method="smooth", **parameters)
    assert words in caught.value.message
    assert caught.value.signature == "explain_smooth"
    assert caught.value.attempts == 0
    assert called(bounded) == []


@pytest.mark.parametrize(
    "parameters",
    [
        {"num_samples": 1},
        {"num_samples": [1, 2, 200]},
        {"noise_level": 0.9},  # float32's 0.9 is greater than 0.9
        {"noise_level": 0},
        {"class_index": CLASSES - 1},
        {"seed": -(2**31)},
    ],
)
def test_a_value_at_its_bound_is_sent(bounded, client, images, parameters) -> None:
    client.explain(images, method="smooth", **parameters)
    assert called(bounded) == ["explain_smooth"]


def test_a_call_of_many_images_tells_it_of_each_that_has_such_a_value(bounded, client, images) -> None:
    results = list(client.explain_many(images, method="smooth", num_samples=(5, 500, 6)))
    assert [result.error is None for result in results] == [True, False, True]
    assert "num_samples is 500" in results[1].error.message


def test_a_sum_of_slices_may_be_above_the_bound_which_holds_for_each(bounded, client, images) -> None:
    bounded.model.sampled = True
    *_, last = client.explain_until(images[:1], method="smooth", target_error=0, num_samples=1000)
    assert last.samples_used.tolist() == [1000]
    sizes = [request.inputs["num_samples"].tensor_content for request in bounded.requests]
    assert [int(np.frombuffer(size, np.int32)[0]) for size in sizes] == [
        10,
        10,
        20,
        40,
        80,
        *[160] * 0,
        160,
        200,
        200,
        200,
        80,
    ]
    with pytest.raises(InputError, match=r"num_samples is 0; it must be in \[1, 200\]"):
        list(client.explain_until(images[:1], method="smooth", target_error=0, num_samples=0))


def test_a_server_that_withholds_defaults_is_asked_for_bounds_once(bounded, client, images) -> None:
    bounded.withholds = True
    with pytest.raises(InputError, match=r"num_samples is 201; it must be in \[1, 200\]"):
        client.explain(images, method="smooth", num_samples=201)
    assert called(bounded) == ["parameter_defaults", "parameter_bounds"]
    assert client.signatures()["explain_smooth"].bounds["seed"] == (None, None)
    client.explain(images, method="smooth", num_samples=200)
    assert called(bounded)[2:] == ["explain_smooth"]


def test_bounds_come_in_parts_from_a_server_that_bounds_a_request(bounded, client) -> None:
    bounded.withholds, bounded.most_rows = True, 2
    assert client.signatures()["explain_smooth"].bounds["num_samples"] == (1, 200)
    asked = [
        request for request in bounded.requests if request.model_spec.signature_name == "parameter_bounds"
    ]
    assert [request.inputs["parameter"].tensor_shape.dim[0].size for request in asked] == [5, 3, 2, 2, 1]


def test_an_export_without_bounds_is_asked_as_before(server, connect, images) -> None:
    """So is a server of a foreign model: what it refuses, it refuses itself."""
    client = connect(server)
    client.explain(images, method="smooth", num_samples=5000)
    assert client.signatures()["explain_smooth"].bounds == {}
    assert called(server) == ["explain_smooth"]


def test_bounds_are_those_of_the_version_that_is_served_now(bounded, client, images) -> None:
    """A value that an older version refused is tried on fresh metadata before it is refused."""
    client.signatures()
    client._calls._known_since -= 10
    bounded.model = LinearModel(version=2)  # which tells no bounds
    assert client.explain(images, method="smooth", num_samples=201).version == 2


@pytest.mark.parametrize("change", ["a column more", "a row less", "numbers for names", "another input"])
def test_a_signature_of_that_name_that_is_another_is_left_alone(
    bounded, client, images, change, monkeypatch
) -> None:
    import scripted_server

    made = scripted_server.signature_defs

    def changed(model: LinearModel) -> dict[str, Any]:
        found = made(model)
        table = found["parameter_bounds"]
        if change == "another input":
            table.inputs["more"].CopyFrom(table.inputs["bounds"])
        else:
            names, rows = np.array([b"explain_smooth/num_samples"], object), np.array([[1.0, 2.0]])
            values = {
                "a column more": {"parameter": names, "bounds": np.array([[1.0, 2.0, 3.0]])},
                "a row less": {"parameter": names, "bounds": rows[:0]},
                "numbers for names": {"parameter": np.array([1], np.int32), "bounds": rows},
            }[change]
            for name, value in values.items():
                table.defaults[name].CopyFrom(scripted_server.to_proto(value, typed=True))
        return found

    monkeypatch.setattr(scripted_server, "signature_defs", changed)
    client.explain(images, method="smooth", num_samples=5000)
    assert client.signatures()["explain_smooth"].bounds == {}
