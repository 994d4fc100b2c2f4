"""XLA's persistent compilation cache: what one process compiled, the next one loads.

The cache is TensorFlow's own (`TF_XLA_FLAGS=--tf_xla_persistent_cache_directory=…`). Its key holds neither
the TensorFlow version nor the device, and a damaged entry fails every call that hits it, or crashes the
process. So each TensorFlow version and device has its own directory here, and only entries that a finished
warmup vouched for, by their SHA-256, are left for the next process to load.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from saliency_client._files import write_whole
from saliency_exporter.errors import ExportError

FLAGS_VARIABLE = "TF_XLA_FLAGS"
DIRECTORY_FLAG = "--tf_xla_persistent_cache_directory"
VOUCHED_FILE = "vouched.json"


def use_xla_cache(directory: Path | str) -> Path:
    """Makes this process load and keep its XLA programs in the directory; returns the part that it uses.

    Call it before TensorFlow's first session: TensorFlow reads its flags once. A TF_XLA_FLAGS that already
    names a cache directory wins. Call `vouch_for_entries` with the returned part after the warmup.

    Raises:
        ExportError: the directory cannot be made or written, or TF_XLA_FLAGS cannot be read.
    """
    part = cache_part(directory)
    try:
        part.mkdir(parents=True, exist_ok=True)
        if not os.access(part, os.W_OK | os.X_OK):
            raise PermissionError(f"{part} is not writable")
        discard_unvouched(part)
    except OSError as error:
        raise ExportError(
            f"cannot keep compiled programs in {directory}: {error}",
            hint="name a directory that can be written",
        ) from error
    os.environ.update(cache_environment(part))
    return part


def cache_part(directory: Path | str) -> Path:
    """The subdirectory for this TensorFlow version and this device."""
    device = hashlib.sha256("\n".join(_device_lines()).encode()).hexdigest()[:12]
    return Path(directory) / f"tensorflow-{_tensorflow_version()}-{platform.machine()}-{device}"


def cache_environment(part: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables to add for a cache in `part`, flags that are already there kept.

    Raises:
        ExportError: the path has white space, which TF_XLA_FLAGS cannot hold, or the flags that are there
            cannot be read.
    """
    if any(character.isspace() for character in str(part)):
        raise ExportError(
            f"the path of the XLA cache has white space in it: {part}", hint="TF_XLA_FLAGS cannot hold that"
        )
    flags = _flags(environ.get(FLAGS_VARIABLE, "").strip())
    try:
        names = [flag.partition("=")[0] for flag in shlex.split(flags)]
    except ValueError as error:
        raise ExportError(
            f"the flags of {FLAGS_VARIABLE} cannot be read: {error}", hint="close the quotation in it"
        ) from error
    return {} if DIRECTORY_FLAG in names else {FLAGS_VARIABLE: f"{flags} {DIRECTORY_FLAG}={part}".strip()}


def _flags(value: str) -> str:
    if not value or value.startswith("-"):
        return value
    # TensorFlow takes a value without a dash for the name of a file of flags.
    try:
        return Path(value).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(
            f"{FLAGS_VARIABLE} names the file {value}, which cannot be read: {error}",
            hint=f"set {FLAGS_VARIABLE} to flags, such as --tf_xla_auto_jit=2, or to a file of them",
        ) from error


def discard_unvouched(part: Path) -> list[Path]:
    """Removes the entries that no finished warmup vouched for or that have changed since; returns them."""
    vouched = _read_vouched(part)
    sums = {entry: _sha256(entry) for entry in _entries(part)}
    discarded = [entry for entry, found in sums.items() if found is None or vouched.get(entry.name) != found]
    for entry in discarded:
        entry.unlink(missing_ok=True)
    return discarded


def vouch_for_entries(part: Path) -> None:
    """Records the entries as sound, after every program that this process loaded or compiled has run.

    Raises:
        ExportError: the record cannot be written.
    """
    sums = {entry.name: _sha256(entry) for entry in _entries(part)}
    record = json.dumps(sums, indent=0, sort_keys=True).encode()
    try:
        write_whole(part / VOUCHED_FILE, lambda file: file.write(record), overwrite=True)
    except OSError as error:
        raise ExportError(
            f"cannot keep compiled programs in {part}: {error.strerror or error}",
            hint="free some space, or name another directory",
        ) from error


def _entries(part: Path) -> list[Path]:
    return sorted(part.glob("*.pb"))


def _sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _read_vouched(part: Path) -> dict[str, str]:
    try:
        vouched = json.loads((part / VOUCHED_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return vouched if isinstance(vouched, dict) else {}


def _tensorflow_version() -> str:
    """The version without importing TensorFlow, which would be too early here."""
    for distribution in ("tensorflow", "tensorflow-cpu"):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


def _device_lines() -> list[str]:
    """What the compiled code depends on: the CPU's model and features, and the GPUs' models."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        starts = ("model name", "flags", "Features")
        lines = {line for line in cpuinfo.read_text().splitlines() if line.startswith(starts)}
    else:
        lines = {platform.processor()}
    for gpu in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        lines |= {line for line in gpu.read_text().splitlines() if line.startswith("Model")}
    return sorted(lines)
