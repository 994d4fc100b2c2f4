"""What `inspect` shows of an exported version: its manifest in words. Needs no TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from saliency_exporter.version.manifest import (
    Activations,
    CompileChoice,
    FeatureLayerEntry,
    GradientAgreement,
    Manifest,
    MethodEntry,
    ParameterEntry,
    PreprocessingSteps,
    Score,
)
from saliency_exporter.version.server_needs import describe_server

_COMPILED = {
    "xla": "by XLA",
    "auto": "by XLA where that is faster",
    "none": "not by XLA: the server runs the graph op by op",
}
_SERVERS = {"gpu": "servers with a GPU", "cpu": "servers without a GPU"}
_KERNELS = {"onednn": "oneDNN's kernels", "eigen": "Eigen's kernels"}
_WORDS = {"divide": "/", "subtract": "−"}
_WITHOUT_STEPS = {
    "none": "none: clients send float32 model input",
    "pixels": "pixels: as they are sent; the model rescales them itself",
}


def _describe_agreement(agreement: GradientAgreement | None) -> str:
    if agreement is None:
        return "not looked at: no method needs one"
    if agreement.examples == 0:
        return "not held to the model's own, which ends in a cast of its input"
    return f"within {agreement.difference:.1g} of the model's own, in {agreement.examples} examples"


def summary(version_dir: Path, manifest: Manifest) -> list[tuple[str, str]]:
    """(what, value) of each line, in the order in which they are shown."""
    score, labels, verification = manifest.score, manifest.labels, manifest.verification
    shape = " × ".join(str(n) for n in manifest.input.shape[1:])
    batch_sizes = ", ".join(map(str, manifest.batch_sizes))
    size = sum(path.stat().st_size for path in version_dir.rglob("*") if path.is_file())
    return [
        ("model", f"{manifest.model}, from {manifest.source}"),
        (
            "images",
            f"{manifest.input.dtype} [batch, {shape}]"
            + (", without channels" if manifest.input.channels == "none" else ""),
        ),
        ("preprocessing", preprocessing_in_words(manifest.preprocessing)),
        ("classes", f"{manifest.classes}" + (f", from {labels[0]} to {labels[-1]}" if labels else "")),
        ("score", f"{score.tensor.removesuffix(':0').rpartition('Call/')[2]}, {score_in_words(score)}"),
        ("compile", f"{compilation_in_words(manifest)}; batch sizes {batch_sizes}"),
        *(("without XLA", line) for line in _describe_choices(manifest.compile_choices)),
        ("foldings", ", ".join(manifest.foldings) or "none"),
        ("lowered ops", ", ".join(manifest.lowering) or "none"),
        *(("activations", line) for line in activations_in_words(manifest.activations)),
        *(("feature layer", line) for line in _describe_feature_layers(manifest.feature_layers)),
        *(("signature", f"{name}, as the model brought it") for name in manifest.kept_signatures),
        ("signature", f"{manifest.predictions}, the predictions"),
        *(("signature", _describe_method(name, entry)) for name, entry in manifest.by_signature.items()),
        *([("signature", "class_labels, the names of all classes")] if labels else []),
        ("signature", "parameter_defaults, for clients of servers that do not return defaults"),
        ("signature", "parameter_bounds, the least and the greatest value of each parameter"),
        ("verified", "no" if verification is None else f"{len(verification.rows)} calls within tolerance"),
        ("gradient", _describe_agreement(manifest.gradient_agreement)),
        *(("note", note) for note in manifest.notes),
        ("server", describe_server(manifest.server)),
        *(("server", reason) for reason in manifest.server.why),
        ("made by", f"saliency-serving {manifest.exporter}, TensorFlow {manifest.tensorflow}"),
        ("size", f"{size / 2**20:.1f} MiB"),
    ]


def score_notes(score: Score) -> list[str]:
    """What to know of the class scores where they are not simply the logits before a softmax or sigmoid."""
    notes = []
    if score.head_assumed:
        notes.append(
            "the model ends in neither softmax nor sigmoid: its output is taken for logits, "
            f"and probabilities are their {score.head}"
        )
    if score.is_probability:
        notes.append(
            "the model's output is made of probabilities and is not one softmax or sigmoid of scores: "
            "the output is explained as it is, as with --score output"
        )
    if score.both_of_one and score.head == "sigmoid":
        notes.append(
            "the model gives one number for the two names: class 1 has its logit and its probability p, "
            "class 0 the negative logit and 1 - p"
        )
    elif score.both_of_one:
        notes.append("the model gives one number p for the two names: class 1 has p, class 0 has 1 - p")
    return notes


def score_in_words(score: Score) -> str:
    """Which function of the scores the probabilities are."""
    if score.is_probability:
        words = "made of probabilities: explained as it is"
    elif score.head == "output":
        words = "the output as it is"
    else:
        words = f"probabilities by {score.head}"
    if score.both_of_one:
        words += ", both classes of one number"
    if score.head_assumed:
        words += " (assumed: the model ends in neither softmax nor sigmoid)"
    return words


def compilation_in_words(manifest: Manifest) -> str:
    """Whether XLA compiles, and for which servers; with the kernels of what it does not compile on a CPU."""
    words = f"{_COMPILED[manifest.compile]}, for {_SERVERS[manifest.target]}"
    if manifest.target == "gpu" or manifest.compile == "xla":
        return words
    return f"{words}, with {_KERNELS[manifest.kernels]}"


def preprocessing_in_words(preprocessing: PreprocessingSteps) -> str:
    """Preprocessing in one line: ``tf: x / 127.5 − 1``."""
    if preprocessing.callable is not None:
        return f"{preprocessing.callable}, a function of your own"
    if not preprocessing.steps:
        return _WITHOUT_STEPS.get(preprocessing.name, preprocessing.name)
    text = "x"
    for step in preprocessing.steps:
        for operation, value in step.items():
            if operation == "reverse_channels":
                text = f"BGR({text})"
            else:
                inner = f"({text})" if operation == "divide" and _WORDS["subtract"] in text else text
                text = f"{inner} {_WORDS[operation]} {_number(value)}"
    return f"{preprocessing.name}: {text}"


def _number(value: float | Sequence[float]) -> str:
    return f"({', '.join(f'{v:g}' for v in value)})" if isinstance(value, Sequence) else f"{value:g}"


def activations_in_words(activations: Activations) -> list[str]:
    """One line for each kind of activation; those without a guided rule last."""
    lines = [f"{a.count} × {a.kind}, guided: {a.guided}" for a in activations.recognised]
    lines += [f"{op} of {node}: no guided rule" for op, node in activations.refused]
    return lines or ["none that rectifies"]


def _describe_feature_layers(layers: Sequence[FeatureLayerEntry]) -> list[str]:
    """A line for each size of grid, its last layer; the chosen one is said to be."""
    last = {layer.sizes: layer for layer in layers}
    shown = [layer for layer in layers if layer.chosen or last[layer.sizes] is layer]
    return [
        f"{layer.name}, {' × '.join(map(str, layer.sizes))} × {layer.channels}"
        + (", which cams are made of" if layer.chosen else "")
        for layer in shown
    ]


def _describe_method(signature: str, entry: MethodEntry) -> str:
    words = [signature, *map(_describe_parameter, entry.parameters)]
    if entry.sample_difference is not None:
        share = f"{entry.sample_difference:.1g} of the standard error from float32"
        words.append(f"samples in {entry.sample_precision}, {share}")
    return ", ".join(words)


def _describe_parameter(parameter: ParameterEntry) -> str:
    low, high = parameter.low, parameter.high
    if low is None and high is None:
        bounds = ""
    else:
        bounds = f" ({'…' if low is None else low} to {'…' if high is None else high})"
    return f"{parameter.name} {parameter.default}{bounds}"


def _describe_choices(choices: Sequence[CompileChoice]) -> list[str]:
    """What `--compile auto` chose, a line for each call that is not compiled."""
    return [
        f"{choice.signature}, batch {choice.batch_size}: {choice.none_ms:.1f} ms, "
        f"compiled {choice.xla_ms:.1f} ms"
        for choice in choices
        if choice.compile == "none"
    ]
