"""One real round on the installed TensorFlow; tensorflow_matrix.py runs it everywhere.

    python tests/matrix/check_tensorflow.py MODEL_DIR [VERSION_DIR…]

Saves a small Keras model, exports it to MODEL_DIR by the command line, serves it by the local server, and
asks it by saliency-client, in a shell and in Python. What it answers is held against a gradient tape over the
original model. Then verifies the VERSION_DIRs, exports that other versions of TensorFlow made. Prints the
packages' versions and, of each VERSION_DIR, whether its answers are within tolerance, as JSON; ends with 1
where its own round fails.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from server_process import ServerProcess

SECONDS = 300
PACKAGES = ("tensorflow", "tensorflow-serving-api", "keras", "protobuf", "grpcio", "numpy")
RELATIVE_TOLERANCE = 1e-4
"""Of a map's norm: float32 rounding of a dozen layers, and far below a wrong class, seed or preprocessing."""


def run(*command: str | Path) -> str:
    """The stdout of a command; raises with its stderr where it fails."""
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=SECONDS, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{Path(command[0]).name} {command[1]}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def beside(name: str) -> Path:
    """A command of this environment."""
    return Path(sys.executable).with_name(name)


def photo() -> np.ndarray:
    """One uint8 RGB image of the model's size."""
    return np.random.default_rng(16).integers(0, 256, (32, 32, 3), np.uint8)


def original(model_file: Path, image: np.ndarray) -> tuple[np.ndarray, int, np.ndarray]:
    """(logits, class, gradients) of the Keras model itself, without anything of the exporter."""
    import keras
    import tensorflow as tf

    model = keras.models.load_model(model_file, compile=False)
    x = tf.constant(image[None].astype(np.float32) / 127.5 - 1)
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits = x
        # All layers but the softmax at the end.
        for layer in model.layers[:-1]:
            logits = layer(logits, training=False)
        class_index = int(np.argmax(logits[0]))
        score = logits[0, class_index]
    return logits.numpy(), class_index, tape.gradient(score, x).numpy()


def close(got: np.ndarray, want: np.ndarray, what: str) -> None:
    """Refuse a difference beyond rounding."""
    error = float(np.linalg.norm(got - want) / np.linalg.norm(want))
    if not error < RELATIVE_TOLERANCE:
        raise RuntimeError(f"{what}: relative error {error:.2g}")


def check_round(model_dir: Path, folder: Path) -> None:
    """Export, serve, explain, predict."""
    from models import classifier

    from saliency_client import SaliencyClient

    model_file, picture, labels = (folder / name for name in ("small.keras", "photo.png", "labels.txt"))
    classifier().save(model_file)
    Image.fromarray(photo()).save(picture)
    labels.write_text("ant\nbee\ncat\ndog\neel\n")
    options = ("--preprocessing", "tf", "--target", "cpu", "--batch-sizes", "1,2", "--labels", labels)
    run(beside("saliency-exporter"), "export", model_file, model_dir, "--name", "small", *options)
    logits, class_index, gradients = original(model_file, photo())
    server = ServerProcess(f"small={model_dir}")
    try:
        target = server.target
        asked = ("--server", target, "--model", "small")
        run(beside("saliency-client"), "status", *asked, "--wait", "60")
        run(
            beside("saliency-client"),
            "explain",
            picture,
            *asked,
            "--method",
            "smooth",
            "-o",
            folder / "map.png",
        )
        predicted = run(beside("saliency-client"), "predict", picture, *asked, "--json")
        with SaliencyClient(target, model="small", timeout=60) as client:
            explanation = client.explain(photo()[None], method="gradients", outputs="all")
            answer = client.predict(photo()[None])
            smooth = client.explain(photo()[None], method="smooth", num_samples=20, noise_level=0.1)
    finally:
        server.stop()
    close(explanation.gradients, gradients, "explain_gradients")
    close(answer["logits"], logits, "serving_default")
    name = labels.read_text().split()[class_index]
    assert int(explanation.class_index[0]) == class_index
    assert explanation.label[0] == name
    assert name in predicted
    assert np.isfinite(smooth.saliency).all()
    assert (folder / "map.png").stat().st_size > 0


def check_other(version_dir: Path) -> bool:
    """Whether an export loads here and its answers are those of the model that it was made of."""
    command = [str(beside("saliency-exporter")), "verify", str(version_dir)]
    return subprocess.run(command, capture_output=True, timeout=SECONDS, check=False).returncode == 0


def main() -> int:
    model_dir, *others = map(Path, sys.argv[1:])
    result: dict[str, object] = {"versions": {name: version(name) for name in PACKAGES}}
    with tempfile.TemporaryDirectory() as folder:
        try:
            check_round(model_dir, Path(folder))
        except (AssertionError, RuntimeError, OSError, subprocess.TimeoutExpired) as error:
            result["problem"] = f"{type(error).__name__}: {error}"
    result["others"] = {str(other): check_other(other) for other in others}
    print(json.dumps(result))
    return 1 if "problem" in result else 0


if __name__ == "__main__":
    sys.exit(main())
