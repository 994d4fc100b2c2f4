"""One member of each family of applications, compiled and not, with the CPU kernels of the environment.

python tests/matrix/kernels.py            all members
python tests/matrix/kernels.py MEMBER…    these

Members have random weights and small pictures. Each one's predictions and gradients are computed without XLA
in three ways (as the reference of an export, folded and lowered for a CPU, folded for a GPU) and by XLA,
lowered and not; all are held against XLA's without lowering, which is told nothing of either set of kernels.
With which of TensorFlow's kernels the others run depends on TF_ENABLE_ONEDNN_OPTS; the exit status is 1 where
they differ or fail. RegNet is Keras 2's (tf-keras): Keras 3 has no model with grouped convolutions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import keras
import numpy as np
import tensorflow as tf
from keras_applications import MEMBERS

from saliency_exporter.contract.build import build_signatures
from saliency_exporter.contract.settings import Settings
from saliency_exporter.graph.folding import fold
from saliency_exporter.graph.forward_graph import ForwardGraph
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace
from saliency_exporter.methods.registry import find_methods
from saliency_exporter.sources.load import load_source
from saliency_exporter.sources.preprocessing import builtin
from saliency_exporter.version.tolerances import GRADIENT_TOLERANCE, SCORE_TOLERANCE

KERAS_2 = ("RegNetX002", "RegNetY002", "ResNetRS50")
_SIZE = (96, 96)
_EXAMPLES = 2

# (name, settings, whether the graph is folded); the first is what the others are held against.
WAYS = (
    ("XLA", {"compile": "xla", "target": "gpu", "lowering": False}, False),
    ("XLA, lowered", {"compile": "xla", "target": "cpu"}, True),
    ("uncompiled, as the reference", {"compile": "none", "target": "gpu", "lowering": False}, False),
    ("uncompiled, for a CPU", {"compile": "none", "target": "cpu"}, True),
    ("uncompiled, for a GPU", {"compile": "none", "target": "gpu"}, True),
)


def graph_of(member: str) -> ForwardGraph:
    """The traced member, with weights that keep its values in a usual range."""
    keras.utils.set_random_seed(0)
    if member in KERAS_2:
        import tf_keras

        model = getattr(tf_keras.applications, member)(weights=None, input_shape=(*_SIZE, 3))
        return trace(
            SimpleNamespace(
                name=member,
                call=lambda x: model(x, training=False),
                input_shape=(*_SIZE, 3),
                variables=tuple(model.variables),
            )
        )
    return trace(load_source(member, weights="none", image_size=_SIZE))


def answers(graph: ForwardGraph, settings: dict, folded: bool) -> dict[str, np.ndarray]:
    """Scores and gradients of two images."""
    signatures = build_signatures(
        Forward(fold(graph) if folded else graph),
        builtin("none"),
        Settings(methods=find_methods(("gradients",)), batch_sizes=(_EXAMPLES,), **settings),
        "model",
    )
    images = tf.constant(np.random.default_rng(0).normal(size=(_EXAMPLES, *_SIZE, 3)).astype(np.float32))
    predictions = signatures["serving_default"](images)
    explained = signatures["explain_gradients"](images, tf.constant([1, 2]))
    return {
        "scores": predictions["logits"].numpy(),
        "score": explained["score"].numpy(),
        "gradients": explained["gradients"].numpy(),
    }


def difference(got: np.ndarray, want: np.ndarray) -> float:
    """‖got − want‖₂ / ‖want‖₂."""
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def check(member: str, report: Callable[[str], None]) -> int:
    """Compare all ways of one member; the number of those that differ or fail."""
    graph = graph_of(member)
    failures = 0
    wanted: dict[str, np.ndarray] = {}
    with tf.device("/CPU:0"):
        for name, settings, folded in WAYS:
            try:
                got = answers(graph, settings, folded)
            except tf.errors.OpError as error:
                report(f"{member}, {name}: {type(error).__name__}: {error.message[-300:]}")
                failures += 1
                continue
            wanted = wanted or got
            errors = {what: difference(value, wanted[what]) for what, value in got.items()}
            bounds = {what: GRADIENT_TOLERANCE if what == "gradients" else SCORE_TOLERANCE for what in errors}
            wrong = any(not errors[what] <= bounds[what] for what in errors)
            failures += wrong
            line = ", ".join(f"{what} {error:.1e}" for what, error in errors.items())
            report(f"{member}, {name}: {line}{' — TOO MUCH' if wrong else ''}")
    return failures


def main(members: Sequence[str]) -> int:
    """Check the members, all by default."""
    failures = 0
    for member in members or (*MEMBERS, *KERAS_2):
        failures += check(member, lambda line: print(line, flush=True))
        keras.backend.clear_session()
    print(f"{failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
