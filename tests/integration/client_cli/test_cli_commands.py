"""The commands beside `explain`."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from cli_harness import SIZE, Cli, known_model
from scripted_server import ScriptedServer, later
from tensorflow_serving.apis import get_model_status_pb2

State = get_model_status_pb2.ModelVersionStatus


def test_predict_tells_the_most_probable_classes_with_their_names(cli: Cli, photo: Path) -> None:
    run = cli("predict", photo, "--top", 3)
    assert run.code == 0, run.err
    lines = run.out.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["1", "class", "2"],
        ["2", "class", "1"],
        ["3", "class", "0"],
    ]
    assert lines[0].split("%")[0].split()[-1] == "94.8"  # 1 / (1 + 3 e^-4) but for the small scores


def test_a_pipe_gets_whole_lines_however_long_a_name_is(cli: Cli, photo: Path) -> None:
    (cli.folder / "names.txt").write_text("\n".join(letter * 150 for letter in "abcd"))
    lines = cli("predict", photo, "--labels", "names.txt").out.splitlines()
    assert len(lines) == 4
    assert "c" * 150 in lines[0]


def test_predict_json_has_every_documented_field(cli: Cli, photo: Path) -> None:
    record = cli("predict", "cat.png", "--json").record
    assert set(record) == {"image", "status", "model", "predictions", "milliseconds", "notes"}
    assert [one["class_index"] for one in record["predictions"]] == [2, 1, 0, 3]
    best = record["predictions"][0]
    logits = np.array([2.5, 5.0, 4000.0, 0.0])
    exponents = np.exp((logits - 4000) / 1000)
    assert best == {
        "rank": 1,
        "class_index": 2,
        "label": "class 2",
        "probability": pytest.approx(exponents[2] / exponents.sum()),
        "score": 4000,
    }


def test_predict_quiet_prints_the_best_class_of_each_image(cli: Cli, photo: Path) -> None:
    assert cli("predict", "cat.png", "-q").out == "class 2\n"
    (cli.folder / "dog.png").write_bytes(photo.read_bytes())
    assert cli("predict", "cat.png", "dog.png", "-q").out == "cat.png\tclass 2\ndog.png\tclass 2\n"


def test_predict_asks_for_no_names_that_a_file_gives(cli: Cli, photo: Path, server: ScriptedServer) -> None:
    (cli.folder / "names.txt").write_text("ant\nbee\ncat\ndog\n")
    record = cli("predict", photo, "--labels", "names.txt", "--json").record
    assert [one["label"] for one in record["predictions"]] == ["cat", "bee", "ant", "dog"]
    assert len(server.requests) == 1


def test_names_of_classes_cost_no_request(cli: Cli, photo: Path, server: ScriptedServer) -> None:
    predictions = cli("predict", photo, "--json").record["predictions"]
    assert [one["label"] for one in predictions] == [f"class {one['class_index']}" for one in predictions]
    assert [request.model_spec.signature_name for request in server.requests] == ["serving_default"]


def test_classes_of_a_model_without_names_go_by_index(cli: Cli, photo: Path, server: ScriptedServer) -> None:
    server.hidden = {"class_labels"}
    assert {one["label"] for one in cli("predict", photo, "--json").record["predictions"]} == {None}
    assert cli("predict", photo, "-q").out == "2\n"


def test_predict_fails_by_image(cli: Cli, photo: Path) -> None:
    run = cli("predict", "gone.png", "cat.png", "--json")
    assert run.code == 1
    assert [record["status"] for record in run.records] == ["failed", "ok"]
    assert cli("predict", "gone.png").code == 1


def test_status_tells_versions_and_exits_by_availability(cli: Cli, server: ScriptedServer) -> None:
    run = cli("status", "--json")
    assert run.code == 0
    assert run.record == {
        "model": "linear",
        "available": True,
        "versions": [{"version": 1, "state": "AVAILABLE", "error_code": 0, "error": None}],
    }
    assert cli("status", "-q").out == "AVAILABLE\n"
    before = server.statuses
    server.statuses = [(1, State.END, 5, "no such file\x1b[31m"), (2, State.LOADING, 0, "")]
    try:
        run = cli("status")
        assert run.code == 1
        assert [line.split()[:2] for line in run.out.splitlines()] == [
            ["version", "state"],
            ["2", "LOADING"],
            ["1", "END"],
        ]
        assert "no such file" in run.out
        assert "\x1b" not in run.out
        assert cli("status", "--json").record["available"] is False
        run = cli("status", "--wait", 0.2)
        assert run.code == 64 + 4
        assert "not ready after 0.2 s" in run.err
    finally:
        server.statuses = before


def test_status_waits_for_a_server_that_is_not_up_yet(cli: Cli) -> None:
    with later(known_model()) as port:
        run = cli("status", "--server", f"127.0.0.1:{port}", "--wait", 60)
    assert run.code == 0, run.err


def test_signatures_tell_inputs_outputs_and_defaults(cli: Cli) -> None:
    record = cli("signatures", "--json").record
    assert record["methods"] == ["gradients", "smooth"]
    no_bounds = {"least": None, "greatest": None}  # this export tells none
    assert record["signatures"]["explain_smooth"]["inputs"] == {
        "images": {"dtype": "uint8", "shape": [None, SIZE, SIZE, 3], "default": None, **no_bounds},
        "class_index": {"dtype": "int32", "shape": None, "default": -1, **no_bounds},
        "num_samples": {"dtype": "int32", "shape": None, "default": 50, **no_bounds},
        "noise_level": {"dtype": "float32", "shape": None, "default": 0.15, **no_bounds},
        "seed": {"dtype": "int32", "shape": None, "default": 0, **no_bounds},
    }
    assert record["signatures"]["serving_default"]["outputs"] == {
        "logits": {"dtype": "float32", "shape": [None, 4]},
        "probabilities": {"dtype": "float32", "shape": [None, 4]},
    }
    names = [f"class {index}" for index in range(4)]
    assert record["signatures"]["class_labels"]["inputs"]["labels"]["default"] == names
    shown = cli("signatures").out
    for words in ("explain_gradients", "uint8[?,20,20,3]", "relative_error", "0.15"):
        assert words in shown
    assert len(shown.splitlines()) == 2 * len(record["signatures"])
    in_full = cli("signatures", "--long").out
    assert "float32[?,20,20,3]" in in_full
    assert len(in_full.splitlines()) > 20
    assert cli("signatures", "-q").out.split() == [
        "class_labels",
        "explain_gradients",
        "explain_smooth",
        "serving_default",
    ]


def test_bench_counts_requests_and_orders_its_percentiles(cli: Cli, server: ScriptedServer) -> None:
    record = cli(
        "bench", "--requests", 20, "--concurrency", 3, "--batch-size", 2, "--warmup", 1, "--json"
    ).record
    assert set(record) == {
        *("model", "method", "batch_size", "concurrency", "seconds", "requests", "images", "errors"),
        *("requests_per_second", "images_per_second", "latency_ms"),
    }
    assert (record["requests"], record["images"], record["errors"]) == (20, 40, {})
    assert len(server.requests) == 20 + 3
    assert record["requests_per_second"] == pytest.approx(20 / record["seconds"], rel=0.05)
    assert record["images_per_second"] == pytest.approx(2 * record["requests_per_second"], rel=1e-3)
    latency = record["latency_ms"]
    assert list(latency) == ["mean", "p50", "p90", "p95", "p99", "max"]
    assert latency["p50"] <= latency["p90"] <= latency["p95"] <= latency["p99"] <= latency["max"]
    assert server.requests[0].inputs["images"].tensor_shape.dim[0].size == 2


def test_bench_measures_latency(cli: Cli, server: ScriptedServer) -> None:
    server.script.extend([lambda *_: time.sleep(0.05)] * 5)
    latency = cli("bench", "--requests", 5, "--warmup", 0, "--json").record["latency_ms"]
    assert 50 <= latency["p50"] <= latency["max"] < 50_000


def test_bench_stops_when_its_time_is_over(cli: Cli) -> None:
    record = cli("bench", "--duration", 0.3, "--json").record
    # The default is a number of requests that takes longer.
    assert 0.3 <= record["seconds"] < 30
    assert record["requests"] >= 1


def test_bench_counts_errors_by_code_and_exits_with_1(cli: Cli, server: ScriptedServer) -> None:
    server.fail(grpc.StatusCode.INTERNAL, "no", times=2)
    run = cli("bench", "--requests", 5, "--warmup", 0, "--json")
    assert run.code == 1
    assert run.record["errors"] == {"INTERNAL": 2}
    assert run.record["requests"] == 3


def test_bench_measures_predict_and_a_photo(cli: Cli, photo: Path, server: ScriptedServer) -> None:
    run = cli("bench", photo, "--method", "predict", "--requests", 3)
    assert run.code == 0, run.err
    assert "throughput" in run.out
    assert "latency p99" in run.out
    assert {request.model_spec.signature_name for request in server.requests} == {"serving_default"}
    pixels = np.frombuffer(server.requests[0].inputs["images"].tensor_content, np.uint8)
    np.testing.assert_array_equal(pixels.reshape(-1, 3)[0], (10, 20, 250))


def test_bench_refuses_what_makes_no_sense(cli: Cli, photo: Path) -> None:
    assert cli("bench", "--requests", 5, "--duration", 1).code == 2
    assert cli("bench", "--num-samples", 5).code == 2
    assert cli("bench", "--method", "guided").code == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_each_shell(cli: Cli, shell: str) -> None:
    run = cli("completion", shell)
    assert run.code == 0
    assert "_SALIENCY_CLIENT_COMPLETE" in run.out


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_and_options_with_that_script(cli: Cli, program: list[str]) -> None:
    script = cli("completion", "bash").out
    folder = cli.folder / "bin"
    folder.mkdir()
    executable = folder / "saliency-client"
    executable.write_text(f'#!/bin/sh\nexec {program[0]} -m saliency_client "$@"\n')
    executable.chmod(0o755)
    ask = """
complete_words() {
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    _saliency_client_completion saliency-client
    echo "${COMPREPLY[@]}"
}
complete_words saliency-client ex
complete_words saliency-client explain --sty
complete_words saliency-client explain --style he
"""
    done = subprocess.run(
        ["bash", "--norc", "-c", script + ask],
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines() == ["explain", "--style", "heatmap"]
