"""`ExplainBatch` in Spark: the function and the schema that `mapInPandas` takes.

    photos = spark.read.format("binaryFile").load("photos").select("path", "content")
    step = ExplainBatch("localhost:8500", "efficientnet-lite0", image_column="content")
    explain_dataframe(photos, step).write.parquet("maps")

The executors need this package, pandas and pyarrow, and no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from saliency_client._errors import OptionError
from saliency_client.bulk.step import ExplainBatch

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import DataFrame

_TYPES = {
    "binary": "binary",
    "float32": "float",
    "int32": "int",
    "int64": "bigint",
    "list<int32>": "array<int>",
    "string": "string",
}


def explain_dataframe(frame: DataFrame, step: ExplainBatch, *, batch_size: int = 64) -> DataFrame:
    """A data frame with an explanation in place of each image; nothing runs before it is consumed.

    A task whose worker is killed runs again as often as `spark.task.maxFailures` says (4; on a local master
    1, and `local[2,4]` makes it 4), and Spark keeps the rows of one attempt. What the step raises, since it
    is no image's fault, is such a failure; `step.patience` is how long a server may be away before that.

    Spark hands rows to Python by the 10,000. Set `spark.sql.execution.arrow.maxRecordsPerBatch` to a number
    of photos that a worker has room for.

    Args:
        frame: rows with a column `step.image_column`: encoded pictures or .npy files (binary).
            `spark.read.format("binaryFile")` names its column 'content'.
        step: what is asked.
        batch_size: rows that a worker explains before it hands them on.

    Returns:
        The other columns as they are, and those of `columns_ddl`. What is not known is null: all but `error`
        where an image failed, `error` elsewhere.

    Raises:
        OptionError: there is no column of images, or the explanation has a column's name.

    Example:
        photos = spark.read.format("binaryFile").load("s3a://bucket/photos").select("path", "content")
        step = ExplainBatch("localhost:8500", "efficientnet-lite0", image_column="content")
        explain_dataframe(photos, step).write.parquet("s3a://bucket/maps")
    """
    step.check_columns(list(frame.columns))
    others = (
        f"{_quoted(field.name)} {field.dataType.simpleString()}"
        for field in frame.schema.fields
        if field.name != step.image_column
    )
    schema = ", ".join((*others, columns_ddl(step)))
    return frame.mapInPandas(ExplainFrames(step, batch_size=batch_size), schema)


def columns_ddl(step: ExplainBatch) -> str:
    """The columns of an explanation, as Spark's schemas are written.

    Raises:
        OptionError: `step.numbers` is None.

    Example:
        >>> from saliency_client.bulk import ExplainBatch
        >>> from saliency_client.bulk.spark import columns_ddl
        >>> columns_ddl(ExplainBatch("localhost:8500", "efficientnet-lite0")).split(", ")[:3]
        ['`class_index` int', '`label` string', '`probability` float']
    """
    return ", ".join(f"{_quoted(name)} {_TYPES[kind]}" for name, kind in step.declared_kinds().items())


class ExplainFrames:
    """What a Spark task does: pandas frames with images in, frames with explanations out.

    `explain_dataframe` gives it to `mapInPandas`; it may be given directly, with a schema of the other
    columns and `columns_ddl(step)`.

    Raises:
        OptionError: `batch_size` is below 1.
    """

    def __init__(self, step: ExplainBatch, *, batch_size: int = 64) -> None:
        if batch_size < 1:
            raise OptionError(f"batch_size is {batch_size}; it must be 1 or above")
        self._step, self._batch_size = step, batch_size

    def __call__(self, frames: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        """Explain the frames of a task, `batch_size` rows at a time.

        Raises:
            OptionError: there is no column of images, or the explanation has a column's name.
            SaliencyError: what is not an image's fault.
        """
        # A worker process outlives its task, and each task unpickles a step of its own.
        try:
            for frame in frames:
                for start in range(0, len(frame), self._batch_size):
                    yield self._explained(frame.iloc[start : start + self._batch_size])
        finally:
            self._step.close()

    def _explained(self, frame: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        self._step.check_columns(list(frame.columns))
        rows = self._step.rows(list(frame[self._step.image_column]))
        # Objects keep None, which Spark reads as null of any type.
        columns = {
            name: pd.Series([row[name] for row in rows], index=frame.index, dtype=object)
            for name in self._step.declared_kinds()
        }
        return frame.drop(columns=self._step.image_column).assign(**columns)


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
