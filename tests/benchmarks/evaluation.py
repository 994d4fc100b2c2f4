"""`make bench-evaluation`: what `saliency-client evaluate` says of EfficientNet-Lite0, and how fast.

    python tests/benchmarks/evaluation.py [--page DATE] [--parts whole,more,beside]

An uncompiled export of EfficientNet-Lite0, a local server process and the command on one side, xplique's
metrics in process on the other: the same weights, images, maps and numbers of forward passes, in turn. 30
images: 10 photos that come with scikit-image, and two square crops of each. Images of one photo are alike, so
intervals are of photos: each is drawn with its three images (bootstrap of the 10 means, 95 %).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).parent)]

from explanations_model import LITE0, export, prepare, say  # noqa: E402
from measuring import ending_with_this_process, kernels_text, machine, versions  # noqa: E402

from saliency_client import SaliencyClient  # noqa: E402
from saliency_client.evaluation.controls import EDGES, RANDOM  # noqa: E402
from saliency_client.evaluation.perturbation import substrate  # noqa: E402
from saliency_client.evaluation.registry import MEASURES  # noqa: E402
from saliency_client.evaluation.statistics import interval  # noqa: E402
from saliency_client.images import load_image  # noqa: E402

PHOTOS = ("astronaut", "brick", "camera", "chelsea", "clock", "coffee", "coins", "page", "rocket")
PHOTOS += ("stereo_motorcycle",)
METHODS = ("gradients", "guided", "smooth", "grad_cam")
TIMED = ("deletion", "insertion", "faithfulness_correlation", "random_logit")
MORE = ("road", "sparseness")
"""Of the methods as well, but not of the time: ROAD's systems are solved by the client."""
SETS = {"whole": TIMED, "more": MORE}
BESIDE = ("deletion", "insertion", "faithfulness_correlation")
"""Measures whose forward passes xplique's make as well."""
CHEAP = ("gradients", "grad_cam")
"""Methods whose maps take little beside a measure's forward passes: xplique is given its maps."""
SIZE, STEPS, RUNS, SUBSET = 224, 10, 50, 224
BATCH, AT_ONCE = 16, 4
NAME = "lite0"
Record = Mapping[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers-python", default=str(ROOT / ".venv-peers" / "bin" / "python"))
    parser.add_argument("--photos", type=int, default=len(PHOTOS), help="the first of them, for a try")
    parser.add_argument("--compile", default="none", help="of the export; default: %(default)s")
    parser.add_argument("--parts", default=",".join(PARTS), help="of the measurement; default: %(default)s")
    parser.add_argument(
        "--folder",
        type=Path,
        default=ROOT / "bench-output" / "evaluation",
        help="keeps the export, the photos and the numbers of each part; default: %(default)s",
    )
    parser.add_argument("--note", default="", help="a sentence for the page, as on what else the machine did")
    parser.add_argument("--page", metavar="DATE", help="write a page in tests/benchmarks/results")
    arguments = parser.parse_args()
    # An end from outside ends the server and the peers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = arguments.folder
    prepared(folder, arguments)
    parts = arguments.parts.split(",") if arguments.parts else []
    if parts:
        with timed_server(folder) as (target, runs):
            for part in parts:
                say(NAME, part)
                found = PARTS[part](target, runs, folder, arguments)
                (folder / f"{part}.json").write_text(json.dumps(found, indent=1))
    files = {name: folder / f"{name}.json" for name in ("facts", *PARTS)}
    there = {name: json.loads(path.read_text()) for name, path in files.items() if path.exists()}
    text = page(there, arguments.note)
    print(text)
    if arguments.page:
        (Path(__file__).parent / "results" / f"{arguments.page}-evaluation.md").write_text(text)


def prepared(folder: Path, arguments: argparse.Namespace) -> None:
    """Writes photos, the peers' model and the export into a folder, where they are not there."""
    if (folder / "facts.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    photos(folder / "photos", PHOTOS[: arguments.photos])
    prepare(LITE0, folder)
    say(NAME, "export")
    export(LITE0, folder, NAME, (1, BATCH), arguments.compile, "", METHODS)
    manifest = json.loads((folder / NAME / "1" / "assets.extra" / "saliency.json").read_text())
    facts = {"machine": machine(), "versions": versions(), "kernels": manifest["kernels"]}
    facts |= {"compile": arguments.compile, "steps": manifest["preprocessing"]["steps"]}
    (folder / "facts.json").write_text(json.dumps(facts))


def the_whole(target: str, runs: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    return evaluated(target, folder, METHODS, TIMED, runs)


def the_rest(target: str, runs: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    return evaluated(target, folder, METHODS, MORE, runs)


def photos(folder: Path, names: Sequence[str]) -> list[Path]:
    """Photos of scikit-image, and two square crops of each: 60 to 90 % of its short side, seed 0."""
    import skimage.data

    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    paths = []
    for name in names:
        found = getattr(skimage.data, name)()
        photo = Image.fromarray(found[0] if isinstance(found, tuple) else found).convert("RGB")
        tiles = {name: photo}
        for number in (1, 2):
            side = round(min(photo.size) * rng.uniform(0.6, 0.9))
            left, top = (int(rng.integers(length - side + 1)) for length in photo.size)
            tiles[f"{name}-{number}"] = photo.crop((left, top, left + side, top + side))
        for stem, tile in tiles.items():
            paths.append(folder / f"{stem}.png")
            tile.save(paths[-1])
    return paths


@contextmanager
def timed_server(folder: Path) -> Iterator[tuple[str, Path]]:
    """The address of a server of the model, and the file of the times at which it ran signatures."""
    runs = folder / "runs"
    command = [sys.executable, Path(__file__).with_name("timed_server.py"), runs, f"{NAME}={folder / NAME}"]
    server = subprocess.Popen(
        [*command, "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=ending_with_this_process(),
    )
    try:
        line = next(line for line in server.stdout if line.startswith("listening on "))
        yield line.split()[2], runs
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


def evaluated(
    target: str,
    folder: Path,
    methods: Sequence[str],
    measures: Sequence[str],
    runs: Path,
    *more: str,
) -> dict[str, Any]:
    """The command's records, what it took, and for how much of that the server ran something."""
    command = [sys.executable, "-m", "saliency_client", "evaluate", *of_folder(folder), "--server", target]
    command += ["--model", NAME, "--json", "--batch-size", str(BATCH), "--concurrency", str(AT_ONCE)]
    if "faithfulness_correlation" in measures:
        command += ["--setting", f"runs={RUNS}"]
    command += ["--timeout", "600", "--methods", ",".join(methods), "--measures", ",".join(measures), *more]
    before, cpu = time.monotonic(), os.times()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    after, cpu_after = time.monotonic(), os.times()
    records = [json.loads(line) for line in done.stdout.splitlines()]
    spans = [tuple(map(float, line.split())) for line in runs.read_text().splitlines()]
    taken = max((cpu for _, end, cpu in spans if end < before), default=0.0)
    spans = [one for one in spans if before <= one[0] and one[1] <= after]
    first, last = min(begin for begin, _, _ in spans), max(end for _, end, _ in spans)
    return {
        "results": [
            {name: one[name] for name in ("image", "method", "measure", "value")}
            for one in records
            if one["kind"] == "result"
        ],
        "load": records[-1],
        "command": after - before,
        "client_cpu": cpu_after.children_user
        + cpu_after.children_system
        - cpu.children_user
        - cpu.children_system,
        "window": last - first,
        "busy": union([(begin, end) for begin, end, _ in spans]),
        "server_cpu": max(cpu for _, _, cpu in spans) - taken,
    }


def of_folder(folder: Path) -> list[Path]:
    return sorted((folder / "photos").iterdir())


def union(spans: Sequence[tuple[float, float]]) -> float:
    """Seconds that are in one span at least."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def beside(target: str, runs: Path, folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Of each method, the command's time and xplique's, one after the other."""
    given_to_peers(target, folder)
    command = [arguments.peers_python, Path(__file__).parent / "peers" / "fidelity.py"]
    peers = subprocess.Popen(
        [*command, folder / "model.keras", folder / "given.npz"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def ask(method: int, images: int) -> dict[str, Any]:
        peers.stdin.write(json.dumps({"method": method, "images": images}) + "\n")
        peers.stdin.flush()
        return json.loads(peers.stdout.readline())

    json.loads(peers.stdout.readline())
    rows = []
    try:
        ask(0, 2)
        for number, method in enumerate(CHEAP):
            ours = evaluated(target, folder, [method], BESIDE, runs, "--no-controls")
            theirs = ask(number, len(of_folder(folder)))
            values = {
                measure: statistics.fmean(
                    one["value"] for one in ours["results"] if one["measure"] == measure
                )
                for measure in BESIDE
            }
            kept = {
                name: ours[name] for name in ("command", "window", "busy", "client_cpu", "server_cpu", "load")
            }
            rows.append({"method": method, "ours": {"values": values, **kept}, "xplique": theirs})
            say(NAME, f"{method}: {ours['command']:.1f} s, xplique {theirs['seconds']:.1f} s")
    finally:
        peers.stdin.close()
        peers.wait(60)
    return rows


def given_to_peers(target: str, folder: Path) -> None:
    images = np.stack([load_image(path, size=(SIZE, SIZE)).array for path in of_folder(folder)])
    steps = json.loads((folder / "facts.json").read_text())["steps"]

    def model_input(levels: np.ndarray) -> np.ndarray:
        values = levels.astype(np.float32)
        for step in steps:
            ((kind, value),) = step.items()
            values = {"subtract": values - value, "divide": values / value}[kind]
        return values

    with SaliencyClient(target, model=NAME, timeout=600.0) as client:
        answers = [client.explain(images, method=method) for method in CHEAP]
    np.savez(
        folder / "given.npz",
        inputs=model_input(images),
        maps=np.stack([answer.saliency for answer in answers]),
        classes=answers[0].class_index,
        blurred=model_input(np.stack([substrate(image, "blur") for image in images])),
        black=model_input(np.zeros(1, np.uint8))[0],
        steps=STEPS,
        runs=RUNS,
        subset_size=SUBSET,
    )


def page(measured: Record, note: str) -> str:
    facts, runs = measured["facts"], {name: measured[name] for name in SETS if name in measured}
    lines = [
        "# Evaluation of EfficientNet-Lite0's maps, and how long it takes",
        "",
        f"`make bench-evaluation`. {facts['machine']}; {facts['versions']}; "
        f"{kernels_text(facts['kernels'])}; export `--compile {facts['compile']}`, "
        f"{BATCH} images a request, {AT_ONCE} requests at a time. {note}".rstrip(),
        "",
        *" ".join(__doc__.split("\n\n")[2].split("\n")).splitlines(),
        "",
        f"Photos: {', '.join(PHOTOS)} (scikit-image; of stereo_motorcycle the left one).",
        "",
        "## What the measures say",
        "",
        'Means, and 95 % intervals over photos. "Beats" counts images on which the method is better than the '
        "control; in brackets the interval of the mean difference. **Bold**: the whole of it is better.",
        "",
    ]
    results = [one for run in runs.values() for one in run["results"]]
    for measure in (measure for name in runs for measure in SETS[name]):
        lines += [*measure_table(results, measure), "", pair_line(results, measure), ""]
    lines += ["## How long", "", *load_table(measured), ""]
    if "beside" in measured:
        lines += ["## Beside xplique", "", *beside_table(measured["beside"])]
    return "\n".join(lines) + "\n"


def by_photo(results: Sequence[Record], measure: str, method: str) -> dict[str, dict[str, float]]:
    """Values of a method by photo and image; what is undefined is left out."""
    found: dict[str, dict[str, float]] = {}
    for one in results:
        if (one["measure"], one["method"]) == (measure, method) and one["value"] is not None:
            stem = Path(one["image"]).stem
            found.setdefault(stem.partition("-")[0], {})[stem] = one["value"]
    return found


def measure_table(results: Sequence[Record], measure: str) -> list[str]:
    known = MEASURES[measure]
    end = f"{known.better} is better" if known.better else "neither end is better"
    lines = [f"### {measure}", "", f"{known.summary.capitalize()}; {end}.", ""]
    lines += ["| method | mean | 95 % | beats random | beats sobel |", "|---|---|---|---|---|"]
    rows = []
    for method in (*METHODS, RANDOM, EDGES):
        values = by_photo(results, measure, method)
        means = [statistics.fmean(one.values()) for one in values.values()]
        low, high = interval(means)
        cells = [
            method.removeprefix("control:"),
            f"{statistics.fmean(means):.4g}",
            f"{low:.4g} to {high:.4g}",
        ]
        cells += [
            against(values, by_photo(results, measure, control), known.better)
            if method in METHODS and control in known.controls
            else ""
            for control in (RANDOM, EDGES)
        ]
        rows.append((statistics.fmean(means), cells))
    rows.sort(key=lambda row: row[0], reverse=known.better != "lower")
    return lines + [f"| {' | '.join(cells)} |" for _, cells in rows]


def pair_line(results: Sequence[Record], measure: str) -> str:
    """The pairs of methods of which one is better than the other."""
    better = MEASURES[measure].better
    found = [
        f"{first} than {second} ({text.strip('*')})"
        for first in METHODS
        for second in METHODS
        if first != second and better
        for text in [against(by_photo(results, measure, first), by_photo(results, measure, second), better)]
        if text.startswith("*")
    ]
    return f"Better in pairs: {'; '.join(found)}." if found else "No method is better than another in pairs."


def against(
    first: Mapping[str, Mapping[str, float]], second: Mapping[str, Mapping[str, float]], better: str
) -> str:
    differences = {
        photo: [values[image] - second[photo][image] for image in values if image in second.get(photo, {})]
        for photo, values in first.items()
    }
    known = [statistics.fmean(one) for one in differences.values() if one]
    low, high = interval(known)
    sign = -1 if better == "lower" else 1
    wins = sum(sign * one > 0 for group in differences.values() for one in group)
    text = f"{wins} of {sum(map(len, differences.values()))} ({low:+.3g} to {high:+.3g})"
    return f"**{text}**" if (high < 0 if better == "lower" else low > 0) else text


def load_table(measured: Record) -> list[str]:
    lines = [
        '"Server busy" is the share of the time in which the server process ran one signature at least '
        "(timed_server.py notes begin and end of each; overlaps count once), of the time from the first such "
        "run to the end of the last, and of the whole command from its start to its end.",
        "",
        "| run | forward passes | explanations | requests | command, s | server busy | of the whole command "
        "| client's CPU, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, measures in SETS.items():
        if name not in measured:
            continue
        run, load = measured[name], measured[name]["load"]
        lines.append(
            f"| {', '.join(measures)} "
            f"| {load['predictions']} | {load['explanations']} | {load['requests']} "
            f"| {run['command']:.1f} "
            f"| {run['busy'] / run['window']:.1%} | {run['busy'] / run['command']:.1%} "
            f"| {run['client_cpu']:.1f} |"
        )
    return lines


def beside_table(rows: Sequence[Record]) -> list[str]:
    lines = [
        f"The command with {', '.join(BESIDE)} over gRPC, from its start to its end, its maps included; "
        "xplique's Deletion, Insertion and MuFidelity in process, its maps given, warmed with two images.",
        "",
        "| method | forward passes, ours and xplique's | ours, s | xplique, s | ms a pass, ours | xplique "
        "| xplique ÷ ours | of processor time | deletion, ours and xplique's | insertion |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours, theirs = row["ours"], row["xplique"]
        each = (
            1e3 * ours["command"] / ours["load"]["predictions"],
            1e3 * theirs["seconds"] / theirs["forwards"],
        )
        both = [
            f"{ours['values'][name]:.5f}, {theirs['values'][name]:.5f}" for name in ("deletion", "insertion")
        ]
        lines.append(
            f"| {row['method']} "
            f"| {ours['load']['predictions']}, {theirs['forwards']} | {ours['command']:.1f} "
            f"| {theirs['seconds']:.1f} | {each[0]:.2f} | {each[1]:.2f} | {each[1] / each[0]:.2f} "
            f"| {theirs['cpu'] / (ours['client_cpu'] + ours['server_cpu']):.2f} | {both[0]} | {both[1]} |"
        )
    return lines


PARTS = {"whole": the_whole, "more": the_rest, "beside": beside}


if __name__ == "__main__":
    main()
