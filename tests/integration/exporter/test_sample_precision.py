"""`--sample-precision`, as a user types it: what an export says of it, and a wrong one is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from exports import export_classifier

from saliency_exporter.version.inspection import summary
from saliency_exporter.version.manifest import read_manifest
from saliency_exporter.version.reference import reference_path
from saliency_exporter.version.verify import verify

pytestmark = pytest.mark.slow


def test_an_export_with_samples_in_float16_says_so_and_a_wrong_map_is_still_found(tmp_path):
    options = ("--methods", "gradients,smooth", "--sample-precision", "float16", "--compile", "none")
    base = export_classifier(tmp_path / "models" / "low", *options)
    version = base / "1"
    entries = json.loads((version / "assets.extra" / "saliency.json").read_text())["methods"]
    assert entries["smooth"]["sample_precision"] == "float16"
    assert 0 < entries["smooth"]["sample_difference"] <= 0.1
    assert entries["gradients"]["sample_precision"] is None
    lines = [value for what, value in summary(version, read_manifest(version)) if what == "signature"]
    assert any("samples in float16" in line for line in lines)
    assert verify(version).problems == ()
    path = reference_path(version)
    with np.load(path) as arrays:
        wrong = dict(arrays)
    wrong["explain_smooth/gradients"] = wrong["explain_smooth/gradients"][::-1]
    np.savez_compressed(path, **wrong)
    assert any("differ" in problem for problem in verify(version).problems)
