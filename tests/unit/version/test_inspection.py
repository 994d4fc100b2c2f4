from __future__ import annotations

import msgspec
import pytest

from saliency_exporter.version.inspection import activations_in_words, preprocessing_in_words, score_notes
from saliency_exporter.version.manifest import ActivationCount, Activations, PreprocessingSteps, Score


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ({"name": "tf", "steps": [{"divide": 127.5}, {"subtract": 1.0}]}, "tf: x / 127.5 − 1"),
        (
            {"name": "torch", "steps": [{"divide": 255.0}, {"subtract": [0.5, 0.4]}, {"divide": [0.2, 0.3]}]},
            "torch: (x / 255 − (0.5, 0.4)) / (0.2, 0.3)",
        ),
        (
            {"name": "caffe", "steps": [{"reverse_channels": True}, {"subtract": [103.939, 1.0]}]},
            "caffe: BGR(x) − (103.939, 1)",
        ),
        ({"name": "none", "steps": []}, "none: clients send float32 model input"),
        ({"name": "mine:scale", "callable": "mine:scale"}, "mine:scale, a function of your own"),
    ],
)
def test_preprocessing_reads_as_a_formula(manifest, words):
    steps = msgspec.convert({"image_dtype": "uint8", **manifest}, PreprocessingSteps)
    assert preprocessing_in_words(steps) == words


def test_activations_name_what_has_no_rule():
    relu6 = ActivationCount("relu6", 35, "passes 0 < x < 6")
    found = Activations((relu6,), (("Minimum", "net/hard_tanh/Minimum"),))
    assert activations_in_words(found) == [
        "35 × relu6, guided: passes 0 < x < 6",
        "Minimum of net/hard_tanh/Minimum: no guided rule",
    ]
    assert activations_in_words(Activations((), ())) == ["none that rectifies"]


@pytest.mark.parametrize(
    ("score", "note"),
    [
        (Score("x:0", "softmax", False), None),
        (Score("x:0", "sigmoid", False), None),
        (Score("x:0", "output", False), None),
        (Score("x:0", "softmax", True), "taken for logits, and probabilities are their softmax"),
        (Score("x:0", "output", False, is_probability=True), "as it is, as with --score output"),
        (Score("x:0", "sigmoid", False, both_of_one=True), "class 0 the negative logit and 1 - p"),
        (Score("x:0", "output", False, both_of_one=True), "class 1 has p, class 0 has 1 - p"),
    ],
)
def test_what_the_score_is_is_said_where_it_is_not_plain(score, note):
    notes = score_notes(score)
    assert len(notes) == (note is not None)
    assert note is None or note in notes[0]
