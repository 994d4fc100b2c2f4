"""Every kind of model from every source, traced, exported, loaded as TensorFlow Serving does, and right.

What is right is computed by TensorFlow's own gradient of scores that model_kinds.py writes down by itself.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import keras
import model_kinds
import numpy as np
import pytest
import tensorflow as tf
from built_signatures import Signatures
from model_kinds import KINDS, Kind
from rounding import assert_equal_to_rounding

from saliency_exporter.contract.settings import Settings
from saliency_exporter.graph.channels import with_channels_found
from saliency_exporter.graph.trace import trace
from saliency_exporter.methods.registry import find_methods
from saliency_exporter.runtime.servable import load_servable
from saliency_exporter.sources.load import load_source
from saliency_exporter.sources.preprocessing import builtin
from saliency_exporter.sources.source import Source
from saliency_exporter.version.manifest import write_manifest
from saliency_exporter.version.verify import verify
from saliency_exporter.version.write import Export, write_version

SOURCES = ("keras", "h5", "callable", "tf_function", "keras_export", "saved_model")
# The source of each kind in `make test`, which has every source; the rest runs with `make test-all`.
REPRESENTATIVE = {
    "sequential": "h5",
    "functional": "keras",
    "subclassed": "callable",
    "nested": "keras_export",
    "several_inputs": "keras_export",
    "several_outputs": "keras",
    "any_size": "saved_model",
    "one_channel": "keras",
    "four_channels": "keras",
    "not_square": "tf_function",
    "features": "keras",
    "series": "saved_model",
    "spectrogram": "keras",
    "volume": "keras",
    "single_sigmoid": "keras",
    "multi_label": "keras",
    "regression": "keras",
    "softmax_activation": "h5",
    "temperature": "callable",
    "mixed_float16": "keras",
    "mixed_bfloat16": "keras_export",
}

# Of these, what is written to a file and loaded in `make test`: every source, every rank of images, several
# inputs, half precision. The others differ in what is traced, and not in what is written.
EXPORTED = (
    "subclassed",
    "several_inputs",
    "not_square",
    "features",
    "series",
    "volume",
    "softmax_activation",
    "mixed_float16",
)

# Other quick tests show what is traced of these: test_head.py heads, mixed_float16 half precision,
# test_channels.py numbers of channels.
SHOWN_ELSEWHERE = (
    "single_sigmoid",
    "multi_label",
    "temperature",
    "mixed_bfloat16",
    "one_channel",
    "four_channels",
)

# Noise is per example of any rank: test_smooth.py has the ranks, and this what is exported of the largest.
WITH_NOISE = ("volume",)

# Given their one channel inside the model: saliency has a value for each of theirs.
WITHOUT_CHANNELS = ("spectrogram",)


def _cases() -> list:
    marks = {False: [pytest.mark.slow], True: []}
    quick = {(kind, REPRESENTATIVE[kind]) for kind in EXPORTED}
    return [
        pytest.param(kind, source, marks=marks[(kind, source) in quick], id=f"{kind}-{source}")
        for kind in KINDS
        for source in SOURCES
        # Keras writes no subclassed model to HDF5.
        if (kind, source) != ("subclassed", "h5")
    ]


def _load(kind: Kind, source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    choices = dict(kind.choices)
    if source in ("keras", "h5"):
        path = folder / f"model.{source}"
        kind.model.save(path)
        return load_source(str(path), **choices)
    if source == "callable":
        module = types.ModuleType("brought")
        module.model = lambda: kind.model
        monkeypatch.setitem(sys.modules, "brought", module)
        return load_source("brought:model", **choices)
    if source == "tf_function":
        module = types.ModuleType("brought")
        module.forward = _function(kind)
        monkeypatch.setitem(sys.modules, "brought", module)
        return load_source("brought:forward", **choices)
    path = folder / "exported"
    if source == "keras_export":
        kind.model.export(path, verbose=False)
    else:
        root = tf.Module()
        root.weights = [variable.value for variable in kind.model.variables]
        tf.saved_model.save(root, str(path), {"serving_default": _function(kind)})
    return load_source(str(path), **choices)


def _function(kind: Kind):
    """The model as a tf.function of named tensors that returns a mapping."""
    inputs = getattr(kind.model, "inputs", None) or [tf.TensorSpec([None, *kind.shape], name="x")]
    specs = [tf.TensorSpec(tensor.shape, tf.float32, name=tensor.name) for tensor in inputs]

    @tf.function(input_signature=specs, autograph=False)
    def forward(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = kind.model(list(tensors) if len(tensors) > 1 else tensors[0], training=False)
        return outputs if isinstance(outputs, dict) else {"scores": outputs}

    return forward


Wanted = tuple[np.ndarray, np.ndarray, np.ndarray]
"""All class scores, those that are explained, and their gradient."""


def _wanted(kind: Kind) -> tuple[dict[str, np.ndarray], Wanted]:
    """Images and classes to ask for, and by TensorFlow's tape the class scores and their gradient."""
    x = np.random.default_rng(8).normal(size=(2, *kind.shape)).astype(np.float32)
    scores = kind.score(tf.constant(x)).numpy()
    class_index = np.array([scores.shape[1] - 1, 0], np.int32)
    with tf.GradientTape() as tape:
        images = tf.constant(x)
        tape.watch(images)
        chosen = tf.gather(kind.score(images), class_index, batch_dims=1)
    gradient = tape.gradient(chosen, images).numpy()
    return {"images": x, "class_index": class_index}, (scores, chosen.numpy(), gradient)


def _hold(kind: Kind, kind_name: str, got: dict[str, np.ndarray], wanted: Wanted) -> None:
    scores, chosen, want = wanted
    assert got["gradients"].dtype == got["saliency"].dtype == got["score"].dtype == np.float32
    bound = kind.tolerance * np.abs(want).max()
    np.testing.assert_allclose(got["gradients"], want, rtol=0, atol=bound)
    size = np.abs(got["gradients"])
    assert_equal_to_rounding(got["saliency"], size if kind_name in WITHOUT_CHANNELS else size.max(-1))
    score_bound = kind.tolerance * max(1.0, np.abs(scores).max())
    np.testing.assert_allclose(got["score"], chosen, rtol=0, atol=score_bound)


def _traced() -> list:
    return [
        pytest.param(kind, source, marks=pytest.mark.slow if kind in SHOWN_ELSEWHERE else [])
        for kind, source in REPRESENTATIVE.items()
        if kind not in EXPORTED
    ]


@pytest.mark.parametrize(("kind_name", "source_name"), _traced())
def test_the_traced_gradient_is_the_models(
    kind_name: str, source_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keras.utils.set_random_seed(7)
    kind = KINDS[kind_name]()
    source = _load(kind, source_name, tmp_path, monkeypatch)
    assert source.input_shape == kind.shape
    graph = with_channels_found(trace(source, score=kind.score_option), source)
    built = Signatures(graph, methods=("gradients",), batch_sizes=(2,))
    asked, wanted = _wanted(kind)
    _hold(kind, kind_name, built("explain_gradients", **asked), wanted)
    if wanted[0].shape[1] > 1:
        predicted = built("explain_gradients", asked["images"])["class_index"]
        np.testing.assert_array_equal(predicted, wanted[0].argmax(1))


@pytest.mark.parametrize(("kind_name", "source_name"), _cases())
def test_the_exported_gradient_is_the_models(
    kind_name: str, source_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keras.utils.set_random_seed(7)
    kind = KINDS[kind_name]()
    source = _load(kind, source_name, tmp_path, monkeypatch)
    assert source.input_shape == kind.shape
    with_noise = kind_name in WITH_NOISE and source_name != REPRESENTATIVE[kind_name]
    methods = ("gradients", "smooth") if with_noise else ("gradients",)
    settings = Settings(methods=find_methods(methods), batch_sizes=(2,), compile="none")
    version_dir = tmp_path / "1"
    job = Export(source, builtin("none"), settings, kind_name, kind.score_option)
    write_manifest(version_dir, write_version(job, version_dir))
    servable = load_servable(version_dir)
    with monkeypatch.context() as loaded:  # once for both
        loaded.setattr("saliency_exporter.version.verify.load_servable", lambda _: servable)
        loaded.setattr(servable, "close", lambda: None)
        assert verify(version_dir).problems == ()

    asked, wanted = _wanted(kind)
    got = servable.predict("explain_gradients", asked)
    if "smooth" in methods:
        calm = {**asked, "noise_level": np.zeros(2, np.float32)}
        smooth = servable.predict("explain_smooth", {**calm, "num_samples": np.array([1, 3], np.int32)})
        np.testing.assert_allclose(smooth["gradients"], got["gradients"], rtol=1e-5, atol=1e-6)
    predicted = servable.predict("explain_gradients", {"images": asked["images"]})
    servable.close()
    _hold(kind, kind_name, got, wanted)
    if wanted[0].shape[1] > 1:
        np.testing.assert_array_equal(predicted["class_index"], wanted[0].argmax(1))


def test_every_kind_and_every_source_is_in_the_quick_part() -> None:
    assert set(REPRESENTATIVE) == set(KINDS)
    assert {REPRESENTATIVE[kind] for kind in EXPORTED} == set(SOURCES)
    assert model_kinds.KINDS is KINDS
