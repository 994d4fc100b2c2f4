"""What exporter/README.md says of REST: its program, and its curl lines, asked of the local server."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image
from rounding import assert_equal_to_rounding
from server_process import ServerProcess
from test_readme import ROOT, commands, run

from saliency_client import SaliencyClient

PAGE = "exporter/README.md"
SECTION = (ROOT / PAGE).read_text(encoding="utf-8").split("### Over REST\n")[1].split("\n### ")[0]
MODEL = "classifier"


@pytest.fixture(scope="module")
def process(uncompiled_version: Path) -> Iterator[ServerProcess]:
    (line,) = [one for one in commands(PAGE) if "--rest-port" in one]
    assert line == "saliency-exporter serve my-model=models/my-model --rest-port 8501"
    process = ServerProcess(f"{MODEL}={uncompiled_version.parent}", "--rest-port", "0", "--no-warmup")
    yield process
    process.stop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, process: ServerProcess) -> Path:
    """Where the program of the page has run, with a photo; its size is that of the model here."""
    folder = tmp_path_factory.mktemp("rest")
    Image.fromarray(skimage.data.chelsea()).save(folder / "cat.jpg")
    (program,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    with SaliencyClient(process.target, model=MODEL) as client:
        height, width = client.signatures()["explain_smooth"].image_size
    assert "size = (224, 224)" in program
    (folder / "write.py").write_text(program.replace("(224, 224)", f"({width}, {height})"))
    run("python write.py", folder)
    return folder


@pytest.fixture
def curl(process: ServerProcess, folder: Path):
    if shutil.which("curl") is None:
        pytest.skip("needs curl")

    def curl(line: str) -> dict:
        here = line.replace("http://localhost:8501", process.rest_url).replace("my-model", MODEL)
        printed = run(f"{here} --silent --show-error --fail-with-body", folder)
        return json.loads(printed or (folder / "answer.json").read_text())

    return curl


def line_with(*parts: str) -> str:
    (line,) = [one for one in commands(PAGE) if one.startswith("curl") and all(part in one for part in parts)]
    return line


def test_every_curl_line_is_run_here():
    assert len([one for one in commands(PAGE) if one.startswith("curl")]) == 5


def test_the_status_and_the_signatures(curl):
    (status,) = curl("curl http://localhost:8501/v1/models/my-model")["model_version_status"]
    assert status["state"] == "AVAILABLE"
    signatures = curl(line_with("/metadata"))["metadata"]["signature_def"]["signature_def"]
    assert "explain_smooth" in signatures
    assert "defaults" in signatures["explain_smooth"]


def test_the_bounds_of_a_parameter_come_by_a_call_and_with_the_metadata(curl):
    assert '`{"predictions": [[1.0, 1000.0]]}`' in SECTION
    # This model has another --max-samples.
    assert curl(line_with("parameter_bounds")) == {"predictions": [[1.0, 200.0]]}
    signatures = curl(line_with("/metadata"))["metadata"]["signature_def"]["signature_def"]
    assert set(signatures["parameter_bounds"]["defaults"]) == {"parameter", "bounds"}


def test_the_request_in_rows_has_every_key_and_gives_the_map_of_grpc(curl, process, folder):
    (row,) = curl(line_with("rows.json"))["predictions"]
    request = json.loads((folder / "rows.json").read_text())["instances"][0]
    images = np.array([request.pop("images")], np.uint8)
    with SaliencyClient(process.target, model=MODEL) as client:
        expected = client.explain(images, method="smooth", **request)
        assert set(request) | {"images"} == set(client.signatures()["explain_smooth"].inputs)
    assert_equal_to_rounding(np.array([row["saliency"]], np.float32), expected.saliency)
    assert row["label"] == expected.label[0]


def test_the_request_in_columns_gives_the_map_of_grpc(curl, process, folder):
    outputs = curl(line_with("columns.json"))["outputs"]
    images = np.array(json.loads((folder / "columns.json").read_text())["inputs"]["images"], np.uint8)
    with SaliencyClient(process.target, model=MODEL) as client:
        expected = client.explain(images)
    assert_equal_to_rounding(np.array(outputs["saliency"], np.float32), expected.saliency)


def test_a_missing_key_is_refused_in_the_words_of_the_page(curl, folder):
    (said,) = re.findall(r"`(Missing named input: .*?)`", SECTION)
    columns = json.loads((folder / "columns.json").read_text())
    del columns["inputs"]["class_index"]
    (folder / "short.json").write_text(json.dumps(columns))
    with pytest.raises(AssertionError, match=r"error: 400|400"):
        curl(line_with("columns.json").replace("columns.json", "short.json"))
    assert json.loads((folder / "answer.json").read_text()) == {"error": said}
