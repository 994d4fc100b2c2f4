"""How far a server's answers may be from the reference, by the rounding in the model.

Two right computations of a map differ by rounding, and by the units whose input is within rounding of a
rectifier's kink: such a unit passes its signal in one computation and not in the other. One of them changes a
map by the share that it has in it, so most maps agree to rounding and a few differ by some ten thousand times
as much.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import tensorflow as tf

from saliency_exporter.graph.nodes import unit_roundoff
from saliency_exporter.version.manifest import Rounding

SCORE_TOLERANCE = 1e-3
"""Bound of max|difference| / max(1, max|expected|) of scores and probabilities in float32.

Float32 rounding through some hundred layers leaves 1e-6 to 1e-5; a wrong computation leaves 0.1 and more."""

GRADIENT_TOLERANCE = 2e-2
"""Bound of ‖difference‖₂ / ‖expected‖₂ of the map of that example which agrees best, in float32.

A wrong rule, sample, class or order of examples is wrong for every example; a unit at a kink is so by chance,
in one example. Of 240 gradient, guided and SmoothGrad maps of a MobileNet (40 photos, 96 × 96, width 0.5;
float32 against float64, XLA against uncompiled) half differed by less than 1e-6, nine of ten by less than
1.1e-2, and the worst by 6.8e-2: with one bound of 2e-2 for each map a right export is refused by chance."""

OUTLIER_TOLERANCE = 0.25
"""The same bound for the map of any example.

It lies between the worst right map that was seen, 6.8e-2, and the nearest wrong one: that of another example
0.86, another seed 1.3, plain for guided 1.4, guided for plain 1.0, another class 1.07. (Guided maps of two
classes are 7e-3 to 0.6 apart: they hardly depend on the class, which `class_index` and `score` tell.)"""

MOST = 0.5
"""No bound is beyond this: in float16 and bfloat16 another example's map was 0.59 away at least."""

SAMPLES_TOLERANCE = 0.2
"""The same two bounds where samples are in fewer bits and the reference is in float32, at least.

Such a map has been held to a tenth of its standard error at the default number of samples. A sample of fewer
bits is off by its own rounding, so at the two or three samples of the reference it is a tenth of the standard
error there, which is no larger than the map. Twice that, for two images out of many, is still far below the
nearest wrong map."""


@dataclass(frozen=True)
class Tolerances:
    """The bounds of one export.

    Attributes:
        score: as `SCORE_TOLERANCE` measures.
        gradient: as `GRADIENT_TOLERANCE` measures, of the example that agrees best.
        outlier: the same of any example.
    """

    score: float
    gradient: float
    outlier: float


def tolerances(rounding: Rounding, *, fewer_bits: bool = False) -> Tolerances:
    """The bounds for a model that computes in a dtype of unit roundoff u, d roundings deep and past k kinks.

    Roundings have signs that do not know of each other, so a value that d of them went into is off by about
    δ = u√d of its size (Higham 2002, section 2.8). Of normally distributed inputs of a rectifier a part of
    2δφ(0) = 0.8 δ is within ±δ of the kink. Each such unit adds or takes its signal, whose squares add up: a
    rectifier changes the map by √(0.8 δ) of its norm, and k of them, one after the other, by √(0.8 δ k).
    Twice that, and 8u√(2d) for the rounding of the way forth and back itself.

    It is an estimate from above, of one map in many. In float16 √(0.8 δ k) was 0.07 and 0.15 for two networks
    of 4 and 8 kinks, whose maps differed by 2e-3 at most between XLA and uncompiled; in bfloat16 0.21 and
    0.41, and they differed by 0.26 and 0.06. A MobileNet of 27 kinks in bfloat16 has 0.89, and its gradients
    differed by 0.59: there no bound tells right from wrong, and such an export may be refused for nothing.

    Args:
        rounding: in the model.
        fewer_bits: whether the signature takes its samples in fewer bits than the reference.
    """
    unit = unit_roundoff(tf.as_dtype(rounding.dtype))
    off = unit * math.sqrt(rounding.depth)
    at_kinks = math.sqrt(0.8 * off * rounding.kinks)
    gradient = min(MOST, max(GRADIENT_TOLERANCE, 2 * at_kinks + 8 * math.sqrt(2) * off))
    if fewer_bits:
        gradient = max(gradient, SAMPLES_TOLERANCE)
    return Tolerances(max(SCORE_TOLERANCE, 4 * off), gradient, max(OUTLIER_TOLERANCE, gradient))
