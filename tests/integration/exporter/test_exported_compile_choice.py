from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from callables import source_of

from saliency_exporter.contract.compile_choice import Choice
from saliency_exporter.contract.settings import Settings
from saliency_exporter.methods.registry import find_methods
from saliency_exporter.runtime.servable import load_servable
from saliency_exporter.sources.preprocessing import builtin
from saliency_exporter.version.manifest import read_manifest
from saliency_exporter.version.verify import verify
from saliency_exporter.version.write import Export, export

AUTO = Settings(
    methods=find_methods(("gradients",)), batch_sizes=(1, 3), compile="auto", target="cpu", lowering=False
)


def depthwise(x: tf.Tensor) -> tf.Tensor:
    """Without its lowering, XLA runs this at least seven times slower than the op itself."""
    kernel = np.random.default_rng(0).normal(size=(3, 3, 64, 1)).astype(np.float32) / 3
    for _ in range(3):
        x = tf.nn.depthwise_conv2d(x, tf.constant(kernel), [1, 2, 2, 1], "SAME")
    return tf.reduce_mean(x, [1, 2])


def elementwise(x: tf.Tensor) -> tf.Tensor:
    """A hundred small ops, which XLA makes one loop of."""
    for step in range(100):
        x = tf.abs(x - 0.01 * step)
    return tf.reduce_mean(x, [1, 2])


def on_strings(x: tf.Tensor) -> tf.Tensor:
    """Σx and Σx²; strings on the way, which XLA refuses to compile."""
    flat = tf.reshape(x, (-1, 6))
    zero = 0.0 * tf.strings.to_number(tf.strings.as_string(flat))
    return tf.stack([tf.reduce_sum(flat + zero, 1), tf.reduce_sum(flat**2, 1)], axis=1)


@pytest.mark.slow
def test_an_export_records_its_choices_and_answers_right_at_every_size(tmp_path):
    def call(x: tf.Tensor) -> tf.Tensor:
        return tf.concat([depthwise(x), elementwise(x)], axis=-1)

    settings = replace(AUTO, methods=find_methods(("gradients", "smooth")))
    job = Export(source_of(call, (16, 16, 64)), builtin("none"), settings, "model")
    version = export(job, tmp_path)
    manifest = read_manifest(version)
    assert manifest.compile == "auto"
    rows = manifest.compile_choices
    assert [(row.signature, row.batch_size) for row in rows] == [
        (signature, size)
        for signature in ("serving_default", "explain_gradients", "explain_smooth")
        for size in (1, 3)
    ]
    for row in rows:
        assert row.compile == ("xla" if row.xla_ms < 0.97 * row.none_ms else "none")
    assert verify(version).problems == ()


def test_for_a_gpu_nothing_is_measured_and_xla_is_kept(tmp_path):
    settings = replace(AUTO, target="gpu")
    source = source_of(lambda x: tf.reduce_mean(tf.nn.relu(x), [1, 2]), (8, 8, 2))
    version = export(Export(source, builtin("none"), settings, "model"), tmp_path)
    manifest = read_manifest(version)
    assert (manifest.compile, manifest.compile_choices) == ("xla", ())


def test_both_ways_are_in_one_saved_model(tmp_path, monkeypatch):
    def chosen(*arguments: object) -> list[Choice]:
        return [Choice("explain_gradients", 3, 2.0, 1.0)]

    # Which way is faster is the machine's to say; here one size of each is wanted.
    monkeypatch.setattr("saliency_exporter.version.write.choose", chosen)
    version = export(Export(source_of(on_strings, (6,)), builtin("none"), AUTO, "model"), tmp_path)
    servable = load_servable(version)
    try:
        images = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
        feeds = {"images": images, "class_index": np.int32(1)}
        np.testing.assert_allclose(
            servable.predict("explain_gradients", feeds)["gradients"], 2 * images, rtol=1e-6
        )
        with pytest.raises(Exception, match="compil"):
            servable.predict("explain_gradients", {**feeds, "images": images[:1]})
    finally:
        servable.close()
