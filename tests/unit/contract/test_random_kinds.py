"""Networks with loops, branches, recurrent layers, own gradients, half precision and moved values, at random.

What their signatures answer is held against the original, differentiated eagerly (tests/random_kinds.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from built_signatures import Signatures
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from random_kinds import KINDS, PRECISIONS, Hooks, Net, Original, margin, nets, original

from saliency_exporter.graph.channels import with_channels_found
from saliency_exporter.graph.feature_layers import with_feature_layer
from saliency_exporter.graph.folding import fold
from saliency_exporter.graph.input_scale import scaling_note
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace
from saliency_exporter.sources.preprocessing import builtin
from saliency_exporter.sources.source import Source
from saliency_exporter.version.agreement import hold_to_model
from saliency_exporter.version.describe import describe_rounding
from saliency_exporter.version.tolerances import tolerances

READY = KINDS
"""Kinds that are drawn; a kind in work is left out here."""

FLOAT32 = 1e-4
"""Bound of ‖difference‖₂ / ‖expected‖₂ in float32: rounding leaves 1e-6, a wrong op 0.1 or more."""

_CLASSES = [0, 2]


def answers(net: Net, x: np.ndarray, **options: Any) -> dict[str, dict[str, np.ndarray]]:
    """What the signatures of an export of the network answer, by signature."""
    scores_of, variables = net.build(net.policy)

    def call(x: tf.Tensor) -> tf.Tensor:
        return net.ending.run(scores_of(x, Hooks()))

    source = Source("net", "drawn", call, net.shape, tuple(variables), channels="last")
    # What an export does with the graph before it builds its signatures.
    graph = with_feature_layer(with_channels_found(trace(source), source), "net", None)
    scaling_note(graph, builtin("tf"), "net")
    hold_to_model(source, Forward(graph), tf.constant(x), tolerances(describe_rounding(graph)))
    graph = fold(graph) if options.get("lowering", True) else graph
    built = Signatures(graph, methods=("gradients", "guided", "smooth"), batch_sizes=(len(x),), **options)
    none = {"num_samples": 2, "noise_level": 0.0}
    return {
        "serving_default": built("serving_default", x),
        "explain_gradients": built("explain_gradients", x, class_index=_CLASSES),
        "explain_guided": built("explain_guided", x, class_index=_CLASSES),
        "explain_smooth": built("explain_smooth", x, class_index=_CLASSES, **none),
    }


def check(net: Net, seed: int, **options: Any) -> None:
    """Hold every signature's scores, probabilities and maps against the original's."""
    x = np.random.default_rng(seed).normal(size=(2, *net.shape)).astype(np.float32)
    half = PRECISIONS.get(net.policy, 0.0)
    assume(margin(net, x) > (6 * half or 1e-4))
    own = original(net, x, _CLASSES)
    exact = original(net, x, _CLASSES, "float32") if half else own
    assume(all(np.linalg.norm(m) > 1e-3 for m in (*own.gradients, *own.guided)))
    got = answers(net, x, **options)

    def hold(name: str, value: np.ndarray, wanted: np.ndarray, precise: np.ndarray) -> None:
        # Half precision: as far from the original as a few roundings, or as it is from float32 itself.
        size, spread = np.linalg.norm(precise), np.linalg.norm(wanted - precise)
        bound = FLOAT32 * size if not half else 3 * spread + 8 * half * size
        assert np.linalg.norm(value - wanted) <= bound, (name, net, np.linalg.norm(value - wanted) / size)

    def map_of(answer: Original, signature: str) -> np.ndarray:
        return answer.guided if signature == "explain_guided" else answer.gradients

    predictions = got.pop("serving_default")
    hold("logits", predictions["logits"], own.scores, exact.scores)
    if own.probabilities is not None:
        hold("probabilities", predictions["probabilities"], own.probabilities, exact.probabilities)
    for signature, answer in got.items():
        chosen = np.arange(2), _CLASSES
        hold(f"score of {signature}", answer["score"], own.scores[chosen], exact.scores[chosen])
        for one in range(2):
            maps = (answer["gradients"], map_of(own, signature), map_of(exact, signature))
            hold(signature, *(m[one] for m in maps))


_SETTINGS = {
    "deadline": None,
    "database": None,
    "derandomize": True,
    # Shrinking would build hundreds of networks more; a drawn one is small enough to be read.
    "phases": (Phase.explicit, Phase.generate),
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
}
_SEEDS = st.integers(0, 2**32 - 1)
_OPTIONS = st.fixed_dictionaries({"target": st.sampled_from(["cpu", "gpu"]), "lowering": st.booleans()})


# Quick are tests of each kind alone, in unit/graph: control flow, branches, own gradients, heads, precisions.
@pytest.mark.slow
@settings(max_examples=4, **_SETTINGS)
@given(net=nets(READY), seed=_SEEDS, options=_OPTIONS)
def test_signatures_of_a_few_networks_of_all_kinds_equal_the_originals(net, seed, options):
    check(net, seed, compile="none", **options)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", READY)
@settings(max_examples=60, **_SETTINGS)
@given(data=st.data(), seed=_SEEDS, options=_OPTIONS)
def test_signatures_of_many_networks_of_each_kind_equal_the_originals(kind, data, seed, options):
    check(data.draw(nets((kind,))), seed, compile="none", **options)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=100, **_SETTINGS)
@given(net=nets(READY), seed=_SEEDS, options=_OPTIONS)
def test_signatures_of_many_networks_of_two_kinds_equal_the_originals(net, seed, options):
    check(net, seed, compile="none", **options)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=25, **_SETTINGS)
@given(net=nets(READY), seed=_SEEDS)
def test_compiled_signatures_of_networks_of_two_kinds_equal_the_originals(net, seed):
    assume(net.compilable)
    check(net, seed, compile="xla", target="cpu")
