"""docker/README.md: its commands, links, settings and arithmetic."""

from __future__ import annotations

import re
import shlex

import click
import numpy as np
import pytest
import tensorflow as tf
import yaml
from docker_files import DOCKER, ROOT, flags_in
from tensorflow_serving.apis import predict_pb2

import saliency_client.cli
import saliency_exporter.cli

PAGE = (DOCKER / "README.md").read_text()
CODE = "".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ")
LINES = [line for line in CODE.splitlines() if line.strip()]
GROUPS = {"saliency-exporter": saliency_exporter.cli.main, "saliency-client": saliency_client.cli.main}


def in_spans(program: str) -> list[str]:
    return [span for span in re.findall(r"`([^`\n]+)`", PAGE) if span.startswith(f"{program} ")]


@pytest.mark.parametrize("program", GROUPS)
def test_every_option_of_our_own_commands_exists(program):
    commands = [line for line in LINES if line.startswith(program)] + in_spans(program)
    assert commands
    for line in commands:
        _, name, *arguments = shlex.split(line)
        command = GROUPS[program].get_command(click.Context(GROUPS[program]), name)
        assert command is not None, line
        known = {option for parameter in command.params for option in parameter.opts}
        assert {argument for argument in arguments if argument.startswith("-")} <= known, line


def test_every_docker_command_names_profiles_targets_and_files_that_exist():
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    profiles = {profile for service in services.values() for profile in service["profiles"]}
    targets = set(
        re.findall(
            r" AS (\w+)", (DOCKER / "Dockerfile").read_text() + (DOCKER / "Dockerfile.exporter").read_text()
        )
    )
    arguments = {
        name
        for file in ("Dockerfile", "Dockerfile.exporter")
        for name in re.findall(r"^ARG (\w+)", (DOCKER / file).read_text(), re.MULTILINE)
    }
    docker = [line for line in LINES if line.startswith(("docker", "kubectl"))]
    assert len(docker) >= 6
    for line in docker:
        assert set(re.findall(r"--profile (\w+)", line)) <= profiles, line
        assert set(re.findall(r"--target (\w+)", line)) <= targets, line
        assert set(re.findall(r"--build-arg (\w+)", line)) <= arguments, line
        for path in re.findall(r"(?:--file|--kustomize) (\S+)", line):
            assert (ROOT / path).exists(), line


def test_answers_take_five_commands():
    first = re.search(r"```sh\n(.*?)```", PAGE, re.DOTALL)[1].splitlines()
    assert len(first) == 5
    assert first[-1].startswith("saliency-client explain")


def test_every_link_leads_to_a_file():
    for link in re.findall(r"\]\((?!http|#)([^)#]+)", PAGE):
        assert (DOCKER / link).exists(), link


def test_every_setting_that_the_page_names_exists(settings):
    named = set(re.findall(r"`?\b([A-Z][A-Z0-9_]+)=", PAGE))
    build_arguments = {"DEVICE"}
    assert named - build_arguments - {"NVIDIA_TF32_OVERRIDE"} <= set(settings)


def test_every_server_flag_that_the_page_names_exists(server_flags):
    named = {flag for flag in flags_in(PAGE) if "_" in flag}
    assert named - {"tf_xla_persistent_cache_directory"} <= server_flags


def test_bytes_of_a_map_are_those_of_its_arrays():
    side = 224
    arrays = {
        "images": np.zeros((1, side, side, 3), np.uint8),
        "saliency": np.zeros((1, side, side), np.float32),
        "gradients": np.zeros((1, side, side, 3), np.float32),
    }
    rows = dict(re.findall(r"^\| .*?`(\w+)`.*? \| ([\d,]{7,}) \|", PAGE, re.MULTILINE))
    stated = {name: int(number.replace(",", "")) for name, number in rows.items()}
    sizes = {name: array.nbytes for name, array in arrays.items()}
    sizes["explain_gradients"] = sizes["saliency"] + sizes["gradients"]
    sizes["explain_smooth"] = sizes["explain_gradients"] + sizes["gradients"]
    assert stated == sizes
    for name, array in arrays.items():
        message = predict_pb2.PredictResponse()
        message.outputs[name].CopyFrom(tf.make_tensor_proto(array))
        assert 0 < len(message.SerializeToString()) - sizes[name] < 200


def test_the_arithmetic_adds_up():
    multiply_adds, outputs = 3.86e9, 10.6e6
    forward = 2 * multiply_adds
    gradients = 2 * forward
    smooth = 50 * gradients + forward
    for flop in (f"{gradients / 1e9:.2f}", f"{smooth / 1e9:.0f}"):
        assert f"= {flop} GFLOP a map" in PAGE
    traffic = 9 * 4 * outputs
    assert traffic == pytest.approx(0.38e9, rel=0.02)
    limits = {"float32": 67e12, "TF32": 494e12}
    rows = {
        method: [float(number.replace(",", "")) for number in re.findall(r"[\d,.]*\d", row.split("|", 2)[2])]
        for method, row in re.findall(r"^(?=\| `(gradients|smooth)`.* ms)(.*)$", PAGE, re.MULTILINE)
    }
    for method, flop, moved in (("gradients", gradients, traffic), ("smooth", smooth, 50.5 * traffic)):
        compute = {name: flop / limit for name, limit in limits.items()}
        memory = moved / 3.35e12
        at_most = {name: 1 / max(seconds, memory) for name, seconds in compute.items()}
        expected = [
            *(seconds * 1e3 for seconds in compute.values()),
            memory * 1e3,
            *at_most.values(),
            *(rate / 3 for rate in at_most.values()),
        ]
        np.testing.assert_allclose(rows[method], expected, rtol=0.04)
