"""What the papers found, on the real classifier: guided backpropagation shows the image alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import skimage.data

from saliency_client.images import load_image
from saliency_exporter.evaluation.sanity import check_sanity

PHOTOS = ("chelsea", "coffee", "astronaut", "rocket")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_guided_backpropagation_fails_and_gradients_pass(export: Callable[..., Path]) -> None:
    """Adebayo et al. 2018, arXiv 1810.03292, figures 2 and 4; Sixt et al. 2019, arXiv 1912.09818."""
    plain = ("--target", "cpu", "--compile", "none", "--batch-sizes", "4", "--no-verify")
    version = export("efficientnet-lite0", "--methods", "gradients,guided", *plain)
    photos = {name: load_image(getattr(skimage.data, name)(), (224, 224)).array for name in PHOTOS}
    card = check_sanity(version, photos, depths=3)
    assert card.verdict("gradients") == "passes"
    assert card.verdict("guided") == "fails"
    # With a random classifier and nothing else, the guided map is the same; the gradient is another one.
    assert min(value or 0 for value in card.methods["guided"].spearman[0]) > 0.95
    assert max(value or 1 for value in card.methods["gradients"].spearman[0]) < 0.7
    # With nothing learned left, neither is like what it was.
    for method in card.methods.values():
        assert max(value or 1 for value in method.spearman[-1]) < 0.5
