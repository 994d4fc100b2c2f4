"""Photos in, Parquet out, with Spark: each photo's class, score and map, from a model that is served.

    python tests/examples/spark_photos.py photos maps --server localhost:8500 --model efficientnet-lite0

It needs Java, pyspark, pandas, pyarrow and this package, and no TensorFlow. PHOTOS and OUTPUT may be anywhere
that Spark reads and writes; OUTPUT must not exist. `--server host:1 --server host:2` are two replicas. On a
cluster, `spark-submit` it; the client has to be installed where the executors find it.
"""

from __future__ import annotations

import argparse
import os
import sys

from pyspark.sql import SparkSession

from saliency_client.bulk import ExplainBatch
from saliency_client.bulk.spark import explain_dataframe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", help="folder of photos")
    parser.add_argument("output", help="folder of the Parquet files")
    parser.add_argument("--server", action="append", required=True, help="host:port; repeatable")
    parser.add_argument("--model", required=True, help="its name on the server")
    parser.add_argument("--method", default="gradients", help="[gradients]")
    parser.add_argument("--master", default="local[2,4]", help="[local[2,4]: 2 workers, 4 attempts]")
    parser.add_argument("--batch", type=int, default=64, help="photos that a worker takes at once [64]")
    options = parser.parse_args()

    step = ExplainBatch(tuple(options.server), options.model, method=options.method, image_column="content")
    if options.master.startswith("local"):
        # Spark takes the python3 that the PATH finds, which need not be this one.
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = (
        SparkSession.builder.master(options.master)
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", options.batch)
        # A task for each worker at least: small photos would all go to one.
        .config("spark.sql.files.openCostInBytes", 16 * 2**20)
        .config("spark.ui.enabled", False)
        .getOrCreate()
    )
    try:
        photos = spark.read.format("binaryFile").load(options.photos).select("path", "content")
        explain_dataframe(photos, step, batch_size=options.batch).write.parquet(options.output)
    finally:
        spark.stop()


if __name__ == "__main__":
    main()
