"""A server that returns no defaults with its metadata: what the client does instead, by which calls.

The scripted server counts calls; the local server with a real export shows that everything arrives in full.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from exports import THREE
from scripted_server import CLASSES, DEFAULTS, LinearModel, ScriptedServer

from saliency_client import (
    InputError,
    InvalidArgument,
    RetryPolicy,
    SaliencyError,
    SignatureNotFound,
    Unavailable,
)
from saliency_exporter.contract.settings import Settings
from saliency_exporter.methods.registry import find_methods
from saliency_exporter.serving.batching import BatchingParameters
from saliency_exporter.serving.server import LocalServer
from saliency_exporter.sources.preprocessing import builtin
from saliency_exporter.sources.source import Source
from saliency_exporter.version.write import Export, export

NAMES = tuple(f"class {index}" for index in range(CLASSES))


@pytest.fixture
def withholding(server: ScriptedServer) -> ScriptedServer:
    server.withholds = True
    return server


def called(server: ScriptedServer) -> list[str]:
    return [request.model_spec.signature_name for request in server.requests]


def test_a_server_that_returns_defaults_gets_no_call_more(server, client, images):
    client.wait_ready(5)
    client.signatures(), client.labels(), client.methods()
    client.explain(images, method="smooth")
    client.predict(images)
    assert called(server) == ["explain_smooth", "serving_default"]
    assert server.metadata_calls == 1


def test_defaults_are_asked_for_once_and_names_when_they_are_wanted(withholding, client, images):
    client.explain(images, method="smooth")
    assert called(withholding) == ["parameter_defaults", "explain_smooth"]
    client.explain(images), client.signatures(), client.methods(), client.predict(images)
    assert client.labels() == client.labels() == NAMES
    client.explain(images)
    assert called(withholding).count("parameter_defaults") == called(withholding).count("class_labels") == 1
    assert withholding.metadata_calls == 1


def test_every_parameter_is_sent_in_full(withholding, client, images):
    explanation = client.explain(images, method="smooth", seed=7, outputs="all")
    sent = {name: tf.make_ndarray(proto) for name, proto in withholding.requests[-1].inputs.items()}
    expected = {**DEFAULTS["explain_smooth"], "seed": np.int32(7)}
    assert sent.keys() == {"images", *expected}
    for name, value in expected.items():
        assert sent[name].dtype == value.dtype, name
        assert sent[name].tolist() == [value.item()] * 3, name
    np.testing.assert_array_equal(explanation.class_index, withholding.model.scores(images).argmax(1))
    np.testing.assert_allclose(explanation.variance, 0.15, rtol=1e-6)


def test_signatures_show_the_same_defaults(withholding, client, images):
    for name, defaults in DEFAULTS.items():
        shown = client.signatures()[name].defaults
        assert {key: (value.dtype, value.shape, value.item()) for key, value in shown.items()} == {
            key: (value.dtype, (), value.item()) for key, value in defaults.items()
        }


def test_predict_completes_a_request_that_relies_on_defaults(withholding, client, images):
    outputs = client.predict({"images": images}, signature="explain_gradients", outputs=["class_index"])
    assert outputs["class_index"].tolist() == withholding.model.scores(images).argmax(1).tolist()
    assert tf.make_ndarray(withholding.requests[-1].inputs["class_index"]).tolist() == [-1, -1, -1]


def test_predict_leaves_defaults_to_a_server_that_has_them(server, client, images):
    with pytest.raises(SaliencyError):  # the scripted server fills nothing in
        client.predict({"images": images}, signature="explain_gradients")
    assert set(server.requests[-1].inputs) == {"images"}


@pytest.mark.parametrize(("most_rows", "sizes"), [(4, [4]), (3, [4, 2, 2]), (1, [4, 2, 1, 1, 1, 1])])
def test_names_come_in_parts_from_a_server_that_bounds_a_request(withholding, client, most_rows, sizes):
    withholding.most_rows = most_rows
    assert client.labels() == NAMES
    rows = [request.inputs["class_index"].tensor_shape.dim[0].size for request in withholding.requests[1:]]
    assert rows == sizes


def test_a_refusal_of_one_name_is_the_callers(withholding, client):
    client.signatures()
    withholding.fail(grpc.StatusCode.INVALID_ARGUMENT, "no names today", times=3)
    with pytest.raises(InvalidArgument, match="no names today"):
        client.labels()
    assert client.labels() == NAMES


def test_a_model_without_names_has_none(withholding, client):
    withholding.hidden = {"class_labels"}
    assert client.labels() is None
    assert called(withholding) == ["parameter_defaults"]


def test_a_new_version_is_asked_anew(withholding, client, images):
    client.explain(images), client.labels()
    withholding.model = LinearModel(version=2, names=("a", "b", "c", "d"))
    client.explain(images)
    client.explain(images)
    assert client.labels() == ("a", "b", "c", "d")
    assert called(withholding).count("parameter_defaults") == called(withholding).count("class_labels") == 2


def test_a_table_of_another_version_than_the_metadata_is_used_once(withholding, client, images):
    """As from replicas that change over: the next call asks again."""
    withholding.script.append(lambda request, context: setattr(withholding.model, "version", 2))
    for _ in range(3):
        assert client.signatures()["explain_smooth"].defaults["num_samples"] == 50
    assert called(withholding).count("parameter_defaults") == withholding.metadata_calls == 2


def test_a_full_queue_is_waited_for_by_bulk_calls(withholding, connect, images):
    client = connect(withholding, retry=RetryPolicy(attempts=3, initial_backoff=0.01, max_backoff=0.01))
    full = "The batch scheduling queue to which this task was submitted is full; currently 2 batches"
    withholding.fail(grpc.StatusCode.UNAVAILABLE, full, times=5)
    (result,) = client.explain_many(images[:1], max_in_flight=1)
    assert result.unwrap().version == 1
    withholding.fail(grpc.StatusCode.UNAVAILABLE, full, times=9)
    client._calls.forget()
    with pytest.raises(Unavailable):
        client.explain(images)


def test_without_a_table_the_error_names_the_parameters_to_give(withholding, client, images):
    withholding.hidden = {"parameter_defaults"}
    with pytest.raises(InputError) as caught:
        client.explain(images, method="smooth", class_index=1, seed=0)
    assert caught.value.message == "explain_smooth needs noise_level, num_samples"
    assert caught.value.hint.startswith("give noise_level, num_samples: ")
    assert "the server returned no default" in caught.value.hint
    with pytest.raises(InputError) as caught:
        client.predict({"images": images}, signature="explain_gradients")
    assert caught.value.message == "explain_gradients needs class_index"
    assert called(withholding) == []
    given = {"class_index": 2, "seed": 0, "num_samples": 4, "noise_level": 0.1}
    assert client.explain(images, method="smooth", **given).class_index.tolist() == [2, 2, 2]
    assert client.predict(images)["logits"].shape == (3, CLASSES)


def test_a_signature_that_is_named_like_the_table_and_is_another_is_left_alone(withholding, client, images):
    withholding.hidden = {"explain_smooth"}  # so the table tells of a signature that is not there
    with pytest.raises(InputError, match="explain_gradients needs class_index"):
        client.explain(images)
    assert called(withholding) == []


def test_the_words_of_a_tfrt_servable_for_a_missing_signature_are_understood(server, client, images):
    server.fail(grpc.StatusCode.FAILED_PRECONDITION, 'Function "explain_gradients" not found.')
    with pytest.raises(SignatureNotFound):
        client.explain(images)


MODEL = "relu"
SHAPE = (6, 5, 3)
LABELS = ("ant", "bee", "cat", "dog", "eel")
WEIGHTS = np.random.default_rng(7).normal(size=(len(LABELS), *SHAPE)).astype(np.float32)


def scores(x: tf.Tensor) -> tf.Tensor:
    """score_c = Σ w_c·relu(x), so that the gradient is w_c where x > 0 and 0 elsewhere."""
    return tf.nn.softmax(tf.einsum("bhwc,khwc->bk", tf.nn.relu(x), WEIGHTS))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Source(MODEL, "test", scores, SHAPE, ())
    settings = Settings(methods=find_methods(THREE), compile="none", batch_sizes=(1, 4), labels=LABELS)
    model_dir = tmp_path_factory.mktemp("exported") / MODEL
    return export(Export(source, builtin("tf"), settings, MODEL), model_dir).parent


@pytest.fixture(scope="module", params=["metadata", "all", "all, batching"])
def local_server(exported: Path, request: pytest.FixtureRequest) -> Iterator[LocalServer]:
    withheld, _, batching = request.param.partition(", ")
    parameters = BatchingParameters(4, 2000, 10, 1, (1, 2, 4)) if batching else None
    options = {"warmup": False, "poll_seconds": 0, "batching": parameters}
    with LocalServer({MODEL: exported}, withhold_defaults=withheld, **options) as running:
        yield running


@pytest.fixture
def local_client(connect, local_server):
    return connect(local_server.target, model=MODEL, timeout=60)


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, *SHAPE), dtype=np.uint8)


def test_a_real_export_explains_by_every_method(local_client, pictures):
    x = pictures / 127.5 - 1
    chosen = np.einsum("bhwc,khwc->bk", np.maximum(x, 0), WEIGHTS).argmax(1)
    exact = np.where(x > 0, WEIGHTS[chosen], 0)
    for method in ("gradients", "guided", "smooth"):
        explanation = local_client.explain(pictures, method=method, outputs="gradients")
        assert explanation.class_index.tolist() == chosen.tolist()
        assert explanation.label.tolist() == [LABELS[index] for index in chosen]
        # A guided signal passes where it is positive alone; 50 noisy samples are near the gradient.
        if method != "smooth":
            expected = np.maximum(exact, 0) if method == "guided" else exact
            np.testing.assert_allclose(explanation.gradients, expected, rtol=1e-6)
    given = {"num_samples": 50, "noise_level": 0.15, "seed": 0, "class_index": -1}
    again = local_client.explain(pictures, method="smooth", outputs="gradients", **given)
    np.testing.assert_array_equal(explanation.gradients, again.gradients)


def test_a_real_export_has_its_names_defaults_and_predictions(local_client, pictures):
    assert local_client.labels() == LABELS
    smooth = local_client.signatures()["explain_smooth"].defaults
    assert {name: value.item() for name, value in smooth.items()} == {
        "class_index": -1, "num_samples": 50, "noise_level": np.float32(0.15).item(), "seed": 0,
        "first_sample": 0, "target_error": 0,
    }  # fmt: skip
    assert local_client.signatures()["explain_smooth"].bounds == {
        "class_index": (-1, 4), "num_samples": (1, 1000), "noise_level": (0, 1), "seed": (None, None),
        "first_sample": (0, 2**30), "target_error": (0, None),
    }  # fmt: skip
    assert local_client.predict(pictures)["probabilities"].shape == (3, len(LABELS))
    assert local_client.methods() == ("gradients", "guided", "smooth")
