"""The command that a gallery shows, pasted into a shell: it makes the page's maps again."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exports import export_classifier
from PIL import Image
from server_process import ServerProcess

from saliency_client import maps
from saliency_client.images import load_image
from saliency_client.web import gallery
from saliency_client.web.map_picture import photo_pictures
from saliency_client.web.shown import Shown, ShownClass, shown_map

METHODS = ("gradients", "smooth")
CLIP = 90


@pytest.fixture(scope="module")
def target(uncompiled_version: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of two versions that have learned other things; the newest one is no `stable` one."""
    base = tmp_path_factory.mktemp("models") / "classifier"
    shutil.copytree(uncompiled_version, base / "3")
    export_classifier(base, "--compile", "none", "--no-verify", model="models:other_classifier")
    assert sorted(one.name for one in base.iterdir() if one.name.isdecimal()) == ["3", "4"]
    server = ServerProcess(
        f"classifier={base}", "--no-warmup", "--versions", "all", "--label", "stable=3", "--label", "canary=4"
    )
    try:
        yield server.target
    finally:
        server.stop()


@pytest.fixture
def shell(tmp_path: Path) -> Callable[[str], None]:
    """Runs a line as a person does who knows `saliency-client`, and nothing of a server."""
    program = tmp_path / "bin" / "saliency-client"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m saliency_client "$@"\n')
    program.chmod(0o755)
    known = {name: value for name, value in os.environ.items() if not name.startswith("SALIENCY_")}
    known["PATH"] = f"{program.parent}{os.pathsep}{os.environ['PATH']}"

    def run(line: str) -> None:
        done = subprocess.run(
            ["sh", "-c", line], cwd=tmp_path, env=known, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr

    return run


@pytest.mark.parametrize(
    "asked", [("--label", "stable"), ("--version", "3"), ()], ids=["label", "version", "none"]
)
def test_the_printed_command_makes_the_maps_of_the_page_whichever_version_is_the_newest(
    open_page: Callable[..., Any],
    shell: Callable[[str], None],
    target: str,
    tmp_path: Path,
    asked: tuple[str, ...],
) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for name in ("a photo.png", "other.png"):
        pixels = rng.integers(0, 256, (5, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((80, 50), Image.Resampling.BICUBIC).save(tmp_path / "photos" / name)
    words = ["saliency-client", "gallery", "photos", "--server", target, "--model", "classifier", *asked]
    words += [
        "--methods",
        ",".join(METHODS),
        "--num-samples",
        "7",
        "--param",
        "noise_level=0.3",
        "--seed",
        "5",
    ]
    words += ["--resize", "stretch", "--clip", str(CLIP), "-o", "page"]
    shell(shlex.join(words))
    page = tmp_path / "page" / "index.html"
    opened = open_page(f"{page.as_uri()}#photo=0")
    command = opened.locator(".command code").text_content()
    shell(f"{command} --format npz -o again.npz")
    # What the other version gives to the same command is not the same.
    version = "3" if asked else "4"
    other = command.replace(f"--version {version}", f"--version {7 - int(version)}")
    assert other != command
    shell(f"{other} --format npz -o other.npz")
    for place, method in enumerate(METHODS):
        levels = np.asarray(Image.open(tmp_path / "page" / f"pictures/0/0-0-{place}.png")).astype(int)
        again, another = (_levels(tmp_path / name, method) for name in ("again.npz", "other.npz"))
        assert np.abs(again - levels).max() <= 1
        assert np.abs(another - levels).mean() > 10
    assert not opened.locator(".note").count()


def _levels(path: Path, method: str) -> np.ndarray:
    """A map in the gray levels of a page."""
    with np.load(path) as arrays:
        values = arrays[f"{method}/saliency"]
    low, high = maps.limits(values, clip=CLIP)
    return np.rint(255 * np.clip((values - low) / (high - low), 0, 1)).astype(int)


def test_maps_of_two_versions_have_a_command_each(open_page: Callable[..., Any], tmp_path: Path) -> None:
    """As when the server loads a newer version while a gallery is made."""
    photo = photo_pictures(load_image(np.full((8, 8, 3), 128, np.uint8), (8, 8)))

    def one(number: int, versions: tuple[int | None, ...]) -> Shown:
        drawn = tuple(
            shown_map(name, np.eye(8), None, {}, version=version)
            for name, version in zip(("plain", "mean", "third"), versions, strict=True)
        )
        return Shown(f"{number}.png", f"{number}.png", photo, (ShownClass(2, "cat", 0.5, 1.0, None, drawn),))

    photos = [one(0, (3, 3, 3)), one(1, (3, 4, 3)), one(2, (4, 4, 4)), one(3, (None, None, None))]
    about = {"models": [["net", 3], ["net", 4]], "command": ["--model", "net"]}
    gallery.write(tmp_path / "page", photos, lambda: about, title="Swap")
    expected = [
        ["0.png --model net --version 3 --method plain,mean,third"],
        ["1.png --model net --version 3 --method plain,third", "1.png --model net --version 4 --method mean"],
        ["2.png --model net --version 4 --method plain,mean,third"],
        ["3.png --model net --method plain,mean,third"],
    ]
    opened = open_page(tmp_path / "page" / "index.html")
    for number, commands in enumerate(expected):
        opened.goto(f"{(tmp_path / 'page' / 'index.html').as_uri()}#photo={number}")
        opened.get_by_role("heading", name=f"{number}.png", level=2).wait_for()
        shown = opened.locator(".command code").text_content().replace(" \\\n  ", " ").splitlines()
        assert shown == [f"saliency-client explain {one} --class-index 2" for one in commands]
