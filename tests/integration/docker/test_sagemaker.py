"""SageMaker: the archive, unpacked as the container does, and its handler, called as the container calls it.

The container's side is tfs_utils.py and python_service.py of aws/deep-learning-containers at e0ecedea:
the fields of Context, how `inference.py` is imported, that a falcon.HTTPError becomes the answer's status.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import subprocess
import sys
import tarfile
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from saliency_client import SaliencyClient
from saliency_exporter.cli import main as exporter
from saliency_exporter.runtime.quiet import import_tensorflow

falcon = pytest.importorskip("falcon")
import_tensorflow()

from saliency_exporter.serving.server import LocalServer  # noqa: E402

FOLDER = Path(__file__).parents[3] / "docker" / "sagemaker"
Context = namedtuple(
    "Context",
    "model_name, model_version, method, rest_uri, grpc_port, channel, "
    "custom_attributes, request_content_type, accept_header, content_length, timeout",
)


def imported(path: Path):
    """A file as the container imports inference.py."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_archive = imported(FOLDER / "make_archive.py")


@pytest.fixture(scope="module")
def unpacked(uncompiled_version: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the container has as /opt/ml/model."""
    folder = tmp_path_factory.mktemp("sagemaker")
    assert make_archive.main([str(uncompiled_version), "--out", str(folder / "model.tar.gz")]) == 0
    with tarfile.open(folder / "model.tar.gz") as archive:
        archive.extractall(folder / "model", filter="data")
    return folder / "model"


@pytest.fixture(scope="module")
def server(unpacked: Path) -> Iterator[LocalServer]:
    with LocalServer({"classifier": unpacked / "classifier"}, warmup=False, poll_seconds=0) as server:
        yield server


@pytest.fixture(scope="module")
def handler(unpacked: Path) -> Callable:
    return imported(unpacked / "code" / "inference.py").handler


@pytest.fixture
def ask(server: LocalServer, handler: Callable) -> Callable[..., tuple[bytes, str]]:
    def ask(body: bytes, kind: str, accept: str = "application/json", attributes: str | None = None, **more):
        context = Context(
            model_name=None,
            model_version=None,
            method=None,
            rest_uri="http://localhost:8501/v1/models/classifier:predict",
            grpc_port=str(server.port),
            channel=None,
            custom_attributes=attributes,
            request_content_type=kind,
            accept_header=accept,
            content_length=len(body),
            timeout=60,
        )
        return handler(io.BytesIO(body), context._replace(**more))

    return ask


@pytest.fixture(scope="module")
def client(server: LocalServer) -> Iterator[SaliencyClient]:
    with SaliencyClient(server.target, model="classifier") as client:
        yield client


@pytest.fixture(scope="module")
def images(client: SaliencyClient) -> np.ndarray:
    height, width = client.signatures()["explain_gradients"].image_size
    return np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)


def file_of(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def picture(array: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


def test_the_archive_is_what_the_container_looks_for(unpacked):
    found = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    # find_models: saved_model.pb in a folder whose name is a number, in the model's folder.
    assert "classifier/1/saved_model.pb" in found
    assert "code/inference.py" in found
    assert (unpacked / "code" / "requirements.txt").read_text().startswith("pillow")
    # With a folder lib, it would leave requirements.txt alone.
    assert not (unpacked / "code" / "lib").exists()


def test_the_same_version_makes_the_same_bytes(uncompiled_version, tmp_path):
    for name in ("one", "two"):
        assert make_archive.main([str(uncompiled_version), "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_handler_runs_on_what_the_archive_has_alone(unpacked, server, images):
    """In a process whose client is the archive's, as in the container."""
    code = (
        "import collections, importlib.util, io, sys\n"
        f"path = {str(unpacked / 'code/inference.py')!r}\n"
        "spec = importlib.util.spec_from_file_location('inference', path)\n"
        "inference = importlib.util.module_from_spec(spec); spec.loader.exec_module(inference)\n"
        f"Context = collections.namedtuple('Context', {' '.join(Context._fields)!r})\n"
        "context = Context(None, None, None, 'http://localhost:8501/v1/models/classifier:predict', "
        f"'{server.port}', None, None, 'application/x-npy', 'application/json', 0, 60)\n"
        "body, kind = inference.handler(io.BytesIO(sys.stdin.buffer.read()), context)\n"
        "import saliency_client; print(saliency_client.__file__, file=sys.stderr)\n"
        "assert 'tensorflow' not in sys.modules and 'click' not in sys.modules\n"
        "sys.stdout.buffer.write(body)\n"
    )
    falcons = str(Path(falcon.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=file_of(images),
        capture_output=True,
        env={"PYTHONPATH": f"{unpacked / 'code'}:{falcons}"},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr.decode().startswith(str(unpacked / "code"))
    assert len(json.loads(done.stdout)["saliency"]) == 2


def test_json_answers_have_every_bit_of_the_map(ask, client, images):
    body, kind = ask(
        json.dumps({"images": images.tolist(), "class_index": [0, -1]}).encode(), "application/json"
    )
    expected = client.explain(images, class_index=[0, -1])
    answer = json.loads(body)
    assert kind == "application/json"
    assert set(answer) == set(expected.outputs)
    np.testing.assert_array_equal(np.array(answer["saliency"], np.float32), expected.saliency)
    assert answer["label"] == expected.label.tolist()


def test_npz_answers_are_arrays_that_load_without_pickles(ask, client, images):
    body, kind = ask(
        file_of(images[0]),
        "application/x-npy",
        "application/x-npz",
        "method=smooth,num_samples=3,noise_level=0.1,seed=7,outputs=gradients+variance,tfs-model-name=classifier",
    )
    expected = client.explain(
        images[0], method="smooth", num_samples=3, noise_level=0.1, seed=7, outputs=["gradients", "variance"]
    )
    assert kind == "application/x-npz"
    with np.load(io.BytesIO(body), allow_pickle=False) as answer:
        for name in ("saliency", "gradients", "variance", "score"):
            np.testing.assert_array_equal(answer[name], expected[name])
        assert answer["label"].tolist() == expected.label.tolist()


@pytest.mark.parametrize(("kind", "type_"), [("PNG", "image/png"), ("JPEG", "application/x-image")])
def test_a_picture_is_read_and_fitted(ask, client, images, kind, type_):
    from saliency_client.images import load_image

    content = picture(np.kron(images[0], np.ones((3, 2, 1), np.uint8)), kind)
    size = client.signatures()["explain_gradients"].image_size
    expected = client.explain(load_image(content, size).array)
    answers = [
        ask(content, type_)[0],
        ask(json.dumps({"b64": base64.b64encode(content).decode()}).encode(), "application/json")[0],
    ]
    for body in answers:
        np.testing.assert_array_equal(np.array(json.loads(body)["saliency"], np.float32), expected.saliency)


def test_what_is_no_number_in_an_answer_is_null(ask, images):
    body, _ = ask(file_of(images[0]), "application/x-npy", attributes="method=smooth,num_samples=1")
    assert json.loads(body, parse_constant=pytest.fail)["relative_error"] == [None]


@pytest.mark.parametrize(
    ("body", "kind", "options", "status", "text"),
    [
        (b"{", "application/json", {}, 400, "the request is not JSON"),
        (b"[]", "application/json", {}, 400, "the request is not an object"),
        (b"{}", "application/json", {}, 400, 'neither "images"'),
        (b'{"images": [[1], [1, 2]]}', "application/json", {}, 400, "ragged"),
        (b'{"images": [[300]]}', "application/json", {}, 400, "whole numbers from 0 to 255"),
        (b'{"images": [["a"]]}', "application/json", {}, 400, "not a number"),
        (b'{"images": [[1]]}', "application/json", {}, 400, "images"),
        (b'{"b64": "?"}', "application/json", {}, 400, "not base64"),
        (b'{"b64": 3}', "application/json", {}, 400, "not base64"),
        (b"no picture", "image/png", {}, 400, "the picture cannot be read"),
        (b"no array", "application/x-npy", {}, 400, "not a .npy file"),
        (b"x", "text/csv", {}, 415, "the request is text/csv"),
        (b"{}", "application/json", {"accept": "text/html"}, 406, "the answer can be"),
        (b"{}", "application/json", {"attributes": "method"}, 400, "not NAME=VALUE"),
        (b"{}", "application/json", {"attributes": "num_samples=many"}, 400, "no number"),
        (
            b'{"method": "magic"}',
            "application/json",
            {},
            400,
            "the model has no method 'magic'; it has gradients",
        ),
        (b"{}", "application/json", {"model_name": "nobody"}, 404, "nobody"),
        (b"{}", "application/json", {"model_version": "7"}, 404, "7"),
        (b"{}", "application/json", {"grpc_port": "1", "timeout": 0.3}, 503, "localhost:1"),
    ],
)
def test_what_is_wrong_is_said_with_its_status(ask, body, kind, options, status, text):
    with pytest.raises(falcon.HTTPError) as raised:
        ask(body, kind, **options)
    assert str(raised.value.status).startswith(str(status))
    assert text in raised.value.description


def test_what_the_server_refuses_is_said_in_its_words(ask, images):
    for attributes, text in (
        ("class_index=99", "class_index is 99"),
        ("method=smooth,num_samples=0", "num_samples"),
    ):
        with pytest.raises(falcon.HTTPError) as raised:
            ask(file_of(images[0]), "application/x-npy", attributes=attributes)
        assert str(raised.value.status).startswith("400")
        assert text in raised.value.description
    with pytest.raises(falcon.HTTPError, match=r".*") as raised:
        ask(file_of(images[0]), "application/x-npy", attributes="sigma=1")
    assert "sigma" in raised.value.description


def test_a_compiled_version_makes_no_archive(exported_version, tmp_path, capsys):
    out = tmp_path / "model.tar.gz"
    assert make_archive.main([str(exported_version), "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert "is compiled (--compile xla)" in said
    assert "--for sagemaker" in said
    assert not out.exists()


def test_names_that_the_container_does_not_take(uncompiled_version, tmp_path, capsys):
    out = tmp_path / "model.tar.gz"
    assert make_archive.main([str(uncompiled_version), "--name", "a/b", "--out", str(out)]) == 1
    assert "'a/b'" in capsys.readouterr().err
    assert make_archive.main([str(uncompiled_version.parent), "--out", str(out)]) == 1
    assert "its name is no number" in capsys.readouterr().err
    assert make_archive.main([str(uncompiled_version), "--out", str(tmp_path / "none" / "x")]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_for_sagemaker_chooses_no_compilation():
    command = exporter.get_command(click.Context(exporter), "export")
    with command.make_context("export", ["models:classifier", "m", "--for", "sagemaker"]) as context:
        assert (
            importlib.import_module("saliency_exporter.cli.export")._compile_for(
                context.params["place"], context.params["compile_"]
            )
            == "none"
        )


def test_for_sagemaker_is_without_xla(tmp_path):
    options = ["--for", "sagemaker", "--compile", "xla"]
    done = CliRunner().invoke(exporter, ["export", "models:classifier", str(tmp_path / "m"), *options])
    assert done.exit_code == 2
    assert "--for sagemaker needs --compile none, and --compile xla was given" in done.output
