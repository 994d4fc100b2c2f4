"""What a method is given of a model: class scores, and their gradients by the model input and by features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

ScoreFunction = Callable[[tf.Tensor], tf.Tensor]
"""Model input, float32 [B, …], to unnormalized class scores, float32 [B, classes]."""

GradientFunction = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""Model input x and class_index, int32 [B], to ∂(scores[b, class_index[b]])/∂x, of the shape of x."""


class Gradients(NamedTuple):
    """The gradients of one class score per example.

    Attributes:
        gradients: float32 [B, …], signed.
        scores: float32 [B, classes], of the clean image.
        class_index: int32 [B], the class that was explained.
    """

    gradients: tf.Tensor
    scores: tf.Tensor
    class_index: tf.Tensor


class Features(NamedTuple):
    """The feature layer of a model, and the gradient of one class score per example with respect to it.

    Attributes:
        values: float32 [B, *grid, K], for pictures [B, h, w, K].
        gradients: float32, of the same shape.
        scores: float32 [B, classes], of the same images.
        class_index: int32 [B], the class that was explained.
    """

    values: tf.Tensor
    gradients: tf.Tensor
    scores: tf.Tensor
    class_index: tf.Tensor


class NotGiven(Exception):
    """A model without what a method asks for; the method did not declare that it needs it."""


def _not_given(*inputs: Any) -> Any:
    raise NotGiven


def as_function(function: Callable[..., Any], specs: Sequence[tf.TensorSpec]) -> Any:
    """A function of tensors as a `tf.function` of these specs, traced once, which may be inlined."""
    return tf.function(function, input_signature=specs, autograph=False)


IMAGES_AT_ONCE = 10
"""A step of a method's loop takes as many samples of each example as make up to that many images.

One image at a time does not fill a device, and waits for the weights: with ten, an uncompiled sample of
ResNet50 takes a third less processor time. Samples beyond those asked for in the last step are work for
nothing: numbers that people ask for are multiples of ten."""


SAMPLES_OF_A_STEP = (1, 2, 10)
"""A step of a method's loop takes one of these numbers of samples of each example.

Each is a divisor of the last, so that a loop meets every multiple of ten at any batch size; and all but the
first are even, so that no step parts a pair."""


def samples_of_a_step(batch: int, images_at_once: int = IMAGES_AT_ONCE, least: int = 1) -> int:
    """How many samples of each example a step of a loop takes: as many as fit, and `least` at least."""
    fits = [samples for samples in SAMPLES_OF_A_STEP if samples * batch <= images_at_once]
    return max([least, *fits])


@dataclass(frozen=True)
class Model:
    """A model as a method sees it: pure functions of the model input x, float32 [B, …].

    Attributes:
        scores: x to the unnormalized class scores, float32 [B, classes].
        gradients: x and class_index, int32 [B], to `Gradients`: the scores and the gradient in one pass.
        gradient: x and class_index, int32 [B], each ≥ 0, to the gradient alone, for loops that ask for many.
        images_at_once: how many images a step of such a loop should take.
        features: x and class_index, int32 [B], to `Features`, of the model without what the method replaces
            in it; for methods that declare `needs_features`.
        probabilities: scores to what the model makes of them, float32 [B, classes].
        gray: a gray level of each example, float32 [B], in the images' own unit, to the model input of an
            image that has it everywhere, float32 [B, …].
        sizes: of an image without its channels: (H, W) of a picture.
        in_a_loop: a function of tensors and the specs of these, to a `tf.function` that computes the same:
            what a loop calls, where a loop does more with the model than to ask for `gradient` or `scores`.
        in_fewer_bits: gives the same model in another precision, see `of_samples`; None for float32.
    """

    scores: ScoreFunction
    gradients: Callable[[tf.Tensor, tf.Tensor], Gradients]
    gradient: GradientFunction
    images_at_once: int = IMAGES_AT_ONCE
    features: Callable[[tf.Tensor, tf.Tensor], Features] = _not_given
    probabilities: Callable[[tf.Tensor], tf.Tensor] = _not_given
    gray: Callable[[tf.Tensor], tf.Tensor] = _not_given
    sizes: tuple[int, ...] = ()
    in_a_loop: Callable[[Callable[..., Any], Sequence[tf.TensorSpec]], Any] = as_function
    in_fewer_bits: Callable[[], Model] | None = None

    @property
    def of_samples(self) -> Model:
        """The model as a loop over samples takes it, in the precision that the export has for samples.

        To be asked for once, in front of the loop: there the weights are cast. Scores of the clean image are
        those of the model itself.
        """
        return self if self.in_fewer_bits is None else self.in_fewer_bits()


def gradients(score_function: ScoreFunction, x: tf.Tensor, class_index: tf.Tensor) -> Gradients:
    """The gradient ∂S_c/∂x of the unnormalized score of a class.

    Source: Simonyan, Vedaldi, Zisserman 2013, arXiv 1312.6034, section 3.

    Args:
        score_function: the model.
        x: model input, float32 [B, …].
        class_index: int32 [B]; −1 is the class with the highest score.
    """
    scores = score_function(x)
    class_index = chosen_class(scores, class_index)
    return Gradients(score_gradient(scores, x, class_index), scores, class_index)


def features(
    tensors: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
    arrange: Callable[[tf.Tensor], tf.Tensor],
    x: tf.Tensor,
    class_index: tf.Tensor,
) -> Features:
    """The features of a model and their gradient ∂S_c/∂A, by a backward pass that ends at the feature layer.

    Args:
        tensors: model input to the class scores, float32 [B, classes], and the tensor of the feature layer.
        arrange: that tensor, or its gradient, to [B, *grid, K].
        x: model input, float32 [B, …].
        class_index: int32 [B]; −1 is the class with the highest score.
    """
    scores, values = tensors(x)
    class_index = chosen_class(scores, class_index)
    seed = tf.one_hot(class_index, scores.shape[-1], dtype=scores.dtype)
    zero = tf.UnconnectedGradients.ZERO
    (gradient,) = tf.gradients(scores, values, grad_ys=seed, unconnected_gradients=zero)
    # Of samples in fewer bits they are no float32 yet.
    values, gradient = (tf.cast(part, tf.float32) for part in (values, gradient))
    return Features(arrange(values), arrange(gradient), scores, class_index)


def chosen_class(scores: tf.Tensor, class_index: tf.Tensor) -> tf.Tensor:
    """The class to explain, int32 [B]: the given one, or the predicted one where it is −1."""
    predicted = tf.argmax(scores, axis=-1, output_type=tf.int32)
    return tf.where(class_index < 0, predicted, class_index)


def gradient_function(score_function: ScoreFunction) -> GradientFunction:
    """The gradient of a class score as a function of the model input, for methods that ask for many."""
    return lambda x, class_index: score_gradient(score_function(x), x, class_index)


def score_gradient(scores: tf.Tensor, x: tf.Tensor, class_index: tf.Tensor) -> tf.Tensor:
    """∂(scores[b, class_index[b]])/∂x, float32, of the shape of `x`; zero where nothing depends on x."""
    # Seeding the backward pass with the class's unit vector gives the gathered score's gradient without the
    # scatter that differentiating a gather would add.
    seed = tf.one_hot(class_index, scores.shape[-1], dtype=scores.dtype)
    (gradient,) = tf.gradients(scores, x, grad_ys=seed, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return tf.ensure_shape(tf.cast(gradient, tf.float32), x.shape)
