"""`make bench`: explanations through gRPC against other libraries in process, side by side in one run.

For each model: an export, a local server process and the client on one side, other libraries in a process of
their own environment on the other, same weights, same images. Calls are interleaved; while one side works
the other waits. Results are kept model by model in --records, so that a run that was stopped goes on where
it was; the page is made of what is there.

    make bench ARGS="--models MobileNetV2 --rounds 3"
    TF_ENABLE_ONEDNN_OPTS=0 make bench                 the kernels of processors without AVX-512 VNNI
    make bench SERVER=gpu-host:8500 MODEL=resnet       a live server: its own figures, no peers
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).parent)]

from explanations_page import as_page, live_table  # noqa: E402
from measuring import machine, versions  # noqa: E402

LITE0 = "efficientnet-lite0"
MODELS = (LITE0, "MobileNetV2", "EfficientNetB0", "Xception", "ResNet50", "VGG16")


def main() -> None:
    arguments = parse_arguments()
    if arguments.server:
        from explanations_server import live_cells

        print(live_table(live_cells(arguments.server, arguments.model, arguments.rounds)))
        return
    kernels = running_kernels()
    arguments.records /= kernels
    arguments.records.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * arguments.budget
    failed = []
    for model in arguments.models.split(","):
        record = arguments.records / f"{model}.json"
        if record.exists():
            print(f"{model}: measured already, {record}", file=sys.stderr)
        elif time.monotonic() > deadline:
            print(f"{model}: left out, the budget of {arguments.budget} minutes is spent", file=sys.stderr)
        else:
            # A process for each: what one model leaves in memory is not measured with the next.
            command = [sys.executable, Path(__file__).with_name("explanations_model.py"), model, record]
            command += ["--peers-python", arguments.peers_python, "--rounds", str(arguments.rounds)]
            command += ["--cell-seconds", str(arguments.cell_seconds), "--compile", arguments.compile]
            command += ["--loading" if arguments.loading else "--no-loading"]
            if subprocess.run(command, check=False).returncode != 0:
                failed.append(model)
    records = [json.loads(path.read_text()) for path in sorted(arguments.records.glob("*.json"))]
    records.sort(key=lambda record: MODELS.index(record["model"]))
    if not records:
        sys.exit("nothing was measured")
    page = as_page(records, machine(), versions())
    print(page)
    if arguments.page is not None:
        results = Path(__file__).parent / "results"
        arguments.page = arguments.page or results / f"{datetime.date.today()}-explanations-{kernels}.md"
        arguments.page.write_text(page, encoding="utf-8")
        print(f"written: {arguments.page}", file=sys.stderr)
    if failed:
        sys.exit(f"not measured, see above: {', '.join(failed)}")


def running_kernels() -> str:
    """Which of TensorFlow's kernels the processes that this one starts will run; asked of one of them."""
    code = "from saliency_exporter.runtime.kernels import running_kernels; print(running_kernels())"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return done.stdout.strip()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="calls of each kind; default: %(default)s")
    parser.add_argument(
        "--cell-seconds",
        type=float,
        default=75.0,
        help="bound for one table cell: fewer rounds, then fewer peers; default: %(default)s",
    )
    parser.add_argument("--budget", type=float, default=90.0, help="minutes; later models are left out")
    parser.add_argument("--compile", default="auto", help="of the export; default: %(default)s")
    parser.add_argument("--peers-python", default=".venv-peers/bin/python")
    parser.add_argument("--records", type=Path, default=ROOT / "bench-output")
    parser.add_argument(
        "--loading",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure loads and throughput at the default batch sizes too, which takes minutes",
    )
    parser.add_argument(
        "--page",
        type=Path,
        nargs="?",
        const=False,
        help="write the page; default: one by date and kernels in tests/benchmarks/results",
    )
    parser.add_argument("--server", help="HOST:PORT of a live server to measure instead")
    parser.add_argument("--model", help="its model")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.models.split(",") if name not in MODELS]
    if unknown:
        parser.error(f"--models: {unknown[0]!r} is not one of {', '.join(MODELS)}")
    if arguments.server and not arguments.model:
        parser.error("--server needs --model, the name that the server knows it by")
    return arguments


if __name__ == "__main__":
    main()
