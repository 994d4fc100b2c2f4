"""The pages on SageMaker and Vertex: their links, flags, commands and arithmetic."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from docker_files import DOCKER, ROOT

from saliency_exporter.cli import main as exporter

PAGES = ("sagemaker", "vertex")
FLAGS = (Path(__file__).parent / "server_flags.txt").read_text().split()
PIXEL, ROW_FLOAT = 4.24, 15.45
"""Bytes of a uint8 value of a request, and of a float32 of an answer in rows: tests/benchmarks/rest.py."""


def text(page: str) -> str:
    return (DOCKER / page / "README.md").read_text(encoding="utf-8")


def lines(page: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", text(page), re.DOTALL)
    return "".join(blocks).replace("\\\n", " ").splitlines()


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file(page):
    for link in re.findall(r"\]\((?!http|#)([^)#]+)", text(page)):
        assert (DOCKER / page / link).exists(), link


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_what_was_not_run(page):
    assert re.search(r"\*\*Not run:\*\*|\*\*Nothing on this page was run\.\*\*", text(page))


def test_the_two_commands_for_sagemaker_are_there():
    export, archive = lines("sagemaker")
    _, name, *arguments = shlex.split(export)
    command = exporter.get_command(click.Context(exporter), name)
    known = {option for parameter in command.params for option in parameter.opts}
    assert {argument for argument in arguments if argument.startswith("-")} <= known
    assert (ROOT / archive.split()[1]).exists()


def test_vertex_passes_flags_of_the_server_and_leaves_out_the_one_that_rest_cannot_bear():
    (upload,) = [line for line in lines("vertex") if line.startswith("gcloud")]
    (given,) = [word for word in shlex.split(upload) if word.startswith("--container-args=")]
    arguments = given.removeprefix("--container-args=^;^").split(";")
    flags = {argument.removeprefix("--").partition("=")[0] for argument in arguments}
    assert flags <= set(FLAGS)
    assert "enable_serialization_as_tensor_content" not in flags
    assert {"xla_cpu_compilation_enabled", "xla_gpu_compilation_enabled"} <= flags
    assert "--rest_api_port=$(AIP_HTTP_PORT)" in arguments
    assert "--container-predict-route=/v1/models/my-model:predict" in upload


def test_the_table_of_sizes_follows_from_the_bytes_of_a_value():
    rows = re.findall(
        r"^\| (\d+) × \d+ \| ([\d.]+) MB \| ([\d.]+) MB \| ([\d.]+) MB \|$", text("vertex"), re.MULTILINE
    )
    assert len(rows) == 6
    for side, *shown in rows:
        pixels = int(side) ** 2
        expected = [3 * PIXEL * pixels, ROW_FLOAT * pixels, 4 * ROW_FLOAT * pixels]
        for size, told in zip(expected, shown, strict=True):
            assert size / 1e6 == pytest.approx(float(told), rel=0.06), (side, told)
