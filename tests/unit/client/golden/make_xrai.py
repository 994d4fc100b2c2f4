"""Makes xrai.npz, which test_regions.py compares with: XRAI as PAIR's package `saliency` computes it.

It was run with saliency 0.2.1, scikit-image 0.26.0 and numpy 2.4.6: `python
tests/unit/client/golden/make_xrai.py`. The photo is scikit-image's `chelsea`, its middle at 64 x 64 pixels.
The attributions are random, with one hot spot, and zero in a corner, so that some regions have equal means.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image
from saliency.core import xrai

SIZE = 64


def main() -> None:
    photo = Image.fromarray(skimage.data.chelsea()).crop((75, 0, 375, 300)).resize((SIZE, SIZE))
    image = np.asarray(photo)
    rows, columns = np.indices((SIZE, SIZE))
    near = np.exp(-((rows - 20) ** 2 + (columns - 36) ** 2) / 200)[..., None]
    noise = np.random.default_rng(7).normal(size=(SIZE, SIZE, 3))
    attributions = (noise * 0.2 + near).astype(np.float32)
    attributions[48:, :24] = 0
    segments = np.stack(xrai._get_segments_felzenszwalb(image))
    wanted = xrai.XRAIParameters()
    wanted.return_xrai_segments = True
    found = xrai.XRAI().GetMaskWithDetails(
        image, None, base_attribution=attributions, segments=list(segments), extra_parameters=wanted
    )
    np.savez_compressed(
        Path(__file__).parent / "xrai.npz",
        image=image,
        attributions=attributions,
        segments=np.packbits(segments),
        saliency=found.attribution_mask,
        ranks=found.segments.astype(np.int32),
    )


if __name__ == "__main__":
    main()
