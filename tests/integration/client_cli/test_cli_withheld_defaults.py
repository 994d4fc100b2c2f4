"""The command line with a server that returns no defaults does what it does with any other."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_harness import Cli
from scripted_server import ScriptedServer


@pytest.fixture
def server(server: ScriptedServer) -> ScriptedServer:
    server.withholds = True
    return server


def called(server: ScriptedServer) -> list[str]:
    return [request.model_spec.signature_name for request in server.requests]


@pytest.mark.parametrize("method", ["gradients", "smooth"])
def test_explain_asks_for_the_defaults_once(
    cli: Cli, photo: Path, server: ScriptedServer, method: str
) -> None:
    record = cli("explain", photo, "-M", method, "--json").record
    assert (record["class_index"], record["label"]) == (2, "class 2")
    assert called(server) == ["parameter_defaults", f"explain_{method}"]


def test_the_best_classes_are_explained_with_their_names(
    cli: Cli, photo: Path, server: ScriptedServer
) -> None:
    records = cli("explain", photo, "--top", 2, "--json").records
    assert [(one["rank"], one["label"]) for one in records] == [(1, "class 2"), (2, "class 1")]
    assert called(server).count("parameter_defaults") == 1


def test_a_class_is_found_by_its_name(cli: Cli, photo: Path, server: ScriptedServer) -> None:
    assert cli("explain", photo, "--class", "Class 0", "--json").record["class_index"] == 0
    assert called(server) == ["parameter_defaults", "class_labels", "explain_gradients"]


def test_predictions_have_names(cli: Cli, photo: Path, server: ScriptedServer) -> None:
    predictions = cli("predict", photo, "--json").record["predictions"]
    assert [one["label"] for one in predictions] == ["class 2", "class 1", "class 0", "class 3"]


def test_signatures_tell_the_same_parameters_and_defaults(cli: Cli, server: ScriptedServer) -> None:
    withheld = cli("signatures", "--json").record
    assert called(server) == ["parameter_defaults"]
    server.withholds = False
    told = cli("signatures", "--json").record
    assert "parameter_defaults" not in told["signatures"]
    for signature in (withheld, told):  # names are asked for by who wants them
        for value in signature["signatures"].pop("class_labels")["inputs"].values():
            assert value.pop("default") is None or signature is told
    assert withheld == told


def test_bench_measures_requests_alone(cli: Cli, server: ScriptedServer) -> None:
    record = cli("bench", "-M", "smooth", "--requests", 3, "--warmup", 0, "--json").record
    assert (record["requests"], record["errors"]) == (3, {})
    assert called(server) == ["parameter_defaults", *["explain_smooth"] * 3]


def test_a_model_without_the_table_needs_what_the_error_names(
    cli: Cli, photo: Path, server: ScriptedServer
) -> None:
    server.hidden = {"parameter_defaults"}
    run = cli("explain", photo, "-M", "smooth", "--num-samples", 4, "--seed", 1)
    assert run.code == 1
    assert "explain_smooth needs class_index, noise_level" in run.err
    assert "hint: give class_index, noise_level: " in run.err
    options = ["--num-samples", 4, "--seed", 1, "--noise-level", 0.1, "--class-index", 1]
    assert cli("explain", photo, "-M", "smooth", *options, "--json").record["class_index"] == 1
