"""Maps of samples in fewer bits are held to float32, by their own sampling error."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import tensorflow as tf
from callables import source_of

from saliency_exporter.contract.settings import Settings
from saliency_exporter.errors import ExportError
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace
from saliency_exporter.methods.registry import find_methods
from saliency_exporter.sources.preprocessing import builtin
from saliency_exporter.version.manifest import Rounding
from saliency_exporter.version.sample_agreement import SHARE, hold_to_float32
from saliency_exporter.version.tolerances import SAMPLES_TOLERANCE, tolerances

SHAPE = (6, 5, 2)
WEIGHTS = np.random.default_rng(3).normal(size=(60, 8)).astype(np.float32)
LAST = np.random.default_rng(4).normal(size=(8, 3)).astype(np.float32)


def curved(x: tf.Tensor, *, steepness: float = 1.0, scale: float = 1.0) -> tf.Tensor:
    """Its gradients vary with the noise where it is steep."""
    return scale * tf.tanh(steepness * tf.reshape(x, [-1, 60]) @ WEIGHTS) @ LAST


@cache
def shares(call: Callable, precision: str, methods: tuple[str, ...] = ("smooth",)) -> dict[str, float]:
    settings = Settings(find_methods(methods), (1,), "xla", target="cpu", sample_precision=precision)
    return dict(hold_to_float32(Forward(trace(source_of(call, SHAPE))), builtin("none"), settings, "model"))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_map_whose_gradients_vary_keeps_far_below_its_own_error(precision):
    (share,) = shares(curved, precision).values()
    assert 0 < share <= SHARE


def test_float16_is_nearer_than_bfloat16_and_float32_is_not_looked_at():
    assert shares(curved, "float16")["smooth"] < shares(curved, "bfloat16")["smooth"]
    assert shares(curved, "float32") == {}


def test_a_map_that_hardly_varies_is_refused_with_both_numbers_and_what_to_do():
    """Rounding is all that changes of it, and its standard error is less than that."""

    def nearly_linear(x: tf.Tensor) -> tf.Tensor:
        return curved(x, steepness=1e-3, scale=1e3)

    with pytest.raises(ExportError, match=r"smooth with samples in bfloat16 .* standard error.* at 50") as no:
        shares(nearly_linear, "bfloat16")
    assert no.value.hint == "--sample-precision float32"
    assert shares(nearly_linear, "float32") == {}


def test_numbers_that_are_too_large_for_float16_are_refused_and_bfloat16_takes_them():
    def large(x: tf.Tensor) -> tf.Tensor:
        return (tf.tanh(tf.reshape(x, [-1, 60]) @ WEIGHTS) @ (LAST * 3e5)) * 1e-5

    with pytest.raises(ExportError, match="float16") as refused:
        shares(large, "float16")
    assert "bfloat16" in refused.value.hint
    assert shares(large, "bfloat16")["smooth"] <= SHARE


def test_an_export_without_a_method_over_samples_is_refused():
    with pytest.raises(ExportError, match="none is exported: gradients") as refused:
        shares(curved, "bfloat16", ("gradients",))
    assert "smooth" in refused.value.hint


def test_the_bound_of_a_server_s_answers_is_below_the_nearest_wrong_map_and_for_such_signatures_alone():
    float32 = Rounding("float32", 50, 27)
    assert tolerances(float32).gradient < SAMPLES_TOLERANCE
    wider = tolerances(float32, fewer_bits=True)
    assert (wider.gradient, wider.score) == (SAMPLES_TOLERANCE, tolerances(float32).score)
    # Of `OUTLIER_TOLERANCE`: another example's map is 0.86 away, the nearest of all that are wrong.
    assert max(wider.gradient, wider.outlier) < 0.86 / 2
