from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from callables import source_of

from saliency_exporter.contract.build import build_signatures
from saliency_exporter.contract.settings import Settings
from saliency_exporter.contract.slices import run_in_slices
from saliency_exporter.errors import ExportError
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace
from saliency_exporter.methods.declarations import Explained, Output
from saliency_exporter.methods.gradients import METHOD as GRADIENTS
from saliency_exporter.sources.preprocessing import builtin


def test_non_finite_float_images_are_refused_by_position(signatures_of):
    built = signatures_of(lambda x: x, (3,), methods=("gradients",), whole=True)
    images = np.zeros((3, 3), np.float32)
    images[2, 1] = np.nan
    for signature in ("serving_default", "explain_gradients"):
        with pytest.raises(tf.errors.InvalidArgumentError, match="example 2 holds NaN or infinity"):
            built(signature, images)


def test_changing_values_never_compiles_again_and_shapes_are_the_batch_sizes():
    seen: list[int] = []

    @tf.function(
        input_signature=[tf.TensorSpec((None, 2)), tf.TensorSpec((None,), tf.int32)], autograph=False
    )
    def core(images: tf.Tensor, parameter: tf.Tensor) -> dict[str, tf.Tensor]:
        size = tf.py_function(lambda x: seen.append(len(x)) or len(x), [images], tf.int32)
        with tf.control_dependencies([size]):
            return {"sum": tf.reduce_sum(images, axis=1) + tf.cast(parameter, tf.float32)}

    @tf.function(autograph=False)
    def run(images: tf.Tensor, parameter: tf.Tensor) -> dict[str, tf.Tensor]:
        return run_in_slices(core, {"images": images, "parameter": parameter}, (2, 5))

    for batch in range(1, 14):
        images = np.random.default_rng(batch).normal(size=(batch, 2)).astype(np.float32)
        got = run(tf.constant(images), tf.range(batch))["sum"].numpy()
        np.testing.assert_allclose(got, images.sum(axis=1) + np.arange(batch), rtol=1e-5, atol=1e-6)
    assert set(seen) == {2, 5}


def test_slices_of_an_output_of_unknown_rank_are_put_together():
    @tf.function(input_signature=[tf.TensorSpec((None, 2))], autograph=False)
    def core(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"twice": tf.compat.v1.placeholder_with_default(2 * images, shape=None)}

    run = tf.function(lambda images: run_in_slices(core, {"images": images}, (2, 3)), autograph=False)
    images = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
    np.testing.assert_array_equal(run(tf.constant(images))["twice"], 2 * images)


def test_a_model_that_ends_in_softmax_is_explained_by_its_logits_unless_told_otherwise(signatures_of):
    weights = np.array([[1.0, -2.0, 0.5], [0.0, 1.0, 2.0]], np.float32)
    x = np.array([[0.3, -0.4]], np.float32)

    def model(value: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(value @ weights)

    logits = x.astype(np.float64) @ weights
    probabilities = np.exp(logits) / np.exp(logits).sum()
    by_logit = signatures_of(model, (2,), methods=("gradients",))("explain_gradients", x, class_index=1)
    np.testing.assert_allclose(by_logit["gradients"][0], weights[:, 1], rtol=1e-6)
    np.testing.assert_allclose(by_logit["probability"], probabilities[:, 1], rtol=1e-5)
    built = signatures_of(model, (2,), methods=("gradients",), score="output")
    by_output = built("explain_gradients", x, class_index=1)
    p = probabilities[0]
    expected = p[1] * (weights[:, 1] - weights @ p)
    np.testing.assert_allclose(by_output["gradients"][0], expected, rtol=1e-5)
    np.testing.assert_allclose(by_output["score"], p[1], rtol=1e-5)


def test_a_sigmoid_head_is_bypassed_too(signatures_of):
    weights = np.array([[2.0], [-3.0]], np.float32)
    built = signatures_of(lambda x: tf.sigmoid(x @ weights), (2,), methods=("gradients",))
    got = built("explain_gradients", np.array([[0.1, 0.2]], np.float32))
    np.testing.assert_allclose(got["gradients"][0], weights[:, 0], rtol=1e-6)
    np.testing.assert_allclose(got["probability"], 1 / (1 + np.exp(0.4)), rtol=1e-5)
    assert got["class_index"].tolist() == [0]


def test_guided_is_refused_for_a_model_without_rectifier(signatures_of):
    with pytest.raises(ExportError, match="no rectifier"):
        signatures_of(lambda x: x, (3,), methods=("guided",))


def test_an_output_of_whole_numbers_is_int32_in_any_batch_and_no_other_dtype_is():
    """It goes through the core, the slices and the padding as `class_index` does."""
    x = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
    forward = Forward(trace(source_of(lambda x: tf.reduce_sum(x, axis=1), (2, 3))))
    declared = Output("above", per="example", help="how many values are above 0", dtype="int32")

    def signature(dtype: tf.DType, compile: str):
        def explain(model, x, p):
            above = tf.math.count_nonzero(x > 0, axis=[1, 2], dtype=dtype)
            return Explained(*model.gradients(x, p["class_index"]), {"above": above})

        method = replace(GRADIENTS, name="mine", explain=explain, outputs=(declared,))
        settings = Settings(methods=(method,), batch_sizes=(1, 2), compile=compile, target="cpu")
        return build_signatures(forward, builtin("none"), settings, "model")["explain_mine"]

    for compile in ("none", "xla"):
        got = signature(tf.int32, compile)(tf.constant(x))["above"]
        assert got.dtype == tf.int32
        np.testing.assert_array_equal(got, (x > 0).sum(axis=(1, 2)))
    with pytest.raises(ExportError, match=r"gives above as int64 \(None,\); it must be int32 \(None,\)"):
        signature(tf.int64, "none").get_concrete_function()


@pytest.mark.parametrize(
    ("explain", "message"),
    [
        (
            lambda model, x, p: model.gradients(x, p["class_index"])[0],
            "gives a .*Tensor, and must give an Explained",
        ),
        (
            lambda model, x, p: Explained(*model.gradients(x, p["class_index"]), {"more": x}),
            "gives the outputs more, ",
        ),
        (
            lambda model, x, p: Explained(tf.reduce_sum(x, -1), *model.gradients(x, p["class_index"])[1:]),
            r"gives gradients as float32 \(None, 2\); it must be float32 \(None, 2, 3\)",
        ),
        (
            lambda model, x, p: Explained(tf.cast(x, tf.float64), *model.gradients(x, p["class_index"])[1:]),
            "gives gradients as float64",
        ),
        (lambda model, x, p: p["no_such"], "fails while it is traced: KeyError"),
    ],
    ids=["a tensor", "other outputs", "another shape", "another dtype", "an error"],
)
def test_a_method_that_gives_something_else_than_it_declares_is_refused_by_name(explain, message):
    method = replace(GRADIENTS, name="mine", explain=explain)
    settings = Settings(methods=(method,), batch_sizes=(1,), compile="none")
    forward = Forward(trace(source_of(lambda x: tf.reduce_sum(x, axis=1), (2, 3))))
    with pytest.raises(ExportError, match=f"method 'mine' {message}"):
        build_signatures(forward, builtin("none"), settings, "model")["explain_mine"].get_concrete_function()
