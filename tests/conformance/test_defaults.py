"""What a client needs where a server returns no defaults, and where it does: names, defaults, every map.

The server under test is asked, whichever kind it is; of the local one each kind. The same assertions as in
test_answers hold for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from server_process import ServerProcess
from test_answers import (  # noqa: F401
    METHODS,
    method,
    parameters,
    test_a_request_of_images_alone_takes_the_defaults_of_the_contract,
    test_concurrent_requests_of_every_kind_get_the_answers_that_they_get_alone,
    test_each_image_has_its_own_class,
    test_every_method_answers_its_outputs_in_their_shapes_and_dtypes,
    test_every_signature_with_its_inputs_outputs_and_defaults_is_told,
    test_the_default_class_is_the_predicted_one_with_its_probability,
)

from saliency_client import InputError, SaliencyClient
from saliency_exporter.serving.batching import BatchingParameters
from saliency_exporter.serving.server import LocalServer

KINDS = ("as it is", "metadata", "all", "all, batching")


# Quick: defaults withheld from metadata alone and from requests too, without batching and with it.
@pytest.fixture(
    scope="module",
    params=[pytest.param(kind, marks=pytest.mark.slow if kind == "all" else []) for kind in KINDS],
)
def kind(request: pytest.FixtureRequest) -> str:
    """Which server: that under test, or a local one that withholds defaults, in this process or its own."""
    if request.param != "as it is" and request.config.getoption("--server", default=None) is not None:
        pytest.skip("needs a server that the test starts itself")
    return request.param


@pytest.fixture(scope="module")
def asked(kind: str, request: pytest.FixtureRequest, server_at: Callable, xla_cache: Path) -> Iterator:
    if kind == "as it is":
        yield request.getfixturevalue("under_test")
        return
    # What is filled in and what is refused does not depend on XLA.
    model_dir = request.getfixturevalue("uncompiled_version").parent
    if kind == "all":
        options = ("--withhold-defaults", "all", "--no-warmup", "--xla-cache", xla_cache)
        process = ServerProcess(f"classifier={model_dir}", *options)
        asked = server_at(process.target, "classifier")
        yield asked
        asked.channel.close()
        assert process.stop() == (0, "")
        return
    batching = BatchingParameters(64, 20_000, 100, 2, (1, 4, 64)) if kind == "all, batching" else None
    options = {"warmup": False, "poll_seconds": 0, "xla_cache": xla_cache, "batching": batching}
    with LocalServer({"classifier": model_dir}, withhold_defaults=kind.partition(",")[0], **options) as local:
        asked = server_at(local.target, "classifier")
        yield asked
        asked.channel.close()


@pytest.fixture
def server(asked):
    """In the place of the server under test, for the assertions that every kind has to meet."""
    return asked


@pytest.fixture
def client(server) -> Iterator[SaliencyClient]:
    with SaliencyClient(channel=server.channel, model=server.model, timeout=120) as client:
        yield client


def classes_of(server) -> int:
    return server.predict("serving_default", images=server.images(1))["probabilities"].shape[1]


def test_the_server_is_of_the_kind_that_it_says(server, kind):
    if kind != "as it is":
        assert not server.returns_defaults
        assert server.fills_in_defaults == (kind == "metadata")


def test_the_names_of_all_classes_come_by_a_call_in_any_order(server):
    if "class_labels" not in server.signatures:
        pytest.skip("the model was exported without labels")
    classes = classes_of(server)

    def ask(index: int) -> bytes:
        """Alone, beside others who ask for other classes, with whom a server may merge it."""
        request = {"labels": np.array([b"?"], object), "class_index": np.array([index], np.int32)}
        return server.predict("class_labels", **request)["labels"].item()

    some = np.arange(16, dtype=np.int32) % classes
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(ask, some))
    explained = server.predict(
        "explain_gradients", images=server.images(16), outputs=("label",), class_index=some
    )
    assert names == explained["label"].tolist()


@pytest.mark.parametrize("rows", [1, 3])
def test_the_table_of_defaults_has_them_all(server, rows):
    if "parameter_defaults" not in server.signatures:
        assert server.returns_defaults
        pytest.skip("the model was exported by an earlier version")
    table = server.predict("parameter_defaults", rows=np.zeros(rows, np.int32))
    expected = {
        f"{name}/{parameter}"
        for name in server.explain_signatures
        for parameter in set(server.signatures[name].inputs) - {"images"}
    }
    assert set(table) == expected
    assert {value.shape for value in table.values()} == {(rows,)}


def names_of_parameters(server) -> list[str]:
    return [
        f"{name}/{parameter}"
        for name in server.explain_signatures
        for parameter in sorted(set(server.signatures[name].inputs) - {"images"})
    ]


def told_bounds(server) -> dict[str, list[float]]:
    """Of each parameter the least and the greatest value, asked for one by one."""
    if "parameter_bounds" not in server.signatures:
        pytest.skip("the model was exported by an earlier version")

    def ask(name: str) -> list[float]:
        """Alone, beside others, with whom a server may merge it."""
        (bounds,) = server.predict("parameter_bounds", **server.bounds_request([name]))["bounds"]
        return bounds.tolist()

    names = names_of_parameters(server)
    with ThreadPoolExecutor(8) as pool:
        return dict(zip(names, pool.map(ask, names), strict=True))


def test_bounds_come_with_the_metadata_and_by_a_call(server):
    told = told_bounds(server)
    if server.returns_defaults:
        defaults = server.signatures["parameter_bounds"].defaults
        names = [name.decode() for name in tf.make_ndarray(defaults["parameter"])]
        assert dict(zip(names, tf.make_ndarray(defaults["bounds"]).tolist(), strict=True)) == told
    for name in server.explain_signatures:
        for parameter, default in server.defaults(name).items():
            least, greatest = told[f"{name}/{parameter}"]
            assert least <= default.item() <= greatest, (name, parameter)


def test_what_lies_beyond_a_bound_is_what_the_server_refuses(server, method):  # noqa: F811
    dtypes = {name: tf.as_dtype(info.dtype) for name, info in server.signatures[method].inputs.items()}
    usual = {name: np.full(1, value) for name, value in server.defaults(method).items()}
    usual |= {"num_samples": np.ones(1, np.int32)} if "num_samples" in usual else {}
    for name, bounds in told_bounds(server).items():
        signature, _, parameter = name.rpartition("/")
        if signature != method:
            continue
        extremes = (dtypes[parameter].min, dtypes[parameter].max)
        for bound, extreme, sign in zip(bounds, extremes, (-1, 1), strict=True):
            if bound == extreme:
                continue
            beyond = bound + sign * (1 if dtypes[parameter].is_integer else 1e-3)
            given = {**usual, parameter: np.array([beyond], dtypes[parameter].as_numpy_dtype)}
            code, message = server.refused(method, images=server.images(1), outputs=("score",), **given)
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert f"{parameter} is " in message


def test_the_client_refuses_what_the_server_would_before_it_sends_an_image(server, client, method):  # noqa: F811
    told = told_bounds(server)
    known = client.signatures()[method].bounds
    assert set(known) == {name.partition("/")[2] for name in told if name.startswith(f"{method}/")}
    classes = classes_of(server)
    assert known["class_index"] == (-1, classes - 1)
    with pytest.raises(InputError, match=f"class_index is {classes}; it must be in") as caught:
        client.explain(server.images(1), method=method.removeprefix("explain_"), class_index=classes)
    assert caught.value.attempts == 0


def test_the_client_explains_by_every_method_as_if_it_had_given_every_parameter(server, client, method):  # noqa: F811
    images = server.images(2)
    explanation = client.explain(images, method=method.removeprefix("explain_"), outputs="all")
    defaults = {name: np.full(2, value) for name, value in server.defaults(method).items()}
    given = server.predict(method, images=images, **defaults)
    for name in ("class_index", "label"):
        if name in given:
            answered = [one.decode() if isinstance(one, bytes) else one for one in given[name].tolist()]
            assert getattr(explanation, name).tolist() == answered
    scale = np.abs(given["gradients"]).max()
    np.testing.assert_allclose(explanation.gradients, given["gradients"], rtol=0, atol=2e-5 * scale)


def test_the_client_knows_names_defaults_and_predictions(server, client):
    labels = client.labels()
    if labels is not None:
        assert len(labels) == classes_of(server)
        explanation = client.explain(server.images(3), class_index=[0, 1, -1])
        assert explanation.label.tolist() == [labels[index] for index in explanation.class_index]
    for name in server.explain_signatures:
        told = client.signatures()[name].defaults
        assert {key: value.item() for key, value in told.items()} == {
            key: value.item() for key, value in server.defaults(name).items()
        }
    assert client.predict(server.images(2))["probabilities"].shape == (2, classes_of(server))


def test_what_is_left_out_is_refused_by_its_name_or_filled_in(server):
    if server.fills_in_defaults:
        pytest.skip("the server fills defaults in")
    code, message = server.refused("explain_gradients", images=server.images(1))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "class_index" in message or "Batching Run() input tensors must have at least one" in message
