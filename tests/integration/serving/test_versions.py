"""Versions come and go under the server's feet, and no request notices."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from serving_models import LABELS, WEIGHTS, predict_request
from tensorflow_serving.apis import get_model_status_pb2
from waiting import until

from saliency_exporter.errors import ExportError
from saliency_exporter.runtime.servable import ServableError, load_servable
from saliency_exporter.serving.model_config import ModelConfig, VersionPolicy
from saliency_exporter.serving.models import ModelManager, State
from saliency_exporter.version.warmup import warmup_path, write_warmup

IMAGES = np.array([[1.0, 2.0]], np.float32)


@pytest.fixture
def add_version(model_dir: Path, saved_versions):
    """Copies a version into the model base path as an exporter does: whole, by a rename."""

    def add(number: int, *, source: int = 2, damage: str | None = None) -> Path:
        partial = model_dir / f".{number}.partial"
        shutil.copytree(saved_versions[source], partial)
        if damage is not None:
            (partial / damage).write_bytes(b"damaged")
        return partial.rename(model_dir / str(number))

    return add


@pytest.fixture
def manager(model_dir: Path):
    """A manager of one model, polled by the test itself."""
    managers = []

    def make(policy: VersionPolicy | None = None, **config) -> ModelManager:
        configs = [ModelConfig("small", model_dir, policy or VersionPolicy(), **config)]
        made = ModelManager(configs, lambda name, number, path: load_servable(path), lambda line: None)
        managers.append(made)
        return managers[-1]

    yield make
    for made in managers:
        made.stop()


def states(manager: ModelManager) -> list[tuple[int, State]]:
    return [(status.version, status.state) for status in manager.statuses("small")]


def test_the_highest_number_is_served_and_other_names_are_ignored(model_dir, add_version, manager):
    add_version(12)
    for name in ("latest", ".13.partial", "14.tmp", "-15", "1_6"):
        (model_dir / name).mkdir()
    (model_dir / "99").write_text("a file, not a directory")
    served = manager()
    served.load_initial()
    assert states(served) == [(12, State.AVAILABLE)]


def test_a_new_version_replaces_the_old_one(add_version, manager):
    served = manager()
    served.load_initial()
    add_version(2)
    served.poll_once()
    assert states(served) == [(2, State.AVAILABLE), (1, State.END)]
    with pytest.raises(ServableError, match=r"Specific\(small, 1\)"), served.servable("small", 1):
        pass


def test_the_old_version_lives_until_its_last_request_ends(add_version, manager):
    served = manager()
    served.load_initial()
    with served.servable("small") as (number, old):
        add_version(2)
        served.poll_once()
        assert states(served) == [(2, State.AVAILABLE), (1, State.UNLOADING)]
        assert number == 1
        np.testing.assert_array_equal(old.predict("", {"images": IMAGES})["logits"], IMAGES @ WEIGHTS)
    assert states(served) == [(2, State.AVAILABLE), (1, State.END)]


@pytest.mark.parametrize("damage", ["saved_model.pb", "variables/variables.index"])
def test_a_broken_new_version_leaves_the_old_one_serving_and_is_reported(add_version, manager, damage):
    served = manager()
    served.load_initial()
    add_version(2, damage=damage)
    served.poll_once()
    broken, serving = served.statuses("small")
    assert (serving.version, serving.state, serving.code) == (1, State.AVAILABLE, 0)
    assert (broken.version, broken.state) == (2, State.END)
    assert broken.code != 0
    assert "Cannot load the SavedModel" in broken.message


def test_a_broken_version_is_tried_again_when_its_files_change_and_only_then(add_version, manager):
    served = manager()
    served.load_initial()
    path = add_version(2, damage="saved_model.pb")
    attempts = []
    load = served._load_servable
    served._load_servable = lambda *args: attempts.append(args) or load(*args)
    for _ in range(3):
        served.poll_once()
    assert len(attempts) == 1
    shutil.rmtree(path)
    add_version(2)
    served.poll_once()
    assert states(served)[0] == (2, State.AVAILABLE)


def test_removing_the_newest_version_brings_the_one_before_it_back(model_dir, add_version, manager):
    add_version(2)
    served = manager()
    served.load_initial()
    shutil.rmtree(model_dir / "2")
    served.poll_once()
    assert states(served) == [(2, State.END), (1, State.AVAILABLE)]


def test_a_base_path_that_disappears_changes_nothing(model_dir, manager):
    served = manager()
    served.load_initial()
    shutil.rmtree(model_dir)
    served.poll_once()
    assert states(served) == [(1, State.AVAILABLE)]


def test_all_and_named_versions_can_be_served_side_by_side(add_version, manager):
    add_version(2)
    add_version(3)
    every = manager(VersionPolicy(every=True))
    every.load_initial()
    assert [number for number, _ in states(every)] == [3, 2, 1]
    with every.servable("small") as (number, _):
        assert number == 3
    some = manager(VersionPolicy(latest=0, specific=frozenset({1, 3})))
    some.load_initial()
    assert [number for number, _ in states(some)] == [3, 1]


def test_a_label_leads_to_its_version(add_version, manager):
    add_version(2)
    served = manager(VersionPolicy(specific=frozenset({1})), labels={"stable": 1, "canary": 2})
    served.load_initial()
    for label, expected in (("stable", 1), ("canary", 2)):
        with served.servable("small", label=label) as (number, _):
            assert number == expected


def test_a_label_of_a_version_that_is_not_served_stops_the_start(manager):
    with pytest.raises(ExportError, match="'canary' is for version 2 of model small"):
        manager(labels={"canary": 2}).load_initial()


def test_a_base_path_without_versions_stops_the_start_with_a_hint(model_dir, manager):
    shutil.rmtree(model_dir / "1")
    with pytest.raises(ExportError, match="no version of model small") as raised:
        manager().load_initial()
    assert str(model_dir / "1") in raised.value.hint


def test_a_version_directory_in_place_of_its_base_path_stops_the_start_with_the_right_one(model_dir):
    managed = ModelManager([ModelConfig("small", model_dir / "1")], load_servable, print)
    with pytest.raises(ExportError, match="no version of model small") as raised:
        managed.load_initial()
    assert raised.value.hint == f"this is one version; give the directory above it, {model_dir}"


def test_a_failing_warmup_record_keeps_a_version_from_being_served(model_dir, start_local):
    write_warmup(model_dir / "1", [("explain", {"images": IMAGES[:, :1]})], "small")
    with pytest.raises(ExportError, match="did not become available"):
        start_local({"small": model_dir})
    warmup_path(model_dir / "1").unlink()
    start_local({"small": model_dir})


def status_of(stubs, version: int) -> get_model_status_pb2.ModelVersionStatus:
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "small"
    request.model_spec.version.value = version
    return stubs.status(request, timeout=20).model_version_status[0]


def test_a_swap_under_load_costs_no_call_and_every_answer_is_of_one_version(
    model_dir, add_version, start_local, stubs_to
):
    server = start_local({"small": model_dir}, poll_seconds=0.05, running=4)
    stubs = stubs_to(server.target)
    newest = threading.Event()

    def ask_until_swapped(index: int) -> set[float]:
        seen = set()
        after = 0
        while after < 20:
            after += newest.is_set()
            request = predict_request("small", "explain", images=IMAGES, class_index=np.array([1], np.int32))
            response = stubs.predict(request, timeout=30)
            version = response.model_spec.version.value
            outputs = {alias: tf.make_ndarray(proto) for alias, proto in response.outputs.items()}
            scale = {1: 1.0, 2: 2.0, 3: 1.0, 4: 2.0}[version]
            assert outputs["version"].tolist() == [scale]
            np.testing.assert_array_equal(outputs["gradients"], [scale * WEIGHTS[:, 1]])
            seen.add(version)
        return seen

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask_until_swapped, index) for index in range(8)]
        for number, source in ((2, 2), (3, 1), (4, 2)):
            add_version(number, source=source)
            until(lambda number=number: available(stubs, number))
        newest.set()
        seen = set.union(*(future.result(60) for future in asked))
    assert {1, 4} <= seen <= {1, 2, 3, 4}
    until(lambda: status_of(stubs, 1).state == get_model_status_pb2.ModelVersionStatus.END)
    assert status_of(stubs, 1).status.error_code == 0


def available(stubs, number: int) -> bool:
    try:
        return status_of(stubs, number).state == get_model_status_pb2.ModelVersionStatus.AVAILABLE
    except grpc.RpcError:
        return False


def test_labels_are_answered_over_the_wire(model_dir, add_version, start_local, stubs_to):
    add_version(2)
    config = ModelConfig("small", model_dir, VersionPolicy(every=True), labels={"stable": 1, "canary": 2})
    stubs = stubs_to(start_local([config]).target)
    for label, version in (("stable", 1), ("canary", 2)):
        request = predict_request("small", "explain", images=IMAGES, outputs=["label", "version"])
        request.model_spec.version_label = label
        response = stubs.predict(request, timeout=20)
        assert response.model_spec.version.value == version
        assert response.outputs["version"].float_val == [float(version)]
        assert response.outputs["label"].string_val == [LABELS[2].encode()]
