"""Measures beside xplique's and Quantus', for the same model, map, substrate and draws."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from saliency_client.evaluation import faithfulness_correlation, max_sensitivity
from saliency_client.evaluation.curves import CurveSettings
from saliency_client.evaluation.deletion import deletion
from saliency_client.evaluation.insertion import insertion
from saliency_client.evaluation.measure import Predictions
from saliency_client.evaluation.sparseness import SparsenessSettings, sparseness

ROOT = Path(__file__).parents[3]
PYTHON = Path(os.environ.get("PEERS_PYTHON", ROOT / ".venv-peers" / "bin" / "python"))
HEIGHT, WIDTH, CLASSES, CLASS = 12, 10, 4, 2

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="`make test-peers` installs the peers"),
]


@pytest.fixture(scope="module")
def given() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(11)
    image = generator.uniform(0.2, 1, (HEIGHT, WIDTH, 1)).astype(np.float32)
    faithful = faithfulness_correlation.FaithfulnessSettings(CLASS, runs=40, subset_size=24)
    draws = max_sensitivity.near(image, max_sensitivity.SensitivitySettings(CLASS, draws=30, radius=0.1))
    return {
        "image": image.astype(np.float64),
        "weights": generator.normal(size=(CLASSES, HEIGHT * WIDTH)) / 8,
        # Far from what is exact: a map whose correlation is neither 1 nor 0.
        "map": generator.normal(size=(HEIGHT, WIDTH)) + image[..., 0],
        "subsets": faithfulness_correlation.subsets(HEIGHT * WIDTH, faithful),
        "noise": (draws - image).reshape(30, -1).astype(np.float64),
        "class_index": np.array(CLASS),
    }


@pytest.fixture(scope="module")
def peers(given: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    path = tmp_path_factory.mktemp("peers") / "given.npz"
    np.savez(path, **given)
    script = ROOT / "tests" / "benchmarks" / "peers" / "metrics.py"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [PYTHON, script, path], capture_output=True, text=True, env=environment, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def own(given: dict[str, np.ndarray]) -> dict[str, float]:
    image, weights, map_ = given["image"], given["weights"], given["map"]

    def predict(images: np.ndarray) -> Predictions:
        scores = images.reshape(len(images), -1).astype(np.float64) @ weights.T
        exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
        return Predictions(scores, exponents / exponents.sum(axis=1, keepdims=True))

    def explain(images: np.ndarray, class_index: int) -> np.ndarray:
        return np.abs(images[..., 0] * weights[class_index].reshape(HEIGHT, WIDTH))

    faithful = faithfulness_correlation.FaithfulnessSettings(CLASS, runs=40, subset_size=24)
    radius = max_sensitivity.SensitivitySettings(CLASS, draws=30, radius=0.1)
    found = (
        deletion(predict, None, image, map_, CurveSettings(CLASS)),
        insertion(predict, None, image, map_, CurveSettings(CLASS)),
        faithfulness_correlation.faithfulness_correlation(predict, None, image, map_, faithful),
        sparseness(predict, None, image, map_, SparsenessSettings(CLASS)),
        max_sensitivity.max_sensitivity(predict, explain, image, explain(image[None], CLASS)[0], radius),
    )
    return {one.measure: one.value for one in found}


@pytest.mark.parametrize(
    "measure", ["deletion", "insertion", "faithfulness_correlation", "sparseness", "max_sensitivity"]
)
def test_a_measure_is_that_of_the_peer(
    measure: str, given: dict[str, np.ndarray], peers: dict[str, float]
) -> None:
    assert own(given)[measure] == pytest.approx(peers[measure], abs=1e-6)
