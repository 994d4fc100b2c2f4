"""One model of the benchmark: export, serve, measure beside the peers, write what came out as JSON."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).parent)]

from explanations_server import BATCHES, METHODS, SAMPLES, open_client, random_images  # noqa: E402
from measuring import forget_peak, interleaved, memory_mib  # noqa: E402
from server_process import ServerProcess  # noqa: E402

from saliency_client import SaliencyClient  # noqa: E402

BIN = Path(sys.executable).parent
LITE0 = "efficientnet-lite0"
OURS = "this project, gRPC"
PEERS = ("tf.function tape", "xplique", "tf-keras-vis", "PAIR saliency")
CLASS_INDEX = 7
NOT_MEASURED = "longer than a cell's bound"
LOAD_SECONDS = 1800
PROBE_SAMPLES = 10
LONG_CELL = 4
FAR = 2.0
"""How many times the fastest peer's time a peer's call takes at least that is measured in one round alone: it
cannot be the fastest, and its calls would leave the others fewer rounds."""
SHORT_CALL = 1.0
"""Seconds. Shorter calls come in rows, the first untimed: on a processor that has just woken or worked for
another process, a call takes up to twice as long, in process as over gRPC, and a server in use is awake."""
IN_A_ROW = 3
GROUPS = (
    ("single", ("serving_default", "gradients", "guided"), 1),
    ("smooth", ("smooth", "serving_default"), SAMPLES),
)
"""What is measured in turn, and so can be compared: name, calls, samples."""
Key = tuple[str, str]
"""A method, and who computes it."""
Timed = Callable[[int], float]
"""Runs one call with so many samples; milliseconds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("record", type=Path)
    parser.add_argument("--peers-python", required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--cell-seconds", type=float, required=True)
    parser.add_argument("--compile", required=True)
    parser.add_argument("--loading", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        record = measure(arguments, Path(scratch))
    partial = arguments.record.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1))
    partial.rename(arguments.record)


def measure(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    started = time.monotonic()
    facts = prepare(arguments.model, scratch)
    shape = tuple(facts["shape"])
    say(arguments.model, "export")
    exported = export(arguments.model, scratch, "model", BATCHES, arguments.compile, facts["preprocessing"])
    say(arguments.model, "load")
    record: dict[str, Any] = {"model": arguments.model, "shape": shape, "export": exported}
    record.update(cells={}, bytes={}, differences={})
    started_server = time.perf_counter()
    server = ServerProcess(f"m={scratch / 'model'}")
    peers = PeerProcess(arguments.peers_python, scratch)
    try:
        server.wait_for("listening on", LOAD_SECONDS)
        record["load_seconds"] = time.perf_counter() - started_server
        record["memory_loaded"] = memory_mib(server.process.pid, "VmRSS")
        ready = peers.ready()
        record["peer_versions"], record["peer_kernels"] = ready["ready"], ready["kernels"]
        client, counter = open_client(server.target, "m")
        with client:
            for batch in BATCHES:
                images = random_images(shape, batch)
                for group, methods, samples in GROUPS:
                    say(arguments.model, f"{group}, batch {batch}")
                    calls = {(method, OURS): our_call(client, images, method) for method in methods}
                    for peer, method in product(PEERS, METHODS):
                        if method in methods:
                            calls[method, peer] = peers.call(peer, method, batch)
                    smaller = record["cells"].get(f"{group} 1") if group == "smooth" else None
                    record["cells"][f"{group} {batch}"] = cell(calls, samples, arguments, smaller, batch)
                record["differences"][batch] = differences(client, images, peers, scratch)
                # The last call was to explain_gradients; the methods' requests differ by a few bytes.
                record["bytes"][batch] = [counter.sent, counter.received]
            record["memory_peak"] = memory_mib(server.process.pid, "VmHWM")
            if arguments.model == LITE0:
                say(arguments.model, "samples and memory")
                record["samples"] = work_of_samples(client, shape, server.process.pid)
    finally:
        peers.stop()
        server.stop()
    if arguments.model == LITE0 and arguments.loading:
        record["defaults"] = default_batch_sizes(arguments, scratch, shape)
    record["minutes"] = (time.monotonic() - started) / 60
    return record


def say(model: str, what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {model}: {what}", file=sys.stderr, flush=True)


def prepare(model: str, scratch: Path) -> dict[str, Any]:
    """Write model.keras, which gives logits, and inputs.npy; in a process that takes TensorFlow with it."""
    command = [sys.executable, Path(__file__).with_name("explanations_prepare.py"), model, scratch]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def export(
    model: str,
    scratch: Path,
    to: str,
    batch_sizes: Sequence[int],
    compile_: str,
    preprocessing: str,
    methods: Sequence[str] = METHODS,
) -> dict[str, Any]:
    """Export as users do, but for verification: the peers' maps are what ours are held against here.

    No methods are the default ones.
    """
    source = [LITE0] if model == LITE0 else [scratch / "model.keras", "--preprocessing", preprocessing]
    sizes = ",".join(map(str, batch_sizes))
    command = [BIN / "saliency-exporter", "export", *source, scratch / to, "--batch-sizes", sizes]
    command += ["--methods", ",".join(methods)] if methods else []
    start = time.perf_counter()
    subprocess.run(
        [*command, "--target", "cpu", "--compile", compile_, "--no-verify"],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    manifest = json.loads((scratch / to / "1" / "assets.extra" / "saliency.json").read_text())
    kept = ("batch_sizes", "compile", "compile_choices", "target", "kernels", "lowering", "tensorflow")
    size = sum(path.stat().st_size for path in (scratch / to / "1").rglob("*") if path.is_file())
    return {
        **{key: manifest[key] for key in kept},
        "seconds": time.perf_counter() - start,
        "mib": size / 2**20,
    }


def timed(function: Callable[[], object]) -> float:
    return interleaved({"": function}, 1)[""][0]


def our_call(client: SaliencyClient, images: np.ndarray, method: str) -> Timed:
    def call(samples: int) -> float:
        if method == "serving_default":
            return timed(lambda: client.predict(images))
        options = {"num_samples": samples} if method == "smooth" else {}
        return timed(lambda: client.explain(images, method=method, class_index=CLASS_INDEX, **options))

    return call


class PeerProcess:
    """Other libraries in the process of their own environment, one call at a time."""

    def __init__(self, python: str, scratch: Path) -> None:
        command = [python, Path(__file__).with_name("peers") / "worker.py"]
        self.process = subprocess.Popen(
            [*command, scratch / "model.keras", scratch / "inputs.npy"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ready(self) -> dict[str, Any]:
        """Its libraries' versions, and its kernels."""
        return self._read()

    def call(self, peer: str, method: str, batch: int) -> Timed:
        return lambda samples: self.ask(peer, method, batch, samples=samples)["ms"]

    def ask(self, peer: str, method: str, batch: int, **more: object) -> dict[str, Any]:
        request = {"peer": peer, "method": method, "batch": batch, **more}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self._read()
        if "refused" in answer:
            raise PeerRefusedError(answer["refused"])
        return answer

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait(60)

    def _read(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peers' process ended with exit code {self.process.wait(60)}")
        return json.loads(line)


class PeerRefusedError(Exception):
    """A library that cannot do this, and why."""


def cell(
    calls: dict[Key, Timed],
    samples: int,
    arguments: argparse.Namespace,
    smaller: dict[str, Any] | None,
    batch: int,
) -> dict[str, Any]:
    """Times by call of (method, who), interleaved, within the bound of a cell.

    What a call will take is known from this cell at batch size 1 where that is given (`smaller`), else
    from a call with few samples. This project and the first peer may take a few bounds for one round; of the
    rest, what fits into one is measured. Rounds are as many as fit, and of peers that are far behind one.
    """
    if smaller is None:
        seconds, left_out = probed(calls, samples)
    else:
        seconds = {
            key: batch * smaller["seconds"][name]
            for key in calls
            if (name := _name(key)) in smaller["seconds"]
        }
        left_out = {
            name: smaller["left_out"][name] for key in calls if (name := _name(key)) not in smaller["seconds"]
        }
    included = fitting(seconds, arguments.cell_seconds)
    for key in seconds.keys() - included:
        left_out[_name(key)] = f"{NOT_MEASURED}: about {seconds[key]:.1f} s a call"
    if smaller is not None:
        for key in included:
            calls[key](PROBE_SAMPLES)
    far = far_behind({key: seconds[key] for key in included})
    spent, each = (sum(_with_rows(seconds[key]) for key in keys) for keys in (far, set(included) - far))
    rounds = int(min(arguments.rounds, max(1, (arguments.cell_seconds - spent) // each)))
    times: dict[str, list[float]] = {_name(key): [] for key in included}
    for turn in range(rounds):
        for key in included:
            if turn == 0 or key not in far:
                times[_name(key)] += row(calls[key], samples, seconds[key])
    expected = {_name(key): value for key, value in seconds.items()}
    return {"ms": times, "rounds": rounds, "left_out": left_out, "seconds": expected}


def probed(calls: Mapping[Key, Timed], samples: int) -> tuple[dict[Key, float], dict[str, str]]:
    """Seconds that each call will take, and why others cannot be made."""
    probe = min(samples, PROBE_SAMPLES)
    seconds, refused = {}, {}
    for key, call in calls.items():
        try:
            call(probe)
            seconds[key] = call(probe) / 1e3 * (samples / probe if key[0] == "smooth" else 1)
        except PeerRefusedError as refusal:
            refused[_name(key)] = str(refusal)
    return seconds, refused


def fitting(seconds: Mapping[Key, float], bound: float) -> list[Key]:
    """What is measured: in the order of this project and its peers, what fits into one round's bound."""
    included: list[Key] = []
    spent = 0.0
    for key in sorted(seconds, key=_rank):
        bounds = LONG_CELL if key[1] in (OURS, PEERS[0]) else 1
        if spent + seconds[key] <= bounds * bound:
            included.append(key)
            spent += seconds[key]
    return included


def far_behind(seconds: Mapping[Key, float]) -> set[Key]:
    """The peers' calls that take FAR times as long as the fastest peer's of the same method, or longer."""
    peers = {key: value for key, value in seconds.items() if key[1] != OURS}
    fastest = {method: min(v for (m, _), v in peers.items() if m == method) for method, _ in peers}
    return {key for key, value in peers.items() if value >= FAR * fastest[key[0]]}


def row(call: Timed, samples: int, seconds: float) -> list[float]:
    """Milliseconds of one call in a round, or of several short ones behind one that is not timed."""
    if seconds >= SHORT_CALL:
        return [call(samples)]
    call(samples)
    return [call(samples) for _ in range(IN_A_ROW)]


def _with_rows(seconds: float) -> float:
    """Seconds of a row of calls."""
    return seconds * (IN_A_ROW + 1 if seconds < SHORT_CALL else 1)


def _name(key: Key) -> str:
    return "|".join(key)


def _rank(key: Key) -> int:
    """This project first, then the peers in their order."""
    return [OURS, *PEERS].index(key[1])


def differences(
    client: SaliencyClient, images: np.ndarray, peers: PeerProcess, scratch: Path
) -> dict[str, float]:
    """Relative L2 distance of each peer's map from ours."""
    ours = client.explain(images, class_index=CLASS_INDEX).saliency
    result = {}
    for name in PEERS:
        path = scratch / "map.npy"
        try:
            peers.ask(name, "gradients", len(images), save=str(path))
        except PeerRefusedError:
            continue
        theirs = np.load(path)
        result[name] = float(np.linalg.norm(theirs - ours) / np.linalg.norm(theirs))
    return result


def work_of_samples(client: SaliencyClient, shape: tuple[int, ...], pid: int) -> dict[str, Any]:
    """Time and peak memory of smooth against the number of samples."""
    images = random_images(shape, 1)

    def run(samples: int) -> None:
        client.explain(images, method="smooth", num_samples=samples)

    times = interleaved({str(n): lambda n=n: run(n) for n in (50, 200)}, 3)
    peaks = {}
    for samples in (10, 1000):
        forget_peak(pid)
        run(samples)
        peaks[str(samples)] = memory_mib(pid, "VmHWM")
    return {"ms": times, "peak_mib": peaks}


def default_batch_sizes(
    arguments: argparse.Namespace, scratch: Path, shape: tuple[int, ...]
) -> dict[str, Any]:
    """Load times with the default batch sizes, without and with compiled programs kept, and throughput.

    Of an export with all signatures compiled, and of one as the other models of this run have it.
    """
    result: dict[str, Any] = {"load_seconds": {}, "throughput_ms": {}}
    for mode in dict.fromkeys(("xla", arguments.compile)):
        say(arguments.model, f"default batch sizes, {mode}")
        export(LITE0, scratch, f"defaults-{mode}", (1, 2, 4, 8, 16), mode, "", methods=())
        for state in ("empty", "full"):
            start = time.perf_counter()
            cache = scratch / f"cache-{mode}"
            server = ServerProcess(f"m={scratch / f'defaults-{mode}'}", "--xla-cache", cache)
            try:
                server.wait_for("listening on", LOAD_SECONDS)
                result["load_seconds"][f"{mode} {state}"] = time.perf_counter() - start
                if (mode, state) == ("xla", "full"):
                    client, _ = open_client(server.target, "m")
                    with client:
                        result["throughput_ms"] = throughput(client, shape, arguments.rounds)
            finally:
                server.stop()
    return result


def throughput(client: SaliencyClient, shape: tuple[int, ...], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of explain_gradients by number of images; 11 is no compiled size."""
    images = {str(n): random_images(shape, n) for n in (1, 2, 4, 8, 11, 16, 32)}
    calls = {n: lambda x=x: client.explain(x, class_index=CLASS_INDEX) for n, x in images.items()}
    interleaved(calls, 1)
    return interleaved(calls, rounds)


if __name__ == "__main__":
    main()
