"""What the example pages share: the commands that a user types, run from Python; photos; stacked pictures."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from saliency_client import Explanation, SaliencyClient, render
from saliency_client.images import Photo

TRAINED = "efficientnet-lite0"
"""The classifier that brings its own trained weights: what stands in where nothing can be downloaded."""

SMALL = ("96", "96")
"""The image size of models with random weights in a quick run."""


@dataclass(frozen=True)
class Served:
    """A model that a page asks.

    Attributes:
        name: of the model, as the server knows it.
        model: MODEL of the export.
        trained: whether its maps mean anything.
    """

    name: str
    model: str
    trained: bool

    @property
    def title(self) -> str:
        return self.model if self.trained else f"{self.model}, random weights: its maps mean nothing"


def arguments(
    page: str, description: str, *, samples: int | None = None, photos: bool = True
) -> argparse.Namespace:
    """The options of a page: OUTPUT, --compile, --samples where it takes some, and those of photos' pages."""
    parser = argparse.ArgumentParser(page, description=description)
    parser.add_argument("output", type=Path, nargs="?", default=Path("example-output", page))
    if photos:
        parser.add_argument("--offline", action="store_true", help="do not try to download ImageNet weights")
        parser.add_argument("--quick", action="store_true", help="one photo, small images, random weights")
    parser.add_argument("--compile", choices=["xla", "none"], default="xla", help="of the export")
    if samples is not None:
        parser.add_argument("--samples", type=int, default=samples, help=f"of SmoothGrad [{samples}]")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    return options


def export(model: str, options: argparse.Namespace, *more: str, stand_in: bool = True) -> list[Served]:
    """Export a keras.applications model with ImageNet weights.

    Where they cannot be downloaded: the same architecture with random weights, and with `stand_in`
    EfficientNet-Lite0 with trained ones. A quick run takes random weights and no stand-in at once.
    """
    if not (options.offline or options.quick):
        done = _export(model, model.lower(), options, *more)
        if done.returncode == 0:
            return [Served(model.lower(), model, trained=True)]
        if "could not be downloaded" not in done.stderr:
            sys.exit(done.stderr)
    print(f"ImageNet weights of {model} are not downloaded here; it runs with random weights", flush=True)
    size = ("--image-size", *SMALL) if options.quick else ()
    served = [Served(model.lower(), model, trained=False)]
    _checked(_export(model, model.lower(), options, "--weights", "none", *size, *more))
    if stand_in and not options.quick:
        print(f"and beside it {TRAINED}, which brings trained weights", flush=True)
        _checked(_export(TRAINED, TRAINED, options, *more))
        served.insert(0, Served(TRAINED, TRAINED, trained=True))
    return served


def export_file(file: Path, options: argparse.Namespace, *more: str) -> Served:
    """Export a model that a page has trained and saved."""
    _checked(_export(str(file), file.stem, options, *more))
    return Served(file.stem, file.name, trained=True)


def _export(
    model: str, name: str, options: argparse.Namespace, *more: str
) -> subprocess.CompletedProcess[str]:
    command = ["export", model, str(options.output / "models" / name), "--target", "cpu"]
    # Compiled programs are checked against the uncompiled model; --compile none leaves nothing to differ.
    command += ["--compile", options.compile, *([] if options.compile == "xla" else ["--no-verify"])]
    return _run([*command, *more])


def _checked(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode != 0:
        sys.exit(done.stderr)


def inspect(served: Served, options: argparse.Namespace) -> str:
    """What `saliency-exporter inspect` says of the newest version."""
    versions = (options.output / "models" / served.name).iterdir()
    newest = max((path for path in versions if path.name.isdigit()), key=lambda path: int(path.name))
    return _run(["inspect", str(newest)]).stdout


def _run(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    print(f"$ saliency-exporter {shlex.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "saliency_exporter", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@contextmanager
def serve(models: Sequence[Served], options: argparse.Namespace, seconds: float = 1800) -> Iterator[str]:
    """Serve exported models on a free loopback port; gives the server's address."""
    port_file = options.output / "server.port"
    port_file.unlink(missing_ok=True)
    named = [f"{served.name}={options.output / 'models' / served.name}" for served in models]
    print(f"$ saliency-exporter serve {shlex.join(named)} --port 0", flush=True)
    command = [sys.executable, "-m", "saliency_exporter", "serve", *named]
    with (options.output / "server.log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--port", "0", "--port-file", str(port_file)], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + seconds
        while not port_file.exists():
            if server.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the server did not start; see {options.output / 'server.log'}")
            time.sleep(0.1)
        yield f"127.0.0.1:{port_file.read_text().strip()}"
    finally:
        server.terminate()
        server.wait(60)


def photos(options: argparse.Namespace) -> list[Path]:
    """Photos of scikit-image as files in OUTPUT; one where the run is quick."""
    files = [options.output / f"{name}.png" for name in ("chelsea", "coffee")[: 1 if options.quick else 2]]
    for file in files:
        Image.fromarray(getattr(skimage.data, file.stem)()).save(file)
    return files


def model_input_range(pixels: np.ndarray, preprocessing: str) -> np.ndarray:
    """max(x) − min(x) of the model input of each image [B, H, W, 3] uint8, [B]."""
    divisor = {"tf": 127.5, "lite": 128.0}[preprocessing]
    return np.ptp(pixels.reshape(len(pixels), -1).astype(np.float32), axis=1) / divisor


def share(saliency: np.ndarray, place: slice | int | np.ndarray) -> float:
    """How much of a map lies in a part of it: of the sum of squares, 0 to 1."""
    energy = np.square(saliency.astype(np.float64))
    return float(energy[place].sum() / energy.sum())


def cams_and_paths(client: SaliencyClient, photo: Photo, title: str, steps: int = 50) -> Image.Image:
    """Grad-CAM, which shows a region, beside integrated gradients, whose shares add up to the score."""
    cam = client.explain(photo.array, method="grad_cam")
    path = client.explain(
        photo.array, method="integrated_gradients", num_steps=steps, class_index=cam.class_index
    )
    maps = {"Grad-CAM": cam.saliency[0], "integrated gradients": path.saliency[0]}
    score = f"{cam.score[0]:.2f}, and {path.baseline_score[0]:.2f} for black"
    error = f"completeness error {path.completeness_error[0]:.2f} at {steps} steps"
    return render.side_by_side(
        photo.picture, maps, photo.box, title=title, subtitle=f"score {score}; {error}"
    )


def class_of(explanation: Explanation) -> str:
    """What the first image's explained class is called."""
    label = f" {explanation.label[0]}" if "label" in explanation else ""
    return f"class {explanation.class_index[0]}{label}"


def stack(pictures: Sequence[Image.Image], path: Path) -> None:
    """Save pictures below each other."""
    sheet = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    sheet.save(path)
    print(path, flush=True)
