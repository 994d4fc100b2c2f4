"""Guided backpropagation of a ReLU, a ReLU(max_value) and a swish model.

From the notebook "ConvNet", which writes `guided_relu` and `guided_swish` and puts them into layers and into
`layer.activation`. Here every rectifier of the exported model has its rule, wherever it comes from, and
`saliency-exporter inspect` counts them; nothing of the model is changed. Its rules, and where they are here:

- ReLU: `dy * (dy > 0 & x > 0)`.
- ReLU(max_value): `x > 0 & x < max_value`, where the notebook has `x <= max_value`: at the bound
  itself the layer is flat to the one side, and nothing passes.
- swish: `(dy > 0 & x > 0) * (s + x s (1 - s))`, s = sigmoid(x).
- absolute, positive and negative gradients and "original * abs(gradients)" are the panel's pictures.
- below them, beyond the page: Grad-CAM and integrated gradients of the same photo.

Guided maps hardly depend on the upper layers or on the class: they show edges, and are no evidence.

python tests/examples/guided_backprop.py [OUTPUT] [--offline] [--quick]
"""

from __future__ import annotations

from example_support import arguments, cams_and_paths, class_of, export, inspect, photos, serve, stack

from saliency_client import SaliencyClient, render
from saliency_client.images import load_image

METHODS = "gradients,guided,integrated_gradients,grad_cam"
MODELS = {"ResNet50": "relu", "MobileNetV2": "relu6", "EfficientNetB0": "swish"}


def main() -> None:
    """Export, serve, ask, draw."""
    options = arguments("guided_backprop", __doc__.splitlines()[0])
    models = []
    for model, kind in MODELS.items():
        # The stand-in with trained weights is a ReLU6 network.
        exported = export(
            model,
            options,
            *("--methods", METHODS, "--batch-sizes", "1"),
            stand_in=kind == "relu6",
        )
        for served in exported:
            (line,) = [text for text in inspect(served, options).splitlines() if f"× {kind}," in text]
            print(f"{served.model}: {line.removeprefix('activations').strip()}")
        models += exported
    with serve(models, options) as target:
        for served in models:
            with SaliencyClient(target, model=served.name, timeout=600.0) as client:
                height, width = client.signatures()["explain_guided"].inputs["images"].shape[1:3]
                for file in photos(options):
                    photo = load_image(file, size=(height, width))
                    panels = []
                    for method in ("gradients", "guided"):
                        explanation = client.explain(photo.array, method=method, outputs="gradients")
                        panels.append(
                            render.panel(
                                photo.picture,
                                explanation.gradients[0],
                                photo.box,
                                title=f"{file.stem}: {class_of(explanation)}",
                                subtitle=f"{method}, {served.title}",
                            )
                        )
                    panels.append(cams_and_paths(client, photo, f"{file.stem}, {served.title}"))
                    stack(panels, options.output / f"{served.name}-{file.stem}.png")


if __name__ == "__main__":
    main()
