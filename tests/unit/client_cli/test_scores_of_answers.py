"""Score and probability of each class, from whatever a classifier answers (cli/model_input.py)."""

from __future__ import annotations

import numpy as np
import pytest

from saliency_client.cli.errors import CommandError
from saliency_client.cli.model_input import class_scores

LOGITS = np.array([[2.0, -1.0, 0.5]], np.float32)
# Softmax of the logits, worked out by hand: exp is 7.389, 0.368 and 1.649 of 9.406.
PROBABILITIES = np.array([[0.7856, 0.0391, 0.1753]], np.float32)
FEATURES = np.zeros((1, 2, 2, 8), np.float32)


@pytest.mark.parametrize(
    ("outputs", "scores", "probabilities"),
    [
        ({"logits": LOGITS, "probabilities": PROBABILITIES}, LOGITS, PROBABILITIES),
        ({"features": FEATURES, "probabilities": PROBABILITIES}, PROBABILITIES, PROBABILITIES),
        ({"logits": LOGITS}, LOGITS, None),
        ({"dense": LOGITS, "features": FEATURES}, LOGITS, None),
        ({"dense": PROBABILITIES}, PROBABILITIES, PROBABILITIES),
        # Scores that are positive, or that sum to 1, are no probabilities unless they are both.
        ({"dense": LOGITS + 3}, LOGITS + 3, None),
        ({"dense": np.array([[2.0, -1.0]], np.float32)}, np.array([[2.0, -1.0]]), None),
        ({"names": np.array([[b"cat"]], object), "dense": LOGITS}, LOGITS, None),
    ],
)
def test_scores_and_probabilities_of_any_classifier(outputs, scores, probabilities):
    got_scores, got_probabilities = class_scores(outputs)
    np.testing.assert_allclose(got_scores, scores[0], rtol=1e-6)
    if probabilities is None:
        assert got_probabilities is None
    else:
        np.testing.assert_allclose(got_probabilities, probabilities[0], rtol=1e-6)


@pytest.mark.parametrize(("outputs", "named"), [({"features": FEATURES}, "there are features"), ({}, "none")])
def test_an_answer_without_a_row_of_classes_names_what_there_is(outputs, named):
    with pytest.raises(CommandError, match=named):
        class_scores(outputs)
