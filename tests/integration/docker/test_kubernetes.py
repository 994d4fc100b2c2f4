"""The Kubernetes and KServe manifests, as kustomize renders them."""

from __future__ import annotations

import pytest
import yaml
from docker_files import DOCKER
from manifests import JOBS, KSERVE, KUBERNETES, OVERLAYS, PLAIN, rendered


def pod(overlay: str) -> dict:
    return rendered(overlay)["Deployment"]["spec"]["template"]["spec"]


def server(overlay: str) -> dict:
    (container,) = pod(overlay)["containers"]
    return container


@pytest.mark.parametrize("page", sorted(KUBERNETES.rglob("*.yaml")), ids=lambda page: str(page.name))
def test_every_file_is_yaml_with_a_kind(page):
    for document in yaml.safe_load_all(page.read_text()):
        assert document["kind"]
        assert document["apiVersion"]


CUSTOM = {"ScaledObject", "InferenceService", "ServingRuntime"}
"""Kinds that are not Kubernetes' own: test_custom_resources.py."""


@pytest.mark.parametrize("overlay", [*OVERLAYS, *JOBS])
def test_every_document_holds_to_kubernetes_own_schema(overlay):
    validate = pytest.importorskip("kubernetes_validate", reason="ships Kubernetes' schemas")
    for kind, document in rendered(overlay).items():
        if kind not in CUSTOM:
            validate.validate(document, "1.32", strict=True)


# A call's memory is kept for the next one; on a GPU TensorFlow pools it by itself.
POOL = {"TF_CPU_ALLOCATOR_USE_BFC": "true"}


def variables(container: dict) -> dict[str, str]:
    """The environment that a container is given."""
    return {variable["name"]: variable["value"] for variable in container["env"]}


@pytest.mark.parametrize(
    ("overlay", "tag"), [("overlays/gpu", "-gpu"), ("overlays/gpu-offline", "-gpu"), ("overlays/cpu", "")]
)
def test_the_overlay_chooses_the_image_and_the_device(overlay, tag, settings):
    assert server(overlay)["image"] == f"tensorflow/serving:{settings['TF_SERVING_VERSION']}{tag}"
    limits = server(overlay)["resources"]["limits"]
    assert limits.get("nvidia.com/gpu") == ("1" if tag else None)
    assert "memory" in limits
    assert variables(server(overlay)) == {"HOME": "/tmp"} | ({} if tag else POOL)


@pytest.mark.parametrize("overlay", PLAIN)
def test_the_pod_is_confined(overlay):
    assert pod(overlay)["automountServiceAccountToken"] is False
    assert pod(overlay)["securityContext"]["runAsNonRoot"] is True
    context = server(overlay)["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    mounts = {mount["name"]: mount for mount in server(overlay)["volumeMounts"]}
    assert mounts["models"]["readOnly"] is True
    assert mounts["config"]["readOnly"] is True


@pytest.mark.parametrize("overlay", PLAIN)
def test_the_files_that_the_server_is_told_to_read_are_in_the_config_map(overlay):
    documents = rendered(overlay)
    config = documents["ConfigMap"]
    mounted = next(volume for volume in pod(overlay)["volumes"] if volume["name"] == "config")
    assert mounted["configMap"]["name"] == config["metadata"]["name"]
    for argument in server(overlay)["args"]:
        if "=/config/" in argument:
            name = argument.split("=/config/")[1]
            assert config["data"][name] == (DOCKER / "config" / name).read_text()


@pytest.mark.parametrize("overlay", PLAIN)
def test_every_selector_finds_the_pods(overlay):
    documents = rendered(overlay)
    labels = documents["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        documents["Deployment"]["spec"]["selector"]["matchLabels"],
        documents["Service"]["spec"]["selector"],
        documents["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        *(spread["labelSelector"]["matchLabels"] for spread in pod(overlay)["topologySpreadConstraints"]),
    ]
    assert len(selectors) == 4
    for selector in selectors:
        assert selector.items() <= labels.items()
    target = documents["ScaledObject"]["spec"]["scaleTargetRef"]["name"]
    assert target == documents["Deployment"]["metadata"]["name"]


@pytest.mark.parametrize("overlay", PLAIN)
def test_clients_see_every_pod_and_the_autoscaler_alone_sets_how_many(overlay):
    assert rendered(overlay)["Service"]["spec"]["clusterIP"] == "None"
    assert "replicas" not in rendered(overlay)["Deployment"]["spec"]


@pytest.mark.parametrize("overlay", PLAIN)
def test_a_new_pod_is_ready_before_an_old_one_leaves(overlay):
    update = rendered(overlay)["Deployment"]["spec"]["strategy"]["rollingUpdate"]
    assert update == {"maxSurge": 1, "maxUnavailable": 0}


@pytest.mark.parametrize("overlay", PLAIN)
def test_probes_ask_a_health_service_that_is_on_and_warmup_has_time(overlay):
    container = server(overlay)
    assert "--enable_grpc_healthcheck_service=true" in container["args"]
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[name]["grpc"] == {"port": 8500, "service": "PredictionService"}
    startup = container["startupProbe"]
    seconds = startup["periodSeconds"] * startup["failureThreshold"]
    assert 600 <= seconds <= rendered(overlay)["Deployment"]["spec"]["progressDeadlineSeconds"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_leaving_pod_waits_until_every_connection_has_aged(overlay):
    documents = rendered(overlay)
    if "Deployment" in documents:
        arguments, hook = server(overlay)["args"], server(overlay)["lifecycle"]["preStop"]
        grace = pod(overlay)["terminationGracePeriodSeconds"]
    else:
        predictor = documents["InferenceService"]["spec"]["predictor"]
        arguments, hook = predictor["model"]["args"], predictor["model"]["lifecycle"]["preStop"]
        grace = predictor["terminationGracePeriodSeconds"]
    (age,) = [int(a.rsplit("=", 1)[1]) for a in arguments if "max_connection_age_ms" in a]
    # gRPC varies the age by a tenth.
    assert age / 1000 * 1.1 < int(hook["exec"]["command"][1]) < grace


@pytest.mark.parametrize(("overlay", "tag"), [("kserve/overlays/gpu", "-gpu"), ("kserve/overlays/cpu", "")])
def test_kserve_runs_the_pinned_image_with_xla_and_not_its_old_default(overlay, tag, settings):
    documents = rendered(overlay)
    model = documents["InferenceService"]["spec"]["predictor"]["model"]
    runtime = documents["ServingRuntime"]
    assert model["runtime"] == runtime["metadata"]["name"]
    (container,) = runtime["spec"]["containers"]
    # KServe merges what the model adds into the container of this name.
    assert container["name"] == "kserve-container"
    assert container["image"] == f"tensorflow/serving:{settings['TF_SERVING_VERSION']}{tag}"
    assert {"--xla_cpu_compilation_enabled", "--xla_gpu_compilation_enabled"} <= set(container["args"])
    assert not {one.partition("=")[0] for one in container["args"]} & {
        one.partition("=")[0] for one in model["args"]
    }
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    (taken,) = runtime["spec"]["supportedModelFormats"]
    assert model["modelFormat"] == {"name": taken["name"], "version": taken["version"]}
    assert model["resources"]["limits"].get("nvidia.com/gpu") == ("1" if tag else None)
    assert variables(model) == {"HOME": "/tmp"} | ({} if tag else POOL)


@pytest.mark.parametrize("overlay", KSERVE)
def test_the_ports_of_the_runtime_are_those_that_the_service_asks(overlay):
    documents = rendered(overlay)
    model = documents["InferenceService"]["spec"]["predictor"]["model"]
    (container,) = documents["ServingRuntime"]["spec"]["containers"]
    assert f"--port={model['readinessProbe']['grpc']['port']}" in container["args"]
    port = documents["InferenceService"]["metadata"]["annotations"]["prometheus.io/port"]
    assert f"--rest_api_port={port}" in container["args"]
