"""`--compile auto`: measures each signature with XLA and without, batch size by batch size, and chooses.

Which of the two is faster depends on the model, the batch size and the processor; no rule that was tried
predicts it. What is compared is what would be served: the same signatures, folded, each way lowered by its
own rules.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

from saliency_client._contract import DEFAULT_SIGNATURE
from saliency_exporter.contract.build import build_signatures
from saliency_exporter.contract.examples import parameter_examples, reference_inputs
from saliency_exporter.contract.settings import Settings
from saliency_exporter.graph.replay import Forward
from saliency_exporter.methods.declarations import PASSES_PREFIX
from saliency_exporter.methods.model import samples_of_a_step
from saliency_exporter.runtime.functions import Function
from saliency_exporter.sources.preprocessing import Preprocessing

STEPS = 3
"""Steps of a method's loop that are measured, each of them full; its time is linear in them.

A step that is half empty costs as much as a full one: a number of samples that does not fill its steps would
be measured as slower than it is, and not by the same part with and without XLA."""

_ROUNDS = 7
_LEAST_ROUNDS = 3
_ENOUGH_SECONDS = 3.0
_SHORT_MS = 1000.0
"""A call that takes less is timed behind an untimed one of the same function.

After another function's work the first call takes up to twice as long, which says nothing of a server that
answers one request after another."""
_WORTH_COMPILING = 0.97
"""XLA has to take less than this part of the time without it: what is not compiled loads sooner."""


@dataclass(frozen=True)
class Choice:
    """One signature at one batch size.

    Attributes:
        signature: its name.
        batch_size: number of images.
        xla_ms: least milliseconds of a call, compiled.
        none_ms: least milliseconds of a call, uncompiled.
        compile_s: seconds of the first compiled call, its run included.
    """

    signature: str
    batch_size: int
    xla_ms: float
    none_ms: float
    compile_s: float = 0.0

    @property
    def compiled(self) -> bool:
        """Whether XLA is chosen."""
        return self.xla_ms < _WORTH_COMPILING * self.none_ms


def choose(
    forward: Forward,
    preprocessing: Preprocessing,
    settings: Settings,
    model: str,
    predictions: str = DEFAULT_SIGNATURE,
) -> list[Choice]:
    """Measures every signature at every batch size on this machine, compiled and not, in turn.

    Args:
        forward: the model, folded where it will be.
        preprocessing: pixels to model input.
        settings: of the export; its `compile` and `uncompiled` are not looked at.
        model: its name, for messages.
        predictions: name of the signature that returns the model's predictions.
    """
    variants = [
        build_signatures(
            forward,
            preprocessing,
            replace(settings, compile=name, uncompiled={}),
            model,
            predictions=predictions,
        )
        for name in ("xla", "none")
    ]
    methods = {method.signature: method for method in settings.methods}
    choices = []
    for signature, function in variants[0].items():
        spec = function.input_signature[0]
        examples = reference_inputs(spec, forward.graph.classes)
        if signature in methods:
            examples |= parameter_examples(methods[signature], spec)
        for size in settings.batch_sizes:
            passes = min(settings.max_samples, STEPS * samples_of_a_step(size))
            for name in examples:
                if name.startswith(PASSES_PREFIX):
                    examples[name] = np.full_like(examples[name], passes)
            rows = np.arange(size) % len(examples["images"])
            inputs = [tf.constant(examples[spec.name][rows]) for spec in function.input_signature]
            functions = [built[signature] for built in variants]
            # Traced before, so that the first call is compilation alone.
            for built in functions:
                built.get_concrete_function()
            compile_s = _timed_ms(functions[0], inputs) / 1e3
            xla_ms, none_ms = _least_ms(functions, inputs)
            choices.append(Choice(signature, size, xla_ms, none_ms, compile_s))
    return choices


def uncompiled_sizes(choices: list[Choice]) -> Mapping[str, tuple[int, ...]]:
    """What `Settings.uncompiled` takes: by signature the batch sizes that are not compiled."""
    sizes: dict[str, tuple[int, ...]] = {}
    for choice in choices:
        if not choice.compiled:
            sizes[choice.signature] = (*sizes.get(choice.signature, ()), choice.batch_size)
    return sizes


def _least_ms(functions: list[Function], inputs: list[tf.Tensor]) -> list[float]:
    """Least milliseconds of each function, called in turn. What else the machine does only adds to a time."""
    is_short = [_timed_ms(function, inputs) < _SHORT_MS for function in functions]
    times: list[list[float]] = [[] for _ in functions]
    end = time.monotonic() + _ENOUGH_SECONDS
    for done in range(_ROUNDS):
        if done >= _LEAST_ROUNDS and time.monotonic() > end:
            break
        for function, short, own in zip(functions, is_short, times, strict=True):
            if short:
                _timed_ms(function, inputs)
            own.append(_timed_ms(function, inputs))
    return [min(own) for own in times]


def _timed_ms(function: Function, inputs: list[tf.Tensor]) -> float:
    start = time.perf_counter()
    for value in function(*inputs).values():
        value.numpy()
    return 1e3 * (time.perf_counter() - start)
