"""Photos in, Parquet out, with Ray Data: each photo's class, score and map, from a model that is served.

    python tests/examples/ray_photos.py photos maps --server localhost:8500 --model efficientnet-lite0

It needs the extra `bulk-ray`, and no TensorFlow. PHOTOS and OUTPUT may be anywhere that Ray Data reads and
writes; OUTPUT must not exist. `--server host:1 --server host:2` are two replicas. On a cluster, set
RAY_ADDRESS; the client has to be installed on its nodes.
"""

from __future__ import annotations

import argparse
import os

import ray

from saliency_client.bulk import ExplainBatch
from saliency_client.bulk.ray import explain_dataset

OBJECT_STORE_BYTES = 300 * 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", help="folder of photos")
    parser.add_argument("output", help="folder of the Parquet files")
    parser.add_argument("--server", action="append", required=True, help="host:port; repeatable")
    parser.add_argument("--model", required=True, help="its name on the server")
    parser.add_argument("--method", default="gradients", help="[gradients]")
    parser.add_argument("--actors", type=int, nargs=2, default=(1, 4), help="fewest and most [1 4]")
    parser.add_argument("--cpus", type=int, help="cores that Ray takes [all]")
    parser.add_argument("--batch", type=int, default=64, help="photos that an actor takes at once [64]")
    options = parser.parse_args()

    step = ExplainBatch(tuple(options.server), options.model, method=options.method, image_column="bytes")
    if "RAY_ADDRESS" in os.environ:
        ray.init()
    else:
        ray.init(num_cpus=options.cpus, include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES)
    try:
        photos = ray.data.read_binary_files(options.photos, include_paths=True)
        # Actors wait for their server most of the time: two share a core.
        rows = explain_dataset(
            photos, step, concurrency=tuple(options.actors), batch_size=options.batch, num_cpus=0.5
        )
        # Beside the files of an earlier run, rows would be there twice.
        rows.write_parquet(options.output, mode="error")
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
