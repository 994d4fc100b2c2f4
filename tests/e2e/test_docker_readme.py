"""The commands of docker/README.md that need no container, with the local server for the real one."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import skimage.data
import yaml
from envoy_process import SHIPPED
from google.protobuf import text_format
from PIL import Image
from server_process import ServerProcess
from tensorflow_serving.config import model_server_config_pb2
from test_readme import ROOT, blocks, run
from test_readme import commands as commands_of

PAGE = "docker/README.md"
# The page's model is called lite0 or resnet50; here it is the small classifier of these tests.
MODEL = "classifier"


def on_the_page(start: str) -> str:
    """The page's one command that begins so, for this model."""
    found = {command for command in commands() if command.startswith(start)}
    assert len(found) == 1, found
    return found.pop().replace("lite0", MODEL).replace("resnet50", MODEL)


def commands() -> list[str]:
    """What the page has a reader type, in blocks and in its text, for programs that are no containers'."""
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    lines = [line for _, block in blocks(PAGE, "sh") for line in block.splitlines()]
    spans = re.findall(r"`([^`\n]+)`", text)
    programs = ("saliency-exporter ", "saliency-client ", "make ", "sed ", "mv ", "python ", "python3 ")
    return [command for command in (*lines, *spans) if command.startswith(programs)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, uncompiled_version: Path) -> Path:
    """The repository's root as a newcomer sees it, after the first command: docker/ and models/lite0/1."""
    directory = tmp_path_factory.mktemp("deployment")
    shutil.copytree(uncompiled_version, directory / "models" / MODEL / "1")
    shutil.copytree(SHIPPED, directory / "docker" / "envoy")
    Image.fromarray(skimage.data.chelsea()).save(directory / "cat.jpg")
    run(on_the_page("saliency-exporter serving-config"), directory)
    return directory


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    """A server of the files that `serving-config` wrote, models.config and batching.config."""
    config = folder / "docker" / "config" / "models.config"
    here = folder / "models.config"
    here.write_text(config.read_text().replace('"/models/', f'"{folder}/models/'))
    process = ServerProcess(
        *("--model-config-file", here, "--no-warmup"),
        *("--batching", "--batching-parameters-file", folder / "docker" / "config" / "batching.config"),
    )
    try:
        yield process.target
    finally:
        process.stop()


def test_serving_config_of_a_real_export_serves_its_version_at_its_batch_sizes(folder):
    text = (folder / "docker" / "config" / "models.config").read_text()
    (model,) = text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).model_config_list.config
    assert (model.name, model.base_path) == (MODEL, f"/models/{MODEL}")
    assert list(model.model_version_policy.specific.versions) == [1]
    manifest = json.loads((folder / "models" / MODEL / "1" / "assets.extra" / "saliency.json").read_text())
    batching = (folder / "docker" / "config" / "batching.config").read_text()
    sizes = [int(size) for size in re.findall(r"^allowed_batch_sizes: (\d+)", batching, re.MULTILINE)]
    assert sizes == manifest["batch_sizes"] == [1, 4]


def test_from_an_exported_directory_the_last_two_of_the_five_commands_give_a_map(server, folder):
    status = run(on_the_page("saliency-client status --server").replace("localhost:8500", server), folder)
    assert "AVAILABLE" in status
    run(on_the_page("saliency-client explain cat.jpg").replace("localhost:8500", server), folder)
    with Image.open(folder / "map.png") as picture:
        assert picture.size == (451, 300)


def test_the_status_that_a_canary_waits_for_names_versions_and_states(server, folder):
    line = on_the_page("saliency-client status --model")
    (version,) = json.loads(run(f"{line} --server {server}", folder))["versions"]
    assert (version["version"], version["state"]) == (1, "AVAILABLE")
    run(f"{on_the_page('saliency-client status --wait')} --server {server} --model {MODEL}", folder)


def test_the_label_stable_is_the_version_that_was_exported(server, folder):
    run(
        f"saliency-client explain cat.jpg --server {server} --model {MODEL} --label stable -o stable.png",
        folder,
    )
    assert (folder / "stable.png").exists()


def test_the_sed_line_gives_the_canary_a_tenth_and_leaves_all_else_as_it_is(folder):
    def weights(routes: dict) -> dict[str, int]:
        (host,) = routes["resources"][0]["virtual_hosts"]
        clusters = host["routes"][0]["route"].pop("weighted_clusters")["clusters"]
        return {cluster["name"]: cluster["weight"] for cluster in clusters}

    for start in ("sed ", "mv "):
        run(on_the_page(start), folder)
    before, after = (
        yaml.safe_load((place / "routes.yaml").read_text())
        for place in (SHIPPED, folder / "docker" / "envoy")
    )
    assert weights(before) == {"stable": 100, "canary": 0}
    assert weights(after) == {"stable": 90, "canary": 10}
    assert before == after
    assert not (folder / "docker" / "envoy" / "routes.new").exists()


def test_the_time_of_a_batch_of_the_largest_size_is_measured(server, folder):
    # The page's model is compiled for 16, this one for 4.
    line = on_the_page("saliency-client bench --batch-size").replace("16", "4")
    measured = json.loads(run(f"{line} --server {server} --model {MODEL} --requests 3 --json", folder))
    assert (measured["batch_size"], measured["requests"], measured["errors"]) == (4, 3, {})
    assert measured["latency_ms"]["p50"] > 0


def test_the_line_that_sizes_a_data_set_gives_images_a_second(server, folder):
    line = on_the_page("saliency-client bench --method").replace("16", "4").replace("60", "1")
    line = line.replace("--num-samples 50", "--num-samples 2")
    measured = json.loads(run(f"{line} --server {server} --model {MODEL}", folder))
    assert measured["images_per_second"] > 0
    assert measured["errors"] == {}


def test_the_check_that_the_failure_table_names_is_the_one_of_the_exporters_page():
    """It passes for a good version there: test_readme.py runs what that page shows."""
    assert f"{on_the_page('saliency-exporter verify')} models/lite0/1" in commands_of("exporter/README.md")


# Twenty seconds; the demonstration of `make test` exports the same model.
@pytest.mark.slow
def test_the_model_of_the_first_block_is_exported_where_compose_looks_for_it(folder):
    (line,) = {command for command in commands() if command.startswith("saliency-exporter export")}
    # Compiling it takes minutes; where it is put does not depend on that.
    run(f"{line} --compile none --no-verify", folder)
    assert (folder / "models" / "lite0" / "1" / "saved_model.pb").exists()


def test_every_command_outside_a_container_is_one_of_these():
    here = (
        *("saliency-exporter export efficientnet-lite0", "saliency-exporter serving-config"),
        *("saliency-exporter verify", "saliency-exporter inspect"),
        *("saliency-client status --server", "saliency-client explain cat.jpg"),
        *("saliency-client status --model", "saliency-client status --wait"),
        *("saliency-client bench --method smooth", "saliency-client job"),
        *("saliency-client bench --batch-size 16", "sed ", "mv ", "make docker-smoke"),
    )
    assert len(commands()) >= len(here)
    for command in commands():
        assert command.startswith(here), command
    for needs_docker, block in blocks(PAGE, "sh"):
        for line in block.splitlines():
            assert needs_docker or line in commands(), line
