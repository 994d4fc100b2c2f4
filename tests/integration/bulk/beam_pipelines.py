"""Pipelines that tests run in a process of their own, by an interpreter that has Apache Beam.

    python beam_pipelines.py rows JSON-of-ExplainBatch PHOTOS OUTPUT [--progress FILE] [options of Beam]
    python beam_pipelines.py handler JSON-of-ExplainBatch PHOTOS OUTPUT [options of Beam]
    python beam_pipelines.py windows JSON-of-ExplainBatch PHOTOS OUTPUT

All write Parquet but the last, which writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import apache_beam as beam
import pyarrow
import pyarrow.parquet
from apache_beam.metrics import MetricsFilter
from apache_beam.ml.inference.base import KeyedModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions

from saliency_client.bulk import ExplainBatch
from saliency_client.bulk.beam import ExplainHandler, ExplainImages, parquet_schema


def read(path: str) -> tuple[str, bytes]:
    return path, Path(path).read_bytes()


def noted(row, file: str | None):
    """A line in a file for each row, of the process that made it: how far a run is, and whom to kill."""
    if file is not None:
        line = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(line, f"{os.getpid()}\n".encode())
        os.close(line)
    return row


def write_whole(rows, output: str, schema) -> None:
    """All rows as one file, in the task that comes after all others."""
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema), f"{output}.parquet")


def counted(result, namespace: str) -> dict[str, int]:
    counters = result.metrics().query(MetricsFilter().with_namespace(namespace))["counters"]
    return {counter.key.metric.name: counter.committed for counter in counters}


def rows(step: ExplainBatch, photos: list[str], output: str, options, of_beam: list[str]) -> None:
    of_pipeline = PipelineOptions(of_beam)
    runner = None
    if options.dask:
        from apache_beam.runners.dask.dask_runner import DaskRunner

        runner = DaskRunner()
    pipeline = beam.Pipeline(runner=runner, options=of_pipeline)
    paths = pipeline | beam.Create(photos)
    if not options.dask:
        paths = paths | beam.Reshuffle()
    explained = (
        paths
        | "Read" >> beam.Map(read)
        | ExplainImages(step, "path")
        | "Note" >> beam.Map(noted, options.progress)
    )
    schema = parquet_schema(step, "path")
    if options.whole:
        _ = (
            explained
            | beam.Map(lambda row: (0, row))
            | beam.GroupByKey()
            | beam.MapTuple(lambda _, every: write_whole(every, output, schema))
        )
    else:
        _ = explained | beam.io.WriteToParquet(output, schema, file_name_suffix=".parquet")
    result = pipeline.run()
    result.wait_until_finish()
    if not options.dask:
        print(json.dumps(counted(result, "ExplainImages")))


def handler(step: ExplainBatch, photos: list[str], output: str, options, of_beam: list[str]) -> None:
    pipeline = beam.Pipeline(options=PipelineOptions(of_beam))
    predicted = (
        pipeline
        | beam.Create(photos)
        | beam.Map(read)
        | RunInference(KeyedModelHandler(ExplainHandler(step, num_retries=6)))
    )
    names = beam.MapTuple(
        lambda path, result: {"path": path, "model_id": result.model_id, **result.inference}
    )
    schema = parquet_schema(step, "path").append(pyarrow.field("model_id", pyarrow.string()))
    _ = predicted | names | beam.io.WriteToParquet(output, schema, file_name_suffix=".parquet")
    result = pipeline.run()
    result.wait_until_finish()
    print(json.dumps(counted(result, "ExplainHandler")))


def windows(step: ExplainBatch, photos: list[str], output: str, options, of_beam: list[str]) -> None:
    """Photo number i at i · 10 s, in windows of 30 s."""
    with beam.Pipeline(options=PipelineOptions(of_beam)) as pipeline:
        _ = (
            pipeline
            | beam.Create(list(enumerate(photos)))
            | beam.MapTuple(lambda i, path: beam.window.TimestampedValue(read(path), 10 * i))
            | beam.WindowInto(beam.window.FixedWindows(30))
            | ExplainImages(step)
            | beam.Map(place)
            | "All" >> beam.WindowInto(beam.window.GlobalWindows())
            | "Together" >> beam.Map(lambda found: (0, found))
            | beam.GroupByKey()
            | "Write" >> beam.MapTuple(lambda _, found: Path(output).write_text(json.dumps(list(found))))
        )


def place(element, timestamp=beam.DoFn.TimestampParam, window=beam.DoFn.WindowParam):
    path, row = element
    return path, row["error"], float(timestamp), float(window.start), float(window.end)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pipeline", choices=["rows", "handler", "windows"])
    parser.add_argument("step", type=json.loads)
    parser.add_argument("photos", type=Path)
    parser.add_argument("output")
    parser.add_argument("--progress")
    parser.add_argument("--whole", action="store_true", help="one file, without Beam's sink")
    parser.add_argument("--dask", action="store_true")
    options, of_beam = parser.parse_known_args()
    photos = sorted(str(path) for path in options.photos.iterdir())
    globals()[options.pipeline](ExplainBatch(**options.step), photos, options.output, options, of_beam)


if __name__ == "__main__":
    main()
