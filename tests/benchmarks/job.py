"""`make bench-job`: what `saliency-client job` holds in memory, and how busy it keeps servers.

    python tests/benchmarks/job.py memory [--rows 200000] [--inputs tar,parquet,list,folder] [--side 224]
    python tests/benchmarks/job.py speed [--images 2000] [--rounds 3] [--pinned] [--model-dir models/lite0]
    python tests/benchmarks/job.py busy [--replicas 1,2,4,8,16] [--milliseconds 40] [--megapixel]

memory: pictures and maps of 32 x 32 pixels, or of another side, and a server that takes no time
(tests/stand_in_server.py). Resident memory of the job and of all processes that it has started is read twice
a second.

speed: JPEGs of 1 megapixel, cut from photos that come with scikit-image, and the local server with an export
of EfficientNet-Lite0, against a bare gRPC client that replays the same requests from arrays that are decoded
already; in turn, and the medians are compared. Pinned, the server has one core and the clients another, as
where it has a machine of its own.

busy: a server of many replicas, each of which takes some milliseconds for a batch, one at a time, and needs
no processor for it, as one on other machines. Which part of their time are they busy, if one job asks them?
JPEGs of 256 x 256, or of 1 megapixel; model inputs and maps of 224 x 224.

Figures are printed as JSON, with the processor's name and the load of the machine.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).parent)]

from measuring import ending_with_this_process, machine, versions  # noqa: E402
from stand_in_server import MODEL, StandIn, numbered_png, standing_in  # noqa: E402

SMALL, PHOTO = 32, 1000
BATCH, AT_ONCE = 8, 4
MILLION = 1_000_000
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "stereo_motorcycle")


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["memory", "speed", "busy"])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--inputs", default="tar,parquet,list,folder")
    parser.add_argument("--side", type=int, default=SMALL, help="of pictures and maps for memory, in pixels")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, help="of smooth, in place of gradients")
    parser.add_argument("--pinned", action="store_true")
    parser.add_argument("--server", help="one that runs already, in place of an export")
    parser.add_argument("--model", default="lite0")
    parser.add_argument("--model-dir", type=Path, help="an export that is there already")
    parser.add_argument("--replicas", default="1,2,4,8,16")
    parser.add_argument("--milliseconds", type=float, default=40.0, help="of a replica for a batch")
    parser.add_argument("--megapixel", action="store_true", help="pictures for busy: JPEGs of 1 megapixel")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each number of replicas, about")
    parser.add_argument("--decoders", type=int, default=1)
    parser.add_argument("--job", default="", help="more options of the command")
    given = parser.parse_args()
    found = {"memory": memory, "speed": speed, "busy": busy}[given.part](given)
    packages = versions(("grpcio", "numpy", "pillow", "pyarrow"))
    about = {"machine": machine(), "versions": packages, "load of the machine": load()}
    print(json.dumps({**about, given.part: found}, indent=1))


def load() -> list[float]:
    """Processes that want to run: over 1, 5 and 15 minutes."""
    return [round(one, 1) for one in os.getloadavg()]


@contextmanager
def a_folder() -> Iterator[Path]:
    """That is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def start_job(inputs: list[str], out: Path, target: str, model: str, *more: str) -> subprocess.Popen[str]:
    """The command, as a process of its own."""
    command = [sys.executable, "-m", "saliency_client", "job", *inputs, "-o", str(out)]
    command += ["--server", target, "--model", model, "--batch-size", str(BATCH), "--json", *more]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=ending_with_this_process(),
    )


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a job says that has ended well."""
    said, complained = process.communicate()
    if process.returncode:
        raise SystemExit(f"the job ended with {process.returncode}: {complained[-2000:]}")
    told: dict[str, Any] = json.loads(said)
    return told


# Memory.


def memory(given: argparse.Namespace) -> dict[str, Any]:
    """Of each sort of inputs, how memory grows with the rows."""
    found: dict[str, Any] = {"rows": given.rows, "side": given.side}
    for kind in given.inputs.split(","):
        with a_folder() as folder, standing_in(replicas=2, side=given.side) as server:
            inputs = written(kind, folder / "in", given.rows, given.side)
            more = ["--decoders", str(given.decoders), *given.job.split()]
            begun = time.monotonic()
            process = start_job(inputs, folder / "out", ",".join(server.targets), MODEL, *more)
            samples = list(sampled(process, server))
            told = ended(process)
            found[kind] = {
                **grown(samples, given.rows),
                "rows": told["rows"],
                "rows a second": round(told["rows"] / (time.monotonic() - begun)),
                "processor ms a row": round(1e3 * cpu_of_children() / told["rows"], 3),
            }
            say(f"{kind}: {found[kind]}")
    return found


def written(kind: str, folder: Path, rows: int, side: int) -> list[str]:
    """Numbered pictures in files of a kind; what the command takes as its inputs."""
    folder.mkdir()
    if kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        schema = pyarrow.schema([("image", pyarrow.binary()), ("key", pyarrow.string())])
        with pyarrow.parquet.ParquetWriter(folder / "all.parquet", schema) as writer:
            for first in range(0, rows, 1000):
                some = range(first, min(rows, first + 1000))
                columns = [[numbered_png(one, side) for one in some], [f"{one:07d}" for one in some]]
                writer.write_table(pyarrow.table(dict(zip(("image", "key"), columns, strict=True)), schema))
        return [str(folder / "all.parquet")]
    if kind == "tar":
        with tarfile.open(folder / "all.tar", "w") as tar:
            for number in range(rows):
                content = numbered_png(number, side)
                member = tarfile.TarInfo(f"{number:07d}.png")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
                tar.members.clear()
        return [str(folder / "all.tar")]
    # A thousand in each folder; for a list, all in one.
    for number in range(rows):
        below = folder / f"{number // 1000:04d}" if kind == "folder" else folder / "all"
        below.mkdir(exist_ok=True)
        (below / f"{number:07d}.png").write_bytes(numbered_png(number, side))
    if kind == "folder":
        return [str(folder)]
    names = folder / "names.txt"
    names.write_text("".join(f"all/{number:07d}.png\n" for number in range(rows)))
    return ["--list", str(names)]


def sampled(process: subprocess.Popen[str], server: StandIn) -> Iterator[tuple[int, float, float]]:
    """Rows so far, and MiB of the job's process and of it with all that it has started, twice a second."""
    while process.poll() is None:
        try:
            of_all = [resident(pid) for pid in family(process.pid)]
        except (FileNotFoundError, ProcessLookupError):
            continue
        yield server.counted()["all_rows"], of_all[0], sum(of_all)
        time.sleep(0.5)


def grown(samples: list[tuple[int, float, float]], rows: int) -> dict[str, Any]:
    """Of the samples behind 1 %: the least and the most, and where a straight line leads to."""
    # The first hundredth of a million; of fewer rows, a tenth has to do.
    behind = [one for one in samples if min(MILLION / 100, rows / 10) <= one[0] < rows]
    if len(behind) < 3:
        return {"samples": len(behind)}
    told: dict[str, Any] = {"samples": len(behind)}
    for name, place in (("process", 1), ("all processes", 2)):
        at = np.array([one[0] for one in behind], float)
        held = np.array([one[place] for one in behind])
        slope, start = np.polyfit(at, held, 1)
        first, last = (float(np.median(some)) for some in (held[:5], held[-5:]))
        at_hundredth, at_million = start + slope * MILLION / 100, start + slope * MILLION
        told[name] = {
            "MiB at 1 %": round(first, 1),
            "MiB at the end": round(last, 1),
            "most": round(float(held.max()), 1),
            "least": round(float(held.min()), 1),
            "bytes a row": round(float(slope) * 2**20, 1),
            "growth, measured": round(last / first - 1, 4),
            "growth, to a million rows": round(float(at_million / at_hundredth) - 1, 4),
        }
    step = max(1, len(behind) // 12)
    told["curve, rows and MiB"] = [(one[0], round(one[2], 1)) for one in behind[::step]]
    return told


def family(pid: int) -> list[int]:
    """A process and all that it has started, itself first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def resident(pid: int) -> float:
    """MiB; of a process that has ended just now, 0."""
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    return int(match[1]) / 1024 if match else 0.0


_SPENT = [0.0]


def cpu_of_children() -> float:
    """Processor seconds of children that have ended since the last call."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent, _SPENT[0] = usage.ru_utime + usage.ru_stime - _SPENT[0], usage.ru_utime + usage.ru_stime
    return spent


# Speed.


def speed(given: argparse.Namespace) -> dict[str, Any]:
    """Images a second of the server alone and of the job, in turn."""
    with a_folder() as folder:
        write_photos(folder / "photos", given.images)
        with local_server(given, folder) as (target, pid, model):
            arrays = decoded(folder / "photos", target, model)
            seconds: dict[str, list[float]] = {
                "server alone": [],
                "job": [],
                "job, without its beginning": [],
            }
            spent: dict[str, list[float]] = {"server alone": [], "job": []}
            replay(target, model, arrays[: 8 * BATCH], given.samples)
            for number in range(given.rounds):
                before = processor_seconds(pid)
                seconds["server alone"].append(replay(target, model, arrays, given.samples))
                spent["server alone"].append(processor_seconds(pid) - before)
                before = processor_seconds(pid)
                begun = time.monotonic()
                more = ["--concurrency", str(AT_ONCE), "--decoders", str(given.decoders), *given.job.split()]
                if given.samples:
                    more += ["--method", "smooth", "--num-samples", str(given.samples)]
                inputs = [str(folder / "photos")]
                told = ended(start_job(inputs, folder / f"out{number}", target, model, *more))
                seconds["job"].append(time.monotonic() - begun)
                seconds["job, without its beginning"].append(told["seconds"])
                spent["job"].append(processor_seconds(pid) - before)
                assert (told["rows"], told["failed"]) == (given.images, 0)
                say(f"round {number}: { {name: each[-1] for name, each in seconds.items()} }, load {load()}")
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    return {
        "images": given.images,
        "samples": given.samples,
        "pinned": given.pinned,
        "seconds": {name: [round(one, 2) for one in each] for name, each in seconds.items()},
        "processor seconds of the server": {
            name: [round(one, 2) for one in each] for name, each in spent.items()
        },
        "server's time over the job's": round(medians["server alone"] / medians["job"], 3),
        "so without the job's beginning": round(
            medians["server alone"] / medians["job, without its beginning"], 3
        ),
    }


def write_photos(folder: Path, count: int) -> None:
    """JPEGs of 1000 x 1000 pixels, random squares of real photos."""
    from skimage import data

    photos = []
    for name in PHOTOS:
        photo = getattr(data, name)()
        photo = photo[0] if isinstance(photo, tuple) else photo
        photos.append(Image.fromarray(photo).convert("RGB"))
    rng = np.random.default_rng(0)
    for number in range(count):
        photo = photos[number % len(photos)]
        side = int(min(photo.size) * rng.uniform(0.5, 1))
        left, top = (int(rng.integers(0, size - side + 1)) for size in photo.size)
        square = photo.crop((left, top, left + side, top + side)).resize((PHOTO, PHOTO))
        below = folder / f"{number // 100:03d}"
        below.mkdir(parents=True, exist_ok=True)
        square.save(below / f"{number:05d}.jpg", quality=88)


@contextmanager
def local_server(given: argparse.Namespace, folder: Path) -> Iterator[tuple[str, int | None, str]]:
    """The local server: its target, its process, and the model's name."""
    if given.server:
        yield given.server, None, given.model
        return
    model_dir = given.model_dir
    if model_dir is None:
        from explanations_model import LITE0, export, prepare

        prepare(LITE0, folder)
        export(LITE0, folder, "lite0", (1, BATCH), "none", "", ("gradients", "smooth"))
        model_dir = folder / "lite0"
    command = [
        sys.executable,
        "-m",
        "saliency_exporter",
        "serve",
        f"{given.model}={model_dir}",
        "--port",
        "0",
    ]
    cores = sorted(os.sched_getaffinity(0))
    pinned = given.pinned and len(cores) > 1

    def pin() -> None:
        os.sched_setaffinity(0, cores[:1])

    with_pin = pin if pinned else None
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, preexec_fn=ending_with_this_process(with_pin)
    )
    if pinned:
        os.sched_setaffinity(0, cores[1:])
    try:
        for line in server.stdout or ():
            if line.startswith("listening on "):
                threading.Thread(
                    target=shutil.copyfileobj, args=(server.stdout, io.StringIO()), daemon=True
                ).start()
                yield line.split()[2], server.pid, given.model
                break
        else:
            raise SystemExit("the server ended")
    finally:
        os.sched_setaffinity(0, cores)
        server.terminate()
        server.wait(60)


def processor_seconds(pid: int | None) -> float:
    """That a process has taken."""
    if pid is None:
        return float("nan")
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def decoded(folder: Path, target: str, model: str) -> list[np.ndarray]:
    """The model inputs of all photos."""
    from saliency_client import SaliencyClient
    from saliency_client.images import load_image

    with SaliencyClient(target, model=model) as client:
        client.wait_ready(300)
        size = client.signatures()["explain_gradients"].image_size
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda path: load_image(path, size).array, sorted(folder.rglob("*.jpg"))))


def replay(target: str, model: str, arrays: list[np.ndarray], samples: int | None) -> float:
    """Seconds in which a bare client has all answers; as many requests at once as the job has.

    Args:
        target: the server.
        model: its name there.
        arrays: model inputs.
        samples: of smooth; None: gradients.
    """
    import grpc

    from saliency_client import SaliencyClient
    from saliency_client._requests import PREDICT, ModelName, explain_request

    with SaliencyClient(target, model=model) as client:
        signature = client.signatures()["explain_smooth" if samples else "explain_gradients"]
    batches = [np.stack(arrays[first : first + BATCH]) for first in range(0, len(arrays), BATCH)]
    asked = {"num_samples": samples} if samples else {}
    requests = [explain_request(ModelName(model), signature, one, asked, None).payload for one in batches]
    size = ("grpc.max_receive_message_length", -1)
    with grpc.insecure_channel(target, [size]) as channel, ThreadPoolExecutor(AT_ONCE) as pool:
        call = channel.unary_unary(PREDICT)
        begun = time.monotonic()
        for _ in pool.map(lambda one: len(call(one)), requests):
            pass
        return time.monotonic() - begun


# How busy.


def busy(given: argparse.Namespace) -> dict[str, Any]:
    """Of each number of replicas, the part of their time in which they work."""
    milliseconds, side = given.milliseconds, 224
    found: dict[str, Any] = {"milliseconds a batch": milliseconds, "images a batch": BATCH}
    found["pictures"] = "1000 x 1000" if given.megapixel else "256 x 256"
    with a_folder() as folder:
        contents = small_photos() if not given.megapixel else megapixel_photos(folder)
        for replicas in (int(one) for one in given.replicas.split(",")):
            rows = int(given.seconds * replicas * BATCH * 1000 / milliseconds)
            path = folder / f"{replicas}.tar"
            with tarfile.open(path, "w") as tar:
                for number in range(rows):
                    content = contents[number % len(contents)]
                    member = tarfile.TarInfo(f"{number:07d}.jpg")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                    tar.members.clear()
            options = {"replicas": replicas, "milliseconds": milliseconds, "at_a_time": 1, "side": side}
            with standing_in(**options) as server:
                more = ["--concurrency", str(2 * replicas), "--decoders", str(given.decoders)]
                targets = ",".join(server.targets)
                process = start_job([str(path)], folder / "out", targets, MODEL, *more, *given.job.split())
                own, others = watched(process)
                told = ended(process)
                counted = server.counted()
            shutil.rmtree(folder / "out")
            path.unlink()
            found[f"{replicas} replicas"] = {
                "busy": round(counted["busy"], 3),
                "busy by the time that a batch should take": round(counted["nominal"], 3),
                "images a second": round(counted["rows"] / counted["seconds"]),
                "processor ms an image": round(1e3 * own / told["rows"], 2),
                "of decoders": round(1e3 * others / told["rows"], 2),
                "load of the machine": load(),
            }
            say(f"{replicas} replicas: {found[f'{replicas} replicas']}")
    return found


def small_photos() -> list[bytes]:
    """A JPEG of 256 x 256 pixels."""
    file = io.BytesIO()
    photo = np.random.default_rng(0).integers(0, 256, (14, 14, 3), np.uint8)
    Image.fromarray(photo).resize((256, 256), Image.Resampling.BICUBIC).save(file, "JPEG", quality=88)
    return [file.getvalue()]


def megapixel_photos(folder: Path) -> list[bytes]:
    """Real ones, fifty."""
    write_photos(folder / "photos", 50)
    return [path.read_bytes() for path in sorted((folder / "photos").rglob("*.jpg"))]


def watched(process: subprocess.Popen[str]) -> tuple[float, float]:
    """Processor seconds of a job until it ends: of its process, and of those that it has started."""
    own = others = 0.0
    while process.poll() is None:
        try:
            first, *more = (processor_seconds(pid) for pid in family(process.pid))
        except (FileNotFoundError, ProcessLookupError):
            continue
        own, others = max(own, first), max(others, sum(more))
        time.sleep(0.05)
    return own, others


def say(text: str) -> None:
    """What is under way, beside the figures."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
