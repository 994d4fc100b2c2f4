"""KEDA's and KServe's objects against the definitions of their own projects."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from manifests import KSERVE, OVERLAYS, PLAIN, rendered
from prune_crd import pruned

SCHEMAS = {
    "ScaledObject": Path(__file__).parent / "crd_schemas" / "scaled-object.json",
    "InferenceService": Path(__file__).parent / "crd_schemas" / "inference-service.json",
    "ServingRuntime": Path(__file__).parent / "crd_schemas" / "serving-runtime.json",
}
# The Prometheus scaler of KEDA 2.20 (pkg/scalers/prometheus_scaler.go): of what goes into `metadata`, what is
# required and what may be there besides. The definition has a map of strings for every scaler.
REQUIRED = {"serverAddress", "query", "threshold"}
OPTIONAL = {
    *("queryParameters", "activationThreshold", "namespace", "customHeaders", "ignoreNullValues"),
    *("unsafeSsl", "awsRegion", "timeout", "identityOwner", "authModes"),
}


def schema(kind: str) -> dict[str, Any]:
    return json.loads(SCHEMAS[kind].read_text())


def refusals(document: dict[str, Any]) -> list[str]:
    validator = jsonschema.Draft202012Validator(schema(document["kind"]))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


def custom(overlay: str) -> dict[str, dict[str, Any]]:
    """The overlay's documents of kinds that are not Kubernetes' own."""
    return {kind: one for kind, one in rendered(overlay).items() if kind in SCHEMAS}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_custom_object_holds_to_its_projects_definition(overlay):
    found = custom(overlay)
    assert set(found) == ({"ScaledObject"} if overlay in PLAIN else {"InferenceService", "ServingRuntime"})
    assert [refusal for one in found.values() for refusal in refusals(one)] == []


def unchecked(document: Any, schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Where the schema, which is a shortened one, takes anything."""
    if not schema:
        yield path
    elif isinstance(document, dict):
        known = schema.get("properties", {})
        for name, value in document.items():
            yield from unchecked(value, known.get(name, schema.get("additionalProperties")), f"{path}.{name}")
    elif isinstance(document, list):
        for item in document:
            yield from unchecked(item, schema["items"], f"{path}[]")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_field_of_ours_is_below_one_that_the_schema_was_shortened_at(overlay):
    for kind, custom_object in custom(overlay).items():
        document = {key: value for key, value in custom_object.items() if key != "metadata"}
        assert list(unchecked(document, schema(kind))) == []


Change = Callable[[dict[str, Any]], None]
BREAKS: dict[str, tuple[str, Change, str]] = {
    "misspelt": ("ScaledObject", lambda spec: spec.update(minReplicas=2), "'minReplicas' was unexpected"),
    "misspelt deep below": (
        "ScaledObject",
        lambda spec: spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"].update(scaledown={}),
        "'scaledown' was unexpected",
    ),
    "of the wrong type": (
        "ScaledObject",
        lambda spec: spec.update(maxReplicaCount="8"),
        "'8' is not of type 'integer'",
    ),
    "a number where KEDA has text": (
        "ScaledObject",
        lambda spec: spec["triggers"][0]["metadata"].update(threshold=4),
        "4 is not of type 'string'",
    ),
    "missing": ("ScaledObject", lambda spec: spec.pop("scaleTargetRef"), "'scaleTargetRef' is a required"),
    "below its bound": (
        "ScaledObject",
        lambda spec: spec.update(pollingInterval=0),
        "0 is less than the minimum of 1",
    ),
    "misspelt in the predictor": (
        "InferenceService",
        lambda spec: spec["predictor"].update(minReplica=2),
        "'minReplica' was unexpected",
    ),
    "misspelt in the model": (
        "InferenceService",
        lambda spec: spec["predictor"]["model"].update(runtimeversion="2.20.0"),
        "'runtimeversion' was unexpected",
    ),
    "of the wrong type in the model": (
        "InferenceService",
        lambda spec: spec["predictor"]["model"].update(args="--xla_cpu_compilation_enabled"),
        "is not of type 'array'",
    ),
    "a metric's backend that does not exist": (
        "InferenceService",
        lambda spec: spec["predictor"]["autoScaling"]["metrics"][0]["external"]["metric"].update(
            backend="influx"
        ),
        "'influx' is not one of",
    ),
    "misspelt in the runtime": (
        "ServingRuntime",
        lambda spec: spec.update(protocolVersion=["v1"]),
        "'protocolVersion' was unexpected",
    ),
    "misspelt in the runtime's container": (
        "ServingRuntime",
        lambda spec: spec["containers"][0].update(argument=[]),
        "'argument' was unexpected",
    ),
    "without a container": (
        "ServingRuntime",
        lambda spec: spec.pop("containers"),
        "'containers' is a required",
    ),
    "a limit that is no quantity": (
        "InferenceService",
        lambda spec: spec["predictor"]["model"]["resources"]["limits"].update(memory="12 gigabytes"),
        "does not match",
    ),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_a_field_is_refused_that_is(broken):
    kind, change, expected = BREAKS[broken]
    (overlay, *_) = PLAIN if kind == "ScaledObject" else KSERVE
    document = copy.deepcopy(custom(overlay)[kind])
    change(document["spec"])
    (refusal,) = refusals(document)
    assert expected in refusal


@pytest.mark.parametrize("overlay", PLAIN)
def test_kedas_prometheus_trigger_has_the_keys_that_it_reads(overlay):
    spec = custom(overlay)["ScaledObject"]["spec"]
    assert spec["triggers"]
    for trigger in spec["triggers"]:
        assert trigger["type"] == "prometheus"
        assert set(trigger["metadata"]) >= REQUIRED
        assert set(trigger["metadata"]) <= REQUIRED | OPTIONAL
        assert float(trigger["metadata"]["threshold"]) > 0
        # The scaler refuses Utilization; the definition's one rule in CEL is about the counts.
        assert trigger["metricType"] in ("AverageValue", "Value")
    # Several triggers need names of their own, where they have names at all.
    names = [trigger["name"] for trigger in spec["triggers"] if "name" in trigger]
    assert len(set(names)) == len(names)
    assert spec["minReplicaCount"] <= spec["maxReplicaCount"]


@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_schema_says_where_it_is_from_and_by_which_licence(kind):
    assert "github.com/" in schema(kind)["$comment"]
    assert "Apache-2.0" in schema(kind)["$comment"]


def test_a_shortened_definition_refuses_what_the_whole_one_refuses_and_no_more():
    leaf = {"type": "string", "description": "gone", "minLength": 1}
    definition = {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": leaf,
            "count": {"type": "integer", "nullable": True, "default": 1},
            "limit": {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True},
            "items": {"type": "array", "items": {"type": "object", "properties": {"key": leaf}}},
            "map": {"type": "object", "additionalProperties": leaf},
            "free": {
                "type": "object",
                "x-kubernetes-preserve-unknown-fields": True,
                "properties": {"key": leaf},
            },
            "unused": {"type": "object", "properties": {"key": leaf}},
        },
    }
    example = {"items": [{"key": "a"}], "map": {"a": "b"}, "free": {"other": 1}}
    validator = jsonschema.Draft202012Validator(pruned(definition, [example]))
    for taken in ({}, {"count": None}, {"limit": 1}, {"limit": "1"}, {"unused": {"what": 1}}, example):
        assert validator.is_valid({"name": "a", **taken}), taken
    for refused in (
        *({"name": ""}, {"names": "a"}, {"count": "1"}, {"limit": 0.5}),
        *({"items": [{"kez": "a"}]}, {"map": {"a": 1}}, {"free": {"key": 1}}),
    ):
        assert not validator.is_valid({"name": "a", **refused}), refused
    assert not validator.is_valid(example)
    assert "gone" not in json.dumps(pruned(definition, [example]))
