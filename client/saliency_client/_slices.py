"""A mean over samples that is asked for in slices, and what is known of it after each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from saliency_client._accuracy import STOPS_AT, contrast_of, merged_squares, relative_error, samples_needed
from saliency_client._contract import (
    COUNTS,
    FIRST_SAMPLE,
    OF_THE_CLASS,
    RELATIVE_ERROR,
    SALIENCY,
    SAMPLES_USED,
    STANDARD_ERROR,
    TARGET_ERROR,
    VARIANCE,
)
from saliency_client._errors import AnswerError, InputError, UnknownParameter
from saliency_client._explanation import Explanation
from saliency_client._requests import ArrayLike, checked_inputs
from saliency_client._saliency import own_map, saliency_of
from saliency_client._signatures import Signature
from saliency_client._tensors import Array

_LARGEST = 500
"""Of a slice: as many as an export allows in a call, where that is known, and never more than these: so many
that a request costs nothing beside them."""


class Slices:
    """What is known of B means, and what to ask for next; an example that is done is asked for no more.

    A slice doubles what there is, at most, and takes no more than the error seems to need. The first is of
    ten samples, and all but the last are multiples of ten.

    Args:
        signature: of the method.
        images, parameters: as for `explain`.
        target_error: one, or [B].

    Raises:
        InputError: as `explain`, or the target is no number ≥ 0.
        UnknownParameter: the method takes no first sample.
    """

    def __init__(
        self,
        signature: Signature,
        images: ArrayLike,
        parameters: Mapping[str, ArrayLike | None],
        target_error: ArrayLike,
        signatures: Mapping[str, Signature],
        of: str,
    ) -> None:
        self._map, self._count = _sampled(signature, signatures, of)
        given = {**parameters, TARGET_ERROR: target_error}
        self._inputs = checked_inputs(signature, images, given, in_parts=self._count)
        most = signature.bounds.get(self._count, (None, None))[1]
        self._largest = _LARGEST if most is None else min(_LARGEST, int(most))
        self._images = self._inputs.pop("images")
        self._target = self._inputs[TARGET_ERROR]
        if not (self._target >= 0).all():
            raise InputError(f"{TARGET_ERROR} is {target_error!r}; it takes numbers from 0 on")
        # A slice does not know of those before it, and so not when to end.
        self._inputs[TARGET_ERROR] = np.zeros_like(self._target)
        self._bound = self._inputs[self._count]
        batch = len(self._bound)
        self._samples = np.zeros(batch, np.int64)
        self._error = np.full(batch, np.nan)
        self._mean: Array = np.zeros(0)
        self._squares = np.zeros(batch)
        self._deviations: Array | None = None
        self._answer: Explanation | None = None

    @property
    def active(self) -> Array:
        """Which examples are not done, bool [B]."""
        reached = (self._target > 0) & (self._error <= self._target)
        active: Array = (self._samples == 0) | (~reached & (self._samples < self._bound))
        return active

    def ask(self) -> tuple[Array, Mapping[str, Array]] | None:
        """Images and parameters of the next request, for the examples that are not done; None: all are."""
        active = self.active
        if not active.any():
            return None
        inputs = {name: values[active] for name, values in self._inputs.items()}
        inputs[FIRST_SAMPLE] = (inputs[FIRST_SAMPLE] + self._samples[active]).astype(np.int32)
        inputs[self._count] = self._sizes()[active].astype(np.int32)
        return self._images[active], inputs

    def merged(self, answer: Explanation) -> Explanation:
        """All that is known with the answer to the inputs that were last asked for.

        Raises:
            AnswerError: another version answered than before.
        """
        active = self.active
        first = self._answer
        if first is None:
            self._mean = np.zeros(answer[self._map].shape)
            if VARIANCE in answer.outputs:
                self._deviations = np.zeros(answer[self._map].shape)
            # All slices are of one class, whatever rounding does to the second best.
            self._inputs["class_index"] = np.array(answer.class_index)
            first = self._answer = answer
        elif answer.version != first.version:
            raise AnswerError(
                f"version {answer.version} answered after version {first.version}: samples of two versions "
                "have no mean",
                hint="give the client a version, and ask again",
            )
        before, more = self._samples[active], answer[SAMPLES_USED].astype(np.int64)
        self._merge(active, answer, before, more)
        self._samples[active] = before + more
        self._error = relative_error(
            self._mean, self._squared_error(), self._samples, contrast=self._of_contrast
        )
        return self._explanation(first)

    def _sizes(self) -> Array:
        """How many samples each example is asked for next."""
        missing = samples_needed(self._error, self._samples, self._target) - self._samples
        largest = max(self._largest // STOPS_AT, 1) * STOPS_AT
        tens = np.ceil(np.where(np.isfinite(missing), missing, largest) / STOPS_AT) * STOPS_AT
        doubled = self._samples // STOPS_AT * STOPS_AT
        sizes = np.maximum(np.minimum(np.minimum(tens, doubled), largest), STOPS_AT)
        within: Array = np.minimum(np.minimum(sizes, self._largest), self._bound - self._samples)
        return within

    @property
    def _of_contrast(self) -> bool:
        """Whether the error is one of contrast: a map that is the saliency itself has a level."""
        return self._map == SALIENCY

    def _squared_error(self) -> Array:
        """‖se‖² of each mean, [B]; NaN for one sample."""
        with np.errstate(divide="ignore", invalid="ignore"):
            error: Array = self._squares / (self._samples * (self._samples - 1.0))
        return error

    def _merge(self, active: Array, answer: Explanation, before: Array, more: Array) -> None:
        """Take an answer's mean and its spread in."""
        difference = answer[self._map].astype(np.float64) - self._mean[active]
        per_example = (-1,) + (1,) * (difference.ndim - 1)
        there, new = before.reshape(per_example), more.reshape(per_example)
        part = new / (there + new)
        if self._deviations is not None:
            own = np.where(new > 1, answer[VARIANCE].astype(np.float64) * (new - 1.0), 0)
            self._deviations[active] += own + np.square(difference) * (there * part)
        self._squares[active] = merged_squares(
            before,
            self._squares[active],
            more,
            answer[STANDARD_ERROR],
            contrast_of(difference) if self._of_contrast else difference,
        )
        self._mean[active] += difference * part

    def _explanation(self, first: Explanation) -> Explanation:
        outputs = {name: first.outputs[name] for name in OF_THE_CLASS if name in first.outputs}
        mean = self._mean.astype(np.float32)
        sizes = first.saliency.shape[1:]
        outputs |= {
            self._map: mean,
            SALIENCY: saliency_of(self._map, mean, sizes, channels=first.has_channels),
            RELATIVE_ERROR: self._error.astype(np.float32),
            STANDARD_ERROR: np.sqrt(self._squared_error()).astype(np.float32),
            SAMPLES_USED: self._samples.astype(np.int32),
        }
        if self._deviations is not None:
            outputs[VARIANCE] = self._variance(self._deviations)
        return Explanation(
            outputs,
            method=first.method,
            model=first.model,
            version=first.version,
            offered=outputs,
            channels=first.has_channels,
        )

    def _variance(self, squares: Array) -> Array:
        """NaN for one sample."""
        others = (self._samples - 1).reshape((-1,) + (1,) * (squares.ndim - 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(squares / others, np.float32)


def takes_slices(signature: Signature) -> bool:
    """Whether a method's mean can be asked for in slices."""
    needed = {STANDARD_ERROR, SAMPLES_USED}
    return (
        {FIRST_SAMPLE, TARGET_ERROR} <= signature.inputs.keys()
        and needed <= signature.outputs.keys()
        and count_of(signature) is not None
        and own_map(signature.outputs) is not None
    )


def count_of(signature: Signature) -> str | None:
    """The parameter that says how many samples, masks or steps a method takes, at most; None: it has none."""
    return next((name for name in COUNTS if name in signature.inputs), None)


def _sampled(signature: Signature, signatures: Mapping[str, Signature], of: str) -> tuple[str, str]:
    """The output that is averaged and the parameter that bounds the number of samples.

    Raises:
        UnknownParameter: there are no slices of this method.
    """
    count, own = count_of(signature), own_map(signature.outputs)
    if takes_slices(signature) and count and own:
        return own, count
    others = sorted(one.method for one in signatures.values() if one.method and takes_slices(one))
    message = f"{signature.name} of {of} takes no {FIRST_SAMPLE}"
    if TARGET_ERROR in signature.inputs:
        problem, hint = "it cannot be asked in slices", f"explain(…, {TARGET_ERROR}=…) ends at that error"
    elif count and "seed" in signature.inputs:
        problem = "this export is older than samples in slices"
        hint = f"export the model again, with this release; till then explain(…, {count}=…) takes one call"
    else:
        problem = "it draws no samples"
        hint = f"methods that do: {', '.join(others)}" if others else "export one that does"
    raise UnknownParameter(f"{message}: {problem}", hint=hint, signature=signature.name)
