"""Where the class scores are among a model's outputs: by name, by position, or the mean over positions."""

from __future__ import annotations

import collections
import re
import shlex

import keras
import numpy as np
import pytest
import tensorflow as tf

from saliency_exporter.errors import ExportError
from saliency_exporter.sources.class_scores import choose_scores, named_outputs
from saliency_exporter.sources.load import load_source
from saliency_exporter.sources.python_object import load_reference

layers = keras.layers
RNG = np.random.default_rng(0)
# What models gave for one example.
FRAMES = tf.constant(RNG.normal(size=(1, 6, 4)), tf.float32)
PIXELS = tf.constant(RNG.normal(size=(1, 3, 5, 4)), tf.float32)
ONE = tf.constant(RNG.normal(size=(1, 1, 1, 4)), tf.float32)


@pytest.mark.parametrize(
    ("output", "wanted", "expected"),
    [
        (FRAMES, "frames[2]", FRAMES[:, 2]),
        (FRAMES, "frames[-1]", FRAMES[:, 5]),
        (FRAMES, "[0]", FRAMES[:, 0]),
        (FRAMES, "frames[mean]", tf.reduce_mean(FRAMES, 1)),
        (PIXELS, "frames[2,4]", PIXELS[:, 2, 4]),
        (PIXELS, "frames[-3, -1]", PIXELS[:, 0, 4]),
        (PIXELS, "frames[mean]", tf.reduce_mean(PIXELS, [1, 2])),
        (ONE, None, ONE[:, 0, 0]),
        (ONE, "frames", ONE[:, 0, 0]),
        (ONE, "frames[0,0]", ONE[:, 0, 0]),
        (FRAMES[:, 0], None, FRAMES[:, 0]),
        (FRAMES[:, 0, 0], None, FRAMES[:, 0, :1]),
    ],
)
def test_scores_are_one_position_or_the_mean(output, wanted, expected):
    outputs = {"frames": output}
    np.testing.assert_array_equal(choose_scores("net", outputs, wanted).of(outputs), expected)


def test_the_fields_of_a_named_tuple_are_names():
    kind = collections.namedtuple("Answer", ["logits", "features"])
    outputs = named_outputs(kind(FRAMES[:, 0], FRAMES[:, 1]))
    assert choose_scores("net", outputs, "logits").of(outputs) is outputs["logits"]
    with pytest.raises(ExportError, match="several outputs: logits, features"):
        choose_scores("net", outputs, None)


def test_a_name_with_brackets_is_a_name_first():
    outputs = {"a[0]": FRAMES[:, 0], "a": FRAMES}
    assert choose_scores("net", outputs, "a[0]").name == "a[0]"
    assert choose_scores("net", outputs, "a[1]").position == (1,)


REFUSED = [
    (FRAMES, None, r"net returns float32 \[B, 6, 4\]; class scores are .* several positions"),
    (FRAMES, "frames", r"several positions"),
    (FRAMES, "frames[6]", r"index 6 of --output frames\[6\] is not from -6 to 5"),
    (FRAMES, "frames[-7]", r"index -7 .* is not from -6 to 5"),
    (FRAMES, "frames[0,0]", "a position of it is one index, or mean, and not '0,0'"),
    (FRAMES, "frames[max]", "a position of it is one index, or mean, and not 'max'"),
    (FRAMES, "frames[]", "a position of it is one index, or mean, and not ''"),
    (PIXELS, None, r"float32 \[B, 3, 5, 4\]; class scores"),
    (PIXELS, "frames[1]", "2 indices with commas between, or mean, and not '1'"),
    (PIXELS, "frames[0,5]", "index 5 .* is not from -5 to 4"),
]


@pytest.mark.parametrize(("output", "wanted", "message"), REFUSED)
def test_what_is_no_position_is_refused_with_those_that_there_are(output, wanted, message):
    outputs = {"frames": output}
    with pytest.raises(ExportError, match=message) as error:
        choose_scores("net", outputs, wanted)
    # What the hint says to type, as a shell reads it, works.
    offered = re.findall(r"'[^']*'", error.value.hint)
    assert len(offered) == 3
    for quoted in offered:
        (typed,) = shlex.split(quoted)
        assert choose_scores("net", outputs, typed).of(outputs).shape == (1, 4)


@pytest.mark.parametrize(
    ("outputs", "wanted", "message", "hint"),
    [
        ({"a": ONE[:, 0, 0]}, "a[0]", r"float32 \[B, 4\], which has no positions", "give --output a"),
        ({"a": ONE[:, 0, 0]}, "b[0]", "has no output 'b'", "it has a, float32 [B, 4]"),
        (
            {"a": FRAMES, "b": tf.constant(["x"])},
            None,
            r"returns a, float32 \[B, 6, 4\]; b, string \[B\]; a classifier",
            "--output 'a[0]' to 'a[5]'",
        ),
        ({"a": tf.constant([["x"]])}, None, r"returns string \[B, 1\]; a classifier", "classification head"),
        ({"a": "cat"}, "a", "returns a str; a classifier", "classification head"),
        # tf.squeeze without an axis; positions that were merged with the batch.
        ({"a": ONE[0, 0, 0]}, None, r"returns float32 \[4\] for one example; a", "keep the batch"),
        ({"a": FRAMES[0]}, None, r"returns float32 \[6, 4\] for one example; a", "keep the batch"),
        ({}, None, "returns nothing; a classifier", "classification head"),
        (
            {"a": FRAMES[:, 0], "b": FRAMES[:, 1]},
            None,
            "several outputs: a, b",
            "a, float32 [B, 4]; b, float32",
        ),
    ],
)
def test_what_holds_no_scores_is_refused_with_the_shapes(outputs, wanted, message, hint):
    with pytest.raises(ExportError, match=message) as error:
        choose_scores("net", outputs, wanted)
    assert hint in error.value.hint


def test_one_number_for_each_example_is_no_candidate_beside_class_scores():
    outputs = named_outputs({"scores": FRAMES[:, 0], "count": FRAMES[:, 0, 0]})
    assert choose_scores("net", outputs, None).name == "scores"
    assert choose_scores("net", outputs, "count").of(outputs).shape == (1, 1)


MODEL = """
import keras
import tensorflow as tf

keras.utils.set_random_seed(0)
x = keras.Input((None, 8, 3), name="pixels")
y = keras.layers.Conv2D(5, 3, name="conv")(x)
model = keras.Model(x, {"maps": keras.layers.Softmax(name="maps")(y), "other": y[:, 0]})

@tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3])])
def function(x):
    return model(x)
"""


@pytest.mark.parametrize("kind", ["keras", "callable", "saved model"])
def test_every_source_gives_a_position_of_its_model(module, tmp_path, images, specification, kind):
    name = module(MODEL)
    original = load_reference(f"{name}:model")
    given = {"keras": f"{name}:model", "callable": f"{name}:function", "saved model": str(tmp_path / "net")}[
        kind
    ]
    if kind == "saved model":
        tf.saved_model.save(original, given, load_reference(f"{name}:function"))
    size = {"image_size": (8, 8)} if kind == "keras" else {}
    with pytest.raises(ExportError, match=r"index 6 .* is not from -6 to 5"):
        load_source(given, output_name="maps[6,0]", **size)
    maps = original(images)["maps"].numpy()
    for position, expected in (("1,-1", maps[:, 1, 5]), ("mean", maps.mean((1, 2)))):
        source = load_source(given, output_name=f"maps[{position}]", **size)
        np.testing.assert_allclose(source.call(tf.constant(images)), expected, rtol=1e-5)
        assert f"output maps[{position}]" in source.origin
        traced = tf.function(source.call, autograph=False).get_concrete_function(specification(source))
        assert traced.structured_outputs.shape.as_list() == [None, 5]
