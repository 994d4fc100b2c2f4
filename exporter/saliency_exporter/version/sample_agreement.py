"""How far a map of samples in fewer bits is from that of the same in float32, beside its own error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import tensorflow as tf

from saliency_exporter.contract.build import PREDICTED_CLASS, build_cores
from saliency_exporter.contract.checks import default_of
from saliency_exporter.contract.examples import EXAMPLES, reference_inputs
from saliency_exporter.contract.settings import Settings
from saliency_exporter.contract.slices import Core
from saliency_exporter.errors import ExportError
from saliency_exporter.graph.replay import Forward
from saliency_exporter.methods.declarations import CLASS_INDEX, PASSES_PREFIX, Method
from saliency_exporter.sources.preprocessing import Preprocessing

SHARE = 0.1
"""Bound of ‖map in fewer bits − map in float32‖₂ / ‖standard error of the map‖₂, for the default number of
samples and the same noise: what fewer bits change must vanish beside what the number of samples leaves
open."""


def hold_to_float32(
    forward: Forward, preprocessing: Preprocessing, settings: Settings, model: str
) -> Mapping[str, float]:
    """Holds the maps of all methods over samples, with their default parameters, to those of float32.

    Both are computed here and uncompiled, of the two images that an export is verified with.

    Returns:
        By a method's name the larger share of its two images, at most `SHARE`.

    Raises:
        ExportError: no method takes samples, or a map differs by more, or cannot be computed in fewer bits.
    """
    if settings.sample_precision == "float32":
        return {}
    methods = tuple(method for method in settings.methods if method.sampled)
    if not methods:
        raise ExportError(
            f"--sample-precision {settings.sample_precision} is for methods that are a mean over samples, "
            f"and none is exported: {', '.join(method.expression for method in settings.methods)}",
            hint="leave it out, or add smooth to --methods",
        )
    alone = replace(settings, methods=methods, compile="none", batch_sizes=(EXAMPLES,))
    cores = [
        build_cores(forward, preprocessing, replace(alone, sample_precision=precision), model)
        for precision in (settings.sample_precision, "float32")
    ]
    shares = {}
    for method in methods:
        low, full = (_answer(method, built[method.signature], settings, model) for built in cores)
        shares[method.name] = _share(method, low, full, settings)
    return shares


def _answer(method: Method, core: Core, settings: Settings, model: str) -> dict[str, np.ndarray]:
    spec = core.input_signature[0]
    given = reference_inputs(spec, 1)
    given[CLASS_INDEX] = np.full(EXAMPLES, PREDICTED_CLASS, np.int32)
    for parameter in method.parameters:
        default = default_of(parameter, settings.max_samples)
        given[parameter.name] = np.full(EXAMPLES, default, parameter.dtype)
    try:
        answer = core(*(tf.constant(given[spec.name], spec.dtype) for spec in core.input_signature))
    except tf.errors.OpError as error:
        raise ExportError(
            f"{method.expression} of {model} does not run with samples in {settings.sample_precision}: "
            f"{error.message.splitlines()[0]}",
            hint=_hint(settings),
        ) from error
    return {name: value.numpy() for name, value in answer.items()}


def _share(
    method: Method, low: Mapping[str, np.ndarray], full: Mapping[str, np.ndarray], settings: Settings
) -> float:
    output = method.map_kind.output
    worst = 0.0
    for a, b, error in zip(low[output], full[output], full["standard_error"].tolist(), strict=True):
        difference = float(np.linalg.norm(a.astype(np.float64) - b))
        if not difference <= SHARE * error:
            raise ExportError(
                f"{method.expression} with samples in {settings.sample_precision} differs from float32 by "
                f"{difference:.3g}, {difference / error if error else np.inf:.2g} of its standard error, "
                f"{error:.3g}, at {_samples(method, settings)} samples (bound {SHARE})",
                hint=_hint(settings),
            )
        worst = max(worst, difference / error if error else 0.0)
    return worst


def _samples(method: Method, settings: Settings) -> float:
    count = next(p for p in method.parameters if p.name.startswith(PASSES_PREFIX))
    return default_of(count, settings.max_samples)


def _hint(settings: Settings) -> str:
    if settings.sample_precision == "float16":
        return "--sample-precision float32, or bfloat16 if the numbers are too large for float16"
    return "--sample-precision float32"
