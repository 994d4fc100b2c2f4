"""Gradients and SmoothGrad of MobileNetV2: absolute, positive and negative views of a photo.

From the notebook "Saliency using Gradient Backpropagation". Its numbers, and where they are here:

- `REPETITIONS = 50`: num_samples=50, the default.
- `NOISE = .2`, used as `stddev=noise/2`: σ is 0.1 in units of the model input, which is −1..1. `noise_level`
  is σ as a fraction of the range of the photo's own input: 0.1 / 2 = 0.05 for a photo from black to white, a
  little more for any other. This page divides by each photo's range, so that σ is the notebook's 0.1.
- `tf.argmax(logits)`: class_index=-1, the default. `preprocess_input` is inside the exported model.
- `nn(inputs)` gives logits there: the score is the logit here as well.
- `reduce_sum(abs(g))`, `reduce_sum(relu(g))`, `reduce_sum(relu(-g))`: `absolute()`, `positive()`,
  `negative()` of an explanation, and the panel, whose three maps share a scale; there each has its own.
- below them, beyond the page: Grad-CAM and integrated gradients of the same photo.

python tests/examples/mobilenet_v2_smoothgrad.py [OUTPUT] [--offline] [--quick] [--samples N]
"""

from __future__ import annotations

from example_support import (
    arguments,
    cams_and_paths,
    class_of,
    export,
    model_input_range,
    photos,
    serve,
    stack,
)

from saliency_client import SaliencyClient, render
from saliency_client.images import load_image

NOISE = 0.2
METHODS = "gradients,smooth,integrated_gradients,grad_cam"


def main() -> None:
    """Export, serve, ask, draw."""
    options = arguments("mobilenet_v2_smoothgrad", __doc__.splitlines()[0], samples=50)
    models = export("MobileNetV2", options, "--methods", METHODS, "--batch-sizes", "1")
    with serve(models, options) as target:
        for served in models:
            preprocessing = "lite" if served.model == "efficientnet-lite0" else "tf"
            with SaliencyClient(target, model=served.name, timeout=600.0) as client:
                height, width = client.signatures()["explain_smooth"].inputs["images"].shape[1:3]
                for file in photos(options):
                    photo = load_image(file, size=(height, width))
                    sigma = NOISE / 2
                    level = sigma / model_input_range(photo.array[None], preprocessing)
                    plain = client.explain(photo.array, method="gradients", outputs="gradients")
                    smooth = client.explain(
                        photo.array,
                        method="smooth",
                        num_samples=options.samples,
                        noise_level=level,
                        outputs="gradients",
                    )
                    found = f"{file.stem}: {class_of(smooth)}"
                    how = (
                        f"SmoothGrad, {options.samples} samples, sigma {sigma} (noise_level {level[0]:.3f}), "
                        f"relative error {smooth.relative_error[0]:.2f}"
                    )
                    panels = [
                        render.panel(
                            photo.picture,
                            explanation.gradients[0],
                            photo.box,
                            title=f"{found}, p = {explanation.probability[0]:.2f}",
                            subtitle=f"{text}, {served.title}",
                        )
                        for explanation, text in ((plain, "gradients"), (smooth, how))
                    ]
                    panels.append(cams_and_paths(client, photo, f"{file.stem}, {served.title}"))
                    stack(panels, options.output / f"{served.name}-{file.stem}.png")


if __name__ == "__main__":
    main()
