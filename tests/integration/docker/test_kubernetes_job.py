"""The Indexed Job: each worker's share, what is tried again, and that the command takes its arguments."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import urllib.request
from typing import Any

import click
import pytest
import yaml
from docker_files import DOCKER, ROOT
from manifests import JOBS, KUBERNETES, arguments, kubectl, rendered

import saliency_client.cli
from saliency_client.cli.errors import FAILURE, INTERRUPTED, RPC_BASE, USAGE

OFFLINE = "overlays/gpu-offline"
PROJECT = (ROOT / "pyproject.toml").read_text()


def spec(overlay: str) -> dict[str, Any]:
    return rendered(overlay)["Job"]["spec"]


def worker(overlay: str) -> dict[str, Any]:
    (container,) = spec(overlay)["template"]["spec"]["containers"]
    return container


def share(words: list[str]) -> str:
    (found,) = [one.partition("=")[2] for one in words if one.startswith("--worker=")]
    return found


@pytest.mark.parametrize("overlay", JOBS)
def test_each_completion_index_is_the_worker_of_that_number(overlay):
    workers = spec(overlay)["completions"]
    assert spec(overlay)["completionMode"] == "Indexed"
    assert [share(arguments(spec(overlay), index)) for index in range(workers)] == [
        f"{index}/{workers}" for index in range(workers)
    ]


@pytest.mark.parametrize("workers", [3, 7])
@pytest.mark.parametrize("overlay", JOBS)
def test_no_unit_is_left_out_or_done_twice_when_the_number_of_workers_is_changed(overlay, workers, tmp_path):
    shutil.copytree(KUBERNETES / "job", tmp_path / "job")
    page = tmp_path / overlay / "work.yaml"
    page.write_text(page.read_text().replace("completions: 4", f"completions: {workers}"))
    done = subprocess.run(
        [kubectl(), "kustomize", str(tmp_path / overlay)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    (job,) = [one["spec"] for one in yaml.safe_load_all(done.stdout) if one["kind"] == "Job"]
    assert job["completions"] == workers
    shares = [share(arguments(job, index)).split("/") for index in range(workers)]
    assert {count for _, count in shares} == {str(workers)}
    for unit in range(100):
        assert sum(unit % int(count) == int(index) for index, count in shares) == 1


@pytest.mark.parametrize("overlay", JOBS)
def test_the_command_takes_the_arguments_of_every_worker(overlay):
    group = saliency_client.cli.main
    for index in range(spec(overlay)["completions"]):
        name, *rest = arguments(spec(overlay), index)
        command = group.get_command(click.Context(group), name)
        assert command is not None, f"saliency-client has no command {name}"
        # Parses and checks each value, and runs nothing. The volume with the photos is not on this machine.
        rest = [str(ROOT) if one == "/data/photos" else one for one in rest]
        with command.make_context(name, rest) as context:
            assert context.params["resume"] is True
            assert context.params["allow_failures"] is True


@pytest.mark.parametrize("overlay", JOBS)
def test_every_name_in_the_arguments_is_a_variable_of_the_container(overlay):
    for index in range(spec(overlay)["completions"]):
        assert not [one for one in arguments(spec(overlay), index) if "$(" in one]


def action(policy: dict[str, Any], code: int, conditions: tuple[str, ...] = ()) -> str:
    """What the Job does about a failed pod: the first rule that fits, else the failure is counted."""
    for rule in policy["rules"]:
        if codes := rule.get("onExitCodes"):
            assert codes["operator"] == "In"
            # An exit code of 0 fits no rule.
            if code != 0 and code in codes["values"]:
                return rule["action"]
        elif any(one["type"] in conditions and one["status"] == "True" for one in rule["onPodConditions"]):
            return rule["action"]
    return "Count"


TRIED_AGAIN = {
    "an unexpected end": FAILURE,
    "an interrupt": INTERRUPTED,
    "a server that stayed away": RPC_BASE + 14,
    "a model that is not there yet": RPC_BASE + 5,
    "a signal to end": 143,
    "too much memory": 137,
}


@pytest.mark.parametrize("overlay", JOBS)
@pytest.mark.parametrize("what", TRIED_AGAIN)
def test_a_worker_is_tried_again_after(overlay, what):
    assert action(spec(overlay)["podFailurePolicy"], TRIED_AGAIN[what]) == "Count"


@pytest.mark.parametrize("overlay", JOBS)
def test_wrong_arguments_are_not_tried_again(overlay):
    assert action(spec(overlay)["podFailurePolicy"], USAGE) == "FailIndex"


@pytest.mark.parametrize("overlay", JOBS)
@pytest.mark.parametrize("code", [USAGE, 137, 143])
def test_a_lost_node_costs_no_try_whatever_the_code(overlay, code):
    assert action(spec(overlay)["podFailurePolicy"], code, ("DisruptionTarget",)) == "Ignore"


def broken(policy: dict[str, Any], job: dict[str, Any]) -> list[str]:
    """What the API server refuses about a failure policy beyond its schema (pkg/apis/batch/validation)."""
    template = job["template"]["spec"]
    names = {one["name"] for one in template["containers"]}
    found = []
    if template["restartPolicy"] != "Never":
        found.append("restartPolicy")
    if job.get("podReplacementPolicy", "Failed") != "Failed":
        found.append("podReplacementPolicy")
    for rule in policy["rules"]:
        if ("onExitCodes" in rule) == ("onPodConditions" in rule):
            found.append("one requirement a rule")
        if rule["action"] == "FailIndex" and "backoffLimitPerIndex" not in job:
            found.append("backoffLimitPerIndex")
        if codes := rule.get("onExitCodes"):
            if codes["values"] != sorted(set(codes["values"])) or 0 in codes["values"]:
                found.append("values")
            if codes["containerName"] not in names:
                found.append("containerName")
    return found


@pytest.mark.parametrize("overlay", JOBS)
def test_the_api_server_takes_the_failure_policy(overlay):
    job = spec(overlay)
    assert broken(job["podFailurePolicy"], job) == []
    # Nor would it without each of these.
    for change in (
        lambda one: one["template"]["spec"].update(restartPolicy="OnFailure"),
        lambda one: one.update(podReplacementPolicy="TerminatingOrFailed"),
        lambda one: one.pop("backoffLimitPerIndex"),
        lambda one: one["template"]["spec"]["containers"][0].update(name="other"),
    ):
        changed = copy.deepcopy(job)
        change(changed)
        assert len(broken(changed["podFailurePolicy"], changed)) == 1


def pauses(failures: int) -> list[int]:
    """Seconds before each try after a failure (pkg/controller/job: 10 s, doubled, at most 10 min)."""
    return [min(10 * 2**number, 600) for number in range(failures)]


def start_seconds(overlay: str) -> int:
    """For how long a server may load and warm up."""
    (container,) = rendered(overlay)["Deployment"]["spec"]["template"]["spec"]["containers"]
    probe = container["startupProbe"]
    return probe["periodSeconds"] * probe["failureThreshold"]


@pytest.mark.parametrize("overlay", JOBS)
def test_a_worker_waits_for_as_long_as_a_server_may_take_to_start(overlay):
    (wait,) = [one.partition("=")[2] for one in arguments(spec(overlay), 0) if one.startswith("--wait=")]
    assert int(wait) >= start_seconds(OFFLINE)


@pytest.mark.parametrize("overlay", JOBS)
def test_a_worker_decodes_in_as_many_processes_as_it_asks_for_cores(overlay):
    assert f"--decoders={worker(overlay)['resources']['requests']['cpu']}" in worker(overlay)["args"]


@pytest.mark.parametrize("overlay", JOBS)
def test_all_workers_together_can_keep_every_replica_busy(overlay):
    (each,) = [
        one.partition("=")[2] for one in arguments(spec(overlay), 0) if one.startswith("--concurrency=")
    ]
    scaled = rendered(OFFLINE)["ScaledObject"]["spec"]
    (threshold,) = [one["metadata"]["threshold"] for one in scaled["triggers"] if one["name"] == "requests"]
    assert spec(overlay)["parallelism"] * int(each) >= int(threshold) * scaled["maxReplicaCount"]


@pytest.mark.parametrize("overlay", JOBS)
def test_workers_are_tried_again_for_longer_than_a_server_needs_to_start(overlay):
    tries = pauses(spec(overlay)["backoffLimitPerIndex"])
    assert sum(tries) == 50 * 60 + 30
    assert sum(tries) > start_seconds(OFFLINE)


@pytest.mark.parametrize("overlay", JOBS)
def test_a_worker_is_confined_and_writes_to_tmp_and_its_volumes(overlay):
    pod, container = spec(overlay)["template"]["spec"], worker(overlay)
    servers = rendered("overlays/cpu")["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"] == servers["securityContext"]
    assert container["securityContext"] == servers["containers"][0]["securityContext"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["serviceAccountName"] == rendered(overlay)["ServiceAccount"]["metadata"]["name"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == {volume["name"] for volume in pod["volumes"]}
    writable = {path for path, mount in mounts.items() if not mount.get("readOnly")}
    assert writable == ({"/tmp", "/data/maps"} if overlay == "job/overlays/volume" else {"/tmp"})
    (tmp,) = [volume for volume in pod["volumes"] if volume["name"] == "tmp"]
    assert tmp["emptyDir"]["sizeLimit"] == "2Gi"
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize(
    ("overlay", "scheme", "annotation"),
    [
        ("job/overlays/s3", "s3://", "eks.amazonaws.com/role-arn"),
        ("job/overlays/gcs", "gs://", "iam.gke.io/gcp-service-account"),
    ],
)
def test_storage_is_reached_by_the_accounts_identity_and_no_key(overlay, scheme, annotation):
    variables = {one["name"]: one["value"] for one in worker(overlay)["env"]}
    assert variables["INPUT"].startswith(scheme)
    assert variables["OUTPUT"].startswith(scheme)
    assert set(rendered(overlay)["ServiceAccount"]["metadata"]["annotations"]) == {annotation}
    assert not [name for name in variables if re.search("KEY|SECRET|TOKEN|CREDENTIAL", name)]


@pytest.mark.parametrize("overlay", JOBS)
def test_workers_ask_every_replica_by_the_headless_service(overlay):
    service = rendered(OFFLINE)["Service"]
    (port,) = [one["port"] for one in service["spec"]["ports"] if one["name"] == "grpc"]
    assert service["spec"]["clusterIP"] == "None"
    assert f"--server=dns:///{service['metadata']['name']}:{port}" in arguments(spec(overlay), 0)


@pytest.mark.parametrize("overlay", JOBS)
def test_prometheus_is_sent_to_the_port_that_shows_a_workers_metrics(overlay):
    (shown,) = [one.partition("=")[2] for one in arguments(spec(overlay), 0) if one.startswith("--metrics=")]
    annotations = spec(overlay)["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/scrape"] == "true"
    assert shown == f"0.0.0.0:{annotations['prometheus.io/port']}"
    (port,) = worker(overlay)["ports"]
    assert str(port["containerPort"]) == annotations["prometheus.io/port"]


@pytest.mark.parametrize("overlay", JOBS)
def test_the_image_is_that_of_the_packages_version(overlay):
    version = re.search(r'^version = "(.+)"$', PROJECT, re.MULTILINE)[1]
    name, _, tag = worker(overlay)["image"].rpartition(":")
    assert name.endswith("/saliency-client")
    assert tag == version
    # Its entrypoint is the command; the Job gives arguments alone.
    assert 'ENTRYPOINT ["saliency-client"]' in (DOCKER / "Dockerfile.client").read_text()
    assert "command" not in worker(overlay)


def test_servers_for_data_sets_start_when_workers_run_and_as_many_as_they_keep_busy():
    scaled = rendered(OFFLINE)["ScaledObject"]["spec"]
    triggers = {one["name"]: one for one in scaled["triggers"]}
    assert scaled["minReplicaCount"] == 0

    def replicas(workers: int, in_flight: int) -> int:
        """As a HorizontalPodAutoscaler counts: the largest of total / threshold, rounded up."""
        totals = {"workers": workers, "requests": in_flight}
        return max(
            -(-total // int(triggers[name]["metadata"]["threshold"])) for name, total in totals.items()
        )

    assert set(triggers) == {"workers", "requests", "queue"}
    # AverageValue counts from the total alone, so that replicas that still start ask for no more of them.
    assert {one["metricType"] for one in triggers.values()} == {"AverageValue"}
    assert replicas(0, 0) == 0
    assert replicas(4, 0) == 1
    assert replicas(500, 0) == 1
    assert replicas(4, 32) == 8
    online = {one["name"]: one for one in rendered("overlays/gpu")["ScaledObject"]["spec"]["triggers"]}
    assert triggers["requests"]["metadata"]["threshold"] == online["requests"]["metadata"]["threshold"]
    assert (
        triggers["requests"]["metadata"]["serverAddress"] == online["requests"]["metadata"]["serverAddress"]
    )
    assert triggers["queue"] == online["queue"]


def test_workers_are_counted_by_a_metric_that_they_have_before_a_server_answers():
    from saliency_client.bulk.job import Progress
    from saliency_client.bulk.metrics import served

    triggers = rendered(OFFLINE)["ScaledObject"]["spec"]["triggers"]
    (query,) = [one["metadata"]["query"] for one in triggers if one["name"] == "workers"]
    (metric,) = re.findall(r"count\((\w+)\)", query)
    with served(Progress(), "127.0.0.1", 0) as address, urllib.request.urlopen(address, timeout=10) as page:
        assert re.search(rf"^{metric} 0\.0$", page.read().decode(), re.MULTILINE)


def test_servers_for_data_sets_outlast_a_workers_pause_and_their_own_start():
    scaled = rendered(OFFLINE)["ScaledObject"]["spec"]
    assert scaled["cooldownPeriod"] > max(*pauses(20), start_seconds(OFFLINE))


def test_the_image_has_the_packages_of_the_job():
    (asked,) = re.findall(r"'\.\[(\w+)\]'", (DOCKER / "Dockerfile.client").read_text())
    assert f"\n{asked} = [" in PROJECT
