"""The command line run in this process or in its own, against a scripted server whose maps are known."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner
from scripted_server import LinearModel

from saliency_client.cli import main

SIZE = 20
HOT_ROWS, HOT_COLUMNS = slice(4, 8), slice(10, 14)


def known_model(dtype: str = "uint8") -> LinearModel:
    """A linear classifier of 20x20 photos: class 2 is what is blue; its map is hot in one block alone."""
    model = LinearModel(height=SIZE, width=SIZE, dtype=dtype)
    model.weights = np.zeros_like(model.weights)
    model.weights[2, HOT_ROWS, HOT_COLUMNS] = (0.5, -0.25, 1.0)
    model.weights[1, 0, 0] = (0.5, 0, 0)
    model.weights[0, -1, -1] = (0.25, 0, 0)
    return model


@dataclass
class Run:
    """What a command did."""

    code: int
    out: str
    err: str
    out_bytes: bytes = b""

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def record(self) -> dict[str, Any]:
        (record,) = self.records
        return record


class Cli:
    """`saliency-client` in this process, in a folder of its own; server and model are in the environment."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment

    def __call__(self, *arguments: object, stdin: bytes = b"", **environment: str) -> Run:
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            result = CliRunner().invoke(
                main,
                [str(argument) for argument in arguments],
                input=stdin,
                env={**self.environment, **environment},
                prog_name="saliency-client",
            )
        finally:
            os.chdir(before)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return Run(
            result.exit_code, result.stdout_bytes.decode(errors="replace"), result.stderr, result.stdout_bytes
        )

    def files(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()}
