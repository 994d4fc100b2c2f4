"""A SavedModel's own signatures, carried over into its export."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from server_process import ServerProcess

from saliency_client import SaliencyClient
from saliency_exporter.contract.settings import Settings
from saliency_exporter.methods.registry import find_methods
from saliency_exporter.runtime.servable import load_servable
from saliency_exporter.sources.load import load_source
from saliency_exporter.sources.preprocessing import builtin
from saliency_exporter.version.manifest import KeptSignature, Verification, read_manifest
from saliency_exporter.version.verify import verify
from saliency_exporter.version.warmup import read_warmup
from saliency_exporter.version.write import Export, export

KERNEL = np.random.default_rng(0).normal(size=(3 * 64 * 64, 64)).astype(np.float32)
IMAGES = np.random.default_rng(1).normal(size=(3, 64, 64, 3)).astype(np.float32)
NAMES = np.array([f"class {index}" for index in range(64)])


class Net(tf.Module):
    """A classifier of TensorFlow 2 with a signature of every kind, a table, and one large weight."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = tf.Variable(KERNEL)
        names = tf.lookup.KeyValueTensorInitializer(tf.range(64, dtype=tf.int64), tf.constant(NAMES))
        self.names = tf.lookup.StaticHashTable(names, "?")

    def logits(self, x: tf.Tensor) -> tf.Tensor:
        return tf.reshape(tf.nn.relu(x), [-1, 3 * 64 * 64]) @ self.kernel

    @tf.function(input_signature=[tf.TensorSpec([None, 64, 64, 3], name="photo")])
    def classify(self, photo):
        logits = self.logits(photo)
        return {"classes": self.names.lookup(tf.argmax(logits, 1)), "softmax": tf.nn.softmax(logits)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="encoded")])
    def decode(self, encoded):
        photos = tf.reshape(tf.io.decode_raw(encoded, tf.float32), [-1, 64, 64, 3])
        return {"softmax": tf.nn.softmax(self.logits(photos))}


@pytest.fixture(scope="module")
def version_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("kept")
    net = Net()
    tf.saved_model.save(
        net, str(directory / "net"), {"serving_default": net.classify, "from_bytes": net.decode}
    )
    settings = Settings(batch_sizes=(2,), compile="none", methods=find_methods(("gradients", "guided")))
    job = Export(load_source(str(directory / "net")), builtin("none"), settings, "net")
    return export(job, directory / "model", verify=_verified)


def _verified(directory: Path) -> Verification:
    report = verify(directory)
    assert report.problems == ()
    return report.to_manifest()


def softmax() -> np.ndarray:
    logits = np.maximum(IMAGES, 0).reshape(3, -1).astype(np.float64) @ KERNEL
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def test_they_answer_under_their_names_as_they_did(version_dir: Path) -> None:
    servable = load_servable(version_dir)
    assert set(servable.signature_defs) - {"__saved_model_init_op"} == {
        "serving_default",
        "from_bytes",
        "serving_images",
        "explain_gradients",
        "explain_guided",
        "parameter_bounds",
        "parameter_defaults",
    }
    default = servable.signature_defs["serving_default"]
    assert list(default.inputs) == ["photo"]
    assert [size.size for size in default.inputs["photo"].tensor_shape.dim] == [-1, 64, 64, 3]
    got = servable.predict("serving_default", {"photo": IMAGES})
    np.testing.assert_allclose(got["softmax"], softmax(), rtol=1e-3, atol=1e-6)
    assert [name.decode() for name in got["classes"]] == NAMES[softmax().argmax(1)].tolist()
    encoded = np.array([image.tobytes() for image in IMAGES], object)
    np.testing.assert_allclose(
        servable.predict("from_bytes", {"encoded": encoded})["softmax"], softmax(), rtol=1e-3, atol=1e-6
    )
    servable.close()


def test_the_explanations_are_of_the_same_model(version_dir: Path) -> None:
    servable = load_servable(version_dir)
    got = servable.predict("explain_gradients", {"images": IMAGES, "class_index": np.array([5, 6, 7], "i4")})
    want = KERNEL[:, [5, 6, 7]].T.reshape(IMAGES.shape) * (IMAGES > 0)
    np.testing.assert_allclose(got["gradients"], want, rtol=1e-5)
    predicted = servable.predict("serving_images", {"images": IMAGES})
    np.testing.assert_allclose(predicted["probabilities"], softmax(), rtol=1e-3, atol=1e-6)
    servable.close()


def test_weights_are_stored_once_and_are_no_constants(version_dir: Path) -> None:
    stored = sum(file.stat().st_size for file in (version_dir / "variables").iterdir())
    assert KERNEL.nbytes < stored < 1.1 * KERNEL.nbytes
    assert (version_dir / "saved_model.pb").stat().st_size < 0.2 * KERNEL.nbytes


def test_the_manifest_tells_of_them_and_those_without_strings_are_warmed_up(version_dir: Path) -> None:
    kept = read_manifest(version_dir).kept_signatures
    assert kept["serving_default"] == KeptSignature(
        inputs={"photo": {"dtype": "float32", "shape": [None, 64, 64, 3]}},
        outputs={
            "classes": {"dtype": "string", "shape": [None]},
            "softmax": {"dtype": "float32", "shape": [None, 64]},
        },
    )
    assert list(kept) == ["from_bytes", "serving_default"] or list(kept) == ["serving_default", "from_bytes"]
    warmed = {request.model_spec.signature_name for request in read_warmup(version_dir)}
    assert "serving_default" in warmed
    assert "from_bytes" not in warmed


def test_a_client_predicts_from_the_images_that_it_explains_and_by_the_models_own_names(version_dir) -> None:
    server = ServerProcess(f"net={version_dir.parent}")
    try:
        with SaliencyClient(server.target, model="net") as client:
            client.wait_ready(120)
            predicted = client.predict(IMAGES)
            own = client.predict({"photo": IMAGES}, signature="serving_default")
            explained = client.explain(IMAGES)
    finally:
        server.stop()
    np.testing.assert_allclose(predicted["probabilities"], softmax(), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(own["softmax"], softmax(), rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(explained.class_index, softmax().argmax(1))


def test_verification_notices_another_value_and_another_description(version_dir: Path, tmp_path) -> None:
    from saliency_exporter.version import kept
    from saliency_exporter.version.reference import reference_path

    servable = load_servable(version_dir)
    described = read_manifest(version_dir).kept_signatures
    with np.load(reference_path(version_dir)) as file:
        arrays = dict(file)
    assert list(kept.kept_problems(servable, described, arrays)) == []
    name = "kept/serving_default/output/softmax"
    (problem,) = kept.kept_problems(servable, described, {**arrays, name: arrays[name][:, ::-1]})
    assert problem == "output softmax of serving_default is not what the model gave"
    name = "kept/serving_default/output/classes"
    (problem,) = kept.kept_problems(servable, described, {**arrays, name: arrays[name][::-1]})
    assert problem == "output classes of serving_default is not what the model gave"
    (problem,) = kept.kept_problems(servable, {"gone": described["serving_default"]}, arrays)
    assert problem == "signature gone of the model is missing"
    other = {"serving_default": replace(described["serving_default"], inputs={})}
    (problem,) = kept.kept_problems(servable, other, arrays)
    assert problem.startswith("the inputs of serving_default are")
    servable.close()
