"""Photos in, Parquet out, with Apache Beam: on the local runner, or by options alone on Dataflow or Flink.

    saliency-exporter export efficientnet-lite0 models/efficientnet-lite0
    saliency-exporter serve efficientnet-lite0=models/efficientnet-lite0 &
    python tests/examples/beam_photos.py 'photos/*.jpg' out/rows --model efficientnet-lite0

What this page does not know goes to Beam, for example two worker processes:

    python tests/examples/beam_photos.py 'photos/*.jpg' out/rows --model efficientnet-lite0 \\
        --runner=FnApiRunner --direct_running_mode=multi_processing --direct_num_workers=2

It needs pip install 'saliency-serving[bulk-beam]', and no TensorFlow.
"""

from __future__ import annotations

import argparse
import json
import sys

import apache_beam as beam
from apache_beam.io import WriteToParquet, fileio
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions

from saliency_client.bulk import ExplainBatch
from saliency_client.bulk.beam import ExplainImages, parquet_schema


def parameter(text: str) -> tuple[str, object]:
    """NAME=VALUE of a method's parameter."""
    name, _, value = text.partition("=")
    return name, json.loads(value)


def main() -> None:
    parser = argparse.ArgumentParser(
        "beam_photos", description="Explain photos into Parquet files. Beam takes all other options."
    )
    parser.add_argument("photos", help="a pattern, as 'photos/*.jpg' or 'gs://bucket/photos/**'")
    parser.add_argument("output", help="how the files' names begin, as out/rows or gs://bucket/out/rows")
    parser.add_argument("--server", required=True, help="HOST:PORT, or several: HOST:PORT,HOST:PORT")
    parser.add_argument("--model", required=True)
    parser.add_argument("--method", default="gradients")
    parser.add_argument("--param", type=parameter, action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--map-format", default="float16", choices=["float16", "uint8", "png"])
    parser.add_argument("--batch-size", type=int, default=8, help="images in a request [8]")
    parser.add_argument("--patience", type=float, default=300, help="seconds a server may be away [300]")
    options, of_beam = parser.parse_known_args()
    step = ExplainBatch(
        tuple(options.server.split(",")),
        options.model,
        options.method,
        dict(options.param),
        map_format=options.map_format,
        batch_size=options.batch_size,
        patience=options.patience,
    )
    pipeline = beam.Pipeline(options=PipelineOptions(of_beam))
    rows = (
        pipeline
        | fileio.MatchFiles(options.photos)
        # What follows is spread over the workers, and not done where the names were found.
        | beam.Reshuffle()
        | fileio.ReadMatches()
        | "Read" >> beam.Map(lambda file: (file.metadata.path, file.read()))
        | ExplainImages(step, key_column="path")
    )
    rows | WriteToParquet(
        options.output, parquet_schema(step, "path"), file_name_suffix=".parquet", codec="zstd"
    )
    result = pipeline.run()
    result.wait_until_finish()
    counters = result.metrics().query(MetricsFilter().with_namespace("ExplainImages"))["counters"]
    counted = {counter.key.metric.name: counter.committed for counter in counters}
    print(f"{counted.get('rows', 0)} rows, {counted.get('failed', 0)} of them with an error", file=sys.stderr)


if __name__ == "__main__":
    main()
