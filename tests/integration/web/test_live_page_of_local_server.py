"""The live page over the real local server: two versions with their labels, and a mean in slices."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from live_page import PageAt, serving_page
from PIL import Image
from server_process import ServerProcess

from saliency_client import SaliencyClient
from saliency_client.images import load_image


@pytest.fixture(scope="module")
def target(uncompiled_version: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    base = tmp_path_factory.mktemp("models") / "classifier"
    for number in (3, 4):
        shutil.copytree(uncompiled_version, base / str(number))
    server = ServerProcess(
        f"classifier={base}", "--no-warmup", "--versions", "all", "--label", "stable=3", "--label", "canary=4"
    )
    try:
        yield server.target
    finally:
        server.stop()


@pytest.fixture(scope="module")
def page(target: str) -> Iterator[PageAt]:
    with serving_page(target, "classifier") as running:
        yield running


def photo() -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_the_versions_and_the_labels_stable_and_canary_can_be_chosen(page):
    offered = page.get("/api/model").json["choices"]
    assert [one["text"] for one in offered] == [
        "latest (version 4)",
        "stable (version 3)",
        "canary (version 4)",
        "version 3",
    ]
    key = page.photo(photo())
    for one in offered:
        asked = {"photo": key, "choice": one["key"], "method": one["usual"], "parameters": {}}
        event = page.post("/api/explain", asked).lines[0]
        assert event["facts"]["version"] == one["version"]


def test_a_refined_mean_is_what_one_call_gives(page, target, tmp_path):
    """The client's own call, with as many samples, on the same pixels."""
    page.get("/api/model")
    events = page.explain(page.photo(photo()), "smooth", num_samples=40, seed=3)
    assert [event["numbers"]["samples_used"] for event in events[:-1]] == [10, 20, 40]
    with SaliencyClient(target, model="classifier") as client:
        size = client.signatures()["explain_smooth"].image_size
        image = load_image(photo(), size).array
        expected = client.explain(image, method="smooth", num_samples=40, seed=3)
    found = np.load(io.BytesIO(page.get(f"/api/maps/{events[-2]['id']}/file.npy").body))
    np.testing.assert_allclose(found, expected.saliency[0], rtol=1e-4, atol=1e-5 * expected.saliency.max())
    assert float(events[-2]["error"]) == pytest.approx(float(expected.relative_error[0]), abs=0.006)


def test_what_slices_sum_up_to_is_what_one_call_may_take(page, target):
    """The model's bound is 200 samples a call: as many are shown and made again, and no more."""
    page.get("/api/model")
    key = page.photo(photo())
    events = page.explain(key, "smooth", num_samples=200, seed=3)
    assert events[-2]["numbers"]["samples_used"] == 200
    lines = page.get(f"/api/maps/{events[-2]['id']}/again").json
    assert "--num-samples 200 " in lines["command"]
    with SaliencyClient(target, model="classifier") as client:
        image = load_image(photo(), client.signatures()["explain_smooth"].image_size).array
        expected = client.explain(image, method="smooth", num_samples=200, seed=3)
    found = np.load(io.BytesIO(page.get(f"/api/maps/{events[-2]['id']}/file.npy").body))
    np.testing.assert_allclose(found, expected.saliency[0], rtol=1e-4, atol=1e-5 * expected.saliency.max())
    (event,) = page.explain(key, "smooth", num_samples=201, seed=3)
    assert event["error"] == "Num samples is 201; it must be in [1, 200]"
    assert (event["code"], event["field"]) == (None, {"name": "num_samples", "least": 1, "most": 200})


def test_the_fields_have_the_bounds_of_the_exported_signature(page):
    methods = page.get("/api/model").json["choices"][0]["methods"]
    fields = {field["name"]: field for one in methods for field in one["fields"]}
    assert (fields["num_samples"]["least"], fields["num_samples"]["most"]) == (1, 200)
    assert (fields["noise_level"]["least"], fields["noise_level"]["most"]) == (0, 1)


def test_a_refused_value_brings_the_bounds_of_the_exported_signature(page):
    page.get("/api/model")
    (event,) = page.explain(page.photo(photo()), "smooth", noise_level=7.0)
    assert event["field"] == {"name": "noise_level", "least": 0, "most": 1}
