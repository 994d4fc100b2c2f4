"""What an Explanation offers beside its arrays."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from saliency_client import Explanation, InputError, MissingOutput
from saliency_client.images import load_image

GRADIENTS = np.array(
    [
        [[[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]], [[-1.0, -1.0, -1.0], [3.0, 4.0, -5.0]]],
        [[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]],
    ],
    np.float32,
)


@pytest.fixture
def explanation() -> Explanation:
    outputs = {
        "saliency": np.abs(GRADIENTS).max(axis=-1),
        "gradients": GRADIENTS,
        "class_index": np.array([285, 967], np.int32),
        "score": np.array([12.5, 8.25], np.float32),
        "probability": np.array([0.9, 0.5], np.float32),
        "label": np.array([b"Egyptian cat", b"espresso"], object),
    }
    return Explanation(outputs, method="gradients", model="m", version=3)


def test_positive_and_negative_parts_are_worked_out_by_hand(explanation):
    assert explanation.positive()[0].tolist() == [[1.5, 0], [0, 7]]
    assert explanation.negative()[0].tolist() == [[2, 0], [3, 5]]
    assert explanation.absolute()[0].tolist() == [[3.5, 0], [3, 12]]


def test_normalized_puts_each_map_between_0_and_1_and_a_constant_one_to_0(explanation):
    normalized = explanation.normalized(clip=100)

    np.testing.assert_allclose(normalized[0], np.array([[2, 0], [1, 5]]) / 5)
    assert normalized[1].tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("name", ["positive", "negative", "absolute"])
def test_parts_of_a_gradient_that_was_not_asked_for_say_how_to_ask(name):
    explanation = Explanation({"saliency": np.zeros((1, 2, 2), np.float32)}, method="gradients", model="m")

    with pytest.raises(InputError, match="this explanation has no gradients; it has saliency") as caught:
        getattr(explanation, name)()

    assert "outputs='all'" in caught.value.hint


def test_it_is_a_sequence_of_its_images(explanation):
    assert len(explanation) == 2
    assert [one.label.tolist() for one in explanation] == [["Egyptian cat"], ["espresso"]]
    assert explanation[-1].class_index.tolist() == [967]
    assert explanation[0].saliency.shape == (1, 2, 2)
    assert (explanation[1].method, explanation[1].model, explanation[1].version) == ("gradients", "m", 3)
    with pytest.raises(IndexError, match="image 2 of 2"):
        explanation[2]


def test_repr_shows_what_it_holds_in_one_line(explanation):
    assert repr(explanation) == (
        "Explanation(method='gradients', model='m', version=3, saliency=float32[2,2,2], "
        "gradients=float32[2,2,2,3], class_index=[285, 967], score=[12.5, 8.25], "
        "probability=[0.9, 0.5], label=['Egyptian cat', 'espresso'])"
    )


def test_a_saved_npz_holds_every_output_and_needs_no_pickle(explanation, tmp_path):
    explanation.save(tmp_path / "maps.npz")

    loaded = np.load(tmp_path / "maps.npz", allow_pickle=False)
    assert set(loaded) == set(explanation.outputs)
    for name in loaded:
        assert loaded[name].tolist() == explanation.outputs[name].tolist()


def test_a_saved_npy_holds_the_map(explanation, tmp_path):
    explanation.save(tmp_path / "map.npy")

    np.testing.assert_array_equal(np.load(tmp_path / "map.npy"), explanation.saliency)


def test_a_file_of_another_kind_is_refused(explanation, tmp_path):
    with pytest.raises(InputError, match=r"map.png ends in neither"):
        explanation.save(tmp_path / "map.png")

    assert list(tmp_path.iterdir()) == []


def test_saving_overwrites_unless_told_not_to(explanation, tmp_path):
    path = tmp_path / "map.npy"
    path.write_text("old")
    with pytest.raises(FileExistsError):
        explanation.save(path, overwrite=False)
    assert path.read_text() == "old"

    explanation.save(path)

    assert np.load(path).shape == (2, 2, 2)


def test_an_overlay_is_hot_where_the_map_is(explanation):
    grey = Image.new("RGB", (8, 8), (100, 100, 100))

    pixels = np.asarray(explanation[0].overlay(grey), int)

    corner = pixels[7, 7]  # the map's hottest place; its coldest is the other corner of the same column
    assert np.abs(corner - 100).max() > np.abs(pixels[0, 7] - 100).max() + 50


def test_an_overlay_takes_arrays_pillow_images_and_photos(explanation, tmp_path):
    picture = Image.new("RGB", (40, 20), (10, 200, 30))
    picture.save(tmp_path / "photo.png")
    photo = load_image(tmp_path / "photo.png", (2, 2))

    assert explanation[0].overlay(np.asarray(picture)).size == (40, 20)
    assert explanation[0].overlay(picture).size == (40, 20)
    assert explanation[0].overlay(photo).size == (40, 20)


def test_an_overlay_takes_the_array_that_explain_took_and_refuses_what_is_no_picture(explanation):
    array = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    one = explanation[0]

    expected = np.asarray(one.overlay(Image.fromarray(array)))
    np.testing.assert_array_equal(np.asarray(one.overlay(array[None])), expected)
    gray = np.asarray(one.overlay(Image.fromarray(array[..., 0])))
    np.testing.assert_array_equal(np.asarray(one.overlay(array[..., 0])), gray)
    with pytest.raises(InputError, match="channels come first"):
        one.overlay(np.moveaxis(array, -1, 0))
    with pytest.raises(TypeError, match=r"not as str: load_image\(path"):
        one.overlay("cat.jpg")


def test_an_overlay_of_several_images_is_refused(explanation):
    with pytest.raises(InputError, match="an overlay shows one image; this explanation has 2"):
        explanation.overlay(Image.new("RGB", (8, 8)))


def test_a_label_that_is_not_utf_8_is_shown_and_does_not_fail():
    explanation = Explanation({"label": np.array([b"caf\xe9"], object)}, method="m", model="m")

    assert explanation.label.tolist() == ["caf\ufffd"]


def a_methods_own(images: int = 3) -> Explanation:
    """What a method gives that this client has never heard of."""
    steps = np.arange(images, dtype=np.int32)
    outputs = {
        "saliency": np.abs(GRADIENTS[:1].sum(axis=-1)).repeat(images, axis=0),
        "attributions": GRADIENTS[:1].repeat(images, axis=0),
        "completeness_error": steps.astype(np.float32) / 4,
        "steps_used": steps,
    }
    offered = [*outputs, "score", "curvature"]
    return Explanation(outputs, method="shares", model="m", version=1, offered=offered)


def test_an_output_of_any_name_is_an_item_and_an_attribute():
    explanation = a_methods_own()
    assert explanation["completeness_error"].tolist() == [0, 0.25, 0.5]
    assert explanation.completeness_error is explanation["completeness_error"]
    assert explanation.steps_used.dtype == np.int32
    assert "steps_used" in explanation
    assert "score" not in explanation
    assert {"steps_used", "attributions", "saliency", "save"} <= set(dir(explanation))


def test_parts_are_those_of_the_map_that_the_method_gives():
    explanation = a_methods_own(1)
    assert explanation.positive().tolist() == [[[1.5, 0], [0, 7]]]
    assert explanation.negative().tolist() == [[[2, 0], [3, 5]]]
    assert explanation.absolute().tolist() == [[[3.5, 0], [3, 12]]]
    light = Explanation(
        {"saliency": explanation.saliency}, method="shares", model="m", offered=["saliency", "attributions"]
    )
    with pytest.raises(MissingOutput, match="has no attributions; it has saliency"):
        light.positive()


@pytest.mark.parametrize("ask", [lambda e, name: getattr(e, name), lambda e, name: e[name]])
def test_a_missing_output_says_whether_the_method_has_it_and_how_to_get_it(ask):
    explanation = a_methods_own()
    for kind in (AttributeError, KeyError, InputError):
        with pytest.raises(kind):
            ask(explanation, "curvature")
    with pytest.raises(MissingOutput) as caught:
        ask(explanation, "curvature")
    assert str(caught.value) == (
        "this explanation has no curvature; it has saliency, attributions, completeness_error, steps_used"
    )
    assert "explain(…, outputs=[…, 'curvature'])" in caught.value.hint
    with pytest.raises(MissingOutput) as caught:
        ask(explanation, "gradients")
    assert str(caught.value) == (
        "method 'shares' of model 'm' has no output 'gradients'; it has saliency, attributions, "
        "completeness_error, steps_used, score, curvature"
    )


@pytest.mark.parametrize("name", ["saliency", "class_index", "score", "probability", "label", "gradients"])
def test_no_attribute_is_ever_none(name):
    explanation = Explanation({"x": np.zeros(1)}, method="m", model="m")
    with pytest.raises(MissingOutput, match=f"this explanation has no {name}; it has x"):
        getattr(explanation, name)
    assert not hasattr(explanation, name)
    assert getattr(explanation, name, "nothing") == "nothing"


def test_it_behaves_as_a_sequence_does():
    explanation = a_methods_own(5)
    numbers = list(range(5))
    assert isinstance(explanation, Sequence)
    for index in (0, 4, -1, -5, np.int64(2), True):
        assert explanation[index].steps_used.tolist() == [numbers[index]]
    for some in (slice(1, 3), slice(None), slice(-2, None), slice(None, None, -2), slice(4, 1), slice(9, 12)):
        assert explanation[some].steps_used.tolist() == numbers[some]
        assert len(explanation[some]) == len(numbers[some])
    assert [one.steps_used.item() for one in reversed(explanation)] == numbers[::-1]
    first, *others = explanation
    assert (len(first), len(others)) == (1, 4)
    assert explanation[1:3].saliency.shape == (2, 2, 2)
    assert explanation[1:3].method == "shares"
    with pytest.raises(MissingOutput, match="has no output 'gradients'"):
        explanation[1:3].gradients  # noqa: B018
    for outside in (5, -6):
        with pytest.raises(IndexError, match=f"image {outside} of 5"):
            explanation[outside]
    for wrong in (1.0, None, (0, 1)):
        with pytest.raises(TypeError, match="indexed by whole numbers, slices and names of outputs"):
            explanation[wrong]
    assert not explanation[5:]


def test_it_is_copied_and_pickled_whole(explanation):
    for other in (
        copy.copy(explanation),
        copy.deepcopy(explanation),
        pickle.loads(pickle.dumps(explanation)),
    ):
        assert set(other.outputs) == set(explanation.outputs)
        assert other.label.tolist() == ["Egyptian cat", "espresso"]
        np.testing.assert_array_equal(other.gradients, GRADIENTS)
        assert repr(other) == repr(explanation)
    again = pickle.loads(pickle.dumps(a_methods_own()))
    with pytest.raises(MissingOutput, match="method 'shares' of model 'm' has no output 'gradients'"):
        again.gradients  # noqa: B018


def test_outputs_of_any_name_are_saved(tmp_path):
    a_methods_own().save(tmp_path / "shares.npz")
    with np.load(tmp_path / "shares.npz", allow_pickle=False) as saved:
        assert set(saved) == {"saliency", "attributions", "completeness_error", "steps_used"}
        assert saved["steps_used"].tolist() == [0, 1, 2]
