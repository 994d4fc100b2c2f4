"""The files of a job: shards of rows, and beside each what is known of it; each is whole, or is not there."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from saliency_client.bulk.arrow import parquet, schema
from saliency_client.bulk.plan import JOB_FOLDER
from saliency_client.bulk.rows import Row
from saliency_client.bulk.storage import Place, StorageError

_GROUP_BYTES = 16 << 20
"""Of maps in a row group, about."""
DONE_FOLDER = "shards"
"""In the folder of the job: of each shard, what is known of it."""
SHARD_FILE = "part-"
"""What the names of shards begin with."""
OF_THE_INPUT: Mapping[str, str] = {"path": "string", "row": "int64", "key": "string"}
"""Columns: the input file; the number of the image in it, from 0; its key there, if it has one."""


@dataclass(frozen=True, order=True)
class ShardName:
    """Which images a shard holds: those from `chunk` · shard_rows on of a unit of the plan."""

    unit: int
    chunk: int

    def __str__(self) -> str:
        return f"{self.unit:07d}-{self.chunk:05d}"


@dataclass(frozen=True)
class Done:
    """A shard that is written.

    Attributes:
        unit, chunk: its name.
        file: beside the folder of the job; None: there was no row left.
        rows: in it.
        failed: of these, with an error.
        bytes: of the file.
        sha256: of the file.
        versions: of the model that answered.
        last: the unit has no further shard.
        plan: the digest of the plan that it is of.
        seconds: since 1970, when it was written.
    """

    unit: int
    chunk: int
    file: str | None
    rows: int
    failed: int
    bytes: int
    sha256: str | None
    versions: tuple[int, ...]
    last: bool
    plan: str
    seconds: float


class Shards:
    """The shards of a job's output folder.

    Args:
        out: the folder.
        kinds: the columns.
        plan: the digest of the plan.
        about: what every shard says of itself, in its metadata.
        compression: of the columns, or of each by its name.
    """

    def __init__(
        self, out: Place, kinds: Mapping[str, str], plan: str, about: Mapping[str, str], compression: Any
    ) -> None:
        self.out = out
        self._plan = plan
        self._schema = schema(dict(kinds), dict(about))
        # Maps differ from each other: looking for equal ones takes a third of the time of writing them.
        repeated = [name for name in kinds if name != "map"]
        self._options = {"compression": compression, "use_dictionary": repeated}
        self._open: _OpenShard | None = None

    @property
    def open_name(self) -> ShardName | None:
        """Of the shard that rows are added to."""
        return None if self._open is None else self._open.name

    def add(self, name: ShardName, rows: Sequence[Row]) -> None:
        """Add rows to a shard, which is opened for it.

        Raises:
            StorageError: they cannot be written.
        """
        if self._open is None:
            self._open = _OpenShard(name, self)
        assert self._open.name == name
        self._open.add(rows)

    def finish(self, name: ShardName, *, last: bool) -> Done:
        """Put a shard into its place, and write down that it is done.

        Raises:
            StorageError: it cannot be written.
        """
        if self._open is None:
            done = Done(name.unit, name.chunk, None, 0, 0, 0, None, (), last, self._plan, time.time())
        else:
            assert self._open.name == name
            done = self._open.finish(last=last, plan=self._plan)
            self._open = None
        record = json.dumps(asdict(done), sort_keys=True).encode()
        (self.out / JOB_FOLDER / DONE_FOLDER / f"{name}.json").write(record)
        return done

    def drop(self) -> None:
        """Leave the open shard out: nothing of it stays."""
        if self._open is not None:
            self._open.drop()
            self._open = None


class _OpenShard:
    def __init__(self, name: ShardName, shards: Shards) -> None:
        self.name = name
        self._schema = shards._schema
        self._stack = ExitStack()
        self._file = f"{SHARD_FILE}{name}.parquet"
        part, self._put = self._stack.enter_context((shards.out / self._file).writing())
        self._path: Path = part
        self._place = shards.out / self._file
        self._rows: list[Row] = []
        self._held = self._count = self._failed = 0
        self._versions: set[int] = set()
        self._writer = self._writing(lambda: parquet().ParquetWriter(part, self._schema, **shards._options))

    def add(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._rows.append(row)
            self._held += len(row.get("map") or b"") + 200
            self._count += 1
            self._failed += row["error"] is not None
            if row["version"] is not None:
                self._versions.add(row["version"])
        if self._held >= _GROUP_BYTES:
            self._flush()

    def finish(self, *, last: bool, plan: str) -> Done:
        try:
            self._flush()
            self._writing(self._writer.close)
            digest, size = _digest(self._path)
            self._put(False)
        finally:
            self._stack.close()
        return Done(
            self.name.unit,
            self.name.chunk,
            self._file,
            self._count,
            self._failed,
            size,
            digest,
            tuple(sorted(self._versions)),
            last,
            plan,
            time.time(),
        )

    def drop(self) -> None:
        try:
            self._writer.close()
        except OSError:
            pass
        finally:
            self._stack.close()

    def _flush(self) -> None:
        import pyarrow

        if self._rows:
            rows, self._rows, self._held = self._rows, [], 0
            self._writing(lambda: self._writer.write_table(pyarrow.Table.from_pylist(rows, self._schema)))

    def _writing(self, write: Callable[[], Any]) -> Any:
        try:
            return write()
        except OSError as error:
            # pyarrow's words name the call that failed first.
            reason = os.strerror(error.errno) if error.errno else error
            raise StorageError(
                f"{self._place} cannot be written: {reason}",
                hint="what is done stays done; the same command with --resume goes on when there is room",
            ) from error


def done_shards(out: Place) -> list[Done]:
    """The shards that are done, by the records beside them, in order.

    Raises:
        StorageError: they cannot be read, or one is damaged.
    """
    folder = out / JOB_FOLDER / DONE_FOLDER
    if not folder.exists():
        return []
    names = [name for name, below, _ in folder.entries() if name.endswith(".json") and not below]

    def read(name: str) -> Done:
        content = (folder / name).read()
        try:
            record = json.loads(content)
            return Done(**{**record, "versions": tuple(record["versions"])})
        except (ValueError, TypeError, KeyError) as error:
            raise StorageError(
                f"{folder / name} is damaged: {error}",
                hint="remove it: the shard is made again",
            ) from error

    # Of a store behind a network, one after another takes minutes.
    with ThreadPoolExecutor(16) as pool:
        return sorted(pool.map(read, names), key=lambda done: (done.unit, done.chunk))


def whole_units(done: Iterable[Done], lost: Iterable[Done]) -> dict[int, list[Done]]:
    """The shards of each unit from its first one on, as far as none is missing; no unit without any.

    Args:
        done: by unit and chunk.
        lost: of these, those whose files are gone.
    """
    without = {(one.unit, one.chunk) for one in lost}
    units: dict[int, list[Done]] = {}
    for one in done:
        chunks = units.setdefault(one.unit, [])
        if (one.unit, one.chunk) not in without and one.chunk == len(chunks):
            chunks.append(one)
    return {unit: chunks for unit, chunks in units.items() if chunks}


def missing_files(out: Place, done: Iterable[Done]) -> list[Done]:
    """Of the shards that are done, those whose file is gone or has another size."""
    sizes = {name: size for name, below, size in out.entries() if not below}
    return [one for one in done if one.file is not None and sizes.get(one.file) != one.bytes]


def _digest(path: Path) -> tuple[str, int]:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        size = 0
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size
