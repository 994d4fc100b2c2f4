"""The behaviours that need a server of the test's own: encodings, batching, swaps."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from rounding import assert_equal_to_rounding, assert_same_answers
from tensorflow_serving.apis import get_model_status_pb2
from test_answers import METHODS, parameters


@pytest.fixture
def model_dir(uncompiled_version: Path, tmp_path: Path) -> Path:
    """A base path of the model that the test may change; exported without XLA, a version loads at once."""
    return Path(shutil.copytree(uncompiled_version.parent, tmp_path / "classifier"))


def test_both_encodings_carry_the_same_answer(server, exported_model, start_local):
    other, _ = start_local(f"classifier={exported_model}", "--encoding", "tensor_content", "--no-warmup")
    inputs = {"images": server.images(1), **parameters("explain_gradients", 1)}
    fields, content = (
        asked.predict_stub(asked.request("explain_gradients", inputs), timeout=120).outputs
        for asked in (server, other)
    )
    assert [alias for alias, proto in fields.items() if proto.tensor_content] == []
    assert [alias for alias, proto in content.items() if not proto.tensor_content] == []
    expected = server.predict("explain_gradients", **inputs)
    assert_same_answers(other.predict("explain_gradients", **inputs), expected)


def test_merged_with_other_clients_requests_an_answer_stays_what_it_is_alone(
    server, exported_model, start_local
):
    batched, _ = start_local(
        *(f"classifier={exported_model}", "--no-warmup", "--batching", "--allowed-batch-sizes", "1,4"),
        *("--batch-timeout-micros", "20000", "--max-enqueued-batches", "100"),
    )

    def ask(asked, seed: int) -> dict[str, np.ndarray]:
        method = METHODS[seed % 3]
        values = {"class_index": seed % 5 - 1}
        if method == "explain_smooth":
            values |= {"seed": seed, "num_samples": 1 + seed % 7, "noise_level": 0.05 * (seed % 4)}
        rows = 1 + seed % 2
        inputs = {"images": server.images(rows, seed), **parameters(method, rows, **values)}
        return asked.predict(method, outputs=("gradients", "class_index"), **inputs)

    with ThreadPoolExecutor(16) as pool:
        merged = list(pool.map(lambda seed: ask(batched, seed), range(48)))
    alone = [ask(server, seed) for seed in range(48)]
    got, want = (
        {name: np.concatenate([answer[name] for answer in answers]) for name in alone[0]}
        for answers in (merged, alone)
    )
    assert_equal_to_rounding(got["class_index"], want["class_index"])
    assert_equal_to_rounding(got["gradients"], want["gradients"], beyond=2)


def test_merged_into_one_compiled_batch_size_an_answer_is_what_it_is_at_that_size_alone(
    server, exported_model, start_local
):
    batched, _ = start_local(
        *(f"classifier={exported_model}", "--no-warmup", "--batching", "--allowed-batch-sizes", "4"),
        *("--batch-timeout-micros", "100000", "--max-enqueued-batches", "100"),
    )

    def ask(asked, seed: int, rows: int) -> np.ndarray:
        images = server.images(1, seed)
        # Alone, four rows run at the compiled size of four as well.
        values = {"class_index": seed % 5, "seed": seed, "num_samples": 3 + seed % 5}
        inputs = parameters("explain_smooth", rows, noise_level=0.05 * (seed % 4), **values)
        images = np.concatenate([images, server.images(rows - 1, 99)])
        outputs = asked.predict("explain_smooth", images=images, outputs=("gradients",), **inputs)
        return outputs["gradients"][0]

    with ThreadPoolExecutor(8) as pool:
        merged = list(pool.map(lambda seed: ask(batched, seed, 1), range(16)))
    alone = [ask(server, seed, 4) for seed in range(16)]
    assert_equal_to_rounding(np.stack(merged), np.stack(alone), beyond=1)


def test_with_batching_scalars_and_defaults_of_another_length_are_refused(exported_model, start_local):
    batched, _ = start_local(f"classifier={exported_model}", "--no-warmup", "--batching")
    scalar = {"images": batched.images(2), "class_index": np.int32(1)}
    assert batched.refused("explain_gradients", **scalar) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "Batching Run() input tensors must have at least one dimension",
    )


def test_a_new_version_is_swapped_in_under_load_without_a_failed_call(model_dir, start_local):
    asked, _ = start_local(f"classifier={model_dir}", "--poll", "0.1", "--no-warmup")
    inputs = {"images": asked.images(1), **parameters("explain_gradients", 1)}
    expected = asked.predict("explain_gradients", **inputs)["gradients"]

    def ask(_: int) -> int:
        request = asked.request("explain_gradients", inputs, ("gradients",))
        response = asked.predict_stub(request, timeout=120)
        gradients = np.array(response.outputs["gradients"].float_val, np.float32).reshape(expected.shape)
        assert_equal_to_rounding(gradients, expected)
        return response.model_spec.version.value

    shutil.copytree(model_dir / "1", model_dir / ".2.partial")
    seen = set()
    deadline = time.monotonic() + 120
    with ThreadPoolExecutor(4) as pool:
        seen |= set(pool.map(ask, range(8)))
        (model_dir / ".2.partial").rename(model_dir / "2")
        while 2 not in seen:
            assert time.monotonic() < deadline, "version 2 was never served"
            seen |= set(pool.map(ask, range(8)))
    assert seen == {1, 2}
    states = asked.status_stub(asked.status_request("classifier"), timeout=120).model_version_status
    assert states[0].version == 2
    assert states[0].state == get_model_status_pb2.ModelVersionStatus.AVAILABLE


def test_a_broken_new_version_is_reported_and_the_old_one_goes_on(model_dir, start_local):
    asked, process = start_local(f"classifier={model_dir}", "--poll", "0.1", "--no-warmup")
    shutil.copytree(model_dir / "1", model_dir / ".2.partial")
    (model_dir / ".2.partial" / "variables" / "variables.index").write_bytes(b"damaged")
    (model_dir / ".2.partial").rename(model_dir / "2")
    process.wait_for("classifier version 2: failed to load")
    two, one = asked.status_stub(asked.status_request("classifier"), timeout=120).model_version_status
    assert (two.version, two.state) == (2, get_model_status_pb2.ModelVersionStatus.END)
    assert two.status.error_code != 0
    assert (one.version, one.state) == (1, get_model_status_pb2.ModelVersionStatus.AVAILABLE)
    assert asked.predict("serving_default", images=asked.images(1))
