from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

from saliency_exporter.version.inspection import summary
from saliency_exporter.version.manifest import KeptSignature, read_manifest


def test_a_signature_that_the_model_brought_is_told_from_the_exports_own(uncompiled_version):
    manifest = read_manifest(uncompiled_version)
    kept = {"serving_default": KeptSignature({}, {})}
    manifest = replace(manifest, kept_signatures=kept, predictions="serving_images")
    signatures = [value for name, value in summary(uncompiled_version, manifest) if name == "signature"]
    assert signatures[:2] == ["serving_default, as the model brought it", "serving_images, the predictions"]


def test_inspect_is_for_people_and_names_every_signature(uncompiled_version):
    command = [sys.executable, "-m", "saliency_exporter", "inspect", str(uncompiled_version)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "tf: x / 127.5 − 1" in shown
    # tests/models.py holds these three.
    for line in (
        "1 × relu, guided: passes x > 0",
        "1 × relu6, guided: passes 0 < x < 6",
        "1 × swish, guided: passes x > 0",
    ):
        assert line in shown
    for name in (
        "serving_default",
        "explain_gradients",
        "explain_guided",
        "explain_smooth, num_samples 50 (1 to 200), noise_level 0.15 (0 to 1), seed 0",
    ):
        assert f"signature      {name}" in shown
    assert "{" not in shown
