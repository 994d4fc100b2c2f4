"""The contract as a server sees it: the exported directory, loaded into a V1 Session."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from covering import covering
from rounding import assert_equal_to_rounding, assert_same_answers

from saliency_exporter.runtime.servable import ServableError, load_servable

EXPLAIN = ("explain_gradients", "explain_guided", "explain_smooth")


@pytest.fixture(scope="module")
def servable(exported_version):
    loaded = load_servable(exported_version)
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def uncompiled(uncompiled_version):
    loaded = load_servable(uncompiled_version)
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (9, 32, 32, 3), np.uint8)


def test_there_are_these_signatures(servable):
    names = {"serving_default", "class_labels", "parameter_defaults", "parameter_bounds", *EXPLAIN}
    assert set(servable.signature_defs) - {"__saved_model_init_op"} == names


def test_the_names_of_all_classes_are_in_the_signature_and_its_answer(servable):
    names = [b"ant", b"bee", b"cat", b"dog", b"eel"]
    told = servable.signature_defs["class_labels"].defaults["labels"]
    assert tf.make_ndarray(told).tolist() == names
    assert servable.predict("class_labels", {})["labels"].tolist() == names


def test_inputs_and_outputs_are_those_of_the_contract(servable):
    shared = {
        "gradients": (tf.float32, [-1, 32, 32, 3]),
        "saliency": (tf.float32, [-1, 32, 32]),
        "class_index": (tf.int32, [-1]),
        "score": (tf.float32, [-1]),
        "probability": (tf.float32, [-1]),
        "label": (tf.string, [-1]),
    }
    spread = {
        "variance": (tf.float32, [-1, 32, 32, 3]),
        "relative_error": (tf.float32, [-1]),
        "standard_error": (tf.float32, [-1]),
        "samples_used": (tf.int32, [-1]),
    }
    for name in EXPLAIN:
        signature = servable.signature_defs[name]
        expected = {**shared, **(spread if name == "explain_smooth" else {})}
        got = {
            key: (tf.as_dtype(info.dtype), [d.size for d in info.tensor_shape.dim])
            for key, info in signature.outputs.items()
        }
        assert got == expected, name
        assert signature.inputs["images"].dtype == tf.uint8.as_datatype_enum
        assert [d.size for d in signature.inputs["images"].tensor_shape.dim] == [-1, 32, 32, 3]


def test_defaults_are_in_the_signature_def(servable):
    smooth = servable.signature_defs["explain_smooth"].defaults
    values = {name: tf.make_ndarray(proto) for name, proto in smooth.items()}
    assert {name: (v.dtype, v.shape) for name, v in values.items()} == {
        "class_index": (np.int32, ()),
        "num_samples": (np.int32, ()),
        "noise_level": (np.float32, ()),
        "seed": (np.int32, ()),
        "first_sample": (np.int32, ()),
        "target_error": (np.float32, ()),
    }
    assert values["class_index"] == -1
    assert values["num_samples"] == 50
    assert values["noise_level"] == np.float32(0.15)
    assert values["seed"] == 0
    assert set(servable.signature_defs["explain_gradients"].defaults) == {"class_index"}


def test_a_request_of_images_alone_is_filled_with_the_defaults(servable, images):
    alone = servable.predict("explain_smooth", {"images": images[:2]})
    told = servable.predict(
        "explain_smooth",
        {
            "images": images[:2],
            "class_index": np.int32(-1),
            "num_samples": np.int32(50),
            "noise_level": np.float32(0.15),
            "seed": np.int32(0),
            "first_sample": np.int32(0),
            "target_error": np.float32(0),
        },
    )
    assert_same_answers(alone, told)


@pytest.mark.parametrize("signature", EXPLAIN)
def test_a_scalar_one_value_and_one_value_each_are_the_same(servable, images, signature):
    answers = [
        servable.predict(signature, {"images": images[:3], "class_index": value})["gradients"]
        for value in (np.int32(2), np.array([2], np.int32), np.array([2, 2, 2], np.int32))
    ]
    assert_equal_to_rounding(answers[1], answers[0])
    assert_equal_to_rounding(answers[2], answers[0])


@pytest.mark.parametrize(("signature", "fixture"), covering(EXPLAIN, ["servable", "uncompiled"]))
def test_a_result_does_not_depend_on_neighbours_position_or_padding(request, images, signature, fixture):
    servable = request.getfixturevalue(fixture)

    def explain(rows: list[int]) -> dict[str, np.ndarray]:
        feeds = {"images": images[rows], "class_index": np.array(rows, np.int32) % 5}
        if signature == "explain_smooth":
            feeds["num_samples"] = np.array(rows, np.int32) + 2
            feeds["seed"] = np.array(rows, np.int32)
        return servable.predict(signature, feeds)

    # These run at the compiled size 4: padded, full, reordered, beside other images; one runs at size 1.
    full = explain([0, 1, 2, 3])
    for rows in ([0, 1], [3, 2, 1, 0], [2, 7, 0], [5, 3, 6, 1], [2]):
        common = [place for place, row in enumerate(rows) if row < 4]
        known = [rows[place] for place in common]
        got = {name: value[common] for name, value in explain(rows).items()}
        assert_same_answers(got, {name: value[known] for name, value in full.items()})


@pytest.mark.parametrize("signature", ["serving_default", *EXPLAIN])
def test_a_batch_beyond_the_largest_size_is_run_in_slices(servable, images, signature):
    whole = servable.predict(signature, {"images": images})
    parts = [servable.predict(signature, {"images": images[i : i + 4]}) for i in (0, 4, 8)]
    assert {len(value) for value in whole.values()} == {9}
    assert_same_answers(whole, {name: np.concatenate([part[name] for part in parts]) for name in whole})


def test_serving_default_gives_logits_and_their_softmax(servable, images):
    got = servable.predict("serving_default", {"images": images})
    exponentials = np.exp(got["logits"].astype(np.float64))
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(got["probabilities"], expected, rtol=1e-5)


def test_score_probability_and_label_belong_to_the_class(servable, images):
    predictions = servable.predict("serving_default", {"images": images})
    classes = np.arange(9, dtype=np.int32) % 5
    got = servable.predict("explain_gradients", {"images": images, "class_index": classes})
    rows = np.arange(9)
    np.testing.assert_allclose(got["score"], predictions["logits"][rows, classes], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got["probability"], predictions["probabilities"][rows, classes], rtol=1e-4)
    assert [name.decode() for name in got["label"]] == [
        ["ant", "bee", "cat", "dog", "eel"][c] for c in classes
    ]


@pytest.mark.parametrize(
    ("signature", "parameters", "message"),
    [
        ("explain_gradients", {"class_index": 5}, r"class_index is 5; it must be in \[0, 4\], or -1"),
        ("explain_guided", {"class_index": [0, -2]}, r"class_index is -2; it must be in \[0, 4\], or -1"),
        ("explain_smooth", {"num_samples": 0}, r"num_samples is 0; it must be in \[1, 200\]"),
        ("explain_smooth", {"num_samples": [3, 201]}, r"num_samples is 201; it must be in \[1, 200\]"),
        ("explain_smooth", {"noise_level": 1.5}, r"noise_level is 1\.5; it must be in \[0, 1\]"),
        ("explain_smooth", {"noise_level": -0.1}, r"noise_level is -0\.1; it must be in \[0, 1\]"),
        ("explain_smooth", {"noise_level": np.nan}, r"noise_level is nan; it must be in \[0, 1\]"),
        ("explain_smooth", {"noise_level": np.inf}, r"noise_level is inf; it must be in \[0, 1\]"),
        ("explain_smooth", {"seed": [1, 2, 3]}, r"seed has 3 values for a batch of 2 images"),
        ("explain_gradients", {"class_index": []}, r"class_index has 0 values for a batch of 2 images"),
        (
            "explain_gradients",
            {"class_index": [[0, 1]]},
            r"class_index must be a scalar or a vector; .* rank 2",
        ),
    ],
)
def test_a_bad_parameter_is_an_invalid_argument_with_value_and_bound(
    servable, images, signature, parameters, message
):
    dtypes = {"noise_level": np.float32}
    feeds = {name: np.array(value, dtypes.get(name, np.int32)) for name, value in parameters.items()}
    with pytest.raises(ServableError, match=message) as error:
        servable.predict(signature, {"images": images[:2], **feeds})
    assert error.value.code == tf.errors.INVALID_ARGUMENT


@pytest.mark.parametrize("signature", ["serving_default", *EXPLAIN])
def test_an_empty_batch_is_an_invalid_argument(servable, images, signature):
    with pytest.raises(ServableError, match="images has batch size 0") as error:
        servable.predict(signature, {"images": images[:0]})
    assert error.value.code == tf.errors.INVALID_ARGUMENT


@pytest.mark.parametrize("signature", ["serving_default", *EXPLAIN])
@pytest.mark.parametrize(
    "shape", [(), (1,), (0,), (32, 32, 3), (1, 32, 32), (1, 16, 16, 3), (1, 32, 32, 4), (1, 1, 32, 32, 3)]
)
def test_images_of_another_shape_are_refused_before_a_kernel_sees_them(uncompiled, signature, shape):
    # Fed to the uncompiled kernels, images of rank 3 ended the process.
    with pytest.raises(ServableError, match=r"it must be \[B, 32, 32, 3\]") as error:
        uncompiled.predict(signature, {"images": np.zeros(shape, np.uint8)})
    assert error.value.code == tf.errors.INVALID_ARGUMENT
    assert f"images has shape [{', '.join(map(str, shape))}]" in str(error.value)
