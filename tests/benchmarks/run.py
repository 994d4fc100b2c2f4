"""`make bench-parts`: what the main job costs, side by side in one run, printed and recorded as a dated page.

A real export of EfficientNet-Lite0, a real server process, the real client. Times are medians of interleaved
repetitions with the middle half of the spread; read ratios before seconds, machines are noisy.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).parent)]

from measuring import forget_peak, interleaved, machine, memory_mib, spread, versions  # noqa: E402
from server_process import ServerProcess  # noqa: E402

BIN = Path(sys.executable).parent
METHODS = ("gradients", "guided", "smooth")
BATCH = 8
Row = tuple[str, str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-dir", type=Path, help="an export of efficientnet-lite0 with batch sizes 1,8")
    parser.add_argument(
        "--record", action="store_true", help="write the page under tests/benchmarks/results/"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model_dir = arguments.model_dir or export_lite0(Path(scratch))
        rows = [
            *client_rows(),
            *overhead_rows(Path(scratch)),
            *server_rows(model_dir),
            *memory_rows(model_dir),
        ]
    page = as_page(rows)
    print(page)
    if arguments.record:
        path = ROOT / "tests" / "benchmarks" / "results" / f"{datetime.date.today()}-main-job.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(page, encoding="utf-8")


def export_lite0(scratch: Path) -> Path:
    command = [BIN / "saliency-exporter", "export", "efficientnet-lite0", scratch / "lite0"]
    options = ["--batch-sizes", f"1,{BATCH}", "--target", "cpu", "--no-verify"]
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
    return scratch / "lite0"


def client_rows() -> list[Row]:
    def python(code: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", code], check=True)

    def helped() -> object:
        return subprocess.run([BIN / "saliency-client", "--help"], check=True, stdout=subprocess.DEVNULL)

    functions = {
        "pass": python("pass"),
        "import": python("from saliency_client import SaliencyClient"),
        "help": helped,
    }
    interleaved(functions, 1)
    times = interleaved(functions, 15)
    return [
        ("python -c 'pass', ms", spread(times["pass"], 0), ""),
        ("python -c 'from saliency_client import SaliencyClient', ms", spread(times["import"], 0), "≤ 300"),
        ("saliency-client --help, ms", spread(times["help"], 0), "≤ 200"),
    ]


class Pooling:
    """A 224² model whose compute is next to nothing, so that what remains is the way there and back."""

    SOURCE = (
        "import keras\n"
        "def make():\n"
        "    layers = keras.layers\n"
        "    return keras.Sequential([keras.Input((224, 224, 3)), layers.GlobalAveragePooling2D(),\n"
        "                             layers.Dense(4)])\n"
    )


def overhead_rows(scratch: Path) -> list[Row]:
    """What a call costs beyond the signature's own run, with one 224² image."""
    (scratch / "pooling.py").write_text(Pooling.SOURCE)
    command = [
        BIN / "saliency-exporter",
        "export",
        "pooling:make",
        scratch / "pooling",
        "--preprocessing",
        "tf",
    ]
    options = ["--methods", "gradients", "--batch-sizes", "1", "--target", "cpu"]
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL, cwd=scratch)
    from saliency_client import SaliencyClient
    from saliency_exporter.runtime.quiet import import_tensorflow

    import_tensorflow()
    from saliency_exporter.runtime.servable import load_servable

    images = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8)
    outputs = ["class_index", "probability", "saliency", "score"]
    feeds = {"images": images, "class_index": np.array([-1], np.int32)}
    servable = load_servable(scratch / "pooling" / "1")
    server = ServerProcess(f"pooling={scratch / 'pooling'}")
    try:
        with SaliencyClient(server.target, model="pooling") as client:
            client.wait_ready(60)
            functions = {
                "compute": lambda: servable.predict("explain_gradients", feeds, outputs),
                "call": lambda: client.explain(images),
            }
            interleaved(functions, 20)
            times = interleaved(functions, 200)
    finally:
        server.stop()
        servable.close()
    overhead = [call - compute for call, compute in zip(times["call"], times["compute"], strict=True)]
    return [
        ("one 224² image, signature alone in process, ms", spread(times["compute"], 2), ""),
        ("one 224² image, through client, gRPC and local server, ms", spread(times["call"], 2), ""),
        ("overhead beyond the compute, ms", spread(overhead, 2), "≤ 3"),
    ]


def server_rows(model_dir: Path) -> list[Row]:
    """Load, first requests after AVAILABLE, and the signatures' own speed through gRPC."""
    from saliency_client import SaliencyClient

    rng = np.random.default_rng(1)
    images = {n: rng.integers(0, 256, (n, 224, 224, 3), np.uint8) for n in (1, BATCH)}
    rows: list[Row] = []
    start = time.perf_counter()
    server = ServerProcess(f"lite0={model_dir}")
    try:
        server.wait_for("listening on", 900)
        rows.append(("load to AVAILABLE, no compilation cache, s", f"{time.perf_counter() - start:.0f}", ""))
        with SaliencyClient(server.target, model="lite0", timeout=600.0) as client:
            client.wait_ready(60)
            client.signatures()
            for method in METHODS:
                once = interleaved({method: lambda m=method: client.explain(images[1], method=m)}, 1)
                later = interleaved({method: lambda m=method: client.explain(images[1], method=m)}, 10)
                ratio = once[method][0] / statistics.median(later[method])
                rows.append((f"first explain_{method} after AVAILABLE / median", f"{ratio:.2f}", "≤ 1.5"))
            functions: dict[str, Callable[[], object]] = {}
            for n in (1, BATCH):
                functions[f"serving_default, batch {n}"] = lambda n=n: client.predict(images[n])
                for method in METHODS:
                    functions[f"explain_{method}, batch {n}"] = lambda n=n, m=method: client.explain(
                        images[n], method=m
                    )
            interleaved(functions, 1)
            for name, times in interleaved(functions, 7).items():
                rows.append((f"EfficientNet-Lite0 {name}, ms", spread(times), "recorded"))
    finally:
        server.stop()
    return rows


def memory_rows(model_dir: Path) -> list[Row]:
    """Peak memory of the server's process under smooth with few and with many samples."""
    from saliency_client import SaliencyClient

    images = np.random.default_rng(2).integers(0, 256, (1, 224, 224, 3), np.uint8)
    peaks = {}
    for samples in (10, 1000):
        server = ServerProcess(f"lite0={model_dir}")
        try:
            server.wait_for("listening on", 900)
            # The peak of loading and compiling would hide what a request adds.
            forget_peak(server.process.pid)
            with SaliencyClient(server.target, model="lite0", timeout=600.0) as client:
                for _ in range(3 if samples == 10 else 1):
                    client.explain(images, method="smooth", num_samples=samples, outputs="all")
            peaks[samples] = memory_mib(server.process.pid, "VmHWM")
        finally:
            server.stop()
    return [
        ("peak memory of the server, smooth with 10 samples, MiB", f"{peaks[10]:.0f}", ""),
        ("peak memory of the server, smooth with 1000 samples, MiB", f"{peaks[1000]:.0f}", ""),
        ("1000 samples / 10 samples", f"{peaks[1000] / peaks[10]:.3f}", "≤ 1.05"),
    ]


def as_page(rows: Sequence[Row]) -> str:
    width = max(len(row[0]) for row in rows)
    table = [f"| {'measure':<{width}} | median (quartiles) | target |", f"|{'-' * (width + 2)}|---|---|"]
    table += [f"| {name:<{width}} | {value} | {target} |" for name, value, target in rows]
    return "\n".join(
        [
            f"# What the main job costs, {datetime.date.today()}",
            "",
            f"{machine()}; {versions()}.",
            "Made by `make bench-parts`.",
            "",
            *table,
            "",
        ]
    )


if __name__ == "__main__":
    main()
