"""Runs the GPU bundle: compiles what the exporter makes for this machine's device, checks it and times it.

python gpu-bundle.pyz                          (the bundle has this file in it)
python tests/gpu/run_bundle.py gpu-bundle.pyz

Needs Python 3.10, numpy and jax, and nothing of this project and no TensorFlow. It writes gpu-report.json and
gpu-report.md into the current folder, takes at most 8 minutes (--seconds) and says what it left out. Exit
codes: 0, everything that was run is right; 1, an answer is wrong or a program failed; 3, it was stopped.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

SAMPLES = 50
ORDER = (
    ("efficientnet-lite0", 8, "default"),
    ("every-op", 8, "default"),
    ("every-op", 8, "highest"),
    ("efficientnet-lite0", 8, "highest"),
    ("efficientnet-lite0", 1, "default"),
    ("efficientnet-lite0", 32, "default"),
    ("mobilenet-v2", 8, "default"),
    ("mobilenet-v2", 8, "highest"),
    ("mobilenet-v2", 1, "default"),
    ("mobilenet-v2", 32, "default"),
    ("every-op", 1, "default"),
    ("every-op", 32, "default"),
    ("efficientnet-lite0", 32, "highest"),
    ("efficientnet-lite0", 1, "highest"),
    ("mobilenet-v2", 32, "highest"),
    ("mobilenet-v2", 1, "highest"),
    ("every-op", 32, "highest"),
    ("every-op", 1, "highest"),
)
"""What is run first where there is no time for all: model, batch size, precision of products."""
FIRST = ("serving_default", "explain_gradients", "explain_guided", "explain_smooth")
TARGETS = {
    "explain_gradients": (2.2, "forward passes"),
    "explain_guided": (1.05, "of gradients"),
    "explain_smooth": (2.0, "forward passes a sample"),
}
COMPILE_TARGET = 60.0
OF_MAPS = ("a map differs by", "maps differ by")
"""How problems of maps begin."""


class Bundle:
    """The file: what bundle.json says, and the parts that it names."""

    def __init__(self, path: Path) -> None:
        self.zip = zipfile.ZipFile(path)
        self.facts = json.loads(self.zip.read("bundle.json"))

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        with np.load(io.BytesIO(self.zip.read(name)), allow_pickle=False) as arrays:
            return dict(arrays)

    def bytes(self, name: str) -> bytes:
        return self.zip.read(name)


class Executable:
    """HLO compiled for the first device, called with arrays in the order of its parameters."""

    def __init__(self, hlo: bytes, *, precision: str = "default") -> None:
        text = as_mlir(hlo)
        self.products = len(
            re.findall(r"stablehlo\.(?:convolution|dot_general|dot)\b|mhlo\.(?:convolution|dot)", text)
        )
        if precision == "highest":
            text, self.raised = with_highest_precision(text)
        start = time.perf_counter()
        self.loaded = compiled(text)
        self.compile_seconds = time.perf_counter() - start

    def __call__(self, arguments: Sequence[Any]) -> list[Any]:
        if hasattr(self.loaded, "execute"):
            return list(self.loaded.execute(list(arguments)))
        outputs = self.loaded.execute_sharded(list(arguments))
        return [one[0] for one in outputs.disassemble_into_single_device_arrays()]

    def memory(self) -> dict[str, int]:
        """Bytes: of arguments, outputs, and what the program needs beside them while it runs."""
        try:
            stats = self.loaded.get_compiled_memory_stats()
        except Exception:
            return {}
        names = {"arguments": "argument_size_in_bytes", "outputs": "output_size_in_bytes"}
        names["temporary"] = "temp_size_in_bytes"
        return {ours: int(getattr(stats, theirs, 0)) for ours, theirs in names.items()}


def as_mlir(hlo: bytes) -> str:
    """A serialized HloModuleProto as the text of an MLIR module."""
    from jax._src.lib import xla_client

    try:
        computation = xla_client.XlaComputation(hlo)
    except AttributeError:
        computation = xla_client._xla.XlaComputation(hlo)
    module = xla_client._xla.mlir.xla_computation_to_mlir_module(computation)
    return module.decode() if isinstance(module, bytes) else str(module)


def with_highest_precision(text: str) -> tuple[str, int]:
    """The module with every product in full float32: without TensorFloat-32. And how many attributes changed.

    The precision of an operand is part of the program. NVIDIA_TF32_OVERRIDE reaches cuBLAS and cuDNN alone,
    and not the products that XLA makes kernels of itself.
    """
    changed = 0

    def raised(match: re.Match[str]) -> str:
        nonlocal changed
        changed += 1
        return match[0].replace("DEFAULT", "HIGHEST")

    return re.sub(r"precision\w*\s*=\s*\[[^\]]*DEFAULT[^\]]*\]", raised, text), changed


def compiled(text: str) -> Any:
    """The module, loaded on the first device; jax has called this in several ways."""
    from jax._src.lib import xla_client

    device = jax.devices()[0]
    client, options = device.client, xla_client.CompileOptions()
    if hasattr(client, "compile_and_load"):
        devices = getattr(xla_client, "DeviceList", None) or xla_client._xla.DeviceList
        try:
            return client.compile_and_load(text, devices((device,)), options)
        except TypeError:
            return client.compile_and_load(text, options)
    return client.compile(text, options)


def median_seconds(call: Callable[[], Any], *, rounds: int = 5, most: float = 4.0) -> tuple[float, int]:
    """Median seconds of a call on a warm device, and of how many rounds.

    Short calls are begun one after the other and waited for together, so that what Python does before a call
    is hidden behind the device's work.
    """
    jax.block_until_ready(call())
    start = time.perf_counter()
    jax.block_until_ready(call())
    once = time.perf_counter() - start
    if once > most / 2:
        return once, 1
    together = max(1, min(20, int(0.05 / max(once, 1e-6))))
    times = []
    end = time.perf_counter() + most
    while len(times) < rounds or (len(times) < 3 * rounds and time.perf_counter() < end - once * together):
        start = time.perf_counter()
        results = [call() for _ in range(together)]
        jax.block_until_ready(results)
        times.append((time.perf_counter() - start) / together)
        if time.perf_counter() > end and len(times) >= 2:
            break
    return statistics.median(times), len(times)


# What the answers must be.


def map_errors(got: np.ndarray, want: np.ndarray) -> list[float]:
    """‖difference‖₂ / ‖expected‖₂ of each example; infinite where one is finite and the other is not."""
    errors = []
    for g, w in zip(got, want, strict=True):
        g, w = np.ravel(g).astype(np.float64), np.ravel(w).astype(np.float64)
        finite = np.isfinite(w)
        if not np.array_equal(np.isfinite(g), finite):
            errors.append(float("inf"))
            continue
        norm = max(float(np.linalg.norm(w[finite])), float(np.finfo(np.float32).tiny))
        errors.append(float(np.linalg.norm((g - w)[finite])) / norm)
    return errors


def score_errors(got: np.ndarray, want: np.ndarray) -> list[float]:
    """max|difference| / max(1, max|expected|) of each example; infinite where it is not finite."""
    got, want = np.reshape(got, (len(got), -1)).astype(np.float64), np.reshape(want, (len(want), -1))
    if not np.all(np.isfinite(got)):
        return [float("inf")] * len(got)
    return list(map(float, np.abs(got - want).max(1) / max(1.0, float(np.abs(want).max()))))


def undecided(model: Mapping[str, Any], examples: Mapping[str, np.ndarray], bound: float) -> list[bool]:
    """Of each example, whether its two best classes are closer than the bound: either may be predicted."""
    scores = examples.get("serving_default/logits", examples.get("serving_default/outputs"))
    if scores is None:
        return [False, False]
    best = np.sort(scores, axis=1)
    size = max(1.0, float(np.abs(scores).max()))
    return [bool((row[-1] - row[-2]) / size < 2 * bound) for row in best]


def check(
    model: Mapping[str, Any],
    examples: Mapping[str, np.ndarray],
    program: Mapping[str, Any],
    answers: Sequence[tuple[np.ndarray, Mapping[str, np.ndarray]]],
    bounds: Mapping[str, float],
) -> dict[str, Any]:
    """Holds the answers of a program to the reference.

    Args:
        model: what bundle.json says of it.
        examples: inputs and reference.
        program: what was called.
        answers: for each call the example of each row, and the outputs by name.
        bounds: `score`, `gradient` (the example that agrees best) and `outlier` (any example).

    Returns:
        `verdict` ("rounding": as near as the float32 reference itself is to float64, times ten; "in bounds";
        "WRONG"), `problems`, and the largest `score` and `map` error, `outputs` with the error of each.
    """
    signature, own = program["signature"], model["own_errors"][program["signature"]]
    maps: dict[int, float] = {}
    outputs: dict[str, float] = {}
    problems: list[str] = []
    near, worst_score = True, 0.0
    given = examples["input/class_index"]
    either = undecided(model, examples, bounds["score"])
    left_out: set[int] = set()
    for rows, outcome in answers:
        for name in sorted(outcome, key=lambda name: name != "class_index"):
            got, key = outcome[name], f"{signature}/{name}"
            if key not in examples or name in model["unverified"]:
                continue
            want = examples[key][rows]
            if got.shape != want.shape or got.dtype != want.dtype:
                problems.append(f"{name} is {got.dtype} {got.shape}, not {want.dtype} {want.shape}")
                continue
            if want.dtype.kind in "iu":
                for row in np.flatnonzero(np.reshape(got != want, (len(rows), -1)).any(1)):
                    example = int(rows[row])
                    if name == "class_index" and given[example] < 0 and either[example]:
                        left_out.add(example)
                    else:
                        problems.append(f"{name} is {got[row]}, not {want[row]} (example {example})")
                continue
            is_score = model["measures"].get(name) == "score"
            errors = (score_errors if is_score else map_errors)(got, want)
            for example, error in zip(rows.tolist(), errors, strict=True):
                if example in left_out:
                    continue
                outputs[name] = max(outputs.get(name, 0.0), error)
                near &= error <= 10 * own[name][example] + 1e-5
                if is_score:
                    worst_score = max(worst_score, error)
                else:
                    maps[example] = max(maps.get(example, 0.0), error)
    if not worst_score <= bounds["score"]:
        problems.append(f"scores differ by {worst_score:.2g} (bound {bounds['score']:.2g})")
    if maps and not max(maps.values()) <= bounds["outlier"]:
        problems.append(f"a map differs by {max(maps.values()):.2g} (bound {bounds['outlier']:.2g})")
    if maps and not min(maps.values()) <= bounds["gradient"]:
        problems.append(f"maps differ by {min(maps.values()):.2g} (bound {bounds['gradient']:.2g})")
    return {
        "verdict": "WRONG" if problems else "rounding" if near else "in bounds",
        "problems": sorted(set(problems)),
        "score": worst_score,
        "map": max(maps.values(), default=0.0),
        "outputs": outputs,
        "undecided": sorted(left_out),
    }


# The same forward pass, made of jax's own operations.


def rebuilt(
    forward: Mapping[str, Any], weights: Mapping[str, Any], preprocessing: Mapping[str, Any]
) -> Callable[..., Any]:
    """The forward pass of the bundle as a function of jax, for jax to differentiate.

    It has the ops of the graph that the exporter compiles, in its order and with its weights, as anybody
    would write them in jax: no rule of this project is in it.

    Returns:
        A function of model input, float32 [B, H, W, 3], and weights by name, to class scores.
    """
    from jax import lax
    from jax import numpy as jnp

    layout = ("NHWC", "HWIO", "NHWC")

    def scores(x: Any, weights: Mapping[str, Any]) -> Any:
        values = {forward["input"]: x, **weights}
        for node in forward["nodes"]:
            inputs = [values.get(name) for name in node["inputs"]]
            op = node["op"]
            if op == "Conv2D":
                y = lax.conv_general_dilated(
                    inputs[0], inputs[1], node["strides"][1:3], node["padding"], dimension_numbers=layout
                )
            elif op == "DepthwiseConv2dNative":
                kernel = inputs[1]
                channels = kernel.shape[2]
                y = lax.conv_general_dilated(
                    inputs[0],
                    jnp.reshape(kernel, (*kernel.shape[:2], 1, channels * kernel.shape[3])),
                    node["strides"][1:3],
                    node["padding"],
                    dimension_numbers=layout,
                    feature_group_count=channels,
                )
            elif op in ("BiasAdd", "AddV2"):
                y = inputs[0] + inputs[1]
            elif op == "Relu6":
                y = jnp.clip(inputs[0], 0, 6)
            elif op == "Mean":
                y = jnp.mean(inputs[0], axis=(1, 2))
            elif op == "MatMul":
                y = inputs[0] @ inputs[1]
            else:
                raise ValueError(f"the forward pass has an op {op}, which this program cannot rebuild")
            values[node["name"]] = y
        return values[forward["scores"]]

    offset = np.asarray(preprocessing["offset"], np.float32)
    scale = np.asarray(preprocessing["scale"], np.float32)

    def of_pixels(images: Any, weights: Mapping[str, Any]) -> Any:
        return scores(jnp.asarray(images, jnp.float32) * scale + offset, weights)

    of_pixels.scores = scores  # type: ignore[attr-defined]
    of_pixels.model_input = lambda images: jnp.asarray(images, jnp.float32) * scale + offset  # type: ignore[attr-defined]
    return of_pixels


# One run.


class Run:
    """The steps of a run, what they found, and the time that is left."""

    def __init__(self, bundle: Bundle, arguments: argparse.Namespace) -> None:
        self.bundle, self.arguments = bundle, arguments
        self.begun = time.perf_counter()
        self.longest = 0.0
        self.device = jax.devices()[0]
        self.is_gpu = self.device.platform not in ("cpu", "tpu")
        self.only = arguments.only.split(",") if arguments.only else None
        self.report: dict[str, Any] = {
            "format": 1,
            "device": describe_device(self.device),
            "bundle": {key: self.bundle.facts[key] for key in ("tensorflow",)},
            "seconds_allowed": arguments.seconds,
            "programs": [],
            "jax": [],
            "checks": [],
            "failures": [],
            "left_out": [],
            "complete": False,
        }
        self.loaded: dict[str, tuple[dict[str, np.ndarray], dict[str, Any]]] = {}
        self.means: dict[tuple[str, int], dict[str, np.ndarray]] = {}

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.begun

    def step(self, name: str, work: Callable[[], Any]) -> None:
        """Does one part, if there is time for the longest so far; a failure is kept and the run goes on."""
        if self.elapsed + self.longest > self.arguments.seconds:
            self.report["left_out"].append(name)
            return
        print(f"{self.elapsed:6.1f} s  {name}", flush=True)
        start = time.perf_counter()
        try:
            work()
        except Exception as error:
            text = f"{type(error).__name__}: {error}"[:1500]
            self.report["failures"].append({"step": name, "error": text})
            print(f"          FAILED: {text.splitlines()[0][:200]}", flush=True)
        self.longest = max(self.longest, time.perf_counter() - start)

    def model(self, name: str) -> dict[str, Any] | None:
        return next((m for m in self.bundle.facts["models"] if m["name"] == name), None)

    def data(self, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The examples of a model, and its weights on the device."""
        if name not in self.loaded:
            weights = self.bundle.arrays(f"{name}/weights.npz")
            on_device = {key: jax.device_put(value) for key, value in weights.items()}
            self.loaded[name] = self.bundle.arrays(f"{name}/examples.npz"), on_device
        return self.loaded[name]

    def run(self) -> None:
        if self.wanted("noise"):
            self.step("noise", self.noise)
        for name, size, precision in ORDER:
            model = self.model(name)
            if model is None or not self.wanted(name) or size not in self.sizes:
                continue
            if precision not in self.arguments.precisions.split(","):
                continue
            here = [p for p in model["programs"] if p["batch"] == size and self.asked_for(p)]
            programs = [p for p in here if p["precision"] == "float32"]
            programs.sort(
                key=lambda p: FIRST.index(p["signature"]) if p["signature"] in FIRST else len(FIRST)
            )
            for program in programs:
                title = f"{name}, {program['signature']}, batch {size}, {precision} precision"
                self.step(title, functools.partial(self.program, model, program, precision))
            if precision == "default":
                if model["forward"] is not None:
                    self.step(f"{name}, jax's own, batch {size}", functools.partial(self.own, model, size))
                for program in here:
                    if program["precision"] != "float32":
                        title = (
                            f"{name}, {program['signature']}, batch {size}, samples in {program['precision']}"
                        )
                        self.step(title, functools.partial(self.program, model, program, precision))
        self.report["complete"] = True

    def asked_for(self, program: Mapping[str, Any]) -> bool:
        asked = self.arguments.signatures
        return asked is None or program["signature"] in asked.split(",")

    def wanted(self, name: str) -> bool:
        return self.only is None or name in self.only

    @functools.cached_property
    def sizes(self) -> list[int]:
        return [int(size) for size in self.arguments.batch_sizes.split(",")]

    def noise(self) -> None:
        """The bits of the noise, which are promised to be the same everywhere."""
        facts = self.bundle.facts["noise"]
        arrays = self.bundle.arrays(facts["arrays"])
        executable = Executable(self.bundle.bytes(facts["hlo"]))
        outputs = executable([jax.device_put(arrays[name]) for name in facts["inputs"]])
        got = {name: np.asarray(value) for name, value in zip(facts["outputs"], outputs, strict=True)}
        same = np.array_equal(got["bits"], arrays["bits"])
        self.note(
            "noise", "the random bits of a seed are those of a CPU", same, "same" if same else "other bits"
        )
        off = float(np.abs(got["noise"] - arrays["noise"]).max())
        self.note("noise", "normal numbers of these bits", off <= 1e-5, f"differ by {off:.1e} at most")

    def note(self, model: str, what: str, right: bool, found: str) -> None:
        self.report["checks"].append({"model": model, "check": what, "right": bool(right), "found": found})

    def inputs(
        self, model: Mapping[str, Any], program: Mapping[str, Any], rows: np.ndarray
    ) -> dict[str, np.ndarray]:
        examples, _ = self.data(model["name"])
        own = f"{program['signature']}/input/"
        return {
            n: examples[own + n if own + n in examples else f"input/{n}"][rows] for n in program["inputs"]
        }

    def call(
        self,
        model: Mapping[str, Any],
        program: Mapping[str, Any],
        executable: Executable,
        inputs: Mapping[str, np.ndarray],
    ) -> dict[str, np.ndarray]:
        _, weights = self.data(model["name"])
        arguments = [jax.device_put(inputs[name]) for name in program["inputs"]]
        outputs = executable([*arguments, *(weights[name] for name in model["weights"])])
        return {name: np.asarray(value) for name, value in zip(program["outputs"], outputs, strict=True)}

    def program(self, model: Mapping[str, Any], program: Mapping[str, Any], precision: str) -> None:
        """Compiles a program, holds it to the reference, times it."""
        examples, weights = self.data(model["name"])
        executable = Executable(self.bundle.bytes(program["hlo"]), precision=precision)
        row: dict[str, Any] = {
            "model": model["name"],
            **{key: program[key] for key in ("signature", "batch")},
            "samples_in": program["precision"],
            "precision": precision,
            "compile_seconds": executable.compile_seconds,
            "memory": executable.memory(),
        }
        if precision == "highest":
            row["products"], row["raised"] = executable.products, executable.raised
        size = program["batch"]
        orders = [np.array([0]), np.array([1])] if size == 1 else [np.arange(size) % 2]
        answers = [
            (rows, self.call(model, program, executable, self.inputs(model, program, rows)))
            for rows in orders
        ]
        kind = "bfloat16" if program["precision"] != "float32" else "float32"
        bounds = model["bounds"][
            "tf32" if self.is_gpu and precision == "default" and kind == "float32" else kind
        ]
        row |= check(model, examples, program, answers, bounds)
        judged = program.get("judged", True)
        if not judged:
            # It is here for its time: an export refuses it because its maps are too far from float32.
            row["problems"] = [problem for problem in row["problems"] if not problem.startswith(OF_MAPS)]
            row["verdict"] = "not judged: an export refuses it"
        if row["problems"]:
            print(f"          WRONG: {'; '.join(row['problems'])}", flush=True)
        self.report["programs"].append(row)
        if size > 1 and precision == "default" and kind == "float32":
            self.deep(model, program, executable, orders[0], answers[0][1])
        if size > 1 and not self.is_gpu:
            # Minutes a call, and nobody's figure.
            return
        inputs = self.inputs(model, program, orders[0])
        for name, value in model["defaults"].get(program["signature"], {}).items():
            inputs[name] = np.full(size, SAMPLES if name == "num_samples" else value, inputs[name].dtype)
        arguments = [jax.device_put(inputs[name]) for name in program["inputs"]]
        arguments += [weights[name] for name in model["weights"]]
        row["seconds"], row["rounds"] = median_seconds(lambda: executable(arguments))
        if program["signature"] == "explain_smooth":
            outputs = dict(zip(program["outputs"], map(np.asarray, executable(arguments)), strict=True))
            if kind == "float32" and precision == "default":
                self.means[model["name"], size] = outputs
            elif kind != "float32" and (exact := self.means.get((model["name"], size))):
                difference = np.reshape(outputs["gradients"] - exact["gradients"], (size, -1))
                share = np.linalg.norm(difference.astype(np.float64), axis=1) / exact["standard_error"]
                self.note(
                    model["name"],
                    f"explain_smooth, batch {size}: samples in {kind} change a mean of {SAMPLES} by "
                    "less than its standard error",
                    bool(np.all(share < 1)) or not judged,
                    f"{'' if judged else 'not judged: '}by {float(share.max()):.2f} of it at most",
                )

    def deep(
        self,
        model: Mapping[str, Any],
        program: Mapping[str, Any],
        executable: Executable,
        rows: np.ndarray,
        before: Mapping[str, np.ndarray],
    ) -> None:
        """What a contract says beside the numbers: neighbours, classes, padding, seeds."""
        name, signature, bound = model["name"], program["signature"], model["bounds"]["float32"]["gradient"]
        own_map = next((n for n in ("gradients", "attributions", "cam") if n in before), None)
        if own_map is None:
            return
        where = f"{signature}, batch {program['batch']}"
        found = max(map_errors(before[own_map][2:], before[own_map][:-2]))
        self.note(
            name, f"{where}: an example's map at other places of the batch", found <= bound, told(found)
        )
        padded = np.minimum(np.arange(len(rows)), 1)
        after = self.call(model, program, executable, self.inputs(model, program, padded))
        found = max(map_errors(after[own_map][:2], before[own_map][:2]))
        self.note(name, f"{where}: beside padding", found <= bound, told(found))
        if signature == "explain_gradients":
            inputs = self.inputs(model, program, rows)
            inputs["class_index"] = before["class_index"]
            after = self.call(model, program, executable, inputs)
            found = max(map_errors(after[own_map], before[own_map]))
            self.note(name, f"{where}: the predicted class, given by its index", found <= bound, told(found))
            inputs["class_index"] = (before["class_index"] + 1) % model["classes"]
            after = self.call(model, program, executable, inputs)
            right = np.array_equal(after["class_index"], inputs["class_index"])
            found = min(map_errors(after[own_map], before[own_map]))
            self.note(name, f"{where}: another class has another map", right and found > 1e-3, told(found))
        if signature == "explain_smooth":
            inputs = self.inputs(model, program, rows)
            after = self.call(model, program, executable, inputs)
            found = max(map_errors(after[own_map], before[own_map]))
            self.note(name, f"{where}: the same seed again", found <= bound, told(found))
            inputs["seed"] = inputs["seed"] + 1
            after = self.call(model, program, executable, inputs)
            found = min(map_errors(after[own_map], before[own_map]))
            self.note(name, f"{where}: another seed has another map", found > 0.05, told(found))

    def own(self, model: Mapping[str, Any], size: int) -> None:
        """jax's own forward pass and gradient of the same graph and weights: what ratios are of."""
        examples, weights = self.data(model["name"])
        rows = np.arange(size) % 2
        images = jax.device_put(examples["input/images"][rows])
        of_pixels = rebuilt(model["forward"], weights, model["preprocessing"])
        forward = jax.jit(of_pixels)
        scores = np.asarray(forward(images, weights))
        error = max(score_errors(scores, examples["serving_default/logits"][rows]))
        classes = jax.device_put(examples["explain_gradients/class_index"][rows])

        def gradients(images: Any, weights: Any) -> Any:
            x = of_pixels.model_input(images)  # type: ignore[attr-defined]

            def total(x: Any) -> Any:
                scores = of_pixels.scores(x, weights)  # type: ignore[attr-defined]
                return jax.numpy.take_along_axis(scores, classes[:, None], 1).sum(), scores

            gradient, scores = jax.grad(total, has_aux=True)(x)
            return gradient, scores

        differentiated = jax.jit(gradients)
        gradient = np.asarray(differentiated(images, weights)[0])
        differs = map_errors(gradient, examples["explain_gradients/gradients"][rows])
        bounds = model["bounds"]["tf32" if self.is_gpu else "float32"]
        right = (
            error <= bounds["score"]
            and max(differs) <= bounds["outlier"]
            and min(differs) <= bounds["gradient"]
        )
        found = f"scores differ by {error:.1e}, gradients by {max(differs):.1e}"
        self.note(model["name"], f"jax's own forward pass and gradient, batch {size}", right, found)
        row = {"model": model["name"], "batch": size, "score": error, "map": max(differs)}
        if size > 1 and not self.is_gpu:
            return
        row["forward_seconds"], _ = median_seconds(lambda: forward(images, weights))
        row["gradient_seconds"], _ = median_seconds(lambda: differentiated(images, weights))
        self.report["jax"].append(row)

    def finish(self, stopped: bool = False) -> int:
        """Writes the report; returns the exit code."""
        self.report["seconds"] = self.elapsed
        self.report["device_memory"] = memory_of(self.device)
        wrong = [r for r in self.report["programs"] if r["problems"]]
        wrong += [c for c in self.report["checks"] if not c["right"]] + self.report["failures"]
        self.report["wrong"] = len(wrong)
        out = Path(self.arguments.out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "gpu-report.json").write_text(json.dumps(self.report, indent=1), encoding="utf-8")
        (out / "gpu-report.md").write_text(page(self.report, self.bundle.facts), encoding="utf-8")
        print(f"{self.elapsed:6.1f} s  {out / 'gpu-report.json'} and gpu-report.md written", flush=True)
        print(verdict(self.report), flush=True)
        return 3 if stopped else 1 if wrong else 0


def told(error: float) -> str:
    return "the same bits" if error == 0 else f"differs by {error:.1e}"


def memory_of(device: Any) -> dict[str, int]:
    """What the device's allocator says; nothing on a CPU."""
    try:
        stats = device.memory_stats() or {}
    except Exception:
        return {}
    return {name: int(stats[name]) for name in ("peak_bytes_in_use", "bytes_limit") if name in stats}


def describe_device(device: Any) -> dict[str, str]:
    """What this was run on."""
    facts = {
        "platform": device.platform,
        "kind": device.device_kind,
        "platform_version": str(getattr(device.client, "platform_version", "")).strip(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "NVIDIA_TF32_OVERRIDE": os.environ.get("NVIDIA_TF32_OVERRIDE", ""),
    }
    if device.platform == "cpu":
        facts["kind"] = processor()
    else:
        try:
            query = "--query-gpu=name,driver_version,memory.total,power.limit"
            told = subprocess.run(
                ["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, timeout=20
            )
            facts["nvidia-smi"] = told.stdout.decode().strip()
        except (OSError, subprocess.SubprocessError):
            facts["nvidia-smi"] = "not found"
    return {name: value for name, value in facts.items() if value}


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")


# The page.


def verdict(report: Mapping[str, Any]) -> str:
    """One line: whether what was run is right."""
    programs = report["programs"]
    count = {name: sum(r["verdict"] == name for r in programs) for name in ("rounding", "in bounds", "WRONG")}
    checks = report["checks"]
    failed = sum(not c["right"] for c in checks)
    line = (
        f"{len(programs)} programs: {count['rounding']} agree with the reference to rounding, "
        f"{count['in bounds']} within the bounds, {count['WRONG']} are wrong, "
        f"{len(report['failures'])} steps failed. {len(checks) - failed} of {len(checks)} checks hold."
    )
    left = len(report["left_out"])
    return line + (f" {left} steps were left out for want of time." if left else "")


def seconds(value: float | None) -> str:
    return "–" if value is None else f"{1e3 * value:.3g}"


def ratio(value: float | None, of: float | None) -> str:
    return "–" if not value or not of else f"{value / of:.2f}"


def mib(value: int | None) -> str:
    return "–" if value is None else f"{value / 2**20:.0f}"


def page(report: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    device = report["device"]
    on_gpu = device["platform"] not in ("cpu", "tpu")
    lines = [f"# The GPU bundle on {device['kind']}", ""]
    if not on_gpu:
        lines += [
            f"**This was run on jax's {device['platform'].upper()} backend. It holds no figure of a GPU.** "
            "It shows that the bundle and its checks work, and that what the exporter compiles runs in "
            "another runtime of XLA.",
            "",
        ]
    lines += [
        verdict(report),
        "",
        *(f"- {name}: {value}" for name, value in device.items()),
        f"- bundle: HLO of TensorFlow {facts['tensorflow']}, lowered for a GPU; {report['seconds']:.0f} s of "
        f"{report['seconds_allowed']:.0f} s",
        *(f"- device memory: {mib(v)} MiB {k.replace('_', ' ')}" for k, v in report["device_memory"].items()),
        "",
        "## Right or wrong",
        "",
        "Largest difference from the float32 reference of TensorFlow's CPU kernels, over both examples and "
        "all rows: of scores max|d| / max(1, max|s|), of maps ‖d‖₂ / ‖map‖₂. *own* is how far that reference "
        "is from the model in float64: an answer *agrees to rounding* where each of its outputs is within "
        "ten times that, plus 1e-5. A unit at a rectifier's kink may flip by rounding and change one map by "
        "a few percent; so the bounds, below, are wider. *default* precision lets a GPU use TensorFloat-32; "
        "*highest* does not.",
        "",
        "| model | signature | batch | precision | scores | maps | own | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    by_model = {model["name"]: model for model in facts["models"]}
    for row in report["programs"]:
        own = by_model[row["model"]]["own_errors"][row["signature"]]
        measured = {name: max(errors) for name, errors in own.items() if name in row["outputs"]}
        precision = row["precision"] if row["samples_in"] == "float32" else f"samples in {row['samples_in']}"
        lines.append(
            f"| {row['model']} | {row['signature']} | {row['batch']} | {precision} | "
            f"{row['score']:.1e} | {row['map']:.1e} | {max(measured.values(), default=0.0):.1e} | "
            f"{('; '.join(row['problems']) and 'WRONG: ' + '; '.join(row['problems'])) or row['verdict']}"
            f"{' (two classes too close to tell)' if row['undecided'] else ''} |"
        )
    lines += ["", "Bounds (score, any map, best map):", ""]
    for model in facts["models"]:
        told = ", ".join(
            f"{kind} {b['score']:.1g}, {b['outlier']:.2g}, {b['gradient']:.2g}"
            for kind, b in model["bounds"].items()
        )
        lines.append(f"- {model['name']}: {told}")
        lines += [f"  - {note}" for note in model.get("notes", ())]
    lines += ["", "| model | check | found | |", "|---|---|---|---|"]
    for c in report["checks"]:
        lines.append(
            f"| {c['model']} | {c['check']} | {c['found']} | {'holds' if c['right'] else 'DOES NOT HOLD'} |"
        )
    lines += [
        "",
        "## Time",
        "",
        *time_table(report, facts),
        "",
        "## Compiling and memory",
        "",
        *compile_table(report),
    ]
    lines += [
        "",
        "## Failed",
        "",
        *([f"- {f['step']}: {f['error']}" for f in report["failures"]] or ["Nothing."]),
    ]
    lines += ["", "## Left out", "", *([f"- {name}" for name in report["left_out"]] or ["Nothing."])]
    return "\n".join(lines) + "\n"


def time_table(report: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[str]:
    """Lines of the table of times and ratios."""
    yield (
        f"Milliseconds of one call, median, warm, everything on the device. smooth has {SAMPLES} samples, "
        "integrated gradients the default number of steps. *× forward* is by this project's forward pass of "
        "the same model, batch and precision; *÷ jax's gradient* by `jax.grad` of the same forward pass (of "
        "the forward pass, by jax's own), rebuilt in jax from the same weights and held to the reference "
        "first. Of smooth it is by sample."
    )
    yield ""
    yield (
        "| model | batch | precision | signature | ms | × forward | × forward, a sample | ÷ jax's gradient "
        "| target |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    timed = {
        (r["model"], r["batch"], r["precision"], r["signature"]): r["seconds"]
        for r in report["programs"]
        if "seconds" in r and r["samples_in"] == "float32"
    }
    own = {(r["model"], r["batch"]): r for r in report["jax"]}
    on_gpu = report["device"]["platform"] not in ("cpu", "tpu")
    for row in report["programs"]:
        if "seconds" not in row:
            continue
        key = (row["model"], row["batch"], row["precision"])
        forward = timed.get((*key, "serving_default"))
        gradients = timed.get((*key, "explain_gradients"))
        peer = own.get(key[:2]) if row["precision"] == "default" else None
        smooth = row["signature"] == "explain_smooth"
        calls = SAMPLES if smooth else 1
        peer_seconds = peer and (
            peer["forward_seconds"] if row["signature"] == "serving_default" else peer["gradient_seconds"]
        )
        told = ""
        # They are targets on a GPU.
        if row["signature"] in TARGETS and forward and on_gpu:
            target, unit = TARGETS[row["signature"]]
            against = gradients if row["signature"] == "explain_guided" else forward * calls
            if against:
                value = row["seconds"] / against
                told = f"{value:.2f} {unit}, {'reached' if value <= target else 'missed'} (≤ {target})"
        in_fewer = "" if row["samples_in"] == "float32" else f", samples in {row['samples_in']}"
        yield (
            f"| {row['model']} | {row['batch']} | {row['precision']}{in_fewer} | {row['signature']} | "
            f"{seconds(row['seconds'])} | {ratio(row['seconds'], forward)} | "
            f"{ratio(row['seconds'] / SAMPLES, forward) if smooth else ''} | "
            f"{ratio(row['seconds'] / calls, peer_seconds)} | {told} |"
        )
    for row in report["jax"]:
        yield (
            f"| {row['model']} | {row['batch']} | default | jax's own: forward, gradient | "
            f"{seconds(row['forward_seconds'])}, {seconds(row['gradient_seconds'])} | "
            f"{ratio(row['gradient_seconds'], row['forward_seconds'])} | | | |"
        )


def compile_table(report: Mapping[str, Any]) -> Iterator[str]:
    """Lines of the table of compile times and memory."""
    programs = report["programs"]
    if programs:
        longest = max(programs, key=lambda r: r["compile_seconds"])
        met = "reached" if longest["compile_seconds"] <= COMPILE_TARGET else "missed"
        on_gpu = report["device"]["platform"] not in ("cpu", "tpu")
        yield (
            f"The longest compilation took {longest['compile_seconds']:.1f} s ({longest['model']}, "
            f"{longest['signature']}, batch {longest['batch']})"
            + (f"; the target of {COMPILE_TARGET:.0f} s is {met}" if on_gpu else "")
            + ". *temporary* is what a program needs beside weights, inputs and outputs."
        )
        yield ""
    yield "| model | signature | batch | precision | compile, s | temporary, MiB | outputs, MiB |"
    yield "|---|---|---|---|---|---|---|"
    for row in programs:
        memory = row["memory"]
        in_fewer = "" if row["samples_in"] == "float32" else f", samples in {row['samples_in']}"
        yield (
            f"| {row['model']} | {row['signature']} | {row['batch']} | {row['precision']}{in_fewer} | "
            f"{row['compile_seconds']:.1f} | {mib(memory.get('temporary'))} | {mib(memory.get('outputs'))} |"
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    inside = Path(sys.argv[0]) if zipfile.is_zipfile(sys.argv[0]) else None
    if inside is None:
        parser.add_argument("bundle", type=Path)
    else:
        parser.set_defaults(bundle=inside)
    parser.add_argument("--seconds", type=float, default=480, help="how long it may take (480)")
    parser.add_argument("--only", help="models, by comma: efficientnet-lite0, mobilenet-v2, every-op, noise")
    parser.add_argument("--batch-sizes", default="1,8,32", help="1,8,32")
    parser.add_argument("--precisions", default="default,highest", help="default,highest")
    parser.add_argument("--signatures", help="these alone, by comma")
    parser.add_argument(
        "--out", default=".", help="folder of gpu-report.json and gpu-report.md (the current one)"
    )
    arguments = parser.parse_args()
    run = Run(Bundle(arguments.bundle), arguments)
    # A compilation cannot be interrupted: past the time, what is known is written and the process ends.
    watch = threading.Timer(arguments.seconds + 30, lambda: os._exit(run.finish(stopped=True)))
    watch.daemon = True
    watch.start()
    print(f"{run.report['device']['kind']}, jax {jax.__version__}", flush=True)
    run.run()
    watch.cancel()
    return run.finish()


if __name__ == "__main__":
    sys.exit(main())
