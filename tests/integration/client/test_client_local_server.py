"""Both clients against the project's local server with a real exported model: maps, bounds, error table."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from exports import THREE
from tensorflow_serving.apis import predict_pb2
from waiting import until

from saliency_client import (
    AnswerTooLarge,
    DeadlineExceeded,
    InputError,
    InvalidArgument,
    ModelNotFound,
    QueueFull,
    RetryPolicy,
    SaliencyClient,
    SignatureNotFound,
    UnknownMethod,
)
from saliency_client import _requests as requests
from saliency_client.client import _run
from saliency_exporter.contract.settings import Settings
from saliency_exporter.methods.registry import find_methods
from saliency_exporter.runtime.servable import Servable, ServableError
from saliency_exporter.serving.admission import Admission
from saliency_exporter.serving.batching import BatchingParameters, BatchingSession
from saliency_exporter.serving.server import LocalServer
from saliency_exporter.sources.preprocessing import builtin
from saliency_exporter.sources.source import Source
from saliency_exporter.version.write import Export, export

MODEL = "relu"
SHAPE = (6, 5, 3)
CLASSES = 4
LABELS = ("ant", "bee", "cat", "dog")
WEIGHTS = np.random.default_rng(7).normal(size=(CLASSES, *SHAPE)).astype(np.float32)
MAX_SAMPLES = 200_000
QUICK: dict[str, Any] = {"poll_seconds": 0, "warmup": False}
"""Options of servers that are asked for little of what a warmup would run."""


def scores(x: tf.Tensor) -> tf.Tensor:
    """score_c = Σ w_c·relu(x), so that the gradient is w_c where x > 0 and 0 elsewhere."""
    return tf.nn.softmax(tf.einsum("bhwc,khwc->bk", tf.nn.relu(x), WEIGHTS))


def export_version(model_dir: Path, preprocessing: str, **settings) -> Path:
    source = Source(MODEL, "test", scores, SHAPE, ())
    settings["methods"] = find_methods(settings.get("methods", THREE))
    chosen = Settings(**{"compile": "none", "batch_sizes": (1, 4), "labels": LABELS, **settings})
    return export(Export(source, builtin(preprocessing), chosen, MODEL), model_dir)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with pictures as input, preprocessing 'tf': x = images / 127.5 − 1."""
    return export_version(tmp_path_factory.mktemp("exported") / MODEL, "tf", max_samples=MAX_SAMPLES).parent


@pytest.fixture(scope="module")
def exported_float(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model without preprocessing."""
    return export_version(tmp_path_factory.mktemp("exported") / MODEL, "none", methods=("gradients",)).parent


@pytest.fixture(scope="module")
def exported_fewer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version of the model with one method."""
    return export_version(tmp_path_factory.mktemp("exported") / MODEL, "tf", methods=("gradients",))


@pytest.fixture(scope="module", params=["fields", "tensor_content"])
def local_server(exported: Path, request: pytest.FixtureRequest) -> Iterator[LocalServer]:
    with LocalServer({MODEL: exported}, encoding=request.param, **QUICK) as running:
        yield running


@pytest.fixture
def client(connect, local_server):
    return connect(local_server.target, model=MODEL, timeout=60)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, *SHAPE), dtype=np.uint8)


def gradients_by_hand(images: np.ndarray, classes: list[int]) -> np.ndarray:
    positive = images.astype(np.float32) / 127.5 - 1 > 0
    return WEIGHTS[classes] * positive


def test_gradients_and_facts_are_those_worked_out_by_hand(client, images):
    explanation = client.explain(images, class_index=[0, 2, 3], outputs="all")

    expected = gradients_by_hand(images, [0, 2, 3])
    np.testing.assert_allclose(explanation.gradients, expected, rtol=1e-6)
    np.testing.assert_allclose(explanation.saliency, np.abs(expected).max(-1), rtol=1e-6)
    x = np.maximum(images.astype(np.float64) / 127.5 - 1, 0)
    logits = np.einsum("bhwc,khwc->bk", x, WEIGHTS.astype(np.float64))
    np.testing.assert_allclose(explanation.score, logits[range(3), [0, 2, 3]], rtol=1e-4, atol=1e-5)
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(explanation.probability, chances[range(3), [0, 2, 3]], rtol=1e-3, atol=1e-6)
    assert explanation.label.tolist() == ["ant", "cat", "dog"]
    assert explanation.version == 1


def test_without_a_class_the_predicted_one_is_explained(client, images):
    predicted = client.predict(images, outputs="probabilities")["probabilities"].argmax(1)

    assert client.explain(images, method="guided").class_index.tolist() == predicted.tolist()


def test_smooth_takes_its_parameters_one_by_one(client, images):
    explanation = client.explain(
        images[[0, 0, 0]],
        method="smooth",
        class_index=1,
        num_samples=[4, 10, 1000],
        noise_level=[0, 0.5, 0.5],
        seed=3,
    )

    exact = np.abs(gradients_by_hand(images[:1], [1])[0]).max(-1)
    np.testing.assert_allclose(explanation.saliency[0], exact, rtol=1e-6)
    assert explanation.relative_error[0] == 0
    # The standard error falls with 1/√n: a hundred times the samples, a tenth of the error.
    assert explanation.relative_error[1] / explanation.relative_error[2] == pytest.approx(10, rel=0.5)


def test_a_batch_beyond_every_compiled_size_comes_back_whole(client):
    many = np.random.default_rng(1).integers(0, 256, (11, *SHAPE), dtype=np.uint8)

    together = client.explain(many, class_index=0, outputs="gradients").gradients

    np.testing.assert_allclose(together, gradients_by_hand(many, [0] * 11), rtol=1e-6)


def test_explain_many_gives_what_single_calls_give(client):
    many = np.random.default_rng(2).integers(0, 256, (10, *SHAPE), dtype=np.uint8)

    results = list(client.explain_many(many, batch_size=3, class_index=[n % CLASSES for n in range(10)]))

    expected = np.abs(gradients_by_hand(many, [n % CLASSES for n in range(10)])).max(-1)
    np.testing.assert_allclose(
        np.concatenate([result.unwrap().saliency for result in results]), expected, rtol=1e-6
    )


def test_the_server_tells_everything_that_the_contract_promises(client):
    signatures = client.signatures()

    assert client.methods() == ("gradients", "guided", "smooth")
    assert client.labels() == LABELS
    assert set(signatures["serving_default"].outputs) == {"logits", "probabilities"}
    smooth = signatures["explain_smooth"]
    assert str(smooth.inputs["images"]) == "uint8[?,6,5,3]"
    assert {name: value.item() for name, value in smooth.defaults.items()} == {
        "class_index": -1, "num_samples": 50, "noise_level": pytest.approx(0.15), "seed": 0,
        "first_sample": 0, "target_error": 0,
    }  # fmt: skip
    assert {name: spec.dtype for name, spec in smooth.outputs.items()} == {
        "gradients": "float32", "saliency": "float32", "class_index": "int32", "score": "float32",
        "probability": "float32", "label": "string", "variance": "float32", "relative_error": "float32",
        "standard_error": "float32", "samples_used": "int32",
    }  # fmt: skip
    assert client.status()[0].available
    client.wait_ready(5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"class_index": 4}, "class_index.*4"),
        ({"class_index": [-1, -2, 0]}, "class_index.*-2"),
        ({"method": "smooth", "num_samples": 0}, "num_samples.*0"),
        ({"method": "smooth", "num_samples": MAX_SAMPLES + 1}, f"num_samples.*{MAX_SAMPLES}"),
        ({"method": "smooth", "noise_level": 1.5}, "noise_level.*1.5"),
        ({"method": "smooth", "noise_level": float("nan")}, "noise_level.*nan"),
    ],
)
def test_a_value_out_of_bounds_is_refused_in_the_words_that_the_server_has_for_it(
    client, images, arguments, words
):
    with pytest.raises(InputError, match=words) as caught:
        client.explain(images, **arguments)
    assert caught.value.attempts == 0

    signature = client.signatures()[f"explain_{arguments.get('method', 'gradients')}"]
    given = {
        name: np.broadcast_to(np.asarray(value), len(images)).astype(signature.inputs[name].dtype)
        for name, value in arguments.items()
        if name != "method"
    }
    with pytest.raises(InvalidArgument, match=words) as refused:
        client.predict({"images": images, **given}, signature=signature.name)
    assert caught.value.message in refused.value.details
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.attempts == 1


def test_nan_in_a_float_image_is_told_in_the_servers_words(connect, exported_float):
    with LocalServer({MODEL: exported_float}, **QUICK) as running:
        client = connect(running.target, model=MODEL, timeout=60)
        images = np.zeros((2, *SHAPE), np.float32)
        client.explain(images)
        images[1, 0, 0, 0] = np.nan

        with pytest.raises(InvalidArgument, match="images must be finite; example 1"):
            client.explain(images)


@pytest.mark.parametrize("call", ["explain", "signatures", "status"])
def test_an_unknown_model_version_or_label_is_not_found(connect, local_server, images, call):
    arguments = [images] if call == "explain" else []
    for wrong in ({"model": "resnet"}, {"version": 7}, {"label": "stable"}):
        if call == "status" and "label" in wrong:
            continue  # TensorFlow Serving's status call does not look at labels
        client = connect(local_server.target, **{"model": MODEL, **wrong})

        with pytest.raises(ModelNotFound) as caught:
            getattr(client, call)(*arguments)

        assert str(next(iter(wrong.values()))) in caught.value.details


def official(signature: str = "", outputs=(), **inputs) -> bytes:
    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name = MODEL
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request.SerializeToString()


IMAGES = np.zeros((1, *SHAPE), np.uint8)


RANK_2 = np.zeros((1, 1), np.int32)


@pytest.mark.parametrize(
    ("payload", "kind", "words"),
    [
        (
            official("explain_lime", images=IMAGES),
            SignatureNotFound,
            'signature key "explain_lime" not found',
        ),
        (official(), InvalidArgument, "Missing but required: {images}"),
        (official(images=IMAGES, seed=1), InvalidArgument, "Sent extra: {seed}"),
        (official("explain_smooth", pictures=IMAGES), InvalidArgument, "images"),
        (official(outputs=["heat"], images=IMAGES), InvalidArgument, "alias not found in signature: heat"),
        (official(images=IMAGES.astype(np.float32)), InvalidArgument, "float"),
        (official(images=IMAGES[:, :4]), InvalidArgument, "4"),
        (official("explain_gradients", images=IMAGES, class_index=RANK_2), InvalidArgument, "a vector"),
        (official(images=IMAGES[:0]), InvalidArgument, "batch size 0"),
    ],
)
def test_what_the_client_would_refuse_itself_is_mapped_when_the_server_refuses_it(
    local_server, payload, kind, words
):
    with SaliencyClient(local_server.target, model=MODEL) as client:
        calls = client._calls
        with pytest.raises(kind) as caught:
            _run(
                calls._send(requests.PREDICT, payload, calls._deadline(20.0), RetryPolicy()),
                client._carry_out,
            )

    assert words in caught.value.details


def test_a_method_that_a_new_version_no_longer_has_is_told_and_then_known(
    connect, exported, exported_fewer, tmp_path
):
    base = tmp_path / MODEL
    shutil.copytree(exported / "1", base / "1")
    fewer = Path(shutil.copytree(exported_fewer, tmp_path / "fewer"))
    with LocalServer({MODEL: base}, poll_seconds=0.05, warmup=False) as running:
        client = connect(running.target, model=MODEL, timeout=60)
        assert client.explain(IMAGES, method="guided").version == 1
        fewer.rename(base / "2")
        watcher = connect(running.target, model=MODEL)
        until(lambda: {version.version: version.state for version in watcher.status()}.get(1) == "END")

        with pytest.raises(SignatureNotFound):
            client.explain(IMAGES, method="guided")
        with pytest.raises(UnknownMethod, match="offers no method 'guided'; it offers gradients"):
            client.explain(IMAGES, method="guided")
        assert client.explain(IMAGES).version == 2


def test_an_answer_over_the_clients_limit_is_refused_by_the_client(connect, local_server, images):
    client = connect(local_server.target, model=MODEL, max_answer_bytes=5000)

    assert client.explain(images, outputs="score").score.shape == (3,)
    with pytest.raises(AnswerTooLarge):
        client.explain(np.repeat(images, 5, axis=0), outputs="all")


def test_a_full_server_is_told_apart_and_waited_for_by_explain_many(connect, exported, images, monkeypatch):
    refused, go_on = [], threading.Event()
    place, predict = Admission.place, Servable.predict

    @contextmanager
    def noted(admission: Admission, *client: str, **options: bool) -> Iterator[None]:
        try:
            with place(admission, *client, **options):
                yield
        except ServableError as error:
            refused.append(error)
            raise

    def held(servable: Servable, signature: str, *given: object) -> dict:
        assert signature != "explain_smooth" or go_on.wait(60)
        return predict(servable, signature, *given)

    with LocalServer({MODEL: exported}, running=1, waiting=0, **QUICK) as running:
        client = connect(running.target, model=MODEL, timeout=60, retry=RetryPolicy(attempts=1))
        client.explain(images)
        monkeypatch.setattr(Admission, "place", noted)
        monkeypatch.setattr(Servable, "predict", held)
        busy = SaliencyClient(running.target, model=MODEL, timeout=120)
        with busy, ThreadPoolExecutor(2) as pool:
            slow = pool.submit(busy.explain, images, method="smooth", num_samples=2)
            until(lambda: not running._admission.idle)

            with pytest.raises(QueueFull, match="is overloaded"):
                client.explain(images)
            # It is refused at least once before there is room.
            released = pool.submit(lambda: (until(lambda: len(refused) > 1), go_on.set()))
            results = list(client.explain_many(images, batch_size=1))
            slow.result()
            released.result()

    assert [result.error for result in results] == [None] * 3


def test_a_call_whose_time_passes_in_the_servers_queue_is_told_so_and_is_not_run(
    connect, exported, images, monkeypatch
):
    # The server answers RESOURCE_EXHAUSTED when it comes to the call (test_batching.py), which is after the
    # deadline, when gRPC has already ended the call on both sides: this is what a caller sees of it.
    ran, go_on = [], threading.Event()
    batching = BatchingParameters(max_batch_size=4, num_batch_threads=1)
    with LocalServer({MODEL: exported}, batching=batching, **QUICK) as running:
        client = connect(running.target, model=MODEL, timeout=120)
        client.explain(images)
        process = BatchingSession._process

        def held(session: BatchingSession, key: object, batch: object) -> list:
            assert go_on.wait(60)
            outputs = process(session, key, batch)
            ran.append(len(batch.tasks))
            return outputs

        monkeypatch.setattr(BatchingSession, "_process", held)
        busy = SaliencyClient(running.target, model=MODEL, timeout=120)
        with busy, ThreadPoolExecutor(1) as pool:
            slow = pool.submit(busy.explain, images, method="smooth", num_samples=3)
            until(lambda: not running._admission.idle)

            with pytest.raises(DeadlineExceeded, match="no answer in time"):
                client.explain(images, timeout=0.3)
            go_on.set()
            slow.result()
        client.explain(images)

    assert ran == [1, 1]


def test_with_the_servers_batching_all_parameters_arrive_and_too_large_batches_are_split(
    connect, exported, images
):
    batching = BatchingParameters(max_batch_size=4, batch_timeout_micros=1000, num_batch_threads=2)
    with LocalServer({MODEL: exported}, batching=batching, **QUICK) as running:
        client = connect(running.target, model=MODEL, timeout=60)
        many = np.random.default_rng(3).integers(0, 256, (9, *SHAPE), dtype=np.uint8)

        with pytest.raises(InvalidArgument, match="Task size 9 is larger than maximum input batch size 4"):
            client.explain(many)
        results = list(client.explain_many(many, batch_size=9, method="smooth", num_samples=2, noise_level=0))

    assert [result.error for result in results] == [None] * 9
    chosen = [result.explanation.class_index.item() for result in results]
    expected = np.abs(gradients_by_hand(many, chosen)).max(-1)
    np.testing.assert_allclose(
        np.concatenate([result.explanation.saliency for result in results]), expected, rtol=1e-6
    )


def test_images_that_the_model_does_not_take_are_refused_in_better_words(client):
    with pytest.raises(InputError, match=r"images is \[1,6,6,3\]; the model takes \[B,6,5,3\]"):
        client.explain(np.zeros((1, 6, 6, 3), np.uint8))
