"""How long SmoothGrad takes until its map is so near to the truth, beside other libraries.

    .venv/bin/python tests/benchmarks/time_to_error.py       (`make bench-target`)

Ours is one call over gRPC with `target_error`, which takes the samples that it needs, in opposite pairs.
Other libraries take a number of samples: as many as independent noise needs to come as near to the truth as
ours did, which is the variance of one sample over the squared error. The truth of a photo is the mean over
2000 samples of another seed, whose own error is taken out of every distance. Calls are made in turn, and a
ratio is the median of those of one turn.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).parent)]

import skimage.data  # noqa: E402
from explanations_model import (  # noqa: E402
    BIN,
    LITE0,
    LOAD_SECONDS,
    PEERS,
    PeerProcess,
    PeerRefusedError,
    prepare,
    say,
)
from explanations_server import open_client  # noqa: E402
from measuring import interleaved, kernels_text, machine  # noqa: E402
from PIL import Image  # noqa: E402
from server_process import ServerProcess  # noqa: E402

from saliency_client import SaliencyClient  # noqa: E402
from saliency_client.images import load_image  # noqa: E402

PHOTOS = ("chelsea", "coffee")
TARGETS = (0.5, 0.3)
MOST = 2000
FIRST = 50
"""Samples of the calls that tell which library is the fastest."""


@dataclass(frozen=True)
class Truth:
    """What is known of a photo's map.

    Attributes:
        map: float64 [H, W, C], the mean over many samples.
        left: its expected squared distance to the mean over endlessly many.
        norm: the size of that mean.
        variance: of one sample, summed over the map.
    """

    map: np.ndarray
    left: float
    norm: float
    variance: float

    def error(self, found: np.ndarray) -> float:
        """The relative distance of another map to the truth."""
        squared = ((found.astype(np.float64) - self.map) ** 2).sum() - self.left
        return float(np.sqrt(max(squared, 0)) / self.norm)

    def independent_samples(self, error: float) -> int:
        """How many samples with noise of their own come as near."""
        return round(self.variance / (error * self.norm) ** 2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=f"{LITE0},MobileNetV2", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers-python", default=".venv-peers/bin/python")
    arguments = parser.parse_args()
    for model in arguments.models.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            measure(model, Path(scratch), arguments.peers_python, arguments.rounds)


def measure(model: str, scratch: Path, peers_python: str, rounds: int) -> None:
    facts = prepare(model, scratch)
    say(model, "export")
    source = (
        [LITE0] if model == LITE0 else [scratch / "model.keras", "--preprocessing", facts["preprocessing"]]
    )
    command = [BIN / "saliency-exporter", "export", *source, scratch / "model", "--methods", "smooth"]
    command += ["--target", "cpu", "--compile", "none", "--max-samples", str(MOST), "--no-verify"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server, peers = ServerProcess(f"m={scratch / 'model'}"), PeerProcess(peers_python, scratch)
    try:
        server.wait_for("listening on", LOAD_SECONDS)
        kernels = peers.ready()["kernels"]
        client, _ = open_client(server.target, "m")
        with client:
            peer = fastest(peers)
            print(
                f"\n{machine()}, {kernels_text(kernels)}; {model}, uncompiled; the fastest peer is {peer}\n"
            )
            print(
                "| photo | target | samples | true error | seconds | of the peer, samples | seconds | ratio |"
            )
            print("|---|---|---|---|---|---|---|---|")
            for photo in PHOTOS:
                image = pixels(photo, tuple(facts["shape"]))
                truth = truth_of(client, image)
                for target in TARGETS:
                    say(model, f"{photo}, target {target}")
                    print(row(client, image, truth, target, peers, peer, rounds, photo), flush=True)
    finally:
        peers.stop()
        server.stop()


def pixels(photo: str, shape: tuple[int, ...]) -> np.ndarray:
    """A photo of scikit-image as the model takes it, uint8 [1, H, W, 3]."""
    return load_image(Image.fromarray(getattr(skimage.data, photo)()), size=shape[:2]).array[np.newaxis]


def truth_of(client: SaliencyClient, image: np.ndarray) -> Truth:
    names = ("gradients", "variance", "standard_error")
    far = client.explain(image, method="smooth", num_samples=MOST, seed=99, outputs=names)
    mean, left = far["gradients"][0].astype(np.float64), float(far["standard_error"][0]) ** 2
    variance = float(far["variance"][0].sum(dtype=np.float64)) * MOST / (MOST - 1)
    return Truth(mean, left, float(np.sqrt((mean**2).sum() - left)), variance)


def fastest(peers: PeerProcess) -> str:
    """The peer that takes the least time for one image."""
    seconds: dict[str, float] = {}
    for peer in PEERS:
        call = peers.call(peer, "smooth", 1)
        try:
            call(10)
            seconds[peer] = min(call(FIRST) for _ in range(2))
        except PeerRefusedError as refusal:
            print(f"  {peer}: {refusal}", file=sys.stderr)
    return min(seconds, key=seconds.__getitem__)


def row(
    client: SaliencyClient,
    image: np.ndarray,
    truth: Truth,
    target: float,
    peers: PeerProcess,
    peer: str,
    rounds: int,
    photo: str,
) -> str:
    def ours(seed: int) -> tuple[int, float]:
        found = client.explain(
            image,
            method="smooth",
            num_samples=MOST,
            target_error=target,
            seed=seed,
            outputs=("gradients", "samples_used"),
        )
        return int(found["samples_used"][0]), truth.error(found["gradients"][0])

    # The error of the middle of a few runs, for all turns alike.
    found = [ours(seed) for seed in range(rounds)]
    error = statistics.median(one for _, one in found)
    needed = truth.independent_samples(error)
    seeds = iter(range(rounds))
    times = interleaved(
        {"ours": lambda: ours(next(seeds)), "peer": lambda: peers.ask(peer, "smooth", 1, samples=needed)},
        rounds,
    )
    ratios = sorted(a / b for a, b in zip(times["ours"], times["peer"], strict=True))
    seconds = {name: statistics.median(ms) / 1e3 for name, ms in times.items()}
    used = statistics.median(one for one, _ in found)
    return (
        f"| {photo} | {target} | {used:g} | {error:.3f} | {seconds['ours']:.2f} | {needed} | "
        f"{seconds['peer']:.2f} | {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}) |"
    )


if __name__ == "__main__":
    main()
