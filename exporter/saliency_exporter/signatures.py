"""The serving contract: the signatures of an exported model.

A signature validates its inputs, gives every example its own parameters, pads the batch to one of a fixed
set of sizes, runs a compiled core and slices the padding off. What is not numeric (validation, labels)
stays outside the core, because XLA has no strings; no value decides a shape, because XLA compiles once per
shape.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import tensorflow as tf

from .activations import find_activations
from .forward import Forward, Replacement, Rule, watched
from .kernels import running_kernels
from .methods.gradients import Gradients, ScoreFunction, gradient_function, gradients
from .methods.guided import guided
from .methods.smooth import IMAGES_AT_ONCE, smooth
from .preprocessing import Preprocessing
from .rules.guided import guided_replacements
from .rules.lowering import lowering_rules
from .rules.lowering.thresholds import XLA_IMAGES_AT_ONCE, Kernels

METHODS = ("gradients", "guided", "smooth")
DEFAULT_SIGNATURE = "serving_default"
IMAGES_SIGNATURE = "serving_images"
"""The predictions of a model that was a SavedModel and has a `serving_default` of its own."""
CLASS_LABELS = "class_labels"
PARAMETER_DEFAULTS = "parameter_defaults"
DEFAULT_BATCH_SIZES = (1, 2, 4, 8, 16)
DEFAULT_NUM_SAMPLES = 50
DEFAULT_NOISE_LEVEL = 0.15
DEFAULT_SEED = 0
PREDICTED_CLASS = -1

_MOST_CHANNELS_APART = 4
"""Up to so many channels a maximum over them is taken one by one."""

Tensors = Mapping[str, tf.Tensor]
Core = Callable[..., dict[str, tf.Tensor]]
Explain = Callable[[tf.Tensor, tf.Tensor], Gradients]
"""Model input, float32 [B, …], and class_index, int32 [B], to what a method without parameters gives."""


@dataclass(frozen=True)
class Settings:
    """How an export is made, beside the model itself.

    Attributes:
        methods: which explain signatures there are.
        batch_sizes: the compiled batch sizes, ascending.
        compile: "xla"; "none" for the same signatures without XLA; "auto" for either, see `uncompiled`.
        uncompiled: with "auto", by signature the batch sizes that XLA is not worth compiling for, as
            `compile_choice` measures them.
        target: the device that the export will run on; lowering rules depend on it.
        kernels: which of TensorFlow's kernels will run there what is not compiled; so do lowering rules.
        lowering: whether slow ops are replaced by equal ones that are faster on the target.
        max_samples: bound of `num_samples`.
        labels: class names, or None.
    """

    methods: tuple[str, ...] = METHODS
    batch_sizes: tuple[int, ...] = DEFAULT_BATCH_SIZES
    compile: Literal["xla", "none", "auto"] = "xla"
    uncompiled: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    target: Literal["cpu", "gpu"] = "gpu"
    kernels: Kernels = field(default_factory=running_kernels)
    lowering: bool = True
    max_samples: int = 1000
    labels: tuple[str, ...] | None = None

    @property
    def compiled(self) -> bool:
        """Whether cores are compiled by XLA, all or some."""
        return self.compile != "none"

    def rules(self, *, compiled: bool) -> dict[str, Rule]:
        """Lowering rules by op type, of what is compiled or of what is not."""
        if not self.lowering:
            return {}
        return lowering_rules(self.target, compiled=compiled, kernels=self.kernels)


def predictions_signature(kept: Container[str]) -> str:
    """Under which name the model's predictions are: not that of a signature that is kept as it was.

    Args:
        kept: names of the signatures that the model brought along.
    """
    return IMAGES_SIGNATURE if DEFAULT_SIGNATURE in kept else DEFAULT_SIGNATURE


def signature_name(method: str) -> str:
    """The name of a method's signature: `explain_<method>`."""
    return f"explain_{method}"


def build_signatures(
    forward: Forward,
    preprocessing: Preprocessing,
    settings: Settings,
    model: str,
    *,
    predictions: str = DEFAULT_SIGNATURE,
    lowered: set[str] | None = None,
) -> dict[str, tf.types.experimental.PolymorphicFunction]:
    """The signatures by name, each a `tf.function` with an input signature and eager defaults.

    Args:
        forward: the model.
        preprocessing: images to model input.
        settings: methods, batch sizes, compilation, labels.
        model: the model's name, for messages.
        predictions: name of the signature that returns the model's predictions.
        lowered: gets the op types that lowering rules took, while the signatures are traced.

    Raises:
        ExportError: guided is asked for and the model has no rectifier or one that is not covered.
    """
    builder = _Builder(forward, preprocessing, settings, set() if lowered is None else lowered)
    functions = {predictions: builder.predictions(predictions)}
    if "gradients" in settings.methods:
        functions[signature_name("gradients")] = builder.explain_gradients()
    if "guided" in settings.methods:
        replacements = guided_replacements(find_activations(forward.graph), model)
        functions[signature_name("guided")] = builder.explain_guided(replacements)
    if "smooth" in settings.methods:
        functions[signature_name("smooth")] = builder.explain_smooth()
    return functions


def class_labels(labels: Sequence[str]) -> tf.types.experimental.PolymorphicFunction:
    """The signature of class names: `labels`, string [B], of `class_index`, int32 [B]; all by default.

    The input `labels` is there for its default alone: the names of all classes. So they are part of the
    SignatureDef, and a client has them by the call with which it learns the signatures, GetModelMetadata. Of
    a server that returns no defaults it has them by this signature, with one row for each class that it asks
    for. A row of the answer depends on its own row of the request alone: so a server that batches may merge
    and pad requests, and one that limits the rows of a request is asked several times.
    """
    names = tf.constant(labels)
    all_classes = tf.range(len(labels))
    specs = [
        tf.TensorSpec((None,), tf.string, name="labels"),
        tf.TensorSpec((None,), tf.int32, name="class_index"),
    ]

    @tf.function(input_signature=specs, autograph=False)
    def name_classes(labels: tf.Tensor = names, class_index: tf.Tensor = all_classes) -> dict[str, tf.Tensor]:
        inside = (class_index >= 0) & (class_index < tf.size(names))
        first = class_index[tf.argmin(tf.cast(inside, tf.int32))]
        message = ["class_index is ", tf.as_string(first), f"; it must be in [0, {names.shape[0] - 1}]"]
        with tf.control_dependencies([_assert(tf.reduce_all(inside), message)]):
            return {"labels": tf.gather(names, class_index)}

    return name_classes


def parameter_defaults(
    functions: Mapping[str, tf.types.experimental.PolymorphicFunction],
) -> tf.types.experimental.PolymorphicFunction:
    """The signature of all defaults: one output `<signature>/<parameter>` for each, [B], of its own dtype.

    For clients of a server that returns no defaults with the metadata. The input `rows`, int32 [B], says how
    often each default is wanted; its values are not looked at. So every row of the answer is the same, and a
    server that batches may merge and pad requests.

    Args:
        functions: signatures by name, as `build_signatures` makes them; their defaults are scalars.
    """
    defaults = {
        f"{name}/{parameter.name}": parameter.default
        for name, function in functions.items()
        for parameter in inspect.signature(function.python_function).parameters.values()
        if parameter.default is not inspect.Parameter.empty
    }
    one_row = tf.zeros(1, tf.int32)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.int32, name="rows")], autograph=False)
    def tell_defaults(rows: tf.Tensor = one_row) -> dict[str, tf.Tensor]:
        return {name: tf.fill(tf.shape(rows), value) for name, value in defaults.items()}

    return tell_defaults


def on_its_own(function: Callable, specs: Sequence[tf.TensorSpec]) -> Callable:
    """The function as one that is called, never inlined: for what is not compiled.

    TensorFlow optimizes a called function by itself. Inlined into a loop, as that over the slices of a
    batch or over samples, whether it finds oneDNN's gradient of max pooling is down to the order in which it
    happens to walk the graph: some of five poolings of VGG16, in each process others, took ten times as long.

    Args:
        function: takes tensors of the specs, in order; returns tensors.
        specs: their shapes and dtypes, the batch open.
    """
    return tf.function(
        function, input_signature=specs, autograph=False, experimental_attributes={"_noinline": True}
    )


def channel_max(x: tf.Tensor) -> tf.Tensor:
    """Maximum over the last axis, [B, H, W, C] to [B, H, W]."""
    if x.shape[-1] > _MOST_CHANNELS_APART:
        return tf.reduce_max(x, axis=-1)
    # Uncompiled, reducing a short last axis takes twice as long as comparing its channels.
    return functools.reduce(tf.maximum, tf.unstack(x, axis=-1))


def probabilities_of(scores: tf.Tensor, head: str) -> tf.Tensor:
    """The model's probabilities from its scores, [B, classes].

    Args:
        scores: float32 [B, classes].
        head: "softmax" or "sigmoid"; "output" where the scores are the model's output itself.
    """
    if head == "softmax":
        return tf.nn.softmax(scores)
    if head == "sigmoid":
        return tf.nn.sigmoid(scores)
    return scores


class _Builder:
    """Builds each signature from its core and its parameters."""

    def __init__(
        self, forward: Forward, preprocessing: Preprocessing, settings: Settings, lowered: set[str]
    ) -> None:
        self.forward = forward
        self.lowered = lowered
        self.graph = forward.graph
        self.settings = settings
        self.preprocessing = preprocessing
        self.images = tf.TensorSpec(
            (None, *self.graph.input_shape), tf.dtypes.as_dtype(preprocessing.image_dtype), name="images"
        )

    def score_function(self, compiled: bool, replacements: Sequence[Replacement] = ()) -> ScoreFunction:
        rules = watched(self.settings.rules(compiled=compiled), self.lowered)
        return lambda x: self.forward.scores(x, rules=rules, replacements=replacements, compiled=compiled)

    @property
    def x(self) -> tf.TensorSpec:
        """The model input, float32 [B, …]."""
        return tf.TensorSpec((None, *self.graph.input_shape), tf.float32)

    @functools.cached_property
    def compiled_scores(self) -> ScoreFunction:
        """The scores for what is compiled and not differentiated: one function, which signatures call.

        What is called is traced once and written once, and a server that loads the model walks it once. XLA
        compiles it into each caller, as if it stood there.
        """
        return tf.function(self.score_function(compiled=True), input_signature=[self.x], autograph=False)

    @functools.cached_property
    def compiled_gradients(self) -> Explain:
        """The gradients of the model input and class_index, int32 [B], shared as the scores are."""
        scores_of = self.score_function(compiled=True)

        def explain(x: tf.Tensor, class_index: tf.Tensor) -> Gradients:
            return gradients(scores_of, x, class_index)

        specs = [self.x, tf.TensorSpec((None,), tf.int32)]
        return tf.function(explain, input_signature=specs, autograph=False)

    def model_input(self, images: tf.Tensor) -> tf.Tensor:
        return self.preprocessing.function(tf.cast(images, tf.float32))

    def core(self, signature: str, make: Callable[[bool], Core], *parameters: tf.DType) -> Core:
        """A function of (images [B, …], parameters [B] …), compiled where the export is.

        Args:
            signature: its name, which the choice of "auto" is by.
            make: the function, from whether it will be compiled.
            parameters: dtypes of the parameters.
        """
        specs = [self.images, *(tf.TensorSpec((None,), dtype) for dtype in parameters)]

        def variant(compiled: bool) -> Core:
            if not compiled:
                return on_its_own(make(False), specs)
            return tf.function(make(True), input_signature=specs, jit_compile=True, autograph=False)

        uncompiled = self.settings.uncompiled.get(signature, ())
        if not self.settings.compiled or set(self.settings.batch_sizes) <= set(uncompiled):
            return variant(compiled=False)
        if not uncompiled:
            return variant(compiled=True)
        xla, plain = variant(compiled=True), variant(compiled=False)

        @tf.function(input_signature=specs, autograph=False)
        def either(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            is_uncompiled = tf.reduce_any(tf.shape(inputs[0])[0] == tf.constant(uncompiled))
            return tf.cond(is_uncompiled, lambda: plain(*inputs), lambda: xla(*inputs))

        return either

    def predictions(self, name: str) -> tf.types.experimental.PolymorphicFunction:
        def make(compiled: bool) -> Core:
            scores_of = self.compiled_scores if compiled else self.score_function(compiled)

            def predict(images: tf.Tensor) -> dict[str, tf.Tensor]:
                scores = scores_of(self.model_input(images))
                if self.graph.head == "output":
                    return {"outputs": scores}
                return {"logits": scores, "probabilities": probabilities_of(scores, self.graph.head)}

            return predict

        core = self.core(name, make)

        @tf.function(input_signature=[self.images], autograph=False)
        def predictions(images: tf.Tensor) -> dict[str, tf.Tensor]:
            with tf.control_dependencies(image_checks(images)):
                return self.in_slices(core, {"images": tf.identity(images)})

        return predictions

    def explain_gradients(self) -> tf.types.experimental.PolymorphicFunction:
        def make(compiled: bool) -> Explain:
            if compiled:
                return self.compiled_gradients
            return functools.partial(gradients, self.score_function(compiled))

        return self._explain_class("gradients", make)

    def explain_guided(
        self, replacements: Sequence[Replacement]
    ) -> tf.types.experimental.PolymorphicFunction:
        def make(compiled: bool) -> Explain:
            return functools.partial(guided, self.score_function(compiled, replacements))

        return self._explain_class("guided", make)

    def _explain_class(
        self, name: str, make_method: Callable[[bool], Explain]
    ) -> tf.types.experimental.PolymorphicFunction:
        def make(compiled: bool) -> Core:
            method = make_method(compiled)

            def explain(images: tf.Tensor, class_index: tf.Tensor) -> dict[str, tf.Tensor]:
                result = method(self.model_input(images), class_index)
                return self.outputs(result.gradients, result.scores, result.class_index)

            return explain

        core = self.core(signature_name(name), make, tf.int32)
        predicted = tf.constant(PREDICTED_CLASS)

        @tf.function(input_signature=[self.images, _parameter("class_index", tf.int32)], autograph=False)
        def explain_class(images: tf.Tensor, class_index: tf.Tensor = predicted) -> dict[str, tf.Tensor]:
            return self.checked(core, images, {"class_index": class_index})

        return explain_class

    def explain_smooth(self) -> tf.types.experimental.PolymorphicFunction:
        def make(compiled: bool) -> Core:
            scores_of = self.compiled_scores if compiled else self.score_function(compiled)
            if compiled:

                def gradient_of(x: tf.Tensor, class_index: tf.Tensor) -> tf.Tensor:
                    return self.compiled_gradients(x, class_index).gradients

            else:
                gradient_of = on_its_own(
                    gradient_function(scores_of), [self.x, tf.TensorSpec((None,), tf.int32)]
                )

            def explain(
                images: tf.Tensor,
                class_index: tf.Tensor,
                num_samples: tf.Tensor,
                noise_level: tf.Tensor,
                seed: tf.Tensor,
            ) -> dict[str, tf.Tensor]:
                x = self.model_input(images)
                result = smooth(
                    scores_of,
                    gradient_of,
                    x,
                    class_index,
                    num_samples,
                    noise_level,
                    seed,
                    images_at_once=self.images_at_once(compiled),
                )
                return {
                    **self.outputs(result.gradients, result.scores, result.class_index),
                    "variance": result.variance,
                    "relative_error": result.relative_error,
                }

            return explain

        core = self.core(signature_name("smooth"), make, tf.int32, tf.int32, tf.float32, tf.int32)
        # Defaults reach the SignatureDef only as eager tensors.
        defaults = [
            tf.constant(value)
            for value in (PREDICTED_CLASS, DEFAULT_NUM_SAMPLES, DEFAULT_NOISE_LEVEL, DEFAULT_SEED)
        ]
        parameters = [
            _parameter("class_index", tf.int32),
            _parameter("num_samples", tf.int32),
            _parameter("noise_level", tf.float32),
            _parameter("seed", tf.int32),
        ]

        @tf.function(input_signature=[self.images, *parameters], autograph=False)
        def explain_smooth(
            images: tf.Tensor,
            class_index: tf.Tensor = defaults[0],
            num_samples: tf.Tensor = defaults[1],
            noise_level: tf.Tensor = defaults[2],
            seed: tf.Tensor = defaults[3],
        ) -> dict[str, tf.Tensor]:
            return self.checked(
                core,
                images,
                {
                    "class_index": class_index,
                    "num_samples": num_samples,
                    "noise_level": noise_level,
                    "seed": seed,
                },
            )

        return explain_smooth

    def images_at_once(self, compiled: bool) -> int:
        """How many images a step of smooth's loop takes: few where XLA makes loops of the model."""
        depthwise = "DepthwiseConv2dNative"
        made_of_loops = compiled and depthwise in self.settings.rules(compiled=True)
        if made_of_loops and any(node.op == depthwise for node in self.graph.nodes):
            return XLA_IMAGES_AT_ONCE
        return IMAGES_AT_ONCE

    def outputs(self, gradient: tf.Tensor, scores: tf.Tensor, class_index: tf.Tensor) -> dict[str, tf.Tensor]:
        """The outputs that all explain signatures share, labels aside."""
        probabilities = probabilities_of(scores, self.graph.head)
        return {
            "gradients": gradient,
            "saliency": channel_max(tf.abs(gradient)),
            "class_index": class_index,
            "score": tf.gather(scores, class_index, batch_dims=1),
            "probability": tf.gather(probabilities, class_index, batch_dims=1),
        }

    def checked(
        self, core: Core, images: tf.Tensor, parameters: Mapping[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """Validate, run the core in slices, add the labels."""
        checks = image_checks(images)
        with tf.control_dependencies(checks):
            batch = tf.shape(images)[0]
        broadcast = {name: broadcast_parameter(name, value, batch) for name, value in parameters.items()}
        checks += parameter_checks(broadcast, self.graph.classes, self.settings.max_samples)
        with tf.control_dependencies(checks):
            outputs = self.in_slices(core, {"images": tf.identity(images), **broadcast})
        if self.settings.labels is not None:
            outputs["label"] = tf.gather(tf.constant(self.settings.labels), outputs["class_index"])
        return outputs

    def in_slices(self, core: Core, inputs: Tensors) -> dict[str, tf.Tensor]:
        return run_in_slices(core, inputs, self.settings.batch_sizes)


def _parameter(name: str, dtype: tf.DType) -> tf.TensorSpec:
    # Of unknown rank: a scalar for the whole batch, or one value for each example.
    return tf.TensorSpec(None, dtype, name=name)


def run_in_slices(core: Core, inputs: Tensors, batch_sizes: Sequence[int]) -> dict[str, tf.Tensor]:
    """Run a core on a batch of any size with shapes of the given batch sizes alone.

    A slice is as large as the largest size; the last one is padded to the next size by repeating its last
    example. Examples do not see each other, so padding and slicing change a result by rounding alone.

    Args:
        core: function of the inputs' values, in order; every output has the batch as its first dimension.
        inputs: tensors with the same first dimension B ≥ 1.
        batch_sizes: ascending.

    Returns:
        The core's outputs for the B examples.
    """
    sizes = tf.constant(batch_sizes)
    largest = batch_sizes[-1]
    batch = tf.shape(next(iter(inputs.values())))[0]
    specs = core.get_concrete_function().structured_outputs
    names = sorted(specs)
    slices = -(-batch // largest)
    arrays = tuple(
        tf.TensorArray(specs[name].dtype, size=slices, element_shape=specs[name].shape, infer_shape=False)
        for name in names
    )

    def run_slice(index: tf.Tensor, arrays: tuple[tf.TensorArray, ...]) -> tuple:
        start = index * largest
        count = tf.minimum(largest, batch - start)
        padded = sizes[tf.searchsorted(sizes, count[tf.newaxis])[0]]
        rows = tf.minimum(start + tf.range(padded), batch - 1)
        outputs = core(*(tf.gather(value, rows) for value in inputs.values()))
        return index + 1, tuple(
            array.write(index, outputs[name][:count]) for name, array in zip(names, arrays, strict=True)
        )

    _, arrays = tf.while_loop(
        lambda index, _: index < slices, run_slice, (tf.constant(0), arrays), parallel_iterations=1
    )
    return {name: array.concat() for name, array in zip(names, arrays, strict=True)}


def image_checks(images: tf.Tensor) -> list[tf.Operation]:
    """Assertions that images have the signature's shape, that there are any and that floats are finite.

    A server feeds whatever shape a request has, and some kernels do not survive another rank: they end the
    process. Nothing that computes may see images before these assertions hold.
    """
    # Behind a placeholder of unknown shape, so that no optimizer takes the signature's word for the shape.
    shape = tf.shape(tf.compat.v1.placeholder_with_default(images, shape=None))
    expected = images.shape.as_list()[1:]
    fits = tf.cond(
        tf.equal(tf.size(shape), len(expected) + 1),
        lambda: tf.reduce_all(tf.equal(shape[1:], expected)),
        lambda: tf.constant(False),
    )
    given = tf.strings.reduce_join(tf.as_string(shape), separator=", ")
    message = ["images has shape [", given, f"]; it must be [B, {', '.join(map(str, expected))}]"]
    with tf.control_dependencies([_assert(fits, message)]):
        images, shape = tf.identity(images), tf.identity(shape)
    checks = [_assert(shape[0] > 0, ["images has batch size 0; it must hold at least 1 image"])]
    if images.dtype.is_floating:
        finite = tf.reduce_all(tf.math.is_finite(images), axis=list(range(1, images.shape.rank)))
        example = tf.argmin(tf.cast(finite, tf.int32))
        message = ["images must be finite; example ", tf.as_string(example), " holds NaN or infinity"]
        checks.append(_assert(tf.reduce_all(finite), message))
    return checks


def broadcast_parameter(name: str, value: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
    """One value for each example, [B], from a scalar, one value or B values."""
    rank = tf.rank(value)
    with tf.control_dependencies(
        [_assert(rank <= 1, [f"{name} must be a scalar or a vector; it has rank ", tf.as_string(rank)])]
    ):
        flat = tf.reshape(value, [-1])
    length = tf.size(flat)
    message = [f"{name} has ", tf.as_string(length), " values for a batch of ", tf.as_string(batch)]
    message.append(" images; it must be 1 value or one for each image")
    with tf.control_dependencies([_assert((length == 1) | (length == batch), message)]):
        return tf.broadcast_to(flat, [tf.maximum(batch, 1)])


def parameter_checks(parameters: Tensors, classes: int, max_samples: int) -> list[tf.Operation]:
    """Assertions of the bounds of every parameter that is given."""
    checks = []
    bounds = {
        "class_index": (-1, classes - 1, f"[0, {classes - 1}], or -1 for the predicted class"),
        "num_samples": (1, max_samples, f"[1, {max_samples}]"),
        "noise_level": (0.0, 1.0, "[0, 1]"),
    }
    for name, (low, high, text) in bounds.items():
        if name not in parameters:
            continue
        value = parameters[name]
        # NaN compares false with everything and so is outside.
        inside = (value >= low) & (value <= high)
        first = value[tf.argmin(tf.cast(inside, tf.int32))]
        message = [f"{name} is ", tf.as_string(first), f"; it must be in {text}"]
        checks.append(_assert(tf.reduce_all(inside), message))
    return checks


def _assert(condition: tf.Tensor, message: Sequence[str | tf.Tensor]) -> tf.Operation:
    """INVALID_ARGUMENT with a message unless the condition holds."""
    return tf.debugging.Assert(condition, [tf.strings.join(message)])
