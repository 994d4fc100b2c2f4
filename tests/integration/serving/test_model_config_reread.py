"""Canary, promotion and rollback by label: models.config is changed while its models are served."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import grpc
import numpy as np
import pytest
from serving_models import predict_request
from tensorflow_serving.apis import get_model_status_pb2
from waiting import until

from saliency_exporter.serving.model_config import read_model_config_file

IMAGES = np.array([[1.0, 2.0]], np.float32)


class Served:
    """A server of a models.config that the test writes anew."""

    def __init__(self, base_path: Path, file: Path, start_local: Callable, stubs_to: Callable) -> None:
        self._base_path = base_path
        self._file = file
        self.said: list[str] = []
        self.rereads = 0
        self.write([1], stable=1)
        self._server = start_local(
            read_model_config_file(file),
            reread=self._reread,
            poll_seconds=0.05,
            warmup=False,
            report=self.said.append,
        )
        self._stubs = stubs_to(self._server.target)

    def _reread(self) -> object:
        self.rereads += 1
        return read_model_config_file(self._file)

    def write(self, versions: list[int], *, model: str = "small", **labels: int) -> None:
        numbers = " ".join(f"versions: {number}" for number in versions)
        lines = "".join(
            f'version_labels {{ key: "{label}" value: {number} }}' for label, number in labels.items()
        )
        self.write_text(
            f'model_config_list {{ config {{ name: "{model}" base_path: "{self._base_path}" '
            f"model_version_policy {{ specific {{ {numbers} }} }} {lines} }} }}"
        )

    def write_text(self, text: str) -> None:
        partial = self._file.with_suffix(".new")
        partial.write_text(text)
        os.replace(partial, self._file)

    def version_behind(self, label: str, model: str = "small") -> int:
        """The version that answers for a label, told by what the version computes."""
        request = predict_request(model, "explain", images=IMAGES, outputs=("version",))
        request.model_spec.version_label = label
        answer = self._stubs.predict(request, timeout=60)
        return int(answer.outputs["version"].float_val[0])

    def state(self, version: int) -> int:
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = "small"
        request.model_spec.version.value = version
        (status,) = self._stubs.status(request, timeout=60).model_version_status
        return status.state

    def becomes(self, label: str, version: int, model: str = "small") -> None:
        def is_it() -> bool:
            # Until the file has been read and the version loaded there is no such label or version.
            with suppress(grpc.RpcError):
                return self.version_behind(label, model) == version
            return False

        until(is_it)

    def says(self, text: str) -> None:
        until(lambda: any(text in line for line in self.said))


@pytest.fixture
def served(model_dir: Path, saved_versions, tmp_path: Path, start_local, stubs_to) -> Served:
    shutil.copytree(saved_versions[2], model_dir / "2")
    return Served(model_dir, tmp_path / "models.config", start_local, stubs_to)


def test_the_four_steps_of_the_page_canary_promotion_rollback_and_the_end_of_the_old_version(served):
    assert served.version_behind("stable") == 1
    served.write([1, 2], stable=1, canary=2)
    served.becomes("canary", 2)
    assert served.version_behind("stable") == 1
    served.write([1, 2], stable=2, canary=2)
    served.becomes("stable", 2)
    served.write([1, 2], stable=1, canary=2)
    served.becomes("stable", 1)
    served.write([1, 2], stable=2)
    served.becomes("stable", 2)
    served.write([2], stable=2)
    served.says("small version 1: unloaded")
    assert served.state(1) == get_model_status_pb2.ModelVersionStatus.END
    assert served.version_behind("stable") == 2


def test_a_label_does_not_move_to_a_version_that_is_not_available_and_the_whole_file_is_refused(served):
    served.write([1, 2, 7], stable=7, canary=2)
    served.says(
        "Request to assign label to version 7 of model small, which is not currently available for inference"
    )
    assert served.version_behind("stable") == 1
    with pytest.raises(grpc.RpcError) as raised:
        served.version_behind("canary")
    assert raised.value.details() == "Unrecognized servable version label: canary"


def test_a_file_that_cannot_be_read_changes_nothing_and_is_reported_once(served):
    served.write_text("model_config_list {")
    served.says("cannot read")
    already = served.rereads
    until(lambda: served.rereads > already + 3)
    assert sum("cannot read" in line for line in served.said) == 1
    served.write([1, 2], stable=1, canary=2)
    served.becomes("canary", 2)


def test_another_model_is_served_instead_of_one_that_has_left_the_file(served):
    served.write([2], model="other", stable=2)
    served.becomes("stable", 2, model="other")
    with pytest.raises(grpc.RpcError) as raised:
        served.version_behind("stable")
    assert raised.value.details() == "Unrecognized servable version label: stable"
    served.says("small version 1: unloaded")
