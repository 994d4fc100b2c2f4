"""A series: which stretch of a measurement, and which of its two channels, a convolutional network looks at.

The model says whether there is a short burst in a noisy measurement of two channels, and in which. It is
trained here, in a few seconds, and saved as a `.keras` file; the places of the bursts are known, so that the
map can be judged. Clients send float32 [B, 96, 2], and `saliency` is [B, 96], one value for each step.

The gradient says where a change would matter; gradient times series says what the values that are there did.
Both are on the burst here, because each feature of this network sees 13 steps and the largest one counts. A
recurrent network is exported the same way, but its map need not be there: MaxPooling1D(4) and GRU(16) in the
place of the second convolution and the pooling are right about 60 of 60 series as well, and on average only
41 % of their gradient is on the burst. Once the GRU has seen a burst, more of it hardly changes the score.

python tests/examples/series.py [OUTPUT] [--compile none]
"""

from __future__ import annotations

import keras
import numpy as np
from example_support import arguments, export_file, serve, share
from keras import layers
from PIL import Image, ImageDraw

from saliency_client import SaliencyClient, render

STEPS, BURST = 96, 12
CLASSES = ("no burst", "a burst in the first channel", "a burst in the second channel")


def measurements(number: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noisy series float32 [number, STEPS, 2], their classes, and the step at which each burst begins."""
    rng = np.random.default_rng(seed)
    series = rng.normal(0, 0.3, (number, STEPS, 2)).astype(np.float32)
    classes = np.arange(number) % len(CLASSES)
    begins = rng.integers(8, STEPS - BURST - 8, number)
    burst = np.sin(np.arange(BURST) * np.pi / 3) * np.hanning(BURST) * 3
    for one in range(number):
        if classes[one] > 0:
            series[one, begins[one] : begins[one] + BURST, classes[one] - 1] += burst
    return series, classes, begins


def trained() -> keras.Model:
    """Two convolutions over time and the largest value of each feature, trained on 600 series."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((STEPS, 2)),
            layers.Conv1D(12, 7, padding="same", activation="relu"),
            layers.Conv1D(12, 7, padding="same", activation="relu"),
            layers.GlobalMaxPooling1D(),
            layers.Dense(len(CLASSES), activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    series, classes, _ = measurements(600, seed=0)
    model.fit(series, classes, batch_size=32, epochs=8, verbose=0)
    return model


def drawn(series: np.ndarray, scale: int = 6, height: int = 120) -> Image.Image:
    """Both channels as lines, one below the other."""
    picture = Image.new("RGB", (len(series) * scale, 2 * height), "white")
    for channel in range(2):
        middle = height * (channel + 0.5)
        line = [(scale * (step + 0.5), middle - 18 * v) for step, v in enumerate(series[:, channel])]
        ImageDraw.Draw(picture).line(line, fill="black", width=2)
    return picture


def main() -> None:
    """Train, export, serve, ask, draw."""
    options = arguments("series", __doc__.splitlines()[0], photos=False)
    file = options.output / "series.keras"
    trained().save(file)
    labels = options.output / "labels.txt"
    labels.write_text("\n".join(CLASSES))
    more = ("--preprocessing", "none", "--labels", str(labels), "--methods", "gradients")
    served = export_file(file, options, *more, "--batch-sizes", "1,4")
    series, classes, begins = measurements(12, seed=1)
    with serve([served], options) as target, SaliencyClient(target, model=served.name, timeout=600) as client:
        answer = client.explain(series, method="gradients", outputs="gradients")
    for one, begin in enumerate(begins):
        print(f"series {one}: {answer.label[one]}, {answer.probability[one]:.0%}", flush=True)
        if classes[one] == 0:
            continue
        # [2, STEPS], as it is drawn: one row for each channel.
        gradient = np.abs(answer.gradients[one]).T
        for what, values in (
            ("gradient", gradient),
            ("gradient times series", gradient * np.abs(series[one].T)),
        ):
            in_burst = share(values.max(0), slice(begin, begin + BURST))
            in_channel = share(values, int(classes[one]) - 1)
            print(
                f"  the burst is {BURST / STEPS:.0%} of the steps and has {in_burst:.0%} of the {what}; "
                f"its channel has {in_channel:.0%}",
                flush=True,
            )
        render.overlay(drawn(series[one]), gradient).save(options.output / f"series-{one}.png")


if __name__ == "__main__":
    main()
