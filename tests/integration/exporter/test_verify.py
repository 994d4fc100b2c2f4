from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from exports import THREE
from tensorflow.core.protobuf import saved_model_pb2

from saliency_exporter.contract.settings import Settings
from saliency_exporter.errors import ExportError
from saliency_exporter.methods.registry import find_methods
from saliency_exporter.runtime.servable import Servable, load_servable
from saliency_exporter.sources.preprocessing import builtin
from saliency_exporter.sources.source import Source
from saliency_exporter.version.manifest import manifest_path, read_manifest
from saliency_exporter.version.reference import reference_path
from saliency_exporter.version.verify import verify
from saliency_exporter.version.warmup import read_warmup, write_warmup
from saliency_exporter.version.write import Export, export

SIGNATURES = ("serving_default", "explain_gradients", "explain_guided", "explain_smooth")
LABELS = ("ant", "bee", "cat", "dog", "eel")


def exported(folder: Path, **settings) -> Path:
    """A version directory of a tiny model with pictures as input."""
    kernel = tf.Variable(np.random.default_rng(0).normal(size=(48, 5)).astype(np.float32))

    def scores(x: tf.Tensor) -> tf.Tensor:
        return tf.reshape(tf.nn.relu(x), [-1, 48]) @ kernel

    source = Source("tiny", "test", scores, (4, 4, 3), (kernel,))
    settings["methods"] = find_methods(settings.get("methods", THREE))
    job = Export(source, builtin("tf"), Settings(compile="none", labels=LABELS, **settings), "tiny")
    return export(job, folder / "tiny")


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With all signatures and two batch sizes."""
    return exported(tmp_path_factory.mktemp("verify"), batch_sizes=(1, 2))


@pytest.fixture(scope="module")
def small_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With one method and one batch size, which is verified in a fraction of the time."""
    return exported(tmp_path_factory.mktemp("small"), batch_sizes=(2,), methods=("gradients",))


@pytest.fixture
def copy(version: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(version, tmp_path / "1"))


@pytest.fixture(scope="module")
def servable(version: Path) -> Iterator[Servable]:
    loaded = load_servable(version)
    yield loaded
    loaded.close()


@pytest.fixture
def loaded_once(servable: Servable, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model of `version`, and of a `copy`, is loaded and prepared once."""
    monkeypatch.setattr(servable, "close", lambda: None)
    monkeypatch.setattr("saliency_exporter.version.verify.load_servable", lambda _: servable)


@pytest.fixture
def small_copy(small_version: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_version, tmp_path / "1"))


@pytest.fixture(scope="module")
def small_servable(small_version: Path) -> Iterator[Servable]:
    servable = load_servable(small_version)
    yield servable
    servable.close()


@pytest.fixture
def stays_loaded(small_servable: Servable, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model of `small_copy` is loaded and prepared once: what is changed is what it is held to."""
    monkeypatch.setattr(small_servable, "close", lambda: None)
    monkeypatch.setattr("saliency_exporter.version.verify.load_servable", lambda _: small_servable)


def change(version: Path, name: str, function) -> None:
    with np.load(reference_path(version)) as arrays:
        reference = dict(arrays)
    reference[name] = function(reference[name])
    np.savez_compressed(reference_path(version), **reference)


@pytest.mark.usefixtures("loaded_once")
def test_a_good_export_passes_with_a_row_for_every_signature_and_batch_size(version):
    rows = []
    report = verify(version, progress=rows.append)
    assert report.problems == ()
    assert [(row.signature, row.batch_size) for row in report.rows] == [
        (signature, size) for signature in SIGNATURES for size in (1, 2, 3)
    ]
    assert rows == list(report.rows)
    assert report.warmup_records == 12


def test_a_compiled_export_passes_within_rounding(exported_version):
    # The command verified it before it had its number, and wrote down what it found.
    found = read_manifest(exported_version).verification
    assert found.passed is True
    assert [(row.signature, row.batch_size) for row in found.rows] == [
        (signature, size) for signature in SIGNATURES for size in (1, 4, 5)
    ]
    assert found.warmup_records == 12
    # Two ways to compute the same float32 numbers: rounding, and nothing else.
    assert all(row.score_error < 1e-5 for row in found.rows)


@pytest.mark.usefixtures("loaded_once")
def test_maps_that_differ_by_5_percent_and_logits_that_differ_are_found(copy):
    explain = SIGNATURES[1:]
    for signature in explain:
        change(copy, f"{signature}/gradients", lambda value: value * 1.05)
    change(copy, "serving_default/logits", lambda value: value + 0.01 * np.abs(value).max())
    expected = [
        f"{signature} at batch size {size}: {'maps' if signature in explain else 'scores'} differ"
        for signature in SIGNATURES
        for size in (1, 2, 3)
    ]
    problems = verify(copy).problems
    assert len(problems) == len(expected)
    assert all(map(str.startswith, problems, expected)), problems


def only_first(value: np.ndarray, factor: float) -> np.ndarray:
    return np.concatenate([factor * value[:1], value[1:]])


@pytest.mark.usefixtures("stays_loaded")
def test_one_map_may_have_a_unit_at_a_kink_and_no_more(small_copy):
    change(small_copy, "explain_gradients/gradients", lambda value: only_first(value, 1.1))
    report = verify(small_copy)
    assert report.problems == ()
    assert max(row.gradient_error for row in report.rows) == pytest.approx(0.1 / 1.1, rel=1e-3)
    change(small_copy, "explain_gradients/gradients", lambda value: only_first(value, 1.5 / 1.1))
    problems = verify(small_copy).problems
    assert all("a map differs from the reference by 0.33 (bound 0.25)" in problem for problem in problems)
    assert problems


@pytest.mark.usefixtures("stays_loaded")
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "wrong", [lambda value: value[::-1], lambda value: np.maximum(value, 0), lambda value: -value]
)
def test_wrong_maps_are_found_whatever_rounding_a_deep_model_has(small_copy, dtype, wrong):
    path = manifest_path(small_copy)
    manifest = json.loads(path.read_text())
    manifest["rounding"] = {"dtype": dtype, "depth": 100, "kinks": 50}
    path.write_text(json.dumps(manifest))
    change(small_copy, "explain_gradients/gradients", wrong)
    problems = verify(small_copy).problems
    assert all("from the reference by" in problem for problem in problems)
    assert problems


def test_class_names_that_are_not_the_manifests_are_found(small_copy):
    path = small_copy / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    told = model.meta_graphs[0].signature_def["class_labels"].defaults["labels"]
    told.CopyFrom(tf.make_tensor_proto(tf.make_ndarray(told)[::-1]))
    path.write_bytes(model.SerializeToString())
    assert verify(small_copy).problems == (
        "signature class_labels does not tell the class names of the manifest",
    )


@pytest.mark.usefixtures("loaded_once")
def test_an_answer_to_a_warmup_record_that_differs_is_found(copy, monkeypatch):
    """What runs with an output filter goes wrong alone: the rows of the table ask for all outputs."""
    predict = Servable.predict

    def predict_wrongly(servable, signature, inputs, output_filter=()):
        outputs = predict(servable, signature, inputs, output_filter)
        return {**outputs, "saliency": outputs["saliency"] * 1.05} if output_filter else outputs

    monkeypatch.setattr(Servable, "predict", predict_wrongly)
    report = verify(copy)
    assert not any(row.problem for row in report.rows)
    filtered = [request for request in read_warmup(copy) if request.output_filter]
    light = [problem for problem in report.problems if "maps differ from the reference by 0.05" in problem]
    full = [problem for problem in report.problems if "not the maximum over channels" in problem]
    assert len(light) + len(full) == len(report.problems) == len(filtered) == 4


@pytest.mark.usefixtures("stays_loaded")
@pytest.mark.parametrize(
    ("fault", "is_found"),
    [
        (lambda outputs: np.nextafter(outputs["saliency"], np.float32(np.inf)), False),
        (lambda outputs: np.abs(outputs["gradients"]).sum(-1), True),
        (lambda outputs: np.abs(outputs["gradients"].max(-1)), True),
        (lambda outputs: outputs["saliency"][::-1], True),
    ],
    ids=["last bits", "sum", "sign", "another row"],
)
def test_a_saliency_that_is_not_that_of_its_gradients_is_found_and_rounding_is_none(
    small_copy, monkeypatch, fault, is_found
):
    predict = Servable.predict

    def predict_saliency(servable, signature, inputs, output_filter=()):
        outputs = predict(servable, signature, inputs, output_filter)
        return {**outputs, "saliency": fault(outputs)} if "gradients" in outputs else outputs

    monkeypatch.setattr(Servable, "predict", predict_saliency)
    problems = verify(small_copy).problems
    assert any("not the maximum over channels" in problem for problem in problems) == is_found
    assert bool(problems) == is_found


@pytest.mark.usefixtures("stays_loaded")
def test_a_warmup_record_of_other_examples_is_found(small_copy):
    (request, *_) = (r for r in read_warmup(small_copy) if r.model_spec.signature_name == "serving_default")
    inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
    inputs["images"] = 255 - inputs["images"]
    write_warmup(small_copy, [("serving_default", inputs)], "tiny")
    assert verify(small_copy).problems == (
        "warmup record 1 (serving_default): it asks for other examples than the reference has",
    )


@pytest.mark.usefixtures("stays_loaded")
def test_another_class_is_found(small_copy):
    change(small_copy, "explain_gradients/class_index", lambda value: (value + 1) % 5)
    assert any("class_index is" in problem for problem in verify(small_copy).problems)


@pytest.mark.usefixtures("stays_loaded")
def test_a_label_that_is_wrong_is_found(small_copy, monkeypatch):
    predict = Servable.predict

    def predict_wrongly(servable, signature, inputs, output_filter=()):
        outputs = predict(servable, signature, inputs, output_filter)
        if "label" in outputs:
            return {**outputs, "label": np.full_like(outputs["label"], b"fox")}
        return outputs

    monkeypatch.setattr(Servable, "predict", predict_wrongly)
    problems = verify(small_copy).problems
    assert problems
    assert all(
        problem.startswith("explain_gradients") and "label is ['fox'" in problem for problem in problems
    )


def test_weights_that_differ_are_found(small_copy):
    data = next((small_copy / "variables").glob("variables.data*"))
    content = bytearray(data.read_bytes())
    content[200:400] = bytes(200)
    data.write_bytes(content)
    try:
        report = verify(small_copy)
    except ExportError:
        return
    assert report.problems


def test_a_directory_that_is_no_export_is_named(tmp_path, version):
    with pytest.raises(ExportError, match="is not an exported version"):
        verify(tmp_path)
    with pytest.raises(ExportError) as error:
        verify(version.parent)
    assert "name a version in it" in error.value.hint


def test_a_damaged_manifest_is_named(small_copy):
    manifest_path(small_copy).write_text("{")
    with pytest.raises(ExportError, match=r"saliency\.json cannot be read"):
        verify(small_copy)
