"""What tests share: one real exported model, made once a session by the command that users type."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from exports import export_classifier

# A shell's background job ignores SIGINT, and so would every process that it starts, which tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def xla_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled programs that processes of this session share."""
    return tmp_path_factory.mktemp("xla-cache")


@pytest.fixture(scope="session")
def exported_model(tmp_path_factory: pytest.TempPathFactory, xla_cache: Path) -> Path:
    """Model base path of a small compiled classifier with all signatures; version 1, batch sizes 1 and 4."""
    directory = tmp_path_factory.mktemp("models")
    return export_classifier(directory / "classifier", "--xla-cache", str(xla_cache))


@pytest.fixture(scope="session")
def exported_version(exported_model: Path) -> Path:
    """Version directory of the small exported classifier."""
    return exported_model / "1"


@pytest.fixture(scope="session")
def uncompiled_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version directory of the same classifier exported with --compile none: loads and runs at once."""
    directory = tmp_path_factory.mktemp("uncompiled-models")
    return export_classifier(directory / "classifier", "--compile", "none", "--no-verify") / "1"
