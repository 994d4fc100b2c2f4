"""A method in a package of its own (tests/plugin), found by its entry point, from export to answer.

No line outside that package names it. The model is linear, so that its attributions are known: x · w.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import preloaded
import pytest
from server_process import ServerProcess

from saliency_client import InputError, SaliencyClient
from saliency_exporter.version.manifest import read_manifest
from saliency_exporter.version.warmup import read_warmup

TESTS = Path(__file__).parents[2]
PLUGIN = TESTS / "plugin"
METHOD = "gradient_times_input"
SHAPE, CLASSES = (4, 5, 3), 3
WEIGHTS = np.random.default_rng(5).normal(size=(60, CLASSES)).astype(np.float32)
IMAGES = np.random.default_rng(6).normal(size=(3, *SHAPE)).astype(np.float32)
MODEL = """
import numpy as np, tensorflow as tf

class Linear(tf.Module):
    def __init__(self):
        super().__init__()
        self.weights = tf.Variable(np.random.default_rng(5).normal(size=(60, 3)).astype(np.float32))

    @tf.function(input_signature=[tf.TensorSpec([None, 4, 5, 3], tf.float32)])
    def __call__(self, x):
        return tf.reshape(x, [-1, 60]) @ self.weights

build = Linear
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the package of the method, which `python -m` finds where it is run, with its entry points."""
    return Path(shutil.copytree(PLUGIN, tmp_path_factory.mktemp("plugin") / "installed"))


def exporter(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command where the package of the method is found."""
    return preloaded.run([sys.executable, "-m", "saliency_exporter", *arguments], cwd=folder)


@pytest.fixture(scope="module")
def version(folder: Path) -> Path:
    (folder / "linear.py").write_text(MODEL)
    arguments = ["linear:build", "models/linear", "--preprocessing", "none", "--batch-sizes", "1,2"]
    arguments += ["--target", "cpu", "--compile", "none", "--methods", f"gradients,{METHOD}"]
    done = exporter(folder, "export", *arguments)
    assert done.returncode == 0, done.stderr
    return folder / "models" / "linear" / "1"


@pytest.fixture(scope="module")
def target(version: Path) -> Iterator[str]:
    """A server in an environment in which the package is not installed."""
    server = ServerProcess(f"linear={version.parent}")
    try:
        yield server.target
    finally:
        server.stop()


@pytest.fixture(scope="module")
def client(target: str) -> Iterator[SaliencyClient]:
    with SaliencyClient(target, model="linear") as client:
        client.wait_ready(120)
        yield client


def test_it_is_verified_with_every_signature(version: Path) -> None:
    rows = read_manifest(version).verification.rows
    checked = [row.batch_size for row in rows if row.signature == f"explain_{METHOD}"]
    assert checked == [1, 2, 3]


def test_it_is_verified_again_where_its_package_is_not_installed(version: Path) -> None:
    done = preloaded.run([sys.executable, "-m", "saliency_exporter", "verify", str(version)])
    assert done.returncode == 0, done.stderr


def test_every_set_of_outputs_that_clients_ask_for_is_warmed_up(version: Path) -> None:
    asked = [r for r in read_warmup(version) if r.model_spec.signature_name == f"explain_{METHOD}"]
    sizes = [r.inputs["images"].tensor_shape.dim[0].size for r in asked if not r.output_filter]
    assert sorted(sizes) == [1, 2]
    small = ["class_index", "positive", "probability", "saliency", "score", "total"]
    assert sorted(list(r.output_filter) for r in asked if r.output_filter) == [small]
    assert all(set(r.inputs) == {"images", "class_index", "factor"} for r in asked)


def test_the_manifest_and_inspect_show_its_parameters(folder: Path, version: Path) -> None:
    entry = read_manifest(version).methods[METHOD]
    (factor,) = entry.parameters
    assert (factor.name, factor.default, factor.low, factor.high) == ("factor", 1.0, 0, 8)
    assert (entry.kind, entry.map, [(o.name, o.dtype) for o in entry.outputs]) == (
        "attribution",
        "attributions",
        [("total", "float32"), ("positive", "int32")],
    )
    shown = exporter(folder, "inspect", str(version)).stdout
    assert f"explain_{METHOD}, factor 1.0 (0 to 8)" in shown


def test_the_export_command_offers_it(folder: Path) -> None:
    assert METHOD in " ".join(exporter(folder, "export", "--help").stdout.split())


def test_the_client_explains_by_it_with_its_parameter_and_its_outputs(client: SaliencyClient) -> None:
    assert METHOD in client.methods()
    assert client.signatures()[f"explain_{METHOD}"].defaults["factor"] == 1.0
    classes, factors = np.array([0, 2, -1]), np.array([1.0, 2.0, 0.5], np.float32)
    explanation = client.explain(
        IMAGES, method=METHOD, class_index=classes, factor=factors, outputs="attributions"
    )
    scores = IMAGES.reshape(3, -1).astype(np.float64) @ WEIGHTS
    chosen = np.where(classes < 0, scores.argmax(1), classes)
    expected = factors[:, None, None, None] * IMAGES * WEIGHTS.T[chosen].reshape(-1, *SHAPE)
    np.testing.assert_array_equal(explanation.class_index, chosen)
    np.testing.assert_allclose(explanation.outputs["attributions"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(explanation.saliency, np.abs(expected.sum(-1)), rtol=1e-4, atol=1e-5)
    # Without a bias, the shares of a linear score add up to it.
    np.testing.assert_allclose(
        explanation.outputs["total"], factors * scores[range(3), chosen], rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(explanation.outputs["positive"], (expected > 0).sum(axis=(1, 2, 3)))
    assert explanation.outputs["positive"].dtype == np.int32
    np.testing.assert_allclose(explanation.score, scores[range(3), chosen], rtol=1e-5)


def test_by_default_what_is_as_large_as_the_images_stays_on_the_server(client: SaliencyClient) -> None:
    assert set(client.explain(IMAGES, method=METHOD).outputs) == {
        "class_index",
        "positive",
        "probability",
        "saliency",
        "score",
        "total",
    }


def test_a_value_outside_its_bounds_is_refused_by_name(client: SaliencyClient) -> None:
    with pytest.raises(Exception, match=r"factor is 9; it must be in \[0, 8\]"):
        client.explain(IMAGES, method=METHOD, factor=9)
    with pytest.raises(InputError, match="factor"):
        client.explain(IMAGES, method=METHOD, num_samples=9)


def test_the_clients_commands_know_it(client: SaliencyClient, target: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", IMAGES[0])
    where = ["--server", target, "--model", "linear"]

    def command(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "saliency_client", *arguments, *where],
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert f"explain_{METHOD}" in command("signatures")
    asked = ["explain", str(tmp_path / "x.npy"), "--method", METHOD, "--param", "factor=2"]
    record = json.loads(command(*asked, "--json", "-o", f"{tmp_path}/", "--format", "npz"))
    assert record["method"] == METHOD
    saved = np.load(record["file"])
    np.testing.assert_allclose(saved["total"], 2 * saved["score"], rtol=1e-4)
