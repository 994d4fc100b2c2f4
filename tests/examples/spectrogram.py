"""A spectrogram: which frequencies at which time a Conv2D network hears a chirp by.

Sounds of half a second with noise, in which a tone rises, falls, or stays. Their spectrograms, 48 frames × 64
bands, are made before the model, which is trained here in a few seconds and saved as a `.keras` file; the
place of the tone is known, so that the map can be judged. Clients send float32 [B, 48, 64, 1], and `saliency`
is [B, 48, 64]. A network that itself begins with the waveform (tf.signal.stft) is exported the same way, and
its map is one of the samples.

python tests/examples/spectrogram.py [OUTPUT] [--compile none]
"""

from __future__ import annotations

import keras
import numpy as np
from example_support import arguments, export_file, serve, share, stack
from keras import layers
from PIL import Image

from saliency_client import SaliencyClient, render

RATE, WINDOW, HOP = 8000, 128, 80
FRAMES, BANDS = 48, 64
CLASSES = ("rising", "falling", "steady")


def sounds(number: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spectrograms, their classes, and where each tone is.

    They are float32 [number, FRAMES, BANDS, 1], int [number], and bool [number, FRAMES, BANDS]. A spectrogram
    is the logarithm of the power in each band of 62.5 Hz, every 10 ms.
    """
    rng = np.random.default_rng(seed)
    classes = np.arange(number) % len(CLASSES)
    times = (HOP * np.arange(FRAMES)[:, None] + np.arange(WINDOW)) / RATE
    spectrograms, places = [], []
    for kind in classes:
        begin, low = rng.uniform(0.05, 0.2), rng.uniform(800, 1800)
        seconds, span = 0.2, (1200.0, -1200.0, 0.0)[kind]
        start = low + (1200 if kind == 1 else 0)
        passed = times - begin
        inside = (passed >= 0) & (passed <= seconds)
        # The phase is the integral of the frequency start + span · t / seconds.
        tone = np.sin(2 * np.pi * (start * passed + span * passed**2 / (2 * seconds))) * inside
        waves = tone + rng.normal(0, 0.3, times.shape)
        power = np.abs(np.fft.rfft(waves * np.hanning(WINDOW)))[:, :BANDS] ** 2
        spectrograms.append(np.log(power + 1e-3))
        middle = passed.mean(1)
        band = (start + span * middle / seconds) * WINDOW / RATE
        near = np.abs(np.arange(BANDS) - band[:, None]) <= 3
        places.append(near & ((middle >= 0) & (middle <= seconds))[:, None])
    return np.array(spectrograms, np.float32)[..., None], classes, np.array(places)


def trained() -> keras.Model:
    """Two convolutions and a dense layer, trained on 600 sounds."""
    keras.utils.set_random_seed(0)
    x, classes, _ = sounds(600, seed=0)
    normalization = layers.Normalization(axis=None)
    normalization.adapt(x)
    model = keras.Sequential(
        [
            keras.Input((FRAMES, BANDS, 1)),
            normalization,
            layers.Conv2D(8, 5, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(16, 5, activation="relu"),
            layers.GlobalMaxPooling2D(),
            layers.Dense(len(CLASSES), activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.005), "sparse_categorical_crossentropy")
    model.fit(x, classes, batch_size=32, epochs=6, verbose=0)
    return model


def upright(values: np.ndarray) -> np.ndarray:
    """[FRAMES, BANDS, …] with time from left to right and low frequencies below."""
    return np.swapaxes(values, 0, 1)[::-1]


def main() -> None:
    """Train, export, serve, ask, draw."""
    options = arguments("spectrogram", __doc__.splitlines()[0], photos=False)
    file = options.output / "spectrogram.keras"
    trained().save(file)
    labels = options.output / "labels.txt"
    labels.write_text("\n".join(CLASSES))
    more = ("--preprocessing", "none", "--labels", str(labels), "--methods", "gradients,guided")
    served = export_file(file, options, *more, "--batch-sizes", "1,3")
    x, _, places = sounds(3, seed=1)
    with serve([served], options) as target, SaliencyClient(target, model=served.name, timeout=600) as client:
        answers = {
            method: client.explain(x, method=method, outputs=["gradients", "saliency"])
            for method in ("gradients", "guided")
        }
    for one, place in enumerate(places):
        levels = x[one, :, :, 0]
        gray = np.uint8(255 * (levels - levels.min()) / np.ptp(levels))
        picture = Image.fromarray(upright(gray)).convert("RGB").resize((4 * FRAMES, 4 * BANDS))
        panels = []
        for method, answer in answers.items():
            title = f"{answer.label[one]}, {answer.probability[one]:.0%}"
            on_tone = share(answer.saliency[one], place)
            print(
                f"{method} of a sound that is {title}: the tone is {place.mean():.0%} of the spectrogram "
                f"and has {on_tone:.0%} of the map",
                flush=True,
            )
            panels.append(
                render.panel(
                    picture, upright(answer.gradients[one]), title=title, subtitle=f"spectrogram, {method}"
                )
            )
        stack(panels, options.output / f"spectrogram-{one}.png")


if __name__ == "__main__":
    main()
