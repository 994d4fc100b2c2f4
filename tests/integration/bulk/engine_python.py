"""Interpreters that have an engine for data sets: engines may want other versions than the tests do."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

CLIENT = Path(__file__).parents[3] / "client"


@functools.cache
def engine_python(engine: str, *modules: str) -> str:
    """The interpreter that imports all of `modules`; without one, the test is skipped.

    $SALIENCY_BEAM_PYTHON (for the engine 'beam'), then .venv-beam/bin/python, then the tests' own.
    """
    named = os.environ.get(f"SALIENCY_{engine.upper()}_PYTHON")
    made = Path(__file__).parents[3] / f".venv-{engine}/bin/python"
    for python in [named] if named else [str(made), sys.executable]:
        if Path(python).exists():
            imported = subprocess.run(
                [python, "-c", f"import {', '.join(modules)}"], capture_output=True, check=False, timeout=120
            )
            if imported.returncode == 0:
                return python
    pytest.skip(f"no interpreter here imports {', '.join(modules)}: make test-engines makes one")


def client_environment() -> dict[str, str]:
    """Variables of a process that imports the client of this checkout, and no other package of it."""
    return {**os.environ, "PYTHONPATH": str(CLIENT)}


def run_code(python: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run a few lines with the client of this checkout."""
    return subprocess.run(
        [python, "-c", code],
        capture_output=True,
        text=True,
        env=client_environment(),
        timeout=120,
        check=False,
    )
