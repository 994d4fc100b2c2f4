"""xplique's Deletion, Insertion and MuFidelity on a Keras model of logits: how long, and what they say.

    python fidelity.py MODEL.keras GIVEN.npz      a line of JSON on stdin, an answer on stdout

    {"method": 0, "images": 30} → {"seconds": 12.3, "forwards": 3720, "cpu": 20.1, "values": {…}}

GIVEN holds inputs [N, H, W, C] as the model takes them, maps [methods, N, H, W], classes [N], blurred
[N, H, W, C] which insertion begins with, black, the level that removed pixels get, and steps, runs and
subset_size.
"""

from __future__ import annotations

import json
import os
import sys
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import keras
import numpy as np
import tensorflow as tf
from xplique.metrics import Deletion, Insertion, MuFidelity


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    model = keras.saving.load_model(sys.argv[1], compile=False)
    given = dict(np.load(sys.argv[2]))
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(measured(model, given, **json.loads(line))), file=answers, flush=True)


def measured(model: keras.Model, given: dict[str, np.ndarray], method: int, images: int) -> dict[str, object]:
    inputs, maps = given["inputs"][:images], given["maps"][method][:images]
    targets = tf.one_hot(given["classes"][:images], model.output_shape[-1])
    height, width = inputs.shape[1:3]
    black, blurred = float(given["black"]), given["blurred"][:images]
    steps, runs = int(given["steps"]), int(given["runs"])
    begin, cpu = time.monotonic(), time.process_time()
    curves = {"steps": steps, "activation": "softmax"}
    found = {
        "deletion": Deletion(model, inputs, targets, baseline_mode=black, **curves).evaluate(maps),
        "insertion": Insertion(model, inputs, targets, baseline_mode=lambda _: blurred, **curves).evaluate(
            maps
        ),
    }
    # Pixel by pixel, as the paper has it; its grid of squares is for other subsets.
    fidelity = MuFidelity(
        model,
        inputs,
        targets,
        grid_size=None,
        subset_percent=int(given["subset_size"]) / (height * width),
        baseline_mode=black,
        nb_samples=runs,
    )
    found["mu_fidelity"] = fidelity.evaluate(maps)
    seconds = time.monotonic() - begin
    forwards = len(inputs) * (2 * (steps + 1) + runs + 1)
    return {
        "seconds": seconds,
        "cpu": time.process_time() - cpu,
        "forwards": forwards,
        "values": {name: float(value) for name, value in found.items()},
    }


if __name__ == "__main__":
    main()
