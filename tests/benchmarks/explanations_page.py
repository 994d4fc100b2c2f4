"""The benchmark's page, made of the records of its models."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, product
from typing import Any

from explanations_server import BATCHES, METHODS, SAMPLES
from measuring import kernels_text, spread

OURS = "this project, gRPC"
PEERS = ("tf.function tape", "xplique", "tf-keras-vis", "PAIR saliency")
GRADIENT_TARGETS = {
    "efficientnet-lite0": (0.5, 0.7),
    "MobileNetV2": (0.5, 0.7),
    "EfficientNetB0": (0.6, 0.7),
    "Xception": (0.75, 0.9),
    "ResNet50": (0.85, 0.9),
    "VGG16": (1.0, 1.0),
}
"""explain_gradients against the fastest peer, at batch 1 and 8."""

SMOOTH_TARGETS_WITHOUT_ONEDNN = {"efficientnet-lite0": 0.5, "MobileNetV2": 0.5}
"""explain_smooth against the fastest peer at batch 1; without oneDNN's kernels the bar of all else is 1."""

Record = Mapping[str, Any]


def as_page(records: Sequence[Record], machine: str, versions: str) -> str:
    """The page: the table of times, the targets, compilation and memory, as Markdown."""
    peers = ", ".join(
        f"{name} {number}" for name, number in records[0]["peer_versions"].items() if name != "numpy"
    )
    parts = [
        f"# Explanations against other libraries, {datetime.date.today()}",
        f"{machine}, {kernels_text(_kernels(records))} on both sides; {versions}. "
        f"Peers' environment: {peers}.",
        PREFACE,
        "## Times",
        *_table(["model", "B", "call", "ours, ms", "floor", "ratio", *PEERS, "KiB"], _time_rows(records)),
        "",
        "\n".join(_notes(records)),
        "## Targets",
        FLOORS,
        *_table(["measure", "model", "value", "target", "", "floor"], _target_rows(records)),
        "## Compilation, loading, memory",
        "The last columns are seconds to compile a signature at a batch size; n marks those that\n"
        "`--compile auto` measured not to be worth compiling, which are not compiled at load. Load is from\n"
        "the start of the server's process to AVAILABLE, nothing compiled before.",
        _mode(records),
        *_table(
            ["model", "export, s", "size, MiB", "load, s", "loaded, MiB", "peak, MiB", *_compile_heads()],
            map(_load_row, records),
        ),
    ]
    return "\n".join(_spaced(parts)) + "\n"


PREFACE = f"""Made by `make bench`; tests/benchmarks/README.md tells more. Times are medians with quartiles,
in milliseconds, of calls made in turn in one run, those under a second in rows of three behind one that is
not timed; peers that take twice as long as the fastest are called in the first round alone. *Ours* goes from
an array in the client through gRPC and the local server and back to a map; peers run in a process of their
own on the same weights, from an array in memory to a map. All explain one given class. *Floor* is the part
of the time that the floor would take: two forward passes for gradients and guided, 2 · {SAMPLES} for smooth,
at the speed of `serving_default` measured in turn with it. *Ratio* is against the fastest peer. *KiB* are the
request's and the answer's on the wire. B is the batch size; smooth draws {SAMPLES} samples, peers 10 noisy
images at once where they can do that. The weights of efficientnet-lite0 are real, others random."""


FLOORS = """Values are medians over the rounds, with quartiles. *Floor* is the value that two forward passes
for a map or a sample would have, at the speed of `serving_default` (for samples: at its speed by the image at
the better batch size). A target below it asks for more than half of the arithmetic to be left out."""


def _kernels(records: Sequence[Record]) -> str:
    """The kernels of all exports and of all peers.

    Raises:
        ValueError: there are records of both sets, which no page can compare.
    """
    found = {record["export"]["kernels"] for record in records} | {r["peer_kernels"] for r in records}
    if len(found) > 1:
        raise ValueError(f"the records are of several sets of kernels: {', '.join(sorted(found))}")
    return found.pop()


def live_table(measured: Record) -> str:
    """The table for a live server: its own times, without peers."""
    rows = []
    for batch in BATCHES:
        forward = measured["cells"][f"serving_default {batch}"]["median"]
        for name, cell in measured["cells"].items():
            call, size = name.split()
            if int(size) == batch:
                wire = f"{cell['sent'] / 1024:.0f} + {cell['received'] / 1024:.0f}"
                ratio = f"{cell['median'] / forward:.2f}"
                rows.append([call, size, spread(cell["ms"]), ratio, wire])
    shape = " × ".join(map(str, measured["shape"]))
    head = f"{measured['model']} at {measured['target']}, images {shape}, smooth with {SAMPLES} samples"
    return "\n".join([head, "", *_table(["call", "B", "ms", "÷ serving_default", "KiB"], rows)])


def _spaced(parts: Sequence[str]) -> Iterator[str]:
    for before, part in zip(["", *parts], parts, strict=False):
        if before and not (before.startswith("|") and part.startswith("|")):
            yield ""
        if part:
            yield part


def _table(heads: Sequence[str], rows: Any) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _times(record: Record, method: str, batch: int, who: str = OURS, beside: str = "") -> list[float]:
    """Milliseconds of one kind of call; `beside` names a method that it was measured in turn with."""
    return record["cells"][_cell(method, batch, beside)]["ms"].get(f"{method}|{who}", [])


def _cell(method: str, batch: int, beside: str = "") -> str:
    group = "smooth" if "smooth" in (method, beside) else "single"
    return f"{group} {batch}"


def _ratios(record: Record, batch: int, above: str, below: str, whose: str = OURS) -> list[float]:
    """One of our calls against another call, round by round; empty where one of them was not measured."""
    times = _times(record, above, batch), _times(record, below, batch, whose, beside=above)
    if not all(times):
        return []
    rounds = record["cells"][_cell(above, batch, beside=below)]["rounds"]
    turns = [[statistics.median(part) for part in _parts(values, rounds)] for values in times]
    return [a / b for a, b in zip(*turns, strict=True)]


def _parts(values: Sequence[float], parts: int) -> list[Sequence[float]]:
    """Consecutive parts of the same length: short calls are made in rows, one row in a round."""
    length = len(values) // parts
    return [values[start : start + length] for start in range(0, len(values), length)]


def _fastest(record: Record, method: str, batch: int) -> tuple[float, str] | None:
    """The fastest peer's median, in milliseconds, and its name."""
    peers = [(statistics.median(ms), peer) for peer in PEERS if (ms := _times(record, method, batch, peer))]
    return min(peers, default=None)


def _ratios_to_fastest(record: Record, method: str, batch: int) -> list[float]:
    fastest = _fastest(record, method, batch)
    return _ratios(record, batch, method, method, fastest[1]) if fastest else []


def _floor_to_fastest(record: Record, method: str, batch: int) -> float | None:
    """Two forward passes, at the speed of the batch size that is quickest by the image, against that peer.

    Samples of SmoothGrad are computed as a batch, so their floor is that of images in a batch; gradients of
    a batch have the floor of that batch.
    """
    fastest = _fastest(record, method, batch)
    by_image = _forward_ms(record)
    floor = 2 * (SAMPLES * batch * min(by_image.values()) if method == "smooth" else batch * by_image[batch])
    return floor / fastest[0] if fastest else None


def _forward_ms(record: Record) -> dict[int, float]:
    """Milliseconds of a forward pass for one image, by batch size."""
    return {size: statistics.median(_times(record, "serving_default", size)) / size for size in BATCHES}


def _floor(record: Record, method: str, batch: int) -> str:
    """Two forward passes, or two for each sample, against what was needed."""
    ratios = _ratios(record, batch, method, "serving_default")
    forwards = 2 * SAMPLES if method == "smooth" else 2
    return f"{forwards / statistics.median(ratios):.0%}" if ratios else ""


def _time_rows(records: Sequence[Record]) -> Iterator[list[str]]:
    for record, batch in product(records, BATCHES):
        forward = spread(_times(record, "serving_default", batch))
        yield [record["model"], str(batch), "serving_default", forward, *[""] * (len(PEERS) + 3)]
        for method in METHODS:
            ratios = _ratios_to_fastest(record, method, batch)
            theirs = (_times(record, method, batch, peer) for peer in PEERS)
            sent, received = record["bytes"][str(batch)]
            yield [
                record["model"],
                str(batch),
                method,
                spread(_times(record, method, batch)) or "–",
                _floor(record, method, batch),
                f"{statistics.median(ratios):.2f}" if ratios else "",
                *(spread(times) if times else "–" for times in theirs),
                f"{sent / 1024:.0f} + {received / 1024:.0f}",
            ]


def _notes(records: Sequence[Record]) -> Iterator[str]:
    """Why calls were left out, and how far the peers' maps are from ours."""
    places: dict[str, list[str]] = {}
    for record in records:
        for group, measured in record["cells"].items():
            for key, reason in measured["left_out"].items():
                method, peer = key.split("|")
                kind, _, expected = reason.partition(": about ")
                if expected:
                    place = f"{record['model']} {method} B {group.split()[1]}, about {expected}"
                    places.setdefault(f"{peer}, {kind}", []).append(place)
                else:
                    places.setdefault(f"{peer}, {method}: {reason}", [])
    yield "Left out (–):\n"
    for reason, where in sorted(places.items()):
        yield f"- {reason}{': ' if where else ''}{'; '.join(where)}."
    worst = {
        peer: max(found.get(peer, 0.0) for record in records for found in record["differences"].values())
        for peer in PEERS
    }
    text = ", ".join(f"{peer} {value:.1g}" for peer, value in worst.items())
    yield f"\nLargest relative L2 distance of a peer's map of gradients from ours: {text}."


def _target_rows(records: Sequence[Record]) -> Iterator[list[str]]:
    for record in records:
        model = record["model"]

        def row(
            measure: str,
            ratios: Sequence[float],
            target: float,
            floor: float | None = None,
            digits: int = 2,
            model: str = model,
        ) -> list[str]:
            if not ratios:
                return [measure, model, "–", f"≤ {target}", "", ""]
            verdict = _verdict(ratios, target)
            return [
                measure,
                model,
                spread(ratios, digits),
                f"≤ {target}",
                verdict,
                f"{floor:.2f}" if floor else "",
            ]

        eigen = _kernels([record]) == "eigen"
        gradient_targets = (1.0, 1.0) if eigen else GRADIENT_TARGETS[model]
        for batch, target in zip(BATCHES, gradient_targets, strict=True):
            name = f"gradients, B {batch} ÷ fastest peer"
            floor = _floor_to_fastest(record, "gradients", batch)
            yield row(name, _ratios_to_fastest(record, "gradients", batch), target, floor)
        if eigen and model == "ResNet50":
            ratios = _ratios(record, 1, "gradients", "serving_default")
            yield row("gradients ÷ serving_default, B 1", ratios, 2.2, 2.0)
        yield row(
            "gradients ÷ serving_default, B 8", _ratios(record, 8, "gradients", "serving_default"), 2.0, 2.0
        )
        for batch in BATCHES:
            yield row(f"guided ÷ gradients, B {batch}", _ratios(record, batch, "guided", "gradients"), 1.05)
        for batch in BATCHES:
            name = f"guided, B {batch} ÷ fastest peer"
            yield row(name, _ratios_to_fastest(record, "guided", batch), 1.0)
        floor = _floor_to_fastest(record, "smooth", 1)
        target = SMOOTH_TARGETS_WITHOUT_ONEDNN.get(model, 1.0) if eigen else 0.4
        yield row("smooth, B 1 ÷ fastest peer", _ratios_to_fastest(record, "smooth", 1), target, floor)
        yield row("smooth, B 8 ÷ fastest peer", _ratios_to_fastest(record, "smooth", 8), 1.0)
        ratios = [ratio / SAMPLES for ratio in _ratios(record, 1, "smooth", "serving_default")]
        by_image = _forward_ms(record)
        floor = 2 * min(by_image.values()) / by_image[1]
        yield row(f"smooth, B 1 ÷ {SAMPLES} × serving_default", ratios, 1.6, floor)
        if "samples" in record:
            few, many = record["samples"]["ms"]["50"], record["samples"]["ms"]["200"]
            ratios = [more / less / 4 for more, less in zip(many, few, strict=True)]
            yield row("smooth, time of 200 samples ÷ 4 × that of 50", ratios, 1.05)
            peaks = record["samples"]["peak_mib"]
            yield row("smooth, peak memory: 1000 ÷ 10 samples", [peaks["1000"] / peaks["10"]], 1.05)
        if "defaults" in record:
            for which, seconds in record["defaults"]["load_seconds"].items():
                mode, state = which.split()
                kept, target = (
                    ("nothing compiled", 60) if state == "empty" else ("compiled programs kept", 10)
                )
                yield row(
                    f"load, default batch sizes, --compile {mode}, {kept}, s", [seconds], target, digits=1
                )
            by_size = {int(n): ms for n, ms in record["defaults"]["throughput_ms"].items() if n != "11"}
            falls = {
                (a, b): [
                    (a / before) / (b / after) for before, after in zip(by_size[a], by_size[b], strict=True)
                ]
                for a, b in pairwise(sorted(by_size))
            }
            (a, b), ratios = max(falls.items(), key=lambda item: statistics.median(item[1]))
            speeds = {
                int(n): 1e3 * int(n) / statistics.median(ms)
                for n, ms in record["defaults"]["throughput_ms"].items()
            }
            text = ", ".join(f"{speeds[n]:.0f} at {n}" for n in sorted(speeds))
            yield row(
                f"gradients, images a second: {text}; the largest fall, from {a} to {b}"
                " (11 is padded to 16, and aside)",
                ratios,
                1.0,
            )


def _verdict(ratios: Sequence[float], target: float) -> str:
    """Whether a target is missed, by the median; and whether the quartiles leave that open."""
    if statistics.median(ratios) <= target:
        return ""
    low = statistics.quantiles(ratios, n=4, method="inclusive")[0] if len(ratios) > 2 else min(ratios)
    return "missed, within the spread" if low <= target else "**missed**"


def _compile_heads() -> list[str]:
    return [f"{name} {batch}" for name in ("forward", *METHODS) for batch in BATCHES]


def _mode(records: Sequence[Record]) -> str:
    modes = sorted({record["export"]["compile"] for record in records})
    return f"Exports of this run: `--target cpu --compile {', '.join(modes)}`."


def _load_row(record: Record) -> list[str]:
    exported = record["export"]
    choices = {
        (row["signature"].removeprefix("explain_"), row["batch_size"]): row
        for row in exported["compile_choices"]
    }
    compiled = [
        f"{row['compile_s']:.1f}{'' if row['compile'] == 'xla' else ' n'}" if row else ""
        for name in ("serving_default", *METHODS)
        for batch in BATCHES
        for row in [choices.get((name, batch))]
    ]
    return [
        record["model"],
        f"{exported['seconds']:.0f}",
        f"{exported['mib']:.0f}",
        f"{record['load_seconds']:.0f}",
        f"{record['memory_loaded']:.0f}",
        f"{record['memory_peak']:.0f}",
        *compiled,
    ]
