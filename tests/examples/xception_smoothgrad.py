"""SmoothGrad of Xception for the most likely class, a batch of 32, beside the plain gradient.

From keras-explainable's page "Smooth-Grad". Its numbers, and where they are here:

- `repetitions=20`: num_samples=20.
- `noise=0.1`: σ in units of the model input, images / 127.5 − 1, so −1..1. `noise_level` is σ as a fraction
  of the range of each image's own input: 0.1 / 2 = 0.05 for an image from black to white. This page divides
  by the range of each image and sends 32 levels.
- `explaining_units = indices[:, :1]`: class_index=-1, the default: each image's most likely class.
- `model.layers[-1].activation = 'linear'`, `classifier_activation=None`: nothing to do, the score is the
  logit.
- `batch_size=32`: `--batch-sizes 32`, and 32 images in one call.
- `absolute_normalize`: the sum over channels of the absolute gradient, `absolute()`, scaled to [0, 1] by its
  largest value: `clip=100`.
- below them, beyond the page: Grad-CAM and integrated gradients of the same photo.

python tests/examples/xception_smoothgrad.py [OUTPUT] [--offline] [--quick] [--samples N]
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from example_support import arguments, cams_and_paths, export, model_input_range, photos, serve, stack
from PIL import Image

from saliency_client import SaliencyClient, render
from saliency_client.images import load_image

BATCH = 32
NOISE = 0.1
METHODS = "gradients,smooth,integrated_gradients,grad_cam"
_SHOWN = 4


def views(files: list[Path], size: tuple[int, int]) -> np.ndarray:
    """32 square cuts of the photos, each from another place, uint8 [32, H, W, 3]."""
    rng = np.random.default_rng(0)
    images = []
    for index in range(BATCH):
        picture = Image.open(files[index % len(files)]).convert("RGB")
        side = int(min(picture.size) * rng.uniform(0.7, 1.0))
        left, top = (int(rng.integers(0, n - side + 1)) for n in picture.size)
        cut = picture.crop((left, top, left + side, top + side))
        images.append(np.asarray(cut.resize(size[::-1], Image.Resampling.BICUBIC)))
    return np.stack(images)


def main() -> None:
    """Export, serve, ask, draw."""
    options = arguments("xception_smoothgrad", __doc__.splitlines()[0], samples=20)
    models = export("Xception", options, "--methods", METHODS, "--batch-sizes", f"1,{BATCH}")
    with serve(models, options) as target:
        for served in models:
            preprocessing = "lite" if served.model == "efficientnet-lite0" else "tf"
            with SaliencyClient(target, model=served.name, timeout=3600.0) as client:
                height, width = client.signatures()["explain_smooth"].inputs["images"].shape[1:3]
                images = views(photos(options), (height, width))
                level = NOISE / model_input_range(images, preprocessing)
                plain = client.explain(images, method="gradients", outputs="gradients")
                smooth = client.explain(
                    images,
                    method="smooth",
                    num_samples=options.samples,
                    noise_level=level,
                    outputs="gradients",
                )
                photo = load_image(photos(options)[0], size=(height, width))
                more = cams_and_paths(client, photo, f"{photos(options)[0].stem}, {served.title}")
            assert np.array_equal(plain.class_index, smooth.class_index)
            rows = []
            for one, many, image in zip(plain, smooth, images[:_SHOWN], strict=False):
                picture = Image.fromarray(image)
                maps = [render.heatmap(picture, e.absolute()[0], clip=100) for e in (one, many)]
                rows.append(Image.fromarray(np.hstack([image, *map(np.asarray, maps)])))
            stack([*rows, more], options.output / f"{served.name}.png")
            print(
                f"{served.title}: photo, gradient, SmoothGrad of {options.samples} samples; relative error "
                f"of the {BATCH} maps {smooth.relative_error.min():.2f} to {smooth.relative_error.max():.2f}"
            )


if __name__ == "__main__":
    main()
