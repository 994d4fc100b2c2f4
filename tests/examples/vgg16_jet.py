"""The gradient of VGG16 as one map: the largest channel, min-max scaled, in jet over the photo.

From the page "Saliency Maps in Tensorflow 2.0". Its steps, and where they are here:

- `np.max(abs(grads), axis=3)`: the output `saliency`.
- `(x - min) / (max - min)`: `normalized(clip=100)`. The default clips at the 99th percentile, since one
  bright pixel makes a min-max picture dark.
- `cmap="jet", alpha=0.8`: `colormap="jet"`, `opacity=0.8`. jet is not perceptual: it draws edges where the
  map has none. The last picture has the client's default colours.
- `pred[0][class]` is the softmax's output there, whose gradient vanishes for a sure prediction and mixes in
  the other classes; here it is the logit. `--score output` on export explains the output itself.
- the page feeds pixels 0..255 as they are, VGG16 wants its `preprocess_input` (BGR minus the means): it is
  inside the exported model.
- below them, beyond the page: Grad-CAM and integrated gradients of the same photo.

python tests/examples/vgg16_jet.py [OUTPUT] [--offline] [--quick]
"""

from __future__ import annotations

import numpy as np
from example_support import arguments, cams_and_paths, export, photos, serve, stack

from saliency_client import SaliencyClient, render
from saliency_client.images import load_image

METHODS = "gradients,integrated_gradients,grad_cam"


def main() -> None:
    """Export, serve, ask, draw."""
    options = arguments("vgg16_jet", __doc__.splitlines()[0])
    models = export("VGG16", options, "--methods", METHODS, "--batch-sizes", "1")
    with serve(models, options) as target:
        for served in models:
            with SaliencyClient(target, model=served.name, timeout=600.0) as client:
                height, width = client.signatures()["explain_gradients"].inputs["images"].shape[1:3]
                for file in photos(options):
                    photo = load_image(file, size=(height, width))
                    explanation = client.explain(photo.array, method="gradients", outputs="gradients")
                    largest = np.abs(explanation.gradients).max(axis=3)
                    np.testing.assert_allclose(explanation.saliency, largest, atol=1e-5 * largest.max())
                    scaled = explanation.normalized(clip=100)
                    assert scaled.min() == 0
                    assert scaled.max() == 1
                    jet = explanation.overlay(photo, colormap="jet", opacity=0.8, clip=100)
                    heat = render.heatmap(
                        photo.picture, explanation.saliency[0], photo.box, colormap="jet", clip=100
                    )
                    more = cams_and_paths(client, photo, f"{file.stem}, {served.title}")
                    print(f"{served.title}: {file.stem} is class {explanation.class_index[0]}")
                    stack(
                        [jet, heat, explanation.overlay(photo), more],
                        options.output / f"{served.name}-{file.stem}.png",
                    )


if __name__ == "__main__":
    main()
