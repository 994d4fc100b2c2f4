"""`ExplainBatch` in Ray Data: a pool of actors explains the blocks of a data set.

    photos = ray.data.read_binary_files("photos", include_paths=True)
    step = ExplainBatch("localhost:8500", "efficientnet-lite0", image_column="bytes")
    explain_dataset(photos, step).write_parquet("maps")

The actors need this package and no TensorFlow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from saliency_client._errors import OptionError
from saliency_client.bulk.arrow import schema
from saliency_client.bulk.step import ExplainBatch

if TYPE_CHECKING:
    import pyarrow as pa
    import ray.data

_INSTALL = "pip install 'saliency-serving[bulk-ray]'"


def explain_dataset(
    dataset: ray.data.Dataset,
    step: ExplainBatch,
    *,
    concurrency: int | tuple[int, int] = (1, 4),
    batch_size: int = 64,
    **options: Any,
) -> ray.data.Dataset:
    """A data set with an explanation in place of each image; nothing runs before it is consumed.

    Ray starts an actor anew that was killed, and gives it its batch again, without end unless `max_restarts`
    bounds it: each image has one row in what is written. What the step raises, since it is no image's fault,
    ends the run; `step.patience` is how long a server may be away before that.

    Args:
        dataset: rows with a column `step.image_column`: encoded pictures or .npy files (binary), or Ray's
            tensors [H, W, C]. `ray.data.read_binary_files` names its column 'bytes'.
        step: what is asked.
        concurrency: actors, or the fewest and the most of them; Ray adds some while blocks wait.
        batch_size: rows that an actor takes at once; it asks in requests of `step.batch_size`.
        options: others of `Dataset.map_batches`, as `num_cpus` of an actor, which mostly waits.

    Returns:
        The other columns as they are, and those of `ExplainBlocks`.

    Raises:
        OptionError: Ray Data is not installed, or an option cannot work.

    Example:
        photos = ray.data.read_binary_files("s3://bucket/photos", include_paths=True)
        step = ExplainBatch("localhost:8500", "efficientnet-lite0", image_column="bytes")
        explain_dataset(photos, step, concurrency=(2, 16), num_cpus=0.5).write_parquet("s3://bucket/maps")
    """
    fewest, most = (concurrency, concurrency) if isinstance(concurrency, int) else concurrency
    if not 1 <= fewest <= most:
        raise OptionError(
            f"concurrency is {concurrency!r}; it must be a number of actors, or (fewest, most), from 1 on"
        )
    if batch_size < 1:
        raise OptionError(f"batch_size is {batch_size}; it must be 1 or above")
    step.declared_kinds()
    try:
        from ray.data import ActorPoolStrategy
    except ImportError as error:
        raise OptionError(f"Ray Data cannot be imported: {error}", hint=_INSTALL) from error
    return dataset.map_batches(
        ExplainBlocks,
        fn_constructor_args=(step,),
        batch_format="pyarrow",
        batch_size=batch_size,
        compute=ActorPoolStrategy(min_size=fewest, max_size=most),
        **options,
    )


class ExplainBlocks:
    """What an actor does: an Arrow table with images in, one with explanations out.

    `explain_dataset` gives it to `map_batches`. It may be given directly, with `fn_constructor_args=(step,)`
    and `batch_format="pyarrow"`. Arrow's types are declared, not found in the values, so that the blocks of a
    data set and the Parquet files made of them have one schema, even where a block has no error, or nothing
    else.

    Raises:
        OptionError: `step.numbers` is None.
    """

    def __init__(self, step: ExplainBatch) -> None:
        self._step, self._schema = step, schema(step.declared_kinds())

    def __call__(self, table: pa.Table) -> pa.Table:
        """Explain a block.

        Args:
            table: of B rows; `step.image_column` holds the images, the rest is handed through.

        Returns:
            The other columns, and those of the explanation: class_index int32, label string, probability,
            score and numbers float32, error string, version int64, map binary, map_scale float32, map_shape
            list<int32>. What is not known is null: all but `error` where an image failed, `error` elsewhere.

        Raises:
            OptionError: there is no column of images, or the explanation has a column's name.
            SaliencyError: what is not an image's fault.
        """
        import pyarrow as pa

        self._step.check_columns(table.column_names)
        rows = self._step.rows(_images(table[self._step.image_column]))
        others = table.drop_columns([self._step.image_column])
        for column in self._schema:
            others = others.append_column(column, pa.array([row[column.name] for row in rows], column.type))
        return others


def _images(column: pa.ChunkedArray) -> list[Any]:
    """The values of a column, bytes or arrays [H, W, C]: Ray's tensors are of its own Arrow types."""
    if hasattr(column.type, "storage_type"):
        return [image for chunk in column.chunks for image in chunk.to_numpy(zero_copy_only=False)]
    images: list[Any] = column.to_pylist()
    return images
