"""What the command line and models.config say about models."""

from __future__ import annotations

from pathlib import Path

import pytest

from saliency_exporter.errors import ExportError
from saliency_exporter.serving.model_config import (
    ModelConfig,
    VersionPolicy,
    parse_models,
    read_model_config_file,
)


@pytest.mark.parametrize(
    ("versions", "served"),
    [("latest", {7}), ("all", {1, 5, 7}), ("1,5,9", {1, 5})],
)
def test_a_policy_selects_from_what_is_on_disk(versions, served):
    (config,) = parse_models(["small=models/small"], versions, [])
    assert (config.name, config.base_path) == ("small", Path("models/small"))
    assert config.policy.select({1, 5, 7}) == served


def test_a_labelled_version_is_served_beside_those_of_the_policy():
    (config,) = parse_models(["small=m"], "latest", ["stable=1", "canary=7"])
    assert config.labels == {"stable": 1, "canary": 7}
    assert config.policy.select({1, 5, 7}) == {1, 7}


def test_a_label_can_name_its_model():
    first, second = parse_models(["a=x", "b=y"], "latest", ["b:stable=3"])
    assert (first.labels, second.labels) == ({}, {"stable": 3})


def test_an_equals_sign_in_the_path_is_part_of_the_path():
    assert parse_models(["a=x=y"], "latest", [])[0].base_path == Path("x=y")


def test_models_config_is_read_as_TensorFlow_Serving_reads_it(tmp_path):
    file = tmp_path / "models.config"
    file.write_text(
        """
        model_config_list {
          config {
            name: "resnet50"
            base_path: "/models/resnet50"
            model_platform: "tensorflow"
            model_version_policy { specific { versions: 1 versions: 2 } }
            version_labels { key: "stable" value: 1 }
            version_labels { key: "canary" value: 2 }
          }
          config { name: "two" base_path: "/models/two" model_version_policy { latest { num_versions: 2 } } }
          config { name: "every" base_path: "/models/every" model_version_policy { all {} } }
          config { name: "plain" base_path: "/models/plain" }
        }
        """
    )
    resnet, two, every, plain = read_model_config_file(file)
    assert resnet == ModelConfig(
        "resnet50",
        Path("/models/resnet50"),
        VersionPolicy(latest=0, specific=frozenset({1, 2})),
        {"stable": 1, "canary": 2},
    )
    assert two.policy.select({1, 2, 3}) == {2, 3}
    assert every.policy.select({1, 2, 3}) == {1, 2, 3}
    assert plain.policy.select({1, 2, 3}) == {3}


@pytest.mark.parametrize("text", ["model_config_list {", "modle_config_list {}", "", "\x00\xff"])
def test_a_file_that_cannot_be_read_so_is_named(tmp_path, text):
    file = tmp_path / "models.config"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ExportError, match=str(file)):
        read_model_config_file(file)
