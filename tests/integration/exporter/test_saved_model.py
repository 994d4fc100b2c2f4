from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import preloaded
import pytest
import tensorflow as tf
from callables import source_of
from exports import THREE
from waiting import until

from saliency_exporter.contract.settings import Settings
from saliency_exporter.errors import ExportError
from saliency_exporter.graph.replay import Forward
from saliency_exporter.methods.registry import find_methods
from saliency_exporter.runtime.grappler import config_path
from saliency_exporter.sources.preprocessing import builtin
from saliency_exporter.version.inspection import summary
from saliency_exporter.version.manifest import Images, read_manifest
from saliency_exporter.version.warmup import read_warmup
from saliency_exporter.version.write import Export, export

TESTS = Path(__file__).parents[2]


LABELS = tuple(f"c{i}" for i in range(100))
ALL = {"methods": THREE, "batch_sizes": (1, 2, 4), "max_samples": 30, "labels": LABELS}


class Linear(tf.Module):
    """Scores x·W with one variable, large enough that a copy of it would show."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = tf.Variable(np.random.default_rng(0).normal(size=(4096, 100)).astype(np.float32))

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return tf.nn.relu(x) @ self.weights


def job(**settings) -> Export:
    """Small by default: one method, one batch size."""
    settings = {"batch_sizes": (1,), "methods": ("gradients",), "compile": "none", **settings}
    settings["methods"] = find_methods(settings["methods"])
    return Export(source_of(Linear(), (4096,)), builtin("none"), Settings(**settings), "linear")


def counting(uses: Counter) -> Callable:
    """`Forward.scores`, which counts its calls."""
    scores = Forward.scores
    return lambda *arguments, **options: uses.update("1") or scores(*arguments, **options)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Counter]:
    """A version with all methods, and how often the forward pass was traced for it; only to be read."""
    uses: Counter = Counter()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Forward, "scores", counting(uses))
        return export(job(**ALL), tmp_path_factory.mktemp("everything")), uses


@pytest.fixture
def written_before(everything: tuple[Path, Counter], monkeypatch: pytest.MonkeyPatch) -> None:
    """What an export writes is a copy, made in no time: for tests of where it goes and what becomes of it."""
    version, _ = everything

    def copied(job: Export, directory: Path, *, progress: Callable = print) -> dict:
        shutil.copytree(version, directory, dirs_exist_ok=True)
        return read_manifest(version)

    monkeypatch.setattr("saliency_exporter.version.write.write_version", copied)


def test_an_export_is_one_numbered_directory_and_nothing_else(tmp_path):
    assert export(job(), tmp_path / "m") == tmp_path / "m" / "1"
    assert [p.name for p in (tmp_path / "m").iterdir()] == ["1"]


def test_a_version_is_numbered_behind_the_others_or_as_asked(tmp_path, written_before):
    assert export(job(), tmp_path / "m") == tmp_path / "m" / "1"
    assert export(job(), tmp_path / "m") == tmp_path / "m" / "2"
    assert export(job(), tmp_path / "m", version=7) == tmp_path / "m" / "7"
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["1", "2", "7"]


def test_a_version_that_exists_is_never_touched(tmp_path, written_before):
    export(job(), tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(ExportError, match=r"version 1 of .* exists already"):
        export(job(), tmp_path, version=1)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_weights_are_stored_once_and_never_as_constants(everything):
    version, _ = everything
    weights = 4096 * 100 * 4
    variables = sum(p.stat().st_size for p in (version / "variables").iterdir())
    assert weights <= variables < 1.01 * weights + 4096
    assert (version / "saved_model.pb").stat().st_size < weights / 4


def test_the_forward_pass_is_traced_no_more_often_than_it_is_used(tmp_path, monkeypatch, everything):
    """Tracing is most of an export's time.

    Smooth uses it twice, clean and noisy, every other signature once; what is compiled shares the clean one
    with the predictions and the noisy one with gradients. The reference is uncompiled, and so are what is
    held to the model's own gradient and what holds the examples of a batch apart.
    """
    _, uncompiled = everything
    assert uncompiled["1"] == 2 * (1 + 1 + 1 + 2) + 1 + 1
    compiled: Counter = Counter()
    monkeypatch.setattr(Forward, "scores", counting(compiled))
    export(job(methods=THREE, target="cpu", compile="xla"), tmp_path)
    assert compiled["1"] == (1 + 1 + 1 + 2) + 1 + 1 + 1 + 1 + 1


def test_what_is_known_of_a_model_is_said_where_its_verification_fails(tmp_path):
    """A map of pixels that were scaled twice may fail by rounding."""

    def refuse(directory: Path) -> NoReturn:
        raise ExportError("a map differs", hint="look at XLA")

    scaling = lambda x: tf.reshape(x / 255.0, [-1, 12]) @ tf.eye(12, 3)  # noqa: E731
    twice = replace(job(), source=source_of(scaling, (2, 2, 3)), preprocessing=builtin("unit"))
    with pytest.raises(ExportError, match="a map differs") as failure:
        export(twice, tmp_path / "m", verify=refuse)
    assert failure.value.hint.startswith("look at XLA. model scales its input itself")
    assert failure.value.hint.endswith("--preprocessing pixels")
    assert not (tmp_path / "m").exists()


def pooled(x: tf.Tensor) -> tf.Tensor:
    """Five convolutions, each with a max pooling behind it, and the mean as scores."""
    for step in range(5):
        kernel = np.random.default_rng(step).normal(size=(3, 3, x.shape[3], 8)).astype(np.float32)
        x = tf.nn.max_pool2d(tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME")), 2, 2, "SAME")
    return tf.reduce_mean(x, axis=[1, 2])


def ran_ops(version: Path, signature: str, **inputs: np.ndarray) -> Counter[str]:
    """How often each kind of op ran in one call, by the runtime's own record, called functions included."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        definition = v1.saved_model.load(session, ["serve"], str(version)).signature_def[signature]
        record = v1.RunMetadata()
        session.run(
            {name: output.name for name, output in definition.outputs.items()},
            {definition.inputs[name].name: value for name, value in inputs.items()},
            options=v1.RunOptions(trace_level=v1.RunOptions.FULL_TRACE),
            run_metadata=record,
        )
    labels = [node.timeline_label for device in record.step_stats.dev_stats for node in device.node_stats]
    return Counter(label.split("(")[0].split("=")[-1].strip() for label in labels)


@pytest.mark.parametrize("method", [pytest.param("gradients", marks=pytest.mark.slow), "smooth"])
def test_uncompiled_max_pooling_always_takes_onednns_gradient(tmp_path, method):
    settings = Settings(batch_sizes=(1,), compile="none", methods=find_methods((method,)))
    version = export(Export(source_of(pooled, (64, 64, 3)), builtin("none"), settings, "pooled"), tmp_path)
    parameters = {"class_index": 1, "num_samples": 10, "noise_level": 0.1, "seed": 0}
    if method == "gradients":
        parameters = {"class_index": 1}
    ran = ran_ops(version, f"explain_{method}", images=np.zeros((1, 64, 64, 3), np.float32), **parameters)
    if not ran["_MklNativeMaxPool"]:
        pytest.skip("this TensorFlow does not use oneDNN for max pooling")
    assert ran["_MklNativeMaxPoolGrad"] == 5
    assert ran["MaxPoolGrad"] == 0


def warmed(version: Path) -> list[tuple[str, int, tuple[str, ...]]]:
    """Signature, batch size and output filter of the warmup records, in order."""
    return [
        (r.model_spec.signature_name, r.inputs["images"].tensor_shape.dim[0].size, tuple(r.output_filter))
        for r in read_warmup(version)
    ]


def test_warmup_covers_each_signature_batch_size_and_set_of_outputs_that_clients_ask_for(everything):
    records = warmed(everything[0])
    small = ("class_index", "label", "probability", "saliency", "score")
    smooth = tuple(sorted((*small, "relative_error", "samples_used", "standard_error")))
    signatures = ("serving_default", "explain_gradients", "explain_guided", "explain_smooth")
    assert len(records) == 16
    assert set(records) == {
        *((signature, size, ()) for signature in signatures for size in (1, 2, 4)),
        ("explain_gradients", 1, small),
        ("explain_guided", 1, small),
        ("explain_smooth", 1, smooth),
        ("explain_smooth", 1, tuple(sorted((*smooth, "gradients")))),
    }


def test_warmup_meets_each_signature_once_before_any_twice_and_the_longest_first(everything):
    records = warmed(everything[0])
    signatures = ["explain_smooth", "explain_guided", "explain_gradients", "serving_default"]
    assert records[:4] == [(signature, 1, ()) for signature in signatures]
    assert [signature for signature, _, _ in records[4:]] == sorted(
        [signature for signature, _, _ in records[4:]], key=signatures.index
    )
    # Preparing for another set of outputs and compiling another size take turns.
    assert [(size, bool(outputs)) for _, size, outputs in records[4:8]] == [
        (1, True),
        (2, False),
        (1, True),
        (4, False),
    ]


def test_the_manifest_says_what_was_made(everything):
    manifest = read_manifest(everything[0])
    assert manifest.contract_version == 2
    assert manifest.model == "linear"
    assert manifest.input == Images("images", (None, 4096), "float32")
    assert manifest.classes == 100
    assert manifest.labels == LABELS
    assert manifest.batch_sizes == (1, 2, 4)
    assert manifest.compile == "none"
    assert manifest.max_samples == 30
    assert manifest.score.head_assumed is True
    assert manifest.methods["guided"].facts == {"activations": {"relu": 1}}
    assert manifest.tensorflow == tf.__version__


def pointwise_relu(x: tf.Tensor) -> tf.Tensor:
    """Two 1×1 convolutions, each with an offset and a ReLU, and the mean as scores."""
    for step in range(2):
        kernel = np.random.default_rng(step).normal(size=(1, 1, x.shape[3], 16)).astype(np.float32)
        x = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), np.ones(16, np.float32)))
    return tf.reduce_mean(x, axis=[1, 2])


def wide(x: tf.Tensor) -> tf.Tensor:
    """A 3×3 convolution from 256 to 256 channels, and the mean as scores."""
    kernel = np.random.default_rng(0).normal(size=(3, 3, 256, 256)).astype(np.float32)
    return tf.reduce_mean(tf.nn.conv2d(tf.tile(x, [1, 1, 1, 86])[..., :256], kernel, 1, "SAME"), axis=[1, 2])


def apart(x: tf.Tensor) -> tf.Tensor:
    """A depthwise convolution, the mean, and a matrix product."""
    x = tf.nn.depthwise_conv2d(x, np.ones((3, 3, 3, 1), np.float32), [1, 1, 1, 1], "SAME")
    return tf.reduce_mean(x, axis=[1, 2]) @ np.ones((3, 8), np.float32)


def normalized(x: tf.Tensor) -> tf.Tensor:
    """Zeros around the image, a strided convolution, a scale and an offset, and the mean as scores."""
    scale, offset = tf.sqrt(tf.constant(np.full(16, 2, np.float32))), np.ones(16, np.float32)
    kernel = np.ones((3, 3, 3, 16), np.float32)
    x = tf.nn.conv2d(tf.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)]), kernel, 2, "VALID") * scale + offset
    return tf.reduce_mean(x, axis=[1, 2])


def export_of(model: Callable, folder: Path, **settings) -> Path:
    settings = {"batch_sizes": (1,), "compile": "none", "methods": ("gradients",), **settings}
    settings["methods"] = find_methods(settings["methods"])
    source = source_of(model, (20, 20, 3))
    return export(Export(source, builtin("none"), Settings(**settings), "m"), folder)


def test_uncompiled_on_a_cpu_the_way_back_through_1x1_is_a_product_and_the_way_forward_stays_fused(tmp_path):
    images = np.zeros((1, 20, 20, 3), np.float32)
    plain = export_of(pointwise_relu, tmp_path, target="cpu", lowering=False)
    lowered = export_of(pointwise_relu, tmp_path, target="cpu", methods=("gradients", "guided"))
    before, after = (ran_ops(v, "explain_gradients", images=images, class_index=1) for v in (plain, lowered))
    guided = ran_ops(lowered, "explain_guided", images=images, class_index=1)
    back = ("Conv2DBackpropInput", "_MklNativeConv2DBackpropInput")
    forward = ("_FusedConv2D", "_MklNativeFusedConv2D")
    assert sum(before[op] for op in back) == 2
    assert sum(after[op] for op in back) == 0
    assert after["MatMul"] + after["_MklMatMul"] == 2
    assert [after[op] for op in forward] == [before[op] for op in forward] == [guided[op] for op in forward]
    assert sum(after[op] for op in forward) == 2
    # Guided has one Relu for each signal's sign, and none on the way forward.
    assert guided["Relu"] + guided["_MklNativeRelu"] == 2


@pytest.mark.parametrize(
    ("model", "settings", "lowered"),
    [
        (
            lambda x: tf.concat([pooled(x), apart(x)], -1),
            {"compile": "xla", "target": "cpu"},
            ["Conv2D", "DepthwiseConv2dNative", "MatMul", "MaxPool"],
        ),
        (pooled, {"compile": "none", "target": "cpu"}, []),
        (wide, {"compile": "none", "target": "cpu", "kernels": "onednn"}, ["Conv2D"]),
        (wide, {"compile": "none", "target": "cpu", "kernels": "eigen"}, []),
        (normalized, {"compile": "xla", "target": "cpu", "lowering": False}, []),
        (wide, {"compile": "xla", "target": "gpu"}, []),
    ],
    ids=[
        "compiled",
        "uncompiled",
        "uncompiled, wide, oneDNN",
        "uncompiled, wide, Eigen",
        "not lowered",
        "gpu",
    ],
)
def test_the_manifest_says_which_ops_are_lowered_and_that_nothing_is_folded(
    tmp_path, model, settings, lowered
):
    version = export_of(model, tmp_path, **settings)
    manifest = read_manifest(version)
    assert (list(manifest.lowering), manifest.foldings) == (lowered, ())
    # Grappler has nothing to do where XLA compiles all cores, and much where it does not.
    assert config_path(version).exists() == (settings["compile"] == "xla")


def test_the_manifest_says_which_foldings_changed_the_model(tmp_path):
    version = export_of(normalized, tmp_path, compile="xla", target="cpu")
    assert read_manifest(version).foldings == ("weight expressions", "scales", "offsets", "padding")
    shown = dict(summary(version, read_manifest(version)))
    assert shown["foldings"] == "weight expressions, scales, offsets, padding"
    assert shown["lowered ops"] == "Conv2D"


def test_labels_must_be_as_many_as_classes(tmp_path):
    with pytest.raises(ExportError, match="3 labels for 100 classes"):
        export(job(labels=("a", "b", "c")), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_verification_publishes_nothing(tmp_path, written_before):
    def refuse(directory: Path) -> dict:
        assert (directory / "saved_model.pb").exists()
        assert not directory.name.isdigit()
        raise ExportError("it differs")

    with pytest.raises(ExportError, match="it differs"):
        export(job(), tmp_path, verify=refuse)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_no_directory_that_was_not_there(tmp_path):
    (tmp_path / "models" / "other").mkdir(parents=True)
    for model_dir in (tmp_path / "models" / "m", tmp_path / "a" / "b" / "m"):
        with pytest.raises(ExportError, match="3 labels"):
            export(job(labels=("a", "b", "c")), model_dir)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == ["models", "models/other"]


def test_a_model_base_path_that_is_a_file_is_an_error(tmp_path, written_before):
    (tmp_path / "m").write_text("")
    with pytest.raises(ExportError, match=r"m cannot be written: File exists"):
        export(job(), tmp_path / "m")


def test_an_export_that_is_running_is_left_alone_and_an_abandoned_one_removed(tmp_path, written_before):
    abandoned = tmp_path / ".saliency-export-1-99999-5"
    (abandoned / "variables").mkdir(parents=True)
    inside: list[str] = []

    def another(directory: Path) -> dict:
        export(job(), tmp_path, version=5)
        inside.extend(p.name for p in tmp_path.iterdir())
        return {}

    export(job(), tmp_path, verify=another)
    assert not abandoned.exists()
    assert [name for name in inside if name.startswith(".saliency-export-1-")]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "5"]


def test_two_exports_of_one_number_leave_the_first_to_finish(tmp_path, written_before):
    def overtake(directory: Path) -> dict:
        export(job(), tmp_path, version=1)
        return {}

    with pytest.raises(ExportError, match=r"version 1 of .* exists already"):
        export(job(), tmp_path, version=1, verify=overtake)
    assert [p.name for p in tmp_path.iterdir()] == ["1"]


EXPORT = [sys.executable, "-m", "saliency_exporter", "export", "models:classifier"]
OPTIONS = ["--preprocessing", "tf", "--compile", "none", "--batch-sizes", "1", "--no-verify"]
OPTIONS += ["--methods", "gradients"]


def test_an_export_killed_at_any_moment_leaves_no_version_and_the_next_one_cleans_up(
    tmp_path, written_before
):
    model_dir = tmp_path / "m"
    for line, written in (("computing the reference", False), ("saving", True)):
        process = preloaded.start([*EXPORT, str(model_dir), *OPTIONS], cwd=TESTS)
        try:
            seen = ""
            while line not in seen:
                seen += process.stderr.read(1)
            if written:
                until(lambda: any(model_dir.glob(".saliency-export-1-*/**/*")))
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(30)
            process.stderr.close()
            process.stdout.close()
        assert [p.name for p in model_dir.iterdir() if not p.name.startswith(".")] == []
        assert [p for p in model_dir.iterdir() if p.name.startswith(".saliency-export-1-")]
    export(job(), model_dir)
    assert [p.name for p in model_dir.iterdir()] == ["1"]
    assert read_manifest(model_dir / "1").model == "linear"


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="needs to mount a small tmpfs")
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(small)], check=False
    ).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        with pytest.raises(ExportError, match="cannot be written") as error:
            export(job(), small / "m")
        assert "nothing was exported" in error.value.hint
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)
