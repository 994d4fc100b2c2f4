"""The traced graph's gradient against the model's own: TensorFlow's through it, before any rewriting.

All else that an export is verified against comes from the traced graph, which cannot show what tracing lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.differentiable import refuse_unsaved_gradients, without_gradient
from saliency_exporter.graph.forward_graph import ForwardGraph
from saliency_exporter.graph.head import is_mean_of_logits
from saliency_exporter.graph.replay import Forward
from saliency_exporter.runtime.kernels import running_kernels
from saliency_exporter.sources.class_scores import MEAN_OF_POSITIONS
from saliency_exporter.sources.source import Source
from saliency_exporter.version.tolerances import Tolerances

_SMALLEST = 1e-30
"""Below, the logarithm of a float32 probability has no gradient that can be trusted."""

_SATURATED = 1e-4
"""Nearer to 1, rounding p to float32 is more than a thousandth of 1 − p, which the logit is made of."""


_PARTS = (
    "a part of the model computes something else when it is traced; export parts of it as module:function to "
    "find which"
)


@dataclass(frozen=True)
class Agreement:
    """How far the traced gradient is from the model's own.

    Attributes:
        difference: the largest ‖traced − own‖₂ / ‖own‖₂ of an example.
        examples: number of examples; 0 where the model's own gradient cannot be had.
    """

    difference: float
    examples: int


def hold_to_model(
    source: Source, forward: Forward, x: tf.Tensor, bounds: Tolerances, *, gradients: bool = True
) -> Agreement:
    """Holds the gradient of a traced graph against TensorFlow's through the model itself.

    What is differentiated is a logit, as far as the model's output shows it: of a softmax the difference of
    the two largest, log p_c − log p_j; of sigmoids the one nearest to 0, log p − log(1 − p); else the largest
    output. Where the scores are the mean of the logits of several positions, so is this.

    Args:
        source: the model.
        forward: its forward pass as it was traced.
        x: model input, float32 [B, …].
        bounds: of the difference, of the example that agrees best and of any.
        gradients: whether to look at gradients, and not at scores alone.

    Raises:
        NoGradient: the scores have no gradient.
        ExportError: the model has other scores or another gradient.
    """
    graph = forward.graph
    if gradients:
        refuse_unsaved_gradients(graph, source.name)
    call = _by_position(source.call) if is_mean_of_logits(graph) else source.call
    try:
        output = _output(call, x)
    except _NoPositions:
        return Agreement(0.0, 0)
    seen = _seen(graph, output)
    if not gradients:
        _hold_scores(source.name, seen, output, _traced_numbers(forward, x, seen), bounds)
        return Agreement(0.0, 0)
    try:
        own = _own_gradient(call, x, seen)
        number, traced = _traced_gradient(forward, x, seen)
    except LookupError as error:
        raise without_gradient(graph, source.name) from error
    if traced is None:
        raise without_gradient(graph, source.name)
    if graph.input_dtype:  # the model's own ends in its cast to whole numbers
        return Agreement(0.0, 0)
    own = np.zeros_like(traced) if own is None else own
    compared = [(t, o) for t, o, exact in zip(traced, own, seen.exact, strict=True) if exact]
    differences = [_difference(t, o) for t, o in compared]
    # A unit at a rectifier's kink is wrong by chance, in one example; what tracing lost is wrong in all.
    for kind, bound in ((np.argmin, bounds.gradient), (np.argmax, bounds.outlier)):
        if compared and not differences[worst := int(kind(differences))] <= bound:
            raise _disagreement(source.name, *compared[worst], bound)
    _hold_scores(source.name, seen, output, number, bounds)
    return Agreement(max(differences, default=0.0), len(compared))


def _next_step() -> str:
    if running_kernels() == "eigen":
        return _PARTS
    return f"{_PARTS}. Some of oneDNN's kernels are wrong: with TF_ENABLE_ONEDNN_OPTS=0 the model may agree"


def _hold_scores(name: str, seen: _Seen, output: np.ndarray, number: np.ndarray, bounds: Tolerances) -> None:
    """Holds what the traced graph says of the scores, [B], against what the model's output does."""
    own_number = seen.of_output(tf.constant(output)).numpy()[seen.exact]
    apart = float(np.abs(number[seen.exact] - own_number).max(initial=0.0))
    if not apart <= bounds.score * max(1.0, float(np.abs(own_number).max(initial=0.0))):
        raise ExportError(
            f"the scores of {name} as a graph are not the model's own: they differ by {apart:.2g}",
            hint=_next_step(),
        )


@dataclass(frozen=True)
class _Seen:
    """What a model's output shows of its logits.

    Attributes:
        outputs: number of outputs.
        chosen: values, [B, outputs, …], to those of the classes that are looked at, [B, k, …].
        logits: the chosen outputs to their logits.
        exact: for which examples float32 holds what the logits are made of.
    """

    outputs: int
    chosen: Callable[[tf.Tensor], tf.Tensor]
    logits: Callable[[tf.Tensor], tf.Tensor]
    exact: np.ndarray

    def of_output(self, output: tf.Tensor) -> tf.Tensor:
        """What is differentiated, [B], from the model's output: a logit, or the difference of two.

        An output [B, outputs, positions] has the mean over its positions.
        """
        # Chosen first: the logarithm of another probability, which may be 0, has no finite gradient.
        logits = self.logits(self.chosen(output))
        return _difference_of(tf.reduce_mean(logits, -1) if logits.shape.rank == 3 else logits)

    def of_scores(self, scores: tf.Tensor) -> tf.Tensor:
        """The same from the scores of the traced graph, of which the last are those of the outputs."""
        return _difference_of(self.chosen(scores[:, -self.outputs :]))


def _difference_of(logits: tf.Tensor) -> tf.Tensor:
    first, *rest = tf.unstack(logits, axis=-1)
    return first - rest[0] if rest else first


def _seen(graph: ForwardGraph, output: np.ndarray) -> _Seen:
    rows, outputs = output.shape[:2]
    mean = output.reshape(rows, outputs, -1).mean(-1)
    head = "output" if graph.head_assumed else graph.head
    is_log = bool(np.all(output <= 0))
    if head == "softmax" and outputs > 1:
        two = np.argsort(mean, axis=-1)[:, ::-1][:, :2]
        exact = np.ones(rows, bool) if is_log else _of_class(output, two).min(1) > _SMALLEST
        return _Seen(outputs, _gathered(two), tf.identity if is_log else tf.math.log, exact)
    if head == "sigmoid":
        p = np.exp(output) if is_log else output
        nearest = np.abs((np.exp(mean) if is_log else mean) - 0.5).argmin(axis=-1)
        chosen = _of_class(p, nearest[:, None])
        return _Seen(
            outputs,
            _gathered(nearest[:, None]),
            _logit_of_log if is_log else _logit,
            (chosen.min(1) > _SMALLEST) & (chosen.max(1) < 1 - _SATURATED),
        )
    return _Seen(outputs, _gathered(mean.argmax(axis=-1)[:, None]), tf.identity, np.ones(rows, bool))


def _of_class(output: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The values of classes [B, k] in an output [B, outputs, …], in one row for each example, [B, …]."""
    return np.stack([row[chosen].ravel() for row, chosen in zip(output, classes, strict=True)])


class _NoPositions(Exception):
    """The mean over positions is inside of a function, where it is not seen."""


def _by_position(call: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
    """A model's output before the mean over its positions, [B, outputs, positions]; runs in a graph alone."""

    def positions(x: tf.Tensor) -> tf.Tensor:
        call(x)
        operations = tf.compat.v1.get_default_graph().get_operations()
        means = [op for op in operations if op.type == "Mean" and MEAN_OF_POSITIONS in op.name]
        if len(means) != 1:
            raise _NoPositions
        (values, _) = means[0].inputs
        flat = tf.reshape(values, [tf.shape(values)[0], -1, values.shape[-1]])
        return tf.transpose(flat, [0, 2, 1])

    return positions


def _gathered(index: np.ndarray) -> Callable[[tf.Tensor], tf.Tensor]:
    return lambda values: tf.gather(values, tf.constant(index, tf.int32), batch_dims=1)


def _logit(p: tf.Tensor) -> tf.Tensor:
    return tf.math.log(p) - tf.math.log1p(-p)


def _logit_of_log(log_p: tf.Tensor) -> tf.Tensor:
    return log_p - tf.math.log(-tf.math.expm1(log_p))


def _output(call: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> np.ndarray:
    """What the model answers, float32 [B, outputs, …]: op by op, or as a graph where it runs in one alone."""
    try:
        output = call(x)
    except Exception:
        output = _as_graph(call, x)
    return tf.cast(output, tf.float32).numpy()


def _own_gradient(call: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor, seen: _Seen) -> np.ndarray | None:
    """The gradient of what is seen by the model itself, [B, …]; None where it has none.

    In a function, which leaves out what nobody asks for: op by op, a GradientTape also computes the gradients
    of kernels, and oneDNN's of a strided convolution ends the process for some shapes (TensorFlow 2.20). By
    tf.gradients: a tape does not see ops that a model imports from a graph.
    """
    unconnected = []

    def gradient(x: tf.Tensor) -> tf.Tensor:
        number = seen.of_output(tf.cast(call(x), tf.float32))
        (found,) = tf.gradients(number, x)
        unconnected.append(found is None)
        return tf.zeros_like(x) if found is None else tf.convert_to_tensor(found)

    found = _as_graph(gradient, x)
    return None if unconnected[-1] else found.numpy()


def _as_graph(call: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """What a function gives as a graph; compiled where this processor has no kernel for an op of it.

    Some have none for channels first, and for the gradients of grouped and dilated convolutions
    (`graph.portable`); XLA has.
    """
    try:
        return tf.function(call, autograph=False)(x)
    except (tf.errors.UnimplementedError, tf.errors.InvalidArgumentError):
        return tf.function(call, autograph=False, jit_compile=True)(x)


def _traced_gradient(forward: Forward, x: tf.Tensor, seen: _Seen) -> tuple[np.ndarray, np.ndarray | None]:
    """The same by the traced graph."""
    unconnected = []

    @tf.function(autograph=False)
    def gradient(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        number = seen.of_scores(forward.scores(x))
        (found,) = tf.gradients(number, x)
        unconnected.append(found is None)
        return number, tf.zeros_like(x) if found is None else found

    number, found = gradient(x)
    return number.numpy(), None if unconnected[0] else found.numpy()


def _traced_numbers(forward: Forward, x: tf.Tensor, seen: _Seen) -> np.ndarray:
    """What is looked at, [B], by the traced graph."""
    numbers = tf.function(lambda x: seen.of_scores(forward.scores(x)), autograph=False)(x)
    found: np.ndarray = numbers.numpy()
    return found


def _difference(traced: np.ndarray, own: np.ndarray) -> float:
    if not np.any(traced) and not np.any(own):
        return 0.0
    return float(np.linalg.norm(traced - own) / max(np.linalg.norm(own), np.finfo(np.float32).tiny))


def _disagreement(name: str, traced: np.ndarray, own: np.ndarray, bound: float) -> ExportError:
    norms = float(np.linalg.norm(traced)), float(np.linalg.norm(own))
    cosine = float((traced * own).sum() / max(norms[0] * norms[1], np.finfo(np.float32).tiny))
    difference = _difference(traced, own)
    return ExportError(
        f"the gradient of {name} as a graph is not the model's own: it differs by {difference:.2g} of its "
        f"norm (bound {bound:g}); the norms are {norms[0]:.4g} and {norms[1]:.4g}, "
        f"their cosine is {cosine:.4f}",
        hint=_next_step(),
    )
