"""`make bench-methods`: what each method costs beside a prediction, and beside other libraries.

    python tests/benchmarks/methods.py [--models MobileNetV2] [--page]
    TF_ENABLE_ONEDNN_OPTS=0 make bench-methods      the kernels of processors without AVX-512 VNNI

For each model: an export that is not compiled, a local server process and the client on one side, other
libraries in process on the other, same weights, same images. Calls of a group are made in turn, those under a
second in rows of three behind one that is not timed, so a ratio is that of medians of one run.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).parent)]

from explanations_model import (  # noqa: E402
    BIN,
    CLASS_INDEX,
    LITE0,
    LOAD_SECONDS,
    PEERS,
    PeerProcess,
    PeerRefusedError,
    prepare,
    row,
    say,
)
from explanations_server import open_client, random_images  # noqa: E402
from measuring import forget_peak, interleaved, machine, memory_mib, versions  # noqa: E402
from server_process import ServerProcess  # noqa: E402

from saliency_client import SaliencyClient  # noqa: E402

MODELS = (LITE0, "MobileNetV2", "EfficientNetB0", "Xception", "ResNet50", "VGG16")
CAMS = ("grad_cam", "hires_cam", "layer_cam")
STEPS = 50
MASKS = 2000
BATCHES = (1, 2, 4, 8, 16)
FORWARD = "serving_default"
FLOAT = Mapping[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=f"{LITE0},MobileNetV2", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peers-python", default=".venv-peers/bin/python")
    parser.add_argument(
        "--rise",
        default=LITE0,
        help="the model of which rise, memory and loading are measured; none for none",
    )
    parser.add_argument("--loading", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--page", action="store_true", help="write a page in tests/benchmarks/results")
    arguments = parser.parse_args()
    kernels, rows = "", []
    for model in arguments.models.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            kernels, measured = measure(model, Path(scratch), arguments)
            rows += measured
    text = page(rows, kernels)
    print(text)
    if arguments.page:
        name = f"{datetime.date.today()}-methods-{kernels}.md"
        (Path(__file__).parent / "results" / name).write_text(text)


def measure(model: str, scratch: Path, arguments: argparse.Namespace) -> tuple[str, list[list[str]]]:
    facts = prepare(model, scratch)
    say(model, "export")
    source = (
        [LITE0] if model == LITE0 else [scratch / "model.keras", "--preprocessing", facts["preprocessing"]]
    )
    asked = ",".join(("gradients", "gradient_x_input", "integrated_gradients", *CAMS, "rise"))
    command = [BIN / "saliency-exporter", "export", *source, scratch / "model", "--methods", asked]
    command += ["--target", "cpu", "--compile", "none", "--max-samples", str(MASKS), "--no-verify"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    manifest = json.loads((scratch / "model" / "1" / "assets.extra" / "saliency.json").read_text())
    say(model, "load")
    server = ServerProcess(f"m={scratch / 'model'}")
    peers = PeerProcess(arguments.peers_python, scratch)
    rows: list[list[str]] = []
    try:
        server.wait_for("listening on", LOAD_SECONDS)
        peers.ready()
        client, _ = open_client(server.target, "m")
        with client:
            shape = tuple(facts["shape"])
            rows += [[model, *line] for line in cams(client, shape, peers, model, arguments.rounds)]
            rows += [[model, *line] for line in steps(client, shape, peers, model, arguments.rounds)]
            rows += [[model, *line] for line in differences(client, shape, peers, scratch)]
            if model == arguments.rise:
                rows += [[model, *line] for line in memory(client, shape, server.process.pid, model)]
                rows += [[model, *line] for line in masks(client, shape, model)]
    finally:
        peers.stop()
        server.stop()
    if model == arguments.rise and arguments.loading:
        rows.append([model, *loading(source, scratch, model)])
    return manifest["kernels"], rows


def cams(
    client: SaliencyClient, shape: tuple[int, ...], peers: PeerProcess, model: str, rounds: int
) -> list[list[str]]:
    lines = []
    for batch in (1, 8):
        say(model, f"cams, batch {batch}")
        images = random_images(shape, batch)
        calls: dict[str, Callable[[int], float]] = {FORWARD: _timed(lambda x=images: client.predict(x))}
        for method in ("gradients", "gradient_x_input", *CAMS):
            calls[method] = _timed(
                lambda x=images, m=method: client.explain(x, method=m, class_index=CLASS_INDEX)
            )
        calls |= of_peers(peers, "grad_cam", batch)
        times = in_turn(calls, rounds, 1)
        bound = 1.15 if model == "VGG16" else 1.35
        lines += [ratio(times, method, FORWARD, f"B {batch}", bound) for method in CAMS]
        lines.append(ratio(times, "gradient_x_input", "gradients", f"B {batch}", 1.03))
        lines.append(ratio(times, "grad_cam", fastest(times), f"B {batch}", 0.7))
    return lines


def steps(
    client: SaliencyClient, shape: tuple[int, ...], peers: PeerProcess, model: str, rounds: int
) -> list[list[str]]:
    say(model, f"integrated gradients, {STEPS} steps")
    images = random_images(shape, 1)
    calls: dict[str, Callable[[int], float]] = {FORWARD: _timed(lambda: client.predict(images))}
    calls["integrated_gradients"] = lambda count: _timed(
        lambda: client.explain(
            images, method="integrated_gradients", class_index=CLASS_INDEX, num_steps=count
        )
    )(count)
    calls |= of_peers(peers, "integrated_gradients", 1)
    times = in_turn(calls, min(rounds, 5), STEPS)
    scaled = {**times, FORWARD: [STEPS * value for value in times[FORWARD]]}
    return [
        ratio(times, "integrated_gradients", fastest(times), f"{STEPS} steps", 0.9),
        ratio(scaled, "integrated_gradients", FORWARD, f"{STEPS} steps, {STEPS} forwards", 1.7),
    ]


def masks(client: SaliencyClient, shape: tuple[int, ...], model: str) -> list[list[str]]:
    """RISE against as many images by serving_default at the batch size that is fastest for them."""
    say(model, f"rise, {MASKS} masks")
    images = random_images(shape, BATCHES[-1])
    forwards = {str(size): (lambda n=size: client.predict(images[:n])) for size in BATCHES}
    interleaved(forwards, 1)
    each = {n: statistics.median(ms) / int(n) for n, ms in interleaved(forwards, 7).items()}
    best = min(each, key=each.get)
    of_rise = {"rise": lambda: client.explain(images[:1], method="rise", num_masks=MASKS)}
    of_rise[FORWARD] = lambda: [client.predict(images[: int(best)]) for _ in range(MASKS // int(best))]
    times = interleaved(of_rise, 3)
    return [ratio(times, "rise", FORWARD, f"{MASKS} masks, {MASKS} images at batch {best}", 1.15)]


def memory(client: SaliencyClient, shape: tuple[int, ...], pid: int, model: str) -> list[list[str]]:
    say(model, "memory")
    images = random_images(shape, 1)
    lines = []
    for method, name in (("integrated_gradients", "num_steps"), ("rise", "num_masks")):
        client.explain(images, method=method, **{name: 10})
        peaks = {}
        for count in (10, 1000):
            forget_peak(pid)
            client.explain(images, method=method, **{name: count})
            peaks[count] = memory_mib(pid, "VmHWM")
        value = peaks[1000] / peaks[10]
        lines.append([f"memory of {method}, 1000 to 10", "peak", f"{value:.3f}", "1.05", _held(value, 1.05)])
    return lines


def differences(
    client: SaliencyClient, shape: tuple[int, ...], peers: PeerProcess, scratch: Path
) -> list[list[str]]:
    """Relative L2 distance of each peer's Grad-CAM from ours; they enlarge it each in its own way."""
    ours = client.explain(random_images(shape, 1), method="grad_cam", class_index=CLASS_INDEX).saliency
    lines = []
    for peer in PEERS:
        path = scratch / "map.npy"
        try:
            peers.ask(peer, "grad_cam", 1, save=str(path))
        except PeerRefusedError:
            continue
        theirs = np.load(path).reshape(ours.shape)
        value = np.linalg.norm(theirs - ours) / max(np.linalg.norm(theirs), np.finfo(np.float32).tiny)
        lines.append([f"grad_cam: distance from {peer}", "L2, relative", f"{value:.2g}", "", ""])
    return lines


def loading(source: list[Any], scratch: Path, model: str) -> list[str]:
    """From a server's start to AVAILABLE, with the default methods and batch sizes, all compiled."""
    say(model, "load, default methods, compiled by XLA")
    command = [BIN / "saliency-exporter", "export", *source, scratch / "compiled", "--target", "cpu"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*command, "--no-verify"], check=True, **quiet)
    start = time.perf_counter()
    server = ServerProcess(f"m={scratch / 'compiled'}")
    try:
        server.wait_for("listening on", LOAD_SECONDS)
        seconds = time.perf_counter() - start
    finally:
        server.stop()
    where = "default methods and batch sizes, XLA, nothing compiled before"
    return ["load to AVAILABLE, s", where, f"{seconds:.1f}", "60", _held(seconds, 60)]


def of_peers(peers: PeerProcess, method: str, batch: int) -> dict[str, Callable[[int], float]]:
    """The peers that can do it."""
    able = {}
    for peer in PEERS:
        call = peers.call(peer, method, batch)
        try:
            call(10)
        except PeerRefusedError as refusal:
            print(f"  {peer}, {method}: {refusal}", file=sys.stderr)
            continue
        able[peer] = call
    return able


def in_turn(calls: Mapping[str, Callable[[int], float]], rounds: int, count: int) -> dict[str, list[float]]:
    seconds = {name: call(count) / 1e3 for name, call in calls.items()}
    seconds = {name: min(seconds[name], call(count) / 1e3) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name] += row(call, count, seconds[name])
    return times


def fastest(times: FLOAT) -> str:
    return min((name for name in times if name in PEERS), key=lambda name: statistics.median(times[name]))


def ratio(times: FLOAT, method: str, to: str, where: str, bound: float) -> list[str]:
    """Ratio of the medians, and its quartiles over the rounds that the two have in common."""
    value = statistics.median(times[method]) / statistics.median(times[to])
    pairs = [a / b for a, b in zip(times[method], times[to], strict=False)]
    low, _, high = statistics.quantiles(pairs, n=4) if len(pairs) > 1 else (pairs[0],) * 3
    text = f"{value:.3f} ({low:.2f} to {high:.2f})"
    return [f"{method} / {to}", where, text, f"{bound:g}", _held(value, bound)]


def _held(value: float, bound: float) -> str:
    return "held" if value <= bound else "missed"


def _timed(function: Callable[[], object]) -> Callable[[int], float]:
    def call(count: int) -> float:
        start = time.perf_counter()
        function()
        return 1e3 * (time.perf_counter() - start)

    return call


def page(rows: list[list[str]], kernels: str) -> str:
    heads = ["model", "measure", "of", "value", "target", ""]
    lines = [f"# What methods cost, {datetime.date.today()}", ""]
    lines += [
        f"{machine()}, kernels: {kernels}; {versions()}. Not compiled.",
        "",
        __doc__.split("\n\n")[2],
        "",
    ]
    lines += ["| " + " | ".join(line) + " |" for line in [heads, ["---"] * len(heads), *rows]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
