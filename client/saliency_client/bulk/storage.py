"""Files on this machine or behind an address, as `s3://bucket/folder`: the one place that knows fsspec."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from saliency_client._errors import OptionError, SaliencyError
from saliency_client._files import move_to_new

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
_READ = "cannot be read"
_TEMPORARY = "saliency-job-"
_OF_A_STORE = (
    "renew the credentials if they have ended, or see that the store can be reached; the same command with "
    "--resume goes on"
)


class StorageError(SaliencyError):
    """A place for inputs or outputs cannot be used: it is not one file's fault."""


def is_address(text: str) -> bool:
    """Whether a name has a scheme, as `s3://` has."""
    return _SCHEME.match(text) is not None


class Place:
    """A folder or a file: a path, or an address that fsspec knows.

    Args:
        address: as typed; what is found below it is named in the same way.

    Raises:
        OptionError: the package that reaches such an address is not installed.
    """

    def __init__(self, address: str) -> None:
        try:
            import fsspec
        except ImportError as error:
            raise OptionError(
                f"fsspec cannot be imported: {error}", hint="pip install 'saliency-serving[bulk]'"
            ) from error
        scheme = address.partition("://")[0] if is_address(address) else ""
        try:
            # Listings are taken once, and kept by nobody: of a million files they are large.
            options = {"use_listings_cache": False} if scheme and scheme != "file" else {}
            self._fs, self._root = fsspec.core.url_to_fs(address, **options)
        except ImportError as error:
            package = _PACKAGES.get(scheme, scheme)
            raise OptionError(
                f"{address} needs the package {package}: {error}", hint=f"pip install {package}"
            ) from error
        except ValueError as error:
            raise OptionError(f"{address} is of no kind that is known: {error}") from error
        self.address = address.rstrip("/") or address
        self.is_local = "file" in _protocols(self._fs)
        self._root = str(self._root)

    def __truediv__(self, name: str) -> Place:
        below = object.__new__(Place)
        below._fs, below.is_local = self._fs, self.is_local
        below.address = f"{self.address.rstrip('/')}/{name}"
        below._root = f"{self._root.rstrip('/')}/{name}"
        return below

    def __str__(self) -> str:
        return self.address

    @property
    def path(self) -> Path:
        """Of a place on this machine."""
        assert self.is_local
        return Path(self._root)

    def open(self) -> BinaryIO:
        """Open for reading; what then cannot be read is a StorageError too."""
        with _about(self):
            return _Reading(self, self._fs.open(self._root, "rb"))  # type: ignore[return-value]

    @property
    def is_pipe(self) -> bool:
        """Whether it is a named pipe on this machine, or what a shell makes of `<(command)`."""
        return self.is_local and self.path.is_fifo()

    @property
    def is_special(self) -> bool:
        """Whether it is a named pipe, a socket or a device on this machine: reading it may never end."""
        if not self.is_local:
            return False
        return self.path.exists() and not (self.path.is_file() or self.path.is_dir())

    def read(self, most: int | None = None, *, pipes: bool = False) -> bytes:
        """All bytes.

        Args:
            most: bytes that a file on this machine may have; None: any number.
            pipes: a named pipe is read too, which waits for somebody to write to it.

        Raises:
            StorageError: it cannot be read; or, on this machine, there are more than `most`.
        """
        with _about(self):
            if self.is_local:
                known = os.stat(self._root)
                if pipes and stat.S_ISFIFO(known.st_mode):
                    return self.path.read_bytes()
                if stat.S_ISDIR(known.st_mode):
                    os.scandir(self._root).close()  # raises where its files cannot be listed
                if not stat.S_ISREG(known.st_mode):
                    raise StorageError(f"{self} is no file")
                if most is not None and known.st_size > most:
                    raise StorageError(f"{self} has {known.st_size} bytes, above the bound of {most}")
            return bytes(self._fs.cat_file(self._root))

    def is_folder(self) -> bool:
        """Whether something is below it."""
        with _about(self):
            return bool(self._fs.isdir(self._root))

    def exists(self) -> bool:
        """Whether it is there."""
        with _about(self):
            return bool(self._fs.exists(self._root))

    def size(self) -> int | None:
        """In bytes."""
        with _about(self):
            size = self._fs.size(self._root)
        return None if size is None else int(size)

    def matches(self) -> list[str]:
        """The addresses that a pattern with * and ? matches, sorted."""
        with _about(self):
            return sorted(self._named(path) for path in self._fs.glob(self._root))

    @property
    def identity(self) -> object:
        """The same for a folder that is reached by a link too."""
        if not self.is_local:
            return self._root
        with _about(self):
            known = os.stat(self._root)
        return known.st_dev, known.st_ino

    def entries(self) -> list[tuple[str, bool, int | None]]:
        """Name, whether it is a folder, and size in bytes, of the files and folders in it; sorted by name.

        Links are what they lead to; one that leads nowhere is a file without a size, as are named pipes,
        sockets and devices.
        """
        if self.is_local:
            return _local_entries(self)
        with _about(self):
            listed = self._fs.ls(self._root, detail=True)
        here = self._root.rstrip("/")
        entries = [
            (str(one["name"]).rstrip("/").rpartition("/")[2], one["type"] == "directory", one.get("size"))
            for one in listed
            if str(one["name"]).rstrip("/") != here and one["type"] in ("file", "directory")
        ]
        return sorted(entries)

    def make_folder(self) -> None:
        """Make it, and those above it; where folders exist by their files alone, nothing is done."""
        with _about(self, "cannot be made"):
            self._fs.makedirs(self._root, exist_ok=True)

    def write(self, content: bytes, *, anew: bool = False) -> None:
        """Write a small file, whole or not at all.

        Args:
            content: of the file.
            anew: it must not be there yet.

        Raises:
            FileExistsError: it is there, and `anew`.
            StorageError: it cannot be written.
        """
        with self.writing() as (path, finish):
            path.write_bytes(content)
            finish(anew)

    @contextmanager
    def writing(self) -> Iterator[tuple[Path, Callable[[bool], None]]]:
        """A file on this machine to write to, and what puts it into its place; else nothing is left.

        It lies beside its place where that is on this machine, under a hidden name with `.part` at its end,
        and else in the folder of temporary files.
        """
        handle: int | None = None
        with _about(self, "cannot be written"):
            if self.is_local:
                part = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.part")
            else:
                handle, part = _locked_temporary_file()

        def finish(anew: bool) -> None:
            with _about(self, "cannot be written"):
                self._put(part, anew=anew)

        try:
            yield part, finish
        finally:
            with suppress(FileNotFoundError):
                part.unlink()
            if handle is not None:
                os.close(handle)

    def _put(self, part: Path, *, anew: bool) -> None:
        if self.is_local:
            with open(part, "rb") as file:
                os.fsync(file.fileno())
            move = move_to_new if anew else os.replace
            move(part, self.path)
            return
        # A store of objects shows one when all of it has arrived.
        if not anew:
            self._fs.put_file(str(part), self._root)
            return
        try:
            self._fs.put_file(str(part), self._root, mode="create")
        except (NotImplementedError, TypeError):
            if self._fs.exists(self._root):
                raise FileExistsError(self.address) from None
            self._fs.put_file(str(part), self._root)

    def remove_parts(self, of: str, own: Callable[[str], bool]) -> None:
        """Remove what a killed writer left of files in this folder; `own` gets a name without `of`."""
        for part in self.path.glob(f".{of}*.part"):
            if own(part.name[len(of) + 1 :]):
                with suppress(FileNotFoundError):
                    part.unlink()

    def local_files(self, pattern: str) -> list[Path]:
        """The files of a folder on this machine whose names match."""
        return list(self.path.glob(pattern)) if self.is_local else []

    def remove_if_empty(self) -> None:
        """Remove a folder on this machine that holds nothing."""
        if self.is_local:
            with suppress(OSError):
                self.path.rmdir()

    def _named(self, path: str) -> str:
        """A path of the file system in the way in which this place was typed."""
        if self.is_local:
            return f"file://{path}" if is_address(self.address) else path
        return str(self._fs.unstrip_protocol(path))


def _local_entries(place: Place) -> list[tuple[str, bool, int | None]]:
    found: list[tuple[str, bool, int | None]] = []
    with _about(place), os.scandir(place.path) as listing:
        for entry in listing:
            try:
                known = entry.stat()
            # A link that leads nowhere, to itself, or to where one may not look.
            except OSError:
                found.append((entry.name, False, None))
                continue
            size = known.st_size if stat.S_ISDIR(known.st_mode) or stat.S_ISREG(known.st_mode) else None
            found.append((entry.name, stat.S_ISDIR(known.st_mode), size))
    return sorted(found)


class _Reading:
    """An open file whose errors are told apart from those of what it holds."""

    def __init__(self, place: Place, file: Any) -> None:
        self._place, self._file = place, file

    def read(self, size: int = -1) -> bytes:
        with _about(self._place):
            return bytes(self._file.read(size))

    def seek(self, offset: int, whence: int = 0) -> int:
        with _about(self._place):
            return int(self._file.seek(offset, whence))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Reading:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


@contextmanager
def _about(place: Place, failure: str = _READ) -> Iterator[None]:
    """Errors of a file system name the place, whatever library raised them."""
    try:
        yield
    except (SaliencyError, FileExistsError):
        raise
    except FileNotFoundError as error:
        if failure != _READ:
            raise StorageError(f"{place} {failure}: there is no folder above it") from error
        raise Missing(f"{place} does not exist") from error
    except OSError as error:
        hint = "see who may read and write there" if place.is_local else _OF_A_STORE
        raise StorageError(f"{place} {failure}: {error.strerror or error}", hint=hint) from error
    # Libraries of stores raise errors of their own: of credentials, connections, signatures.
    except Exception as error:
        raise StorageError(
            f"{place} {failure}: {type(error).__name__}: {error}",
            hint=None if place.is_local else _OF_A_STORE,
        ) from error


def _locked_temporary_file() -> tuple[int, Path]:
    """A new file and its descriptor: who finds it knows by its lock whether its writer still lives."""
    while True:
        handle, name = tempfile.mkstemp(prefix=_TEMPORARY, suffix=".part")
        fcntl.flock(handle, fcntl.LOCK_EX)
        # Before it was locked, another job may have taken it for one that a killed writer left.
        if os.path.exists(name):
            return handle, Path(name)
        os.close(handle)


def remove_temporary_parts() -> None:
    """Remove what killed writers to stores left in the folder of temporary files."""
    for part in Path(tempfile.gettempdir()).glob(f"{_TEMPORARY}*.part"):
        # It may be another user's, or be put into its place at this moment.
        with suppress(OSError), open(part, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()


class Missing(StorageError):
    """There is no such file."""


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
