"""Options of `export` for models with several inputs and of any rank, on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from saliency_exporter.cli import main
from saliency_exporter.cli.params import HELD


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["export", *arguments])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("rate", "'rate' is not of the form NAME=VALUE"),
        ("=1", "'=1' is not of the form NAME=VALUE"),
        ("rate=much", "'much' is not a number, true, false or a .npy file"),
        ("mask=missing.npy", "missing.npy cannot be read as an array"),
        (f"step={2**64}", f"{2**64} is not in the range of whole numbers, -2**63 to 2**64 - 1"),
    ],
)
def test_a_held_value_of_another_form_is_refused(value: str, message: str, tmp_path: Path) -> None:
    result = run("model.keras", str(tmp_path / "m"), "--hold", value)
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("text", "dtype", "value"),
    [
        ("7", np.int32, 7),
        (str(-(2**31)), np.int32, -(2**31)),
        (str(2**31), np.int64, 2**31),
        (str(2**53 + 1), np.int64, 2**53 + 1),
        (str(2**63), np.uint64, 2**63),
        ("0.1", np.float64, 0.1),
        ("1e3", np.float64, 1000),
        ("true", np.bool_, True),
    ],
)
def test_a_held_number_is_exact(text: str, dtype: type, value: object) -> None:
    name, held = HELD.convert(f"step={text}", None, None)
    assert (name, held.dtype, held.item()) == ("step", dtype, value)


def test_an_array_of_objects_is_not_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    result = run("model.keras", str(tmp_path / "m"), "--hold", f"mask={tmp_path / 'evil.npy'}")
    assert result.exit_code == 2
    assert "cannot be read as an array" in result.output


def test_an_input_shape_of_another_form_is_refused(tmp_path: Path) -> None:
    result = run("model.keras", str(tmp_path / "m"), "--input-shape", "10xfour")
    assert result.exit_code == 2
    assert "'10xfour' is not a list of sizes such as 128,80" in result.output
