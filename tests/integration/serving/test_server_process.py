"""The server as people run it: a process, its lines, its port, its signals."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys

import grpc
import numpy as np
import preloaded
import pytest
import tensorflow as tf
from serving_models import WEIGHTS, predict_request

from saliency_exporter.errors import ExportError
from saliency_exporter.serving.server import LocalServer
from saliency_exporter.version.warmup import write_warmup

IMAGES = np.array([[1.0, 2.0]], np.float32)
SIDE_BY_SIDE = ("--inter-op-threads", "4")
"""So that a call which computes for long leaves a thread to others on one core as well."""


def busy(seconds: float):
    return predict_request("small", "busy", seconds=np.array([seconds], np.float32))


def port_is_closed(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_it_says_its_states_and_where_it_listens_and_nothing_goes_to_stderr(
    new_interpreter, model_dir, tmp_path, start_server, stubs_to
):
    server = start_server(f"small={model_dir}", "--port-file", tmp_path / "port")
    stubs = stubs_to(server.target)
    explain = predict_request("small", "explain", images=IMAGES)
    answer = stubs.predict(explain, timeout=20)
    np.testing.assert_array_equal(tf.make_ndarray(answer.outputs["gradients"]), [WEIGHTS[:, 2]])
    with pytest.raises(grpc.RpcError) as raised:
        stubs.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")(b"no message", timeout=20)
    assert raised.value.code() is grpc.StatusCode.INTERNAL
    assert (tmp_path / "port").read_text() == server.target.rpartition(":")[2] + "\n"
    assert server.stop() == (0, "")
    lines = [re.sub(r"[\d.]+ s$|:\d+", "N", line) for line in server.lines]
    assert lines == [
        "small version 1: loading",
        "small version 1: available after N",
        "listening on 127.0.0.1N (for development and tests; in production run TensorFlow Serving)",
        "stopping: finishing the requests under way",
        "small version 1: unloading",
        "small version 1: unloaded",
        "stopped",
        "",
    ]


def test_the_port_is_closed_until_the_models_are_warm(model_dir, start_server):
    port = free_port()
    warm_for = 1.0
    write_warmup(model_dir / "1", [("busy", {"seconds": np.array([warm_for], np.float32)})], "small")
    server = start_server(f"small={model_dir}", "--port", str(port))
    server.wait_for("small version 1: loading")
    assert port_is_closed(port)
    assert not any("available" in line for line in server.lines)
    took = float(server.wait_for(r"available after ([\d.]+) s")[1])
    assert took >= warm_for
    assert server.target == f"127.0.0.1:{port}"
    assert not port_is_closed(port)


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_under_way_finish_and_exits_with_0(
    model_dir, start_server, stubs_to, signal_number
):
    server = start_server(f"small={model_dir}", *SIDE_BY_SIDE)
    target = server.target
    stubs = stubs_to(target)
    stubs.predict(busy(0), timeout=20)
    calls = [stubs.predict.future(busy(0.5), timeout=60) for _ in range(3)]
    # A later request on the same connection has been answered: those before it are inside.
    stubs.predict(predict_request("small", "echo", block=np.ones([1, 1], np.float32)), timeout=20)
    assert server.stop(signal_number) == (0, "")
    for call in calls:
        assert call.result(timeout=30).model_spec.version.value == 1
    assert port_is_closed(int(target.rpartition(":")[2]))


def test_what_takes_longer_than_the_grace_is_cut_off_and_it_still_exits_with_0(
    model_dir, start_server, stubs_to
):
    server = start_server(f"small={model_dir}", "--grace", "0.3", *SIDE_BY_SIDE)
    stubs = stubs_to(server.target)
    call = stubs.predict.future(busy(20), timeout=60)
    stubs.predict(busy(0), timeout=20)
    assert server.stop(seconds=15) == (0, "")
    assert call.exception(timeout=15).code() in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}


def test_it_can_be_stopped_while_it_loads(model_dir, start_server):
    write_warmup(model_dir / "1", [("busy", {"seconds": np.array([30], np.float32)})], "small")
    server = start_server(f"small={model_dir}")
    server.wait_for("loading")
    assert server.stop(seconds=15) == (0, "")


def test_killed_in_mid_request_the_client_gets_unavailable_at_once_and_the_port_can_be_had_again(
    model_dir, start_server, stubs_to
):
    server = start_server(f"small={model_dir}", *SIDE_BY_SIDE)
    target = server.target
    stubs = stubs_to(target)
    call = stubs.predict.future(busy(30), timeout=60)
    stubs.predict(busy(0), timeout=20)
    server.process.kill()
    assert call.exception(timeout=20).code() is grpc.StatusCode.UNAVAILABLE
    server.process.wait(10)
    again = start_server(f"small={model_dir}", "--port", target.rpartition(":")[2])
    assert again.target == target


def test_a_port_that_is_taken_is_an_error_before_the_models_load(model_dir):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        arguments = (f"small={model_dir}", "--port", str(port))
        done = preloaded.run([sys.executable, "-m", "saliency_exporter", "serve", *arguments])
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"error: cannot listen on 127.0.0.1:{port}: Address already in use\n"
        "hint: choose another --port, or 0 for a free one\n"
    )


def test_a_port_that_another_server_took_meanwhile_is_an_error_and_never_shared(model_dir, start_local):
    first = start_local({"small": model_dir})
    late = LocalServer({"small": model_dir}, port=first.port)
    with pytest.raises(ExportError, match=f"cannot listen on {first.target}"):
        late._open_port()


def test_a_model_that_does_not_load_is_named_with_the_reason_and_leaves_nothing_open(model_dir):
    (model_dir / "1" / "saved_model.pb").write_bytes(b"damaged")
    server = LocalServer({"small": model_dir})
    with pytest.raises(ExportError, match="version 1 of model small did not become available: Cannot load"):
        server.start()
    assert server.port == 0


def test_an_address_that_others_can_reach_is_warned_about(model_dir, start_server):
    server = start_server(f"small={model_dir}", "--host", "0.0.0.0")
    assert server.target.startswith("0.0.0.0:")
    code, stderr = server.stop()
    assert code == 0
    assert stderr == (
        "warning: listening on 0.0.0.0, which others can reach; this server is for development and tests\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give at least one NAME=MODEL_DIR"),
        (["small"], "'small' is not of the form NAME=MODEL_DIR"),
        (["a=x", "a=y"], "model a is given twice"),
        (["a=x", "b=y", "--label", "stable=1"], "--label stable=1 does not say for which model"),
        (["a=x", "--label", "b:stable=1"], "--label b:stable=1 is for model b, which is not served"),
        (["a=x", "--label", "stable"], "--label stable is not of the form"),
        (["a=x", "--versions", "newest"], "--versions is latest, all, or numbers"),
        (["a=x", "--tls-cert", "cert.pem"], "TLS needs both --tls-cert and --tls-key"),
        (["a=x", "--waiting", "-1"], "-1 is not in the range x>=0"),
        (["a=x", "--poll", "nan"], "nan is not a finite number"),
        (["a=x", "--grace", "inf"], "inf is not a finite number"),
        (["a=x", "--label", "stable=²"], "--label stable=² is not of the form"),
        (["a=x", "--versions", f"1,{2**63}"], "--versions is latest, all, or numbers"),
        (["a=x", "--port", "70000"], "70000 is not in the range 0<=x<=65535"),
        (["a=x", "--batching-parameters-file", __file__], "--batching-parameters-file needs --batching"),
        (["a=x", "--grpc-channel-arguments", "age"], "'age' is not of the form KEY=VALUE"),
        (["a=x", "--batching", "--allowed-batch-sizes", "4,2"], "must be positive and ascending"),
    ],
)
def test_a_mistake_in_the_options_is_named(arguments, message, monkeypatch, capsys):
    from click.exceptions import ClickException

    from saliency_exporter.cli import main

    with pytest.raises((ExportError, ClickException)) as raised:
        main.main(["serve", *arguments], standalone_mode=False)
    assert message in str(raised.value)


def test_a_port_file_that_cannot_be_written_ends_the_server(model_dir, tmp_path):
    missing = tmp_path / "missing" / "port"
    arguments = [f"small={model_dir}", "--port", "0", "--port-file", str(missing)]
    done = preloaded.run([sys.executable, "-m", "saliency_exporter", "serve", *arguments], timeout=60)
    assert done.returncode == 1
    assert done.stderr == f"error: --port-file {missing} cannot be written: No such file or directory\n"


def test_help_needs_no_TensorFlow():
    code = (
        "import sys; from saliency_exporter.cli.serve import serve\n"
        "serve.main(['--help'], standalone_mode=False)\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert "In production run TensorFlow Serving" in done.stdout


def test_with_verbose_TensorFlows_own_log_shows(model_dir, start_server):
    server = start_server(f"small={model_dir}", "--verbose", env={"TF_CPP_MIN_LOG_LEVEL": "0"})
    assert server.target
    _, stderr = server.stop()
    assert stderr
    assert os.linesep in stderr
