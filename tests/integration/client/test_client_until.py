"""explain_until: slices of samples whose merged mean is that of one call, until the error is small enough.

Sample i of the scripted method is (1 ± λ) times the gradient, in turn, with λ = 18 · noise_level. So after an
even number n the mean is the gradient, se² is λ²/(n − 1) of its norm, and the error λ/√(n − 1 − λ²).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import grpc
import numpy as np
import pytest
from scripted_server import MODEL, WAVES, ScriptedServer, from_proto

from saliency_client import (
    AnswerError,
    AsyncSaliencyClient,
    InputError,
    InvalidArgument,
    SaliencyClient,
    UnknownMethod,
    UnknownParameter,
)

LAMBDA = WAVES * 0.15


def error_after(samples: int, wave: float = LAMBDA) -> float:
    return wave / math.sqrt(samples - 1 - wave**2)


@pytest.fixture
def sampled(server: ScriptedServer) -> ScriptedServer:
    server.model.sampled = True
    return server


@pytest.fixture
def client(sampled: ScriptedServer, connect: Callable[..., Any]) -> Any:
    return connect(sampled)


def until(client: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
    results = client.explain_until(*args, method="smooth", **kwargs)
    return iter(results)


def sent(server: ScriptedServer, name: str) -> list[list[float]]:
    return [from_proto(request.inputs[name]).tolist() for request in server.requests]


def test_it_ends_at_the_target_and_the_error_falls_as_theory_has_it(sampled, client, images) -> None:
    found = list(until(client, images[0], target_error=0.3, num_samples=1000, seed=4))

    used = [int(one["samples_used"][0]) for one in found]
    assert used == [10, 20, 40, 80, 100]
    np.testing.assert_allclose(
        [one["relative_error"][0] for one in found], list(map(error_after, used)), 1e-5
    )
    assert error_after(80) > 0.3 > error_after(100)
    last, weights = found[-1], sampled.model.weights[found[-1].class_index]
    np.testing.assert_allclose(last.gradients, weights, rtol=1e-6)
    np.testing.assert_allclose(last.saliency, np.abs(weights).max(axis=-1), rtol=1e-6)
    np.testing.assert_allclose(last["variance"], (LAMBDA * weights) ** 2 * 100 / 99, rtol=1e-5)
    assert (last.method, last.model, last.version) == ("smooth", MODEL, 1)
    assert sent(sampled, "first_sample") == [[0], [10], [20], [40], [80]]
    assert sent(sampled, "target_error") == [[0]] * 5, "a slice knows nothing of the error of all"
    assert sent(sampled, "seed") == [[4]] * 5


def test_slices_give_what_one_call_gives_at_the_same_number_of_samples(client, images) -> None:
    given = {"num_samples": 37, "noise_level": 0.1, "seed": 1, "class_index": 2}
    *_, last = until(client, images, target_error=0, **given)
    whole = client.explain(images, method="smooth", outputs="all", **given)

    assert set(last.outputs) == set(whole.outputs)
    for name in ("gradients", "saliency", "variance", "relative_error", "score", "probability"):
        np.testing.assert_allclose(last[name], whole[name], rtol=2e-6, err_msg=name)
        assert last[name].dtype == whole[name].dtype
    assert last["samples_used"].tolist() == [37, 37, 37]
    assert last.label.tolist() == whole.label.tolist()


def test_the_bound_ends_it_where_the_target_is_out_of_reach(client, images) -> None:
    *_, last = until(client, images[0], target_error=0.01, num_samples=25)
    assert last["samples_used"].tolist() == [25]
    assert last["relative_error"][0] > 0.01


def test_an_example_that_is_done_is_sent_no_more_and_stays_as_it_is(sampled, client, images) -> None:
    found = list(
        until(client, images, class_index=[0, 1, 2], target_error=[0.3, 3, 0], num_samples=[1000, 1000, 70])
    )

    assert found[-1]["samples_used"].tolist() == [100, 10, 70]
    rows = [len(from_proto(request.inputs["images"])) for request in sampled.requests]
    assert rows == [3, 2, 2, 2, 1]
    for one in found:
        np.testing.assert_array_equal(one.gradients[1], found[0].gradients[1])
        assert one.class_index.tolist() == [0, 1, 2]
    alone = [list(until(client, images[1], class_index=1, target_error=3))[-1], found[-1][1]]
    np.testing.assert_array_equal(alone[0].gradients, alone[1].gradients)


def test_all_slices_are_of_the_class_of_the_first(sampled, client, images) -> None:
    list(until(client, images[0], target_error=0, num_samples=20))
    first, second = sent(sampled, "class_index")
    assert first == [-1]
    assert second == [client.predict(images)["logits"][0].argmax()]


def test_one_sample_and_no_noise_have_the_errors_that_the_contract_gives(client, images) -> None:
    (one,) = until(client, images[0], target_error=0.3, num_samples=1)
    assert np.isnan(one["relative_error"]).all()
    assert np.isnan(one["variance"]).all()
    (still,) = until(client, images[0], target_error=0.3, noise_level=0)
    assert still["relative_error"].tolist() == [0]
    # λ² = 29.16: nothing of the norm is left at 20 samples, and something at 40.
    found = list(until(client, images[0], target_error=0, noise_level=0.3, num_samples=40))
    assert [one["relative_error"][0] for one in found[:2]] == [np.inf, np.inf]
    assert found[2]["relative_error"][0] == pytest.approx(error_after(40, 5.4), rel=1e-4)


def test_a_first_sample_of_the_callers_own_is_where_slices_begin(sampled, client, images) -> None:
    list(until(client, images[0], target_error=0, num_samples=30, first_sample=7))
    assert sent(sampled, "first_sample") == [[7], [17], [27]]


def test_leaving_early_asks_for_no_more(sampled, images) -> None:
    with (
        SaliencyClient(sampled.target, model=MODEL) as client,
        closing(client.explain_until(images[0], method="smooth", target_error=0.01)) as found,
    ):
        next(found)
    assert len(sampled.requests) == 1


def test_an_older_export_is_named_with_the_next_step(server, images) -> None:
    with SaliencyClient(server.target, model=MODEL) as client:
        with pytest.raises(UnknownParameter) as caught:
            next(client.explain_until(images, method="smooth", target_error=0.3))
        assert str(caught.value) == (
            "explain_smooth of model 'linear', version 1, takes no first_sample: this export is older than "
            "samples in slices"
        )
        assert "export the model again" in (caught.value.hint or "")
        assert "explain(…, num_samples=…)" in (caught.value.hint or "")
        assert client.explain(images, method="smooth", num_samples=3).method == "smooth"
        assert caught.value.model == MODEL
    assert len(server.requests) == 1


def test_a_method_without_samples_is_told_and_one_with_them_is_named(client, images) -> None:
    with pytest.raises(UnknownParameter, match=r"explain_gradients .* it draws no samples") as caught:
        list(client.explain_until(images, method="gradients", target_error=0.3))
    assert caught.value.hint == "methods that do: smooth"


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"target_error": -1}, InputError, "target_error is -1; it takes numbers from 0 on"),
        ({"target_error": float("nan")}, InputError, "target_error is nan"),
        ({"target_error": "low"}, InputError, "target_error is 'low'; it takes numbers"),
        ({"target_error": [0.1, 0.2]}, InputError, "one for each of 3 images"),
        ({"target_error": 0.3, "num_masks": 4}, UnknownParameter, "takes no num_masks"),
        ({"target_error": 0.3, "num_samples": 0}, InvalidArgument, r"num_samples is 0; it must be in \[1"),
    ],
)
def test_what_does_not_fit_is_refused(client, images, arguments, kind, words) -> None:
    with pytest.raises(kind, match=words):
        list(until(client, images, **arguments))
    with pytest.raises(UnknownMethod):
        list(client.explain_until(images, method="smoth", target_error=0.3))


def test_samples_of_two_versions_are_not_averaged(sampled, client, images) -> None:
    found = until(client, images[0], target_error=0)
    next(found)
    sampled.model.version = 2
    with pytest.raises(AnswerError, match="version 2 answered after version 1"):
        next(found)


def test_an_error_of_a_slice_ends_it_and_what_came_is_the_callers(sampled, client, images) -> None:
    found = until(client, images[0], target_error=0)
    first = next(found)
    sampled.fail(grpc.StatusCode.INTERNAL, "boom")
    with pytest.raises(Exception, match="boom"):
        next(found)
    assert first["samples_used"].tolist() == [10]


def test_the_asyncio_client_is_an_asynchronous_iterator(sampled, images) -> None:
    async def main() -> list[int]:
        async with AsyncSaliencyClient(sampled.target, model=MODEL) as client:
            found = client.explain_until(images[0], method="smooth", target_error=0.5)
            return [int(one["samples_used"][0]) async for one in found]

    assert asyncio.run(main()) == [10, 20, 40]
