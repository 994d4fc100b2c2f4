"""The server's configuration files, read as the server reads them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from docker_files import DOCKER, flags_in
from google.protobuf import text_format
from server_messages import MESSAGES
from tensorflow_serving.config import model_server_config_pb2

from saliency_exporter.serving.model_config import read_model_config_file

CONFIG = DOCKER / "config"


def server_manifests() -> list[Path]:
    """Of Kubernetes, all but those of the job, which is a client."""
    job = DOCKER / "kubernetes" / "job"
    return [page for page in (DOCKER / "kubernetes").rglob("*.yaml") if job not in page.parents]


def parse(name: str, message):
    return text_format.Parse((CONFIG / name).read_text(), message)


def test_models_config_serves_two_models_and_every_label_names_a_version_that_is_served():
    models = parse("models.config", model_server_config_pb2.ModelServerConfig()).model_config_list.config
    assert len(models) == 2
    labels = {}
    for model in models:
        assert model.base_path == f"/models/{model.name}"
        assert model.model_platform == "tensorflow"
        assert set(model.version_labels.values()) <= set(model.model_version_policy.specific.versions)
        labels |= model.version_labels
    assert set(labels) == {"stable", "canary"}


def test_the_canarys_models_are_served_at_the_version_that_its_label_names():
    models = parse("canary.config", model_server_config_pb2.ModelServerConfig()).model_config_list.config
    assert {model.base_path for model in models} == {f"/models/{model.name}" for model in models}
    for model in models:
        assert set(model.version_labels.values()) <= set(model.model_version_policy.specific.versions)


def test_the_local_server_reads_models_config_too():
    names = [model.name for model in read_model_config_file(CONFIG / "models.config")]
    assert names == ["resnet50", "lite0"]


def test_the_metrics_path_is_the_same_wherever_it_is_named():
    prometheus = parse("monitoring.config", MESSAGES["MonitoringConfig"]()).prometheus_config
    assert prometheus.enable
    scrape = yaml.safe_load((DOCKER / "monitoring" / "prometheus.yaml").read_text())["scrape_configs"][0]
    paths = {prometheus.path, scrape["metrics_path"]}
    for page in server_manifests():
        paths |= set(re.findall(r"prometheus\.io/path: (\S+)", page.read_text()))
    assert paths == {"/monitoring/prometheus/metrics"}


def test_the_tls_example_parses_and_asks_for_no_client_certificate():
    example = parse("ssl.config.example", MESSAGES["SSLConfig"]())
    assert example.server_key.startswith("-----BEGIN PRIVATE KEY-----\n")
    assert example.server_cert.startswith("-----BEGIN CERTIFICATE-----\n")
    assert not example.client_verify


def test_the_commands_of_the_tls_example_put_pem_files_into_the_servers_form(tmp_path):
    commands = [
        line[4:]
        for line in (CONFIG / "ssl.config.example").read_text().splitlines()
        if line.startswith("#   ")
    ]
    pems = {
        "key.pem": "-----BEGIN PRIVATE KEY-----\nAA+/==\n-----END PRIVATE KEY-----\n",
        "cert.pem": "-----BEGIN CERTIFICATE-----\nBB\n-----END CERTIFICATE-----\n" * 2,
    }
    for name, text in pems.items():
        (tmp_path / name).write_text(text)
    subprocess.run(["sh", "-ec", "\n".join(commands)], cwd=tmp_path, check=True, timeout=20)
    config = text_format.Parse((tmp_path / "ssl.config").read_text(), MESSAGES["SSLConfig"]())
    assert {"key.pem": config.server_key, "cert.pem": config.server_cert} == pems


def server_arguments() -> dict[str, str]:
    """The text in which each file hands arguments to the server."""
    texts = {
        "Dockerfile": (DOCKER / "Dockerfile").read_text().split("ENTRYPOINT")[1].split("FROM")[0],
        "compose.yaml": "\n".join(
            yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]["gpu"]["command"]
        ),
    }
    for page in server_manifests():
        for document in yaml.safe_load_all(page.read_text()):
            arguments = list(_arguments(document))
            if arguments:
                # KServe adds the service's arguments to its runtime's.
                name = str(page.relative_to(DOCKER)).replace("serving-runtime", "inference-service")
                texts[name] = "\n".join([*arguments, texts.get(name, "")])
    return texts


def _arguments(node):
    if isinstance(node, dict):
        yield from node.get("args", []) if isinstance(node.get("args"), list) else []
        for value in node.values():
            yield from _arguments(value)
    elif isinstance(node, list):
        for value in node:
            yield from _arguments(value)


@pytest.mark.parametrize("page", server_arguments())
def test_every_flag_is_one_of_the_servers_and_xla_is_on(page, server_flags):
    flags = flags_in(server_arguments()[page])
    assert flags, page
    assert flags <= server_flags
    assert {"xla_cpu_compilation_enabled", "xla_gpu_compilation_enabled"} <= flags


def test_every_flag_that_a_configuration_file_speaks_of_exists(server_flags):
    for page in CONFIG.glob("*.config*"):
        assert flags_in(page.read_text()) <= server_flags, page.name


@pytest.mark.parametrize("page", server_arguments())
def test_configuration_files_that_flags_name_exist(page):
    named = re.findall(r"/config/([\w.]+)", server_arguments()[page])
    assert named
    for name in named:
        assert (CONFIG / name).is_file(), name
