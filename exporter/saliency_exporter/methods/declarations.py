"""What a method declares of itself, once, for all that an export makes of it.

Signature, defaults, checks, warmup, reference, verification, manifest, command line and documentation are
made from a method's declaration; none of them knows a method by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import tensorflow as tf

from saliency_client._contract import CALL_ARGUMENTS, EXPLAIN_PREFIX, FILE_ENTRIES
from saliency_exporter.graph.forward_graph import ForwardGraph, Replacement
from saliency_exporter.methods.kinds import KINDS, Kind
from saliency_exporter.methods.model import Model

CLASS_INDEX = "class_index"
"""The parameter that every method takes: int32 [B], −1 for the class predicted for the clean image."""

PASSES_PREFIX = "num_"
"""A parameter whose name starts so says how many passes over the model a call takes.

The local server's admission and the measurement of `--compile auto` go by it."""

MASKS_A_SAMPLE = 4
"""A call may take so many times as many masks as samples: a mask costs a forward pass, and a sample the way
back as well, which takes two to three times as long."""

SHARED_OUTPUTS = ("saliency", CLASS_INDEX, "score", "probability", "label")
"""Of every explain signature; `label` where the names of the classes are known."""


@dataclass(frozen=True)
class Parameter:
    """An input of a method's signature beside `images` and `class_index`: a number for each example.

    Attributes:
        name: of the signature's input; `num_…` where it is the number of passes over the model.
        dtype: "int32" or "float32".
        default: entry of `SignatureDef.defaults`, as far as it is not above `high`.
        examples: the two values, unlike one another, that an export is verified with.
        help: a phrase for the documentation: what it is, and its unit.
        low: the least value; None for no bound.
        high: the greatest value; None for no bound, "max_samples" for the export's setting of that name,
            "max_masks" for `MASKS_A_SAMPLE` times that.
        pixel: whether it is a value of a pixel: where the images are uint8 it has their range, 0 to 255.
    """

    name: str
    dtype: Literal["int32", "float32"]
    default: float
    examples: tuple[float, float]
    help: str
    low: float | None = None
    high: float | Literal["max_samples", "max_masks"] | None = None
    pixel: bool = False


@dataclass(frozen=True)
class Output:
    """An output of a method's signature beside its map and those that all methods share.

    Attributes:
        name: of the signature's output.
        per: "value" for [B, …] like the images; "example" for one number each, [B]; "map" for one like the
            method's own map; "cell" for [B, *grid], a coarse map.
        help: a phrase for the documentation: what it is, and its range.
        verified: whether an export keeps it and holds a server's answer against it; whole numbers have to be
            equal.
        dtype: "float32", or "int32" for a whole number of each example.
    """

    name: str
    per: Literal["value", "example", "map", "cell"]
    help: str
    verified: bool = True
    dtype: Literal["float32", "int32"] = "float32"


@dataclass(frozen=True)
class Option:
    """What is chosen of a method when a model is exported: a whole number that shapes depend on.

    Attributes:
        name: as it is written in `method(name=value)`.
        help: a phrase for the documentation: what it is, its unit, and what it is if it is not given.
        low: the least value.
        high: the greatest value; None for no bound but the image's.
    """

    name: str
    help: str
    low: int = 1
    high: int | None = None


class Explained(NamedTuple):
    """What a method computed for a batch.

    Attributes:
        map: float32, what the method's kind says: gradients or attributions, [B, …] like the model input; a
            cam, [B, *grid]; or how much each pixel counts, [B, …] without channels.
        scores: float32 [B, classes], of the clean image.
        class_index: int32 [B], the class that was explained.
        outputs: the outputs that the method declares, by name.
    """

    map: tf.Tensor
    scores: tf.Tensor
    class_index: tf.Tensor
    outputs: Mapping[str, tf.Tensor] = {}


Explain = Callable[[Model, tf.Tensor, Mapping[str, tf.Tensor]], Explained]
"""Model, model input x, float32 [B, …], and parameters by name, each [B], `class_index` among them."""

Replace = Callable[[ForwardGraph, str], Sequence[Replacement]]
"""Graph and the model's name, for messages, to what is replayed in place of parts of the graph."""


def _nothing(graph: ForwardGraph, model: str) -> Sequence[Replacement]:
    return ()


def _no_facts(graph: ForwardGraph) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True)
class Method:
    """An explanation method: one signature, `explain_<name>`, of an exported model.

    Attributes:
        name: lower case, of letters, digits and underscores.
        kind: "sensitivity" for a signed map like a gradient, output `gradients`; "attribution" for shares of
            the score, output `attributions`; "localisation" for a coarse map, output `cam`; "masking" for
            what is found by hiding pixels, which is the saliency. It says how `saliency` is made of the map.
        summary: one line for help and documentation.
        source: the paper, with its section or equation.
        explain: a pure function that can be traced, and compiled by XLA: no shape may depend on a value.
        parameters: beside `class_index`.
        outputs: beside the map and those that all methods share.
        replacements: what the model is replayed with for it; refuses with ExportError a model that it is
            not defined for.
        facts: what the manifest says of the method on one model, as JSON values.
        needs_features: whether it looks at the feature layer, and is not defined for a model without one.
        sampled: whether its map is a mean over samples, with an output `standard_error` and a first
            parameter of passes; what it asks of each sample it asks of `Model.of_samples`.
        needs_gradients: whether it differentiates; if not, it is defined for a model without a gradient.
        options: what is chosen when a model is exported, as in `name(option=value)`.
        with_options: the method for values of these options, by name.
        over: the method that makes this one of another, as in `name(other)`; None where it is no combinator.
        asked: how it is asked for, as in `name(other)`, where that is not its name.
    """

    name: str
    kind: str
    summary: str
    source: str
    explain: Explain
    parameters: tuple[Parameter, ...] = ()
    outputs: tuple[Output, ...] = ()
    replacements: Replace = _nothing
    facts: Callable[[ForwardGraph], Mapping[str, Any]] = field(default=_no_facts)
    needs_features: bool = False
    needs_gradients: bool = True
    sampled: bool = False
    options: tuple[Option, ...] = ()
    with_options: Callable[[Mapping[str, int]], Method] | None = None
    over: Callable[[Method], Method] | None = None
    asked: str = ""

    def __post_init__(self) -> None:
        """Refuses a declaration that no signature can be made of.

        Raises:
            ValueError: a name is not usable or is taken, the kind is not known, or an output is neither
                float32 nor an int32 of each example.
        """
        own = [*(p.name for p in self.parameters), *(o.name for o in self.outputs)]
        if self.kind not in KINDS:
            raise ValueError(
                f"method {self.name}: kind is {self.kind!r}; it must be one of {', '.join(KINDS)}"
            )
        taken = {self.map_kind.output, *SHARED_OUTPUTS, *CALL_ARGUMENTS, *FILE_ENTRIES}
        for name in (self.name, *own):
            if not (name.isidentifier() and name.isascii() and name == name.lower()):
                raise ValueError(
                    f"method {self.name}: {name!r} is not a lower-case name of letters, digits and _"
                )
        for name in own:
            if name in taken or own.count(name) > 1:
                raise ValueError(f"method {self.name}: the name {name!r} is taken")
        for output in self.outputs:
            allowed = ("float32", "int32") if output.per == "example" else ("float32",)
            if output.dtype not in allowed:
                raise ValueError(
                    f"method {self.name}: the output {output.name} is {output.dtype} per {output.per}; it "
                    f"must be {' or '.join(allowed)}"
                )

    @property
    def signature(self) -> str:
        """The name of its signature."""
        return f"{EXPLAIN_PREFIX}{self.name}"

    @property
    def expression(self) -> str:
        """How it is asked for: its name, or `name(other)`."""
        return self.asked or self.name

    @property
    def map_kind(self) -> Kind:
        """Its kind."""
        return KINDS[self.kind]
