"""Loading and calling a version directory the way TensorFlow Serving does."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from serving_models import WEIGHTS

from saliency_exporter.errors import ExportError
from saliency_exporter.runtime.servable import Servable, ServableError, load_servable

IMAGES = np.array([[1.0, 2.0]], np.float32)


@pytest.fixture(scope="module")
def servable(saved_versions):
    servable = load_servable(saved_versions[1])
    yield servable
    servable.close()


def test_a_default_that_is_left_out_gives_what_its_value_gives(servable: Servable):
    left_out = servable.predict("explain", {"images": IMAGES})
    given = servable.predict("explain", {"images": IMAGES, "class_index": np.array([-1], np.int32)})
    for alias, array in left_out.items():
        np.testing.assert_array_equal(array, given[alias], strict=True)


def test_scalars_and_strings_keep_their_shapes_and_types(servable: Servable):
    outputs = servable.predict("scalar", {"rank": np.int32(7), "images": IMAGES})
    assert outputs["rank"].shape == ()
    assert outputs["rank"] == 7
    label = servable.predict("explain", {"images": IMAGES}, ["label"])["label"]
    assert label.dtype == object
    assert label.tolist() == [b"cat"]


def test_an_array_in_another_byte_order_or_layout_is_the_same_array(servable: Servable):
    images = np.arange(8, dtype=">f4").reshape(2, 4)[:, ::2]
    logits = servable.predict("", {"images": images})["logits"]
    np.testing.assert_array_equal(logits, np.array([[0, 2], [4, 6]], np.float32) @ WEIGHTS)


def test_nothing_is_cast(servable: Servable):
    with pytest.raises(ServableError) as raised:
        servable.predict("", {"images": [[1, 2]]})
    assert raised.value.code == tf.errors.INVALID_ARGUMENT


def test_the_initialisation_op_is_listed_as_a_signature_and_cannot_be_fetched(servable: Servable):
    assert "__saved_model_init_op" in servable.signature_defs
    with pytest.raises(ServableError, match="output index too large"):
        servable.predict("__saved_model_init_op", {})


def test_many_threads_share_one_servable(servable: Servable):
    def ask(seed: int) -> None:
        images = np.random.default_rng(seed).normal(size=(seed % 4 + 1, 2)).astype(np.float32)
        gradients = servable.predict("explain", {"images": images, "class_index": np.array([1], np.int32)})
        np.testing.assert_array_equal(gradients["gradients"], np.broadcast_to(WEIGHTS[:, 1], images.shape))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(100)))


def test_two_versions_side_by_side_keep_their_own_weights(saved_versions, servable: Servable):
    second = load_servable(saved_versions[2])
    one, two = (loaded.predict("", {"images": IMAGES})["logits"] for loaded in (servable, second))
    second.close()
    np.testing.assert_array_equal(two, 2 * one)


def test_after_close_a_call_is_an_error_and_not_a_crash(saved_versions):
    servable = load_servable(saved_versions[1])
    servable.close()
    with pytest.raises(ServableError, match="closed"):
        servable.predict("", {"images": IMAGES})


def test_a_missing_directory_is_not_found_and_named(tmp_path):
    with pytest.raises(ServableError, match=str(tmp_path / "9")) as raised:
        load_servable(tmp_path / "9")
    assert raised.value.code == tf.errors.NOT_FOUND
    assert isinstance(raised.value, ExportError)


def test_a_model_base_path_is_refused_with_the_version_to_give_instead(model_dir):
    with pytest.raises(ServableError) as raised:
        load_servable(model_dir)
    assert str(model_dir / "1") in raised.value.hint


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("saved_model.pb", b"not a protocol buffer"),
        ("saved_model.pb", b""),
        ("variables/variables.index", b"damaged"),
        ("variables/variables.index", None),
        ("variables/variables.data-00000-of-00001", b"\x00" * 4),
    ],
)
def test_a_damaged_directory_is_an_error_that_names_it(model_dir, file, content):
    path = model_dir / "1" / file
    assert path.exists()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ServableError, match=f"Cannot load the SavedModel at {model_dir / '1'}"):
        load_servable(model_dir / "1")


def test_a_model_without_the_serve_tag_is_an_error_that_names_the_tag(model_dir):
    path = model_dir / "1" / "saved_model.pb"
    path.write_bytes(path.read_bytes().replace(b"\x22\x05serve", b"\x22\x05other"))
    with pytest.raises(ServableError, match="serve"):
        load_servable(model_dir / "1")


def test_the_model_can_be_moved_away_once_it_is_loaded(model_dir):
    servable = load_servable(model_dir / "1")
    shutil.rmtree(model_dir)
    logits = servable.predict("", {"images": IMAGES})["logits"]
    servable.close()
    np.testing.assert_array_equal(logits, IMAGES @ WEIGHTS)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            "Detected unsupported operations when trying to compile graph f[_XlaMustCompile=true] "
            "on XLA_CPU_JIT: AsString (No registered 'AsString' OpKernel for XLA_CPU_JIT devices compatible "
            "with node {{function_node __inference_f_1}}{{node AsString}}){{function_node __inference_f_1}}"
            "{{node AsString}}\n"
            "The op is created at:\n",
            "XLA cannot compile the op AsString",
        ),
        (
            "{{function_node f}} {{node g/h}} assertion failed: [no]\n\t [[{{node g/h}}]]",
            "assertion failed: [no]",
        ),
        ("class_index is 9; it must be at most 4", "class_index is 9; it must be at most 4"),
        ("", ""),
    ],
)
def test_a_reason_is_one_line_without_names_of_nodes(message: str, reason: str) -> None:
    assert ServableError(3, message).reason == reason
