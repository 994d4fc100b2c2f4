"""The signatures that tell names and defaults where a server does not, called as batching servers do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from saliency_exporter.contract.tables import class_labels, parameter_bounds, parameter_defaults
from saliency_exporter.errors import ExportError
from saliency_exporter.runtime.servable import Servable, ServableError, load_servable
from saliency_exporter.sources import saved_model
from saliency_exporter.version.verify import verify

NAMES = [b"ant", b"bee", b"cat", b"dog", b"eel"]
DEFAULTS = {
    "explain_gradients/class_index": np.int32(-1),
    "explain_guided/class_index": np.int32(-1),
    "explain_smooth/class_index": np.int32(-1),
    "explain_smooth/num_samples": np.int32(50),
    "explain_smooth/noise_level": np.float32(0.15),
    "explain_smooth/seed": np.int32(0),
    "explain_smooth/first_sample": np.int32(0),
    "explain_smooth/target_error": np.float32(0),
}
INT32, FLOAT32 = np.iinfo(np.int32), np.finfo(np.float32)
BOUNDS = {
    "explain_gradients/class_index": [-1, 4],
    "explain_guided/class_index": [-1, 4],
    "explain_smooth/class_index": [-1, 4],
    "explain_smooth/num_samples": [1, 200],  # the export's --max-samples
    "explain_smooth/noise_level": [0, 1],
    "explain_smooth/seed": [INT32.min, INT32.max],
    "explain_smooth/first_sample": [0, 2**30],
    "explain_smooth/target_error": [0, float(FLOAT32.max)],
}


@pytest.fixture(scope="module")
def servable(uncompiled_version: Path) -> Iterator[Servable]:
    """The exported classifier as TensorFlow Serving loads it."""
    loaded = load_servable(uncompiled_version)
    yield loaded
    loaded.close()


def labels_request(classes: list[int]) -> dict[str, np.ndarray]:
    return {
        "labels": np.full(len(classes), b"whatever", object),
        "class_index": np.array(classes, np.int32),
    }


@pytest.mark.parametrize("classes", [[3], [4, 0, 0], list(range(5)) * 3])
def test_a_row_of_names_depends_on_its_own_row_alone(servable, classes):
    """So a server may merge requests, pad them with copies of a row, and split the answer."""
    answer = servable.predict("class_labels", labels_request(classes))
    assert answer["labels"].tolist() == [NAMES[index] for index in classes]


@pytest.mark.parametrize("classes", [[0, 5], [-1]])
def test_a_class_that_is_not_there_has_no_name(servable, classes):
    with pytest.raises(
        ServableError, match=rf"class_index is {classes[-1]}; it must be in \[0, 4\]"
    ) as caught:
        servable.predict("class_labels", labels_request(classes))
    assert caught.value.code == tf.errors.INVALID_ARGUMENT


@pytest.mark.parametrize("rows", [1, 4])
def test_the_table_has_a_row_of_each_default_for_each_row_asked_for(servable, rows):
    table = servable.predict("parameter_defaults", {"rows": np.arange(rows, dtype=np.int32)})
    assert {name: (value.dtype, value.tolist()) for name, value in table.items()} == {
        name: (value.dtype, [value.item()] * rows) for name, value in DEFAULTS.items()
    }


def test_both_answer_by_their_own_defaults(servable):
    assert servable.predict("class_labels", {})["labels"].tolist() == NAMES
    table = servable.predict("parameter_defaults", {})
    assert {name: value.tolist() for name, value in table.items()} == {
        name: [value.item()] for name, value in DEFAULTS.items()
    }


def bounds_request(names: list[str]) -> dict[str, np.ndarray]:
    return {"parameter": np.array(names, object), "bounds": np.full((len(names), 2), 7.5)}


@pytest.mark.parametrize("names", [["explain_smooth/num_samples"], list(BOUNDS)[::-1] * 2])
def test_a_row_of_bounds_depends_on_its_own_row_alone(servable, names):
    told = servable.predict("parameter_bounds", bounds_request(names))["bounds"]
    assert told.dtype == np.float64
    assert told.tolist() == [BOUNDS[name] for name in names]


def test_the_metadata_hold_the_bounds_of_all_parameters(servable):
    defaults = servable.signature_defs["parameter_bounds"].defaults
    names = [name.decode() for name in tf.make_ndarray(defaults["parameter"])]
    assert dict(zip(names, tf.make_ndarray(defaults["bounds"]).tolist(), strict=True)) == BOUNDS
    assert set(BOUNDS) == set(DEFAULTS)
    told = servable.predict("parameter_bounds", {})["bounds"]
    assert told.tolist() == [BOUNDS[name] for name in names]


@pytest.mark.parametrize("wrong", ["explain_smooth/masks", "num_samples", ""])
def test_a_parameter_that_is_not_there_has_no_bounds(servable, wrong):
    with pytest.raises(ServableError, match=f"parameter is {wrong}; it must be a signature and") as caught:
        servable.predict("parameter_bounds", bounds_request(["explain_smooth/seed", wrong]))
    assert caught.value.code == tf.errors.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "name", ["num_samples", "noise_level", "first_sample", "target_error", "class_index"]
)
def test_the_bounds_that_are_told_are_those_that_the_signature_holds_to(servable, name):
    """What lies at a bound is taken, and what lies a little beyond it refused."""
    signature = servable.signature_defs["explain_smooth"]
    shape = [1, *(dim.size for dim in signature.inputs["images"].tensor_shape.dim[1:])]
    dtype = tf.as_dtype(signature.inputs["images"].dtype).as_numpy_dtype
    usual = {"images": np.ones(shape, dtype), "num_samples": np.array([1], np.int32)}

    def explain(value: float) -> None:
        asked = tf.as_dtype(signature.inputs[name].dtype).as_numpy_dtype(value)
        servable.predict("explain_smooth", {**usual, name: np.array([asked])}, ("score",))

    def is_refused(value: float) -> None:
        with pytest.raises(ServableError, match=f"{name} is "):
            explain(value)

    least, greatest = BOUNDS[f"explain_smooth/{name}"]
    whole = signature.inputs[name].dtype == tf.int32.as_datatype_enum

    def beyond(value: float, sign: int) -> float:
        return value + sign if whole else value + 1e-6 * sign  # less is 0 to a processor

    explain(least)
    is_refused(beyond(least, -1))
    if greatest < INT32.max:
        explain(greatest)
        is_refused(beyond(greatest, 1))


def test_no_output_and_no_input_is_a_scalar(servable):
    """TensorFlow Serving's batching refuses scalars."""
    for name in ("class_labels", "parameter_defaults", "parameter_bounds"):
        signature = servable.signature_defs[name]
        for part, info in (*signature.inputs.items(), *signature.outputs.items()):
            row = [2] if part == "bounds" else []
            assert [dim.size for dim in info.tensor_shape.dim] == [-1, *row], name


def test_the_table_holds_whatever_parameters_signatures_have():
    images = tf.TensorSpec((None, 2), tf.float32, name="images")
    kind = tf.TensorSpec(None, tf.string, name="kind")
    grid = tf.TensorSpec(None, tf.int64, name="grid")
    usual, seven = tf.constant("usual"), tf.constant(7, tf.int64)

    @tf.function(input_signature=[images, kind, grid])
    def explain_other(images, kind=usual, grid=seven):
        return {"saliency": images}

    @tf.function(input_signature=[images])
    def predict(images):
        return {"logits": images}

    table = parameter_defaults({"explain_other": explain_other, "predict": predict})(tf.zeros(2, tf.int32))
    assert {name: (value.dtype, value.numpy().tolist()) for name, value in table.items()} == {
        "explain_other/kind": (tf.string, [b"usual"] * 2),
        "explain_other/grid": (tf.int64, [7, 7]),
    }


def test_many_names_are_told_for_any_of_them():
    names = [f"class {index}" for index in range(21_843)]
    ask = class_labels(names)
    some = np.array([21_842, 0, 77], np.int32)
    assert ask(tf.fill([3], ""), some)["labels"].numpy().tolist() == [names[index].encode() for index in some]


@pytest.fixture
def copy(uncompiled_version: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(uncompiled_version, tmp_path / "1"))


def change_default(version: Path, signature: str, name: str, value: np.ndarray) -> None:
    path = version / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    model.meta_graphs[0].signature_def[signature].defaults[name].CopyFrom(tf.make_tensor_proto(value))
    path.write_bytes(model.SerializeToString())


def answering(monkeypatch: pytest.MonkeyPatch, signature: str, change) -> None:
    """A signature answers something else than the export made it for."""
    predict = Servable.predict

    def changed(servable, name, inputs, *rest):
        outputs = predict(servable, name, inputs, *rest)
        return change(outputs) if name == signature else outputs

    monkeypatch.setattr(Servable, "predict", changed)


def test_a_table_that_tells_other_defaults_than_the_signatures_is_found(copy):
    change_default(copy, "explain_smooth", "seed", np.int32(1))
    told = "parameter_defaults tells int32 [0, 0, 0] for explain_smooth/seed, not [1, 1, 1]"
    assert told in verify(copy).problems


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: {**table, "explain_smooth/seed": np.array([0, 0, 1], np.int32)}, "tells"),
        (lambda table: {**table, "explain_smooth/seed": np.zeros(3, np.int64)}, "tells"),
        (lambda table: {**table, "explain_smooth/seed": np.zeros(1, np.int32)}, "tells"),
        (lambda table: {name: table[name] for name in list(table)[1:]}, "has the outputs"),
    ],
)
def test_a_table_with_another_row_dtype_number_or_name_is_found(copy, monkeypatch, change, words):
    answering(monkeypatch, "parameter_defaults", change)
    (problem,) = verify(copy).problems
    assert problem.startswith(f"parameter_defaults {words}")


def test_bounds_that_a_call_tells_wrongly_are_found(copy, monkeypatch):
    answering(monkeypatch, "parameter_bounds", lambda outputs: {"bounds": outputs["bounds"] + [[0, 0.5]]})
    told = "parameter_bounds tells [1.0, 200.5] for explain_smooth/num_samples, not [1.0, 200.0]"
    problems = verify(copy).problems
    assert told in problems
    assert len(problems) == len(BOUNDS) - 1  # beside the greatest float32 0.5 is nothing


def test_bounds_that_the_metadata_tell_wrongly_are_found(copy):
    change_default(copy, "parameter_bounds", "bounds", np.zeros((len(BOUNDS), 2)))
    told = "parameter_bounds tells other parameters or bounds by its defaults than the manifest"
    assert verify(copy).problems == (told,)


def test_an_export_of_a_release_without_bounds_is_verified_as_it_is(copy):
    path = copy / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    del model.meta_graphs[0].signature_def["parameter_bounds"]
    path.write_bytes(model.SerializeToString())
    assert verify(copy).problems == ()


def test_bounds_of_many_parameters_are_told_for_any_of_them():
    many = {f"explain_{index}/seed": (index, index + 0.5) for index in range(300)}
    ask = parameter_bounds(many)
    some = ["explain_299/seed", "explain_0/seed", "explain_7/seed"]
    told = ask(tf.constant(some), tf.zeros((3, 2), tf.float64))["bounds"]
    assert told.numpy().tolist() == [list(many[name]) for name in some]


def test_names_that_a_call_tells_wrongly_are_found(copy, monkeypatch):
    answering(monkeypatch, "class_labels", lambda outputs: {"labels": np.roll(outputs["labels"], 1)})
    assert verify(copy).problems == ("signature class_labels does not tell the class names of the manifest",)


def save(directory: Path, *signatures: str) -> Path:
    """A SavedModel of TensorFlow alone with signatures of these names."""
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.float32, name="images")])
    def double(images):
        return {"logits": 2 * images}

    tf.saved_model.save(module, str(directory), signatures=dict.fromkeys(signatures, double))
    return directory


@pytest.mark.parametrize("name", ["parameter_defaults", "parameter_bounds", "class_labels"])
def test_a_models_own_signature_of_such_a_name_is_refused_before_it_is_lost(tmp_path, name):
    path = save(tmp_path / "model", "serving_default", name)
    with pytest.raises(ExportError, match=f"has a signature '{name}' of its own") as caught:
        saved_model.load(path)
    assert "under another name" in caught.value.hint


def test_those_of_an_export_are_made_anew(tmp_path):
    tables = ("parameter_defaults", "parameter_bounds", "class_labels")
    source = saved_model.load(save(tmp_path / "model", "serving_default", "explain_gradients", *tables))
    assert list(source.kept.signatures) == ["serving_default"]
