"""How many bytes the maps of real photos take in each format, alone and behind Parquet's compression.

saliency-exporter serve lite0=models/lite0 --port 8500
python tests/benchmarks/stored_maps.py --server localhost:8500 --model lite0 --method gradients --crops 32
"""

from __future__ import annotations

import argparse
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import skimage.data
from PIL import Image

from saliency_client import SaliencyClient
from saliency_client.bulk import store_map

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "retina", "hubble_deep_field", "immunohistochemistry")
SIDE, BATCH = 224, 8


def crops(count: int) -> np.ndarray:
    """[count, 224, 224, 3] uint8: squares of scikit-image's photos, the same in every run."""
    draw = np.random.default_rng(0)
    found = []
    for number in range(count):
        photo = Image.fromarray(getattr(skimage.data, PHOTOS[number % len(PHOTOS)])()[..., :3])
        side = int(min(photo.size) * draw.uniform(0.55, 1))
        left, top = (int(draw.integers(0, size - side + 1)) for size in photo.size)
        square = photo.crop((left, top, left + side, top + side))
        found.append(np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BICUBIC)))
    return np.stack(found)


def in_parquet(contents: list[bytes], compression: str) -> float:
    """Bytes of a row."""
    file = io.BytesIO()
    pq.write_table(pa.table({"map": contents}), file, compression=compression, use_dictionary=False)
    return file.tell() / len(contents)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--method", default="gradients")
    parser.add_argument("--crops", type=int, default=32)
    given = parser.parse_args()
    images = crops(given.crops)
    with SaliencyClient(given.server, model=given.model, timeout=600) as client:
        maps = [
            one
            for start in range(0, len(images), BATCH)
            for one in np.asarray(
                client.explain(images[start : start + BATCH], method=given.method)["saliency"], np.float32
            )
        ]
    print("| format | bytes of a map | in Parquet | with zstd |\n|---|---|---|---|")
    for map_format in ("float16", "uint8", "png"):
        stored = [store_map(one, map_format)[0] for one in maps]
        cells = (
            np.mean([len(one) for one in stored]),
            in_parquet(stored, "none"),
            in_parquet(stored, "zstd"),
        )
        print(f"| {map_format} | " + " | ".join(f"{cell:,.0f}" for cell in cells) + " |")


if __name__ == "__main__":
    main()
