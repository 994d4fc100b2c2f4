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
from manifests import rendered
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
    dockerfiles = "".join((DOCKER / f"Dockerfile{end}").read_text() for end in ("", ".exporter", ".client"))
    targets = set(re.findall(r" AS (\w+)", dockerfiles))
    arguments = set(re.findall(r"^ARG (\w+)", dockerfiles, re.MULTILINE))
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
    build_arguments = {"DEVICE", "STORAGE"}
    of_the_server = {"NVIDIA_TF32_OVERRIDE", "TF_CPU_ALLOCATOR_USE_BFC"}
    assert named - build_arguments - of_the_server <= set(settings)


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


def numbers(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", text)]


def test_the_bits_per_second_are_the_bytes_times_the_maps():
    rows = re.findall(r"\| ([\d,]{7,}) \| (\d+) Mbit/s \| ([\d.]+) Gbit/s \|", PAGE)
    assert len(rows) == 5
    for row in rows:
        bits = 8 * int(row[0].replace(",", ""))
        assert row[1:] == (f"{bits * 46 / 1e6:.0f}", f"{bits * 1400 / 1e9:.1f}")
    (full,) = numbers(re.search(r"fills 10 Gbit/s at ([\d,]+) maps/s", PAGE)[1])
    assert full == pytest.approx(10e9 / 8 / 802_816, rel=0.01)


def test_a_million_maps_a_day_need_the_gpus_that_the_page_says():
    mean = 1e6 / 86_400
    peak = 4 * mean
    assert f"are {mean:.1f} a second, {peak:.0f} when" in PAGE
    assert f"46 / 1,400 = {100 * peak / 1400:.0f} %" in PAGE
    assert f"46 / 29 = {peak / 29:.1f}, so two GPUs" in PAGE


def test_the_memory_of_a_batch_is_its_activations_once_or_three_times():
    activations, image = 4 * 10.6e6, 4 * 224 * 224 * 3
    one = {
        "serving_default": activations,
        "explain_gradients": 3 * activations,
        "explain_smooth": 3 * activations + 3 * image,
    }
    rows = re.findall(
        r"^\| `(serving_default|explain_\w+)`.*? \| ([\d.]+ \| [\d.]+ \| [\d.]+) \|$", PAGE, re.MULTILINE
    )
    assert {name for name, _ in rows} == set(one)
    for name, row in rows:
        # The samples of a small batch are computed several at a time.
        at_once = (10, 8, 16) if name == "explain_smooth" else (1, 4, 16)
        np.testing.assert_allclose(numbers(row), [one[name] * images / 1e9 for images in at_once], atol=0.006)


def test_the_work_of_resnet50_is_what_its_layers_add_up_to():
    multiply_adds = outputs = 0
    model = tf.keras.applications.ResNet50(weights=None)
    for layer in model.layers:
        if isinstance(layer, tf.keras.layers.Conv2D):
            values = int(np.prod(layer.output.shape[1:]))
            multiply_adds += values * int(np.prod(layer.kernel.shape[:3]))
            outputs += values
        elif isinstance(layer, tf.keras.layers.Dense):
            multiply_adds += int(np.prod(layer.kernel.shape))
    assert f"{multiply_adds / 1e9:.2f} G multiply-adds" in PAGE
    assert f"put\nout {outputs / 1e6:.1f} M numbers" in PAGE
    assert f"{4 * model.count_params() / 1e6:.0f} MB for ResNet50" in PAGE


SIZING = PAGE[PAGE.index("### A million photos") :]
RESULTS = (ROOT / "tests" / "benchmarks" / "results" / "2026-11-22-explanations.md").read_text()


def measured_seconds(model: str, method: str) -> float:
    """Seconds of a batch of 8 in the results of the benchmark: a median with quartiles, or a few values."""
    (cell,) = re.findall(rf"^\| {model} \| 8 \| {method} \| ([^|]+) \|", RESULTS, re.MULTILINE)
    return float(np.median(numbers(cell)[:1] if "(" in cell else numbers(cell))) / 1e3


def sizing_row(name: str) -> list[float]:
    (row,) = [line for line in SIZING.splitlines() if line.startswith(f"| {name}")]
    return numbers(row[2 + len(name) :])


@pytest.mark.parametrize(
    ("row", "gradients", "smooth"),
    [
        (
            "measured: EfficientNet-Lite0, 2 cores, batch 8",
            8 / measured_seconds("efficientnet-lite0", "gradients"),
            8 / measured_seconds("efficientnet-lite0", "smooth"),
        ),
        (
            "measured: ResNet50, 2 cores, batch 8",
            8 / measured_seconds("ResNet50", "gradients"),
            8 / measured_seconds("ResNet50", "smooth"),
        ),
        # The arithmetic above it gives these rates.
        ("**unproven**: ResNet50, one H100, float32, a third of the floor", 1_400, 29),
        ("**unproven**: the same in TF32", 2_900, 58),
    ],
)
def test_maps_an_hour_follow_from_the_rates(row, gradients, smooth):
    expected = [50.5 * smooth, 3600 * gradients, 3600 * smooth, 1e6 / (3600 * smooth)]
    np.testing.assert_allclose(sizing_row(row), expected, rtol=0.03)


def test_bytes_of_a_stored_row_are_those_that_the_job_stores():
    from saliency_client.bulk import store_map

    saliency = np.ones((224, 224), np.float32)
    for name in ("float16", "uint8"):
        row, million, *_ = sizing_row(f"stored, {name}")
        assert row == len(store_map(saliency, name)[0])
        assert million == round(row / 1e3)
    assert sizing_row("to a server: the image, uint8")[0] == 224 * 224 * 3
    assert sizing_row("from it: the map, float32")[0] == saliency.nbytes
    (between,) = numbers(re.search(r"with workers and servers in two, (\d+) GB", SIZING)[1])
    assert between == round((224 * 224 * 3 + saliency.nbytes) / 1e3)


def test_workers_for_eight_replicas_are_those_of_the_job():
    (rate, cores) = numbers(re.search(r"29 maps/s are (\d+) photos a second, ([\d.]+) cores", SIZING)[0])[1:]
    assert rate == 8 * 29
    assert cores == pytest.approx(rate * 0.015, abs=0.05)
    job = rendered("job/overlays/s3")["Job"]["spec"]
    workers, concurrency = 4, 8
    assert f"{workers} × {concurrency} = 32" in SIZING
    assert job["parallelism"] == workers
    assert f"--concurrency={concurrency}" in job["template"]["spec"]["containers"][0]["args"]
    assert f"one GPU takes\n{1400 * 0.015:.0f} cores" in SIZING


def test_the_example_of_a_million_photos_adds_up():
    hours = 1e6 / (3600 * 29)
    assert f"{hours:.1f} GPU-hours of work" in SIZING
    assert f"in {hours / 8:.1f} hours, and two in {hours / 2:.1f}" in SIZING
    assert "up to 4 GPU-hours for eight and 1\nfor two" in SIZING
