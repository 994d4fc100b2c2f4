"""What `inspect` shows of an exported version: its manifest in words. Needs no TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .server_needs import describe_server

_KERNELS = {"onednn": "oneDNN's kernels", "eigen": "Eigen's kernels"}
_WORDS = {"divide": "/", "subtract": "−"}
_WITHOUT_STEPS = {
    "none": "none: clients send float32 model input",
    "pixels": "pixels: as they are sent; the model rescales them itself",
}


def summary(version_dir: Path, manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, value) of each line, in the order in which they are shown."""
    score = manifest["score"]
    image = manifest["input"]
    shape = " × ".join(str(n) for n in image["shape"][1:])
    labels = manifest["labels"]
    batch_sizes = ", ".join(map(str, manifest["batch_sizes"]))
    verification = manifest["verification"]
    size = sum(path.stat().st_size for path in version_dir.rglob("*") if path.is_file())
    return [
        ("model", f"{manifest['model']}, from {manifest['source']}"),
        ("images", f"{image['dtype']} [batch, {shape}]"),
        ("preprocessing", describe_preprocessing(manifest["preprocessing"])),
        ("classes", f"{manifest['classes']}" + (f", from {labels[0]} to {labels[-1]}" if labels else "")),
        (
            "score",
            f"{score['tensor'].removesuffix(':0').rpartition('Call/')[2]}, probabilities by {score['head']}"
            + (" (assumed: the model ends in neither softmax nor sigmoid)" if score["head_assumed"] else ""),
        ),
        ("compile", f"{manifest['compile']} for {describe_target(manifest)}, batch sizes {batch_sizes}"),
        *(("without XLA", line) for line in _describe_choices(manifest.get("compile_choices", []))),
        ("foldings", ", ".join(manifest.get("foldings", [])) or "none"),
        ("lowered ops", ", ".join(manifest["lowering"]) or "none"),
        *(("activations", line) for line in describe_activations(manifest.get("activations"))),
        *(("signature", f"{name}, as the model brought it") for name in manifest["kept_signatures"]),
        ("signature", f"{manifest['predictions']}, the predictions"),
        *(("signature", _describe_method(name, facts)) for name, facts in manifest["methods"].items()),
        *([("signature", "class_labels, the names of all classes")] if labels else []),
        ("signature", "parameter_defaults, for clients of servers that do not return defaults"),
        ("verified", "no" if verification is None else f"{len(verification['rows'])} calls within tolerance"),
        ("server", describe_server(manifest["server"])),
        *(("server", reason) for reason in manifest["server"]["why"]),
        ("made by", f"saliency-serving {manifest['exporter']}, TensorFlow {manifest['tensorflow']}"),
        ("size", f"{size / 2**20:.1f} MiB"),
    ]


def describe_target(manifest: Mapping[str, Any]) -> str:
    """The device; of a CPU with the kernels of what is not compiled, where something is not."""
    if manifest["target"] == "gpu" or manifest["compile"] == "xla":
        return manifest["target"]
    return f"{manifest['target']} ({_KERNELS[manifest['kernels']]})"


def describe_preprocessing(preprocessing: Mapping[str, Any]) -> str:
    """Preprocessing as the manifest holds it, in one line: ``tf: x / 127.5 − 1``."""
    name = preprocessing["name"]
    if "callable" in preprocessing:
        return f"{preprocessing['callable']}, a function of your own"
    if not preprocessing["steps"]:
        return _WITHOUT_STEPS.get(name, name)
    text = "x"
    for step in preprocessing["steps"]:
        ((operation, value),) = step.items()
        if operation == "reverse_channels":
            text = f"BGR({text})"
        else:
            inner = f"({text})" if operation == "divide" and _WORDS["subtract"] in text else text
            text = f"{inner} {_WORDS[operation]} {_number(value)}"
    return f"{name}: {text}"


def _number(value: float | Sequence[float]) -> str:
    return f"({', '.join(f'{v:g}' for v in value)})" if isinstance(value, Sequence) else f"{value:g}"


def describe_activations(activations: Mapping[str, Any] | None) -> list[str]:
    """Activations as the manifest holds them, one line a kind; those without a guided rule last.

    None stands for the manifest of an older export, which does not say.
    """
    if activations is None:
        return []
    lines = [f"{a['count']} × {a['kind']}, guided: {a['guided']}" for a in activations["recognised"]]
    lines += [f"{op} of {node}: no guided rule" for op, node in activations["refused"]]
    return lines or ["none that rectifies"]


def _describe_method(name: str, facts: Mapping[str, Any]) -> str:
    details = [
        f"{key} {value}" for key, value in facts.items() if isinstance(value, int) and key != "uncovered"
    ]
    return ", ".join([f"explain_{name}", *details])


def _describe_choices(choices: Sequence[Mapping[str, Any]]) -> list[str]:
    """What `--compile auto` chose, a line for each call that is not compiled."""
    return [
        f"{choice['signature']}, batch {choice['batch_size']}: {choice['none_ms']:.1f} ms, "
        f"compiled {choice['xla_ms']:.1f} ms"
        for choice in choices
        if choice["compile"] == "none"
    ]
