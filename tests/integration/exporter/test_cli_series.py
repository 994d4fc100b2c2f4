from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import preloaded

from saliency_exporter.runtime.servable import load_servable
from saliency_exporter.version.manifest import read_manifest

MODEL = """
import tensorflow as tf

kernel = tf.Variable(tf.random.stateless_normal([40, 3], [1, 2]))

@tf.function(input_signature=[
    tf.TensorSpec([None, None, 4], name="series"),
    tf.TensorSpec([None, 4], name="gain"),
    tf.TensorSpec([], tf.bool, name="double"),
])
def forward(series, gain, double):
    scores = tf.reshape(tf.nn.relu(series * gain[:, None]), [-1, 40]) @ kernel
    return {"scores": tf.where(double, 2 * scores, scores), "series": series}

forward.kernel = kernel
"""


def test_a_series_is_explained_with_the_other_inputs_held(tmp_path: Path) -> None:
    (tmp_path / "brought.py").write_text(MODEL)
    gain = np.array([1.0, -1.0, 0.5, 2.0], np.float32)
    np.save(tmp_path / "gain.npy", gain)
    command = [sys.executable, "-m", "saliency_exporter", "export", "brought:forward", "models/series"]
    command += ["--input", "series", "--hold", "gain=gain.npy", "--hold", "double=true"]
    command += ["--output", "scores", "--input-shape", "10,4", "--preprocessing", "none"]
    # That several inputs are verified, test_kinds.py shows.
    command += ["--compile", "none", "--batch-sizes", "2", "--methods", "gradients", "--no-verify"]
    done = preloaded.run(command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    version_dir = tmp_path / "models" / "series" / "1"
    manifest = read_manifest(version_dir)
    assert manifest.input.shape == (None, 10, 4)
    assert manifest.source.endswith("input series, with gain = an array [4], double = True, output scores")
    servable = load_servable(version_dir)
    x = np.random.default_rng(0).normal(size=(2, 10, 4)).astype(np.float32)
    got = servable.predict("explain_gradients", {"images": x, "class_index": np.array([2, 0], np.int32)})
    kernel = _kernel()
    want = 2 * kernel[:, [2, 0]].T.reshape(2, 10, 4) * gain * (x * gain > 0)
    np.testing.assert_allclose(got["gradients"], want, rtol=1e-5)
    assert got["saliency"].shape == (2, 10)
    servable.close()


def _kernel() -> np.ndarray:
    import tensorflow as tf

    return tf.random.stateless_normal([40, 3], [1, 2]).numpy()
