"""A model without a gradient, exported with methods of forward passes alone and loaded as a server does."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from saliency_exporter.contract.settings import Settings
from saliency_exporter.errors import ExportError
from saliency_exporter.graph.differentiable import NoGradient
from saliency_exporter.methods.noise import random_bits
from saliency_exporter.methods.registry import ALL, find_methods, method_names
from saliency_exporter.runtime.servable import load_servable
from saliency_exporter.sources.preprocessing import builtin
from saliency_exporter.sources.source import Source
from saliency_exporter.version.manifest import Manifest, write_manifest
from saliency_exporter.version.verify import verify
from saliency_exporter.version.write import Export, write_version

SHAPE = (6, 8, 3)
PIXELS = np.random.default_rng(0).integers(0, 256, (2, *SHAPE)).astype(np.uint8)


def stumps(x: np.ndarray) -> np.ndarray:
    """Votes of four decision stumps, each on a quarter's brightness, float32 [B, 2]: for bright, for dark."""
    quarters = x.reshape(-1, 2, 3, 2, 4, 3).sum(axis=(2, 4, 5)).reshape(-1, 4)
    bright = (quarters > np.array([4500.0, 4900.0, 4700.0, 4400.0])).sum(axis=1)
    return np.stack([bright, 4 - bright], axis=1).astype(np.float32)


def stumps_in_tensorflow(x: tf.Tensor) -> tf.Tensor:
    quarters = tf.reshape(tf.reduce_sum(tf.reshape(x, (-1, 2, 3, 2, 4, 3)), axis=[2, 4, 5]), (-1, 4))
    # By an argmax and whole numbers.
    sides = tf.stack(
        [tf.constant([[4500.0, 4900.0, 4700.0, 4400.0]]) * tf.ones_like(quarters), quarters], axis=2
    )
    bright = tf.reduce_sum(tf.argmax(sides, axis=2, output_type=tf.int32), axis=1)
    return tf.cast(tf.stack([bright, 4 - bright], axis=1), tf.float32)


def job(*methods: str, leave_out: bool = False) -> Export:
    source = Source("stumps", "test", stumps_in_tensorflow, SHAPE, ())
    settings = Settings(methods=find_methods(methods), compile="none", batch_sizes=(2,), target="cpu")
    return Export(source, builtin("pixels"), settings, "stumps", leave_out=leave_out)


@pytest.fixture(scope="module")
def version(tmp_path_factory) -> tuple[Path, Manifest]:
    directory = tmp_path_factory.mktemp("stumps") / "1"
    return directory, write_version(job("rise", "occlusion(patch=2)"), directory)


@pytest.fixture(scope="module")
def servable(version):
    loaded = load_servable(version[0])
    yield loaded
    loaded.close()


def test_it_is_verified_like_any_other(version):
    directory, manifest = version
    assert manifest.gradient_agreement is None
    assert sorted(manifest.methods) == ["occlusion", "rise"]
    assert manifest.methods["occlusion"].facts == {"patch": [2, 2], "stride": [1, 1], "passes": 7 * 9}
    write_manifest(directory, manifest)
    verify(directory)


def test_its_occlusion_is_the_change_of_its_votes(servable):
    got = servable.predict("explain_occlusion", {"images": PIXELS, "class_index": np.int32(0)})
    x = PIXELS.astype(np.float32)
    expected = np.zeros((2, 6, 8))
    for top, left in itertools.product(range(-1, 6), range(-1, 8)):
        where = np.s_[:, max(top, 0) : top + 2, max(left, 0) : left + 2]
        occluded = x.copy()
        occluded[where] = 0
        drop = stumps(x)[:, 0] - stumps(occluded)[:, 0]
        expected[where] += drop[:, np.newaxis, np.newaxis] / expected[where][0].size / 4
    np.testing.assert_allclose(got["attributions"].sum(-1), expected, atol=1e-6)
    assert expected.any()


def test_its_rise_is_the_mean_of_its_probabilities_over_masks(servable):
    n = 25
    inputs = {"images": PIXELS, "class_index": np.int32(1), "num_masks": np.int32(n), "seed": np.int32(4)}
    got = servable.predict("explain_rise", inputs)
    x, expected = PIXELS.astype(np.float64), np.zeros((2, 6, 8))
    for number in range(n):
        # 6 × 7 cells, then the shifts, which are 0 along the first axis, whose cells are pixels.
        bits = random_bits(tf.constant([4]), tf.constant(number), 22).numpy().ravel()
        mask = (bits[:42].view(np.uint32) < 2**31).reshape(6, 7).astype(np.float64)
        for axis, (size, cells, shift) in enumerate([(6, 6, 0), (8, 7, int(bits[43]) % 2)]):
            whole = (cells + 1) * math.ceil(size / cells)
            centres = ((np.arange(whole) + 0.5) * cells / whole - 0.5)[shift : shift + size]
            columns = [np.interp(centres, np.arange(cells), column) for column in np.eye(cells)]
            mask = np.moveaxis(np.tensordot(np.stack(columns, axis=1), mask, (1, axis)), 0, axis)
        votes = stumps(x * mask[..., np.newaxis])
        p = np.exp(votes[:, 1]) / np.exp(votes).sum(axis=1)
        expected += p[:, np.newaxis, np.newaxis] * mask / 0.5 / n
    np.testing.assert_allclose(got["saliency"], expected, rtol=1e-5, atol=1e-6)


def test_of_all_methods_those_that_need_a_gradient_are_left_out_with_the_reason(tmp_path):
    manifest = write_version(job(ALL, leave_out=True), tmp_path / "1")
    assert sorted(manifest.methods) == ["occlusion", "rise"]
    notes = "\n".join(manifest.notes)
    assert all(f"{name} is left out: " in notes for name in {*method_names()} - {"occlusion", "rise"})
    assert "gradients is left out: the class scores of stumps have no gradient" in notes


def test_beside_a_method_that_needs_a_gradient_it_is_refused(tmp_path):
    with pytest.raises(NoGradient, match="stumps have no gradient with respect to its input"):
        write_version(job("gradients", "rise"), tmp_path / "1")
    with pytest.raises(ExportError, match="no method is defined for stumps"):
        write_version(job("gradients", leave_out=True), tmp_path / "1")
