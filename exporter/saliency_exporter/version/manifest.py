"""The manifest of a version directory: assets.extra/saliency.json, which TensorFlow Serving ignores.

It holds all that is known of an export: what it was made of, what its signatures promise, what was verified.
Needs no TensorFlow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from saliency_client._contract import EXPLAIN_PREFIX
from saliency_exporter.errors import ExportError
from saliency_exporter.runtime.version_directories import version_directories
from saliency_exporter.runtime.versions import version_numbers

CONTRACT_VERSION: Final = 2
MAX_BYTES = 64 * 2**20

Number = int | float
Step = dict[Literal["divide", "subtract", "reverse_channels"], Number | tuple[Number, ...] | bool]


@dataclass(frozen=True)
class Images:
    """The input `images` of the export's own signatures.

    Attributes:
        name: of the input.
        shape: of a batch; None: any size.
        dtype: of the images.
        channels: "last" where saliency is reduced over the last axis, "none" where images have no channels.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: Literal["uint8", "float32"]
    channels: Literal["last", "none"] = "last"

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of an image without its channels."""
        sizes = tuple(int(size or 0) for size in self.shape[1:])
        return sizes[:-1] if self.channels == "last" else sizes


@dataclass(frozen=True)
class FeatureLayerEntry:
    """A layer that methods of the CAM family can look at.

    Attributes:
        name: of the layer, as `--cam-layer` takes it.
        tensor: its name in the traced graph.
        sizes: of its grid.
        channels: how many features it has.
        chosen: whether the export's methods look at it.
    """

    name: str
    tensor: str
    sizes: tuple[int, ...]
    channels: int
    chosen: bool


@dataclass(frozen=True)
class PreprocessingSteps:
    """From images to model input: steps, each {operation: value}, or the name of a user's own function."""

    name: str
    image_dtype: str
    steps: tuple[Step, ...] | None = None
    callable: str | None = None


@dataclass(frozen=True)
class Score:
    """What is explained: the tensor of class scores, and which function of them the probabilities are.

    Attributes:
        tensor: its name in the traced graph.
        head: "softmax" or "sigmoid"; "output" where the model's output is explained as it is.
        head_assumed: whether the model has neither, and its output was taken for logits.
        is_probability: whether that is so because the output is made of probabilities.
        both_of_one: whether the scores are those of both classes of a model that gives one number for two.
    """

    tensor: str
    head: Literal["softmax", "sigmoid", "output"]
    head_assumed: bool
    is_probability: bool = False
    both_of_one: bool = False


@dataclass(frozen=True)
class Rounding:
    """What the bounds of a verification are made of.

    Attributes:
        dtype: the one with the fewest bits that a linear op computes in.
        depth: how many ops that round follow one another at most.
        kinks: how many ops whose derivative jumps, such as rectifiers, follow one another at most.
    """

    dtype: Literal["float64", "float32", "float16", "bfloat16"] = "float32"
    depth: int = 0
    kinks: int = 0


@dataclass(frozen=True)
class ActivationCount:
    """How often an activation occurs, and what the guided rule lets pass."""

    kind: str
    count: int
    guided: str


@dataclass(frozen=True)
class Activations:
    """The activations of the model: those with a guided rule, and (op, node) of those without."""

    recognised: tuple[ActivationCount, ...]
    refused: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ParameterEntry:
    """A parameter of a method's signature: None where it has no bound."""

    name: str
    dtype: Literal["int32", "float32"]
    default: Number
    low: Number | None
    high: Number | None


@dataclass(frozen=True)
class OutputEntry:
    """An output of a method's own; `verified` where the export keeps what the model answers."""

    name: str
    verified: bool
    dtype: Literal["float32", "int32"] = "float32"


@dataclass(frozen=True)
class MethodEntry:
    """A method's signature beyond what all methods share.

    Attributes:
        kind: which output its map is, and how saliency is made of it.
        map: the name of that output.
        parameters: beside `class_index`.
        outputs: beside the map and those that all methods share.
        facts: of the method on this model.
        sample_precision: in what the model is replayed for each sample; None where the map is no mean over
            samples. Class, score and probability, noise, mean and variance are float32.
        sample_difference: how far the map is from that of float32, as a share of its standard error at the
            default number of samples; None for float32.
    """

    kind: str
    map: str
    parameters: tuple[ParameterEntry, ...] = ()
    outputs: tuple[OutputEntry, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    sample_precision: Literal["float32", "bfloat16", "float16"] | None = None
    sample_difference: float | None = None


@dataclass(frozen=True)
class KeptSignature:
    """A signature that the model brought along: dtype and shape of each input and output."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]


@dataclass(frozen=True)
class CompileChoice:
    """One signature at one batch size, as `--compile auto` measured it: milliseconds, and what was chosen."""

    signature: str
    batch_size: int
    xla_ms: float
    none_ms: float
    compile_s: float
    compile: Literal["xla", "none"]


@dataclass(frozen=True)
class GraphVersions:
    """The versions in the GraphDef."""

    producer: int
    min_consumer: int


@dataclass(frozen=True)
class ServerNeeds:
    """Which TensorFlow Serving can serve the export.

    Attributes:
        oldest: the minor version of the oldest that can, as far as that is known.
        why: sentences.
        made_with: the minor version of the TensorFlow that made the export.
        flag: that the server needs, or None.
        graph: versions in the graph.
    """

    oldest: str
    why: tuple[str, ...]
    made_with: str
    flag: str | None
    graph: GraphVersions

    def __post_init__(self) -> None:
        """Refuses what is no version, and an absent reason."""
        version_numbers(self.oldest)
        version_numbers(self.made_with)
        if not self.why:
            raise ValueError("why is empty")


@dataclass(frozen=True)
class GradientAgreement:
    """How far the gradient of the traced graph is from the model's own.

    Attributes:
        difference: the largest ‖traced − own‖₂ / ‖own‖₂ of an example.
        examples: how many were compared; 0 where the model's own gradient cannot be had, as of one that makes
            integers of its input.
    """

    difference: float
    examples: int


@dataclass(frozen=True)
class VerifiedCall:
    """One call of a verification: milliseconds, and the largest differences from the reference."""

    signature: str
    batch_size: int
    first_ms: float
    ms: float
    score_error: float
    gradient_error: float


@dataclass(frozen=True)
class Verification:
    """The outcome of a verification, and the bounds that it was held to.

    Attributes:
        passed: whether all was as it should be.
        warmup_records: how many ran.
        score_tolerance: of scores.
        gradient_tolerance: of maps, of the example that agrees best.
        rows: the calls.
        outlier_tolerance: of maps, of any example.
    """

    passed: bool
    warmup_records: int
    score_tolerance: float
    gradient_tolerance: float
    rows: tuple[VerifiedCall, ...]
    outlier_tolerance: float | None = None


@dataclass(frozen=True)
class Manifest:
    """All that is known of an export.

    Attributes:
        contract_version: of the serving contract.
        model: the model's name.
        source: where the model came from, in words.
        input: the images that signatures take.
        preprocessing: from images to model input.
        score: what is explained.
        classes: number of classes.
        labels: their names, or None.
        batch_sizes: the compiled batch sizes, ascending.
        max_samples: the bound of parameters that say how many samples a call takes.
        compile: "xla", "none" or "auto".
        compile_choices: what "auto" measured and chose.
        target: the device that the export is for.
        kernels: which of TensorFlow's kernels run there what is not compiled.
        foldings: names of the rewrites of the whole graph.
        lowering: op types that were replaced by faster equals.
        activations: of the model.
        predictions: the name of the signature of predictions.
        methods: by name, in the order of their signatures.
        kept_signatures: those that the model brought along, by name.
        warmup_records: how many there are.
        notes: what else a user should know, a sentence each.
        gradient_agreement: of the traced graph's gradient with the model's own; None where no method needs
            one.
        server: which servers can serve it.
        tensorflow: version that made it.
        exporter: version of this package that made it.
        verification: its outcome; None where it was not verified.
        rounding: in the forward pass, which the bounds of a verification depend on.
        feature_layers: of the model, first to last; the chosen one may be another, which a user named.
    """

    model: str
    source: str
    input: Images
    preprocessing: PreprocessingSteps
    score: Score
    classes: int
    labels: tuple[str, ...] | None
    batch_sizes: tuple[int, ...]
    max_samples: int
    compile: Literal["xla", "none", "auto"]
    compile_choices: tuple[CompileChoice, ...]
    target: Literal["gpu", "cpu"]
    kernels: Literal["onednn", "eigen"]
    foldings: tuple[str, ...]
    lowering: tuple[str, ...]
    activations: Activations
    predictions: str
    methods: dict[str, MethodEntry]
    kept_signatures: dict[str, KeptSignature]
    warmup_records: int
    gradient_agreement: GradientAgreement | None
    server: ServerNeeds
    tensorflow: str
    exporter: str
    notes: tuple[str, ...] = ()
    verification: Verification | None = None
    rounding: Rounding = Rounding()
    feature_layers: tuple[FeatureLayerEntry, ...] = ()
    contract_version: Literal[2] = CONTRACT_VERSION

    def __post_init__(self) -> None:
        """Refuses what no export writes.

        Raises:
            ValueError: batch sizes that are not ascending, or another number of labels than of classes.
        """
        sizes = self.batch_sizes
        if not sizes or sizes[0] < 1 or list(sizes) != sorted(set(sizes)):
            raise ValueError(f"batch_sizes are {list(sizes)}, not ascending positive numbers")
        if self.labels is not None and len(self.labels) != self.classes:
            raise ValueError(f"there are {len(self.labels)} labels for {self.classes} classes")

    @property
    def by_signature(self) -> dict[str, MethodEntry]:
        """The methods by the names of their signatures."""
        return {f"{EXPLAIN_PREFIX}{name}": entry for name, entry in self.methods.items()}

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON values."""
        values: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return {"contract_version": values.pop("contract_version"), **values}

    @classmethod
    def from_json(cls, values: Any) -> Manifest:
        """The manifest from JSON values.

        Raises:
            ValueError: a part is missing or is not what an export writes; the message names it.
        """
        return msgspec.convert(values, cls)


def manifest_path(version_dir: Path) -> Path:
    """Where the manifest of a version directory is."""
    return version_dir / "assets.extra" / "saliency.json"


def write_manifest(version_dir: Path, manifest: Manifest) -> None:
    """Writes the manifest as readable JSON."""
    path = manifest_path(version_dir)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(manifest.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_manifest(version_dir: Path) -> Manifest:
    """Reads the manifest of a version directory.

    Raises:
        ExportError: there is none, or it is not what an export writes.
    """
    path = manifest_path(version_dir)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ExportError(f"{path} is too large: a manifest has at most {MAX_BYTES} bytes")
        values = json.loads(content.decode())
    except FileNotFoundError:
        raise ExportError(
            f"{version_dir} is not an exported version: it has no {path.relative_to(version_dir)}",
            hint=_version_hint(version_dir),
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"{path} cannot be read: {error}", hint="export the model again") from error
    if not isinstance(values, Mapping) or values.get("contract_version") != CONTRACT_VERSION:
        raise ExportError(
            f"{path} is not a manifest of contract version {CONTRACT_VERSION}", hint="export the model again"
        )
    try:
        return Manifest.from_json(values)
    except ValueError as error:
        raise ExportError(
            f"{path} is not as an export writes it: {error}", hint="export the model again"
        ) from error


def _version_hint(version_dir: Path) -> str:
    versions = version_directories(version_dir)
    if versions:
        return f"this is a model base path; name a version in it, such as {versions[-1]}"
    return "name the directory of one version, such as models/my-model/1"
