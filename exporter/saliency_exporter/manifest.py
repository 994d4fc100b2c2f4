"""The manifest of a version directory: assets.extra/saliency.json, which TensorFlow Serving ignores."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import ExportError, brief

CONTRACT_VERSION = 1
MAX_BYTES = 64 * 2**20


def manifest_path(version_dir: Path) -> Path:
    """Where the manifest of a version directory is."""
    return version_dir / "assets.extra" / "saliency.json"


def write_manifest(version_dir: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest as readable JSON."""
    path = manifest_path(version_dir)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_manifest(version_dir: Path) -> dict[str, Any]:
    """Read the manifest of a version directory.

    Raises:
        ExportError: there is none, or it is not the JSON object that an export writes.
    """
    path = manifest_path(version_dir)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ExportError(f"{path} is too large: a manifest has at most {MAX_BYTES} bytes")
        manifest = json.loads(content.decode())
    except FileNotFoundError:
        raise ExportError(
            f"{version_dir} is not an exported version: it has no {path.relative_to(version_dir)}",
            hint=_version_hint(version_dir),
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"{path} cannot be read: {error}", hint="export the model again") from error
    if not isinstance(manifest, dict) or manifest.get("contract_version") != CONTRACT_VERSION:
        raise ExportError(
            f"{path} is not a manifest of contract version {CONTRACT_VERSION}", hint="export the model again"
        )
    return manifest


@contextmanager
def as_written(version_dir: Path) -> Iterator[None]:
    """Tell of a manifest that lacks something, or has it in another form than an export writes.

    Raises:
        ExportError: what is done with the manifest in the block fails for it.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ExportError(
            f"{manifest_path(version_dir)} is not as an export writes it: {brief(error)}",
            hint="export the model again",
        ) from error


def _version_hint(version_dir: Path) -> str:
    if version_dir.is_dir():
        versions = sorted((p.name for p in version_dir.iterdir() if p.name.isdigit()), key=int)
        if versions:
            return f"this is a model base path; name a version in it, such as {version_dir / versions[-1]}"
    return "name the directory of one version, such as models/my-model/1"
