"""Which versions of which models are loaded: policies, states, polling, and swaps that drop no request.

Behaves as TensorFlow Serving's AspiredVersionsManager with its availability-preserving policy does: a new
version is loaded beside the old one, which is unloaded only when the new one is AVAILABLE and its own
requests have ended. One thing differs: a load that failed is tried again when its directory changes, and only
then.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from saliency_exporter.errors import ExportError
from saliency_exporter.runtime.servable import Servable, ServableError
from saliency_exporter.serving.model_config import ModelConfig


class State(enum.IntEnum):
    """The states of a version, numbered as in ModelVersionStatus.State."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class VersionStatus:
    """What GetModelStatus tells of one version; code and message say why a load failed."""

    version: int
    state: State
    code: int = 0
    message: str = ""


class _Version:
    """One version and its life; guarded by the lock of its ModelManager."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.state = State.START
        self.error: ServableError | None = None
        self.servable: Servable | None = None
        self.requests_in_flight = 0
        self.files: object = None


class ModelManager:
    """Loads, swaps and hands out servables. Safe to use from many threads.

    Args:
        configs: the models.
        load: makes a servable that is ready for requests, warmed up, from (model name, version, directory).
        report: called with one line for every change of state.
        reread: called at every poll for the models to serve from then on; None: they stay what they are.
    """

    def __init__(
        self,
        configs: Iterable[ModelConfig],
        load: Callable[[str, int, Path], Servable],
        report: Callable[[str], None],
        reread: Callable[[], Iterable[ModelConfig]] | None = None,
    ) -> None:
        self._configs = {config.name: config for config in configs}
        self._load_servable = load
        self._report = report
        self._reread = reread
        self._refused = ""
        self._lock = threading.Lock()
        self._versions: dict[str, dict[int, _Version]] = {name: {} for name in self._configs}
        self._stopping = threading.Event()
        self._poller: threading.Thread | None = None

    def load_initial(self) -> None:
        """Loads every model's versions; returns when all are AVAILABLE.

        Raises:
            ExportError: a model has no version, one did not load, or a label's version is not served.
        """
        for config in self._configs.values():
            config.refuse_nothing()
            self._reconcile(config)
            self._check_loaded(config)

    def start_polling(self, seconds: float) -> None:
        """Looks for new and removed versions every so many seconds, in a thread of its own."""

        def poll() -> None:
            while not self._stopping.wait(seconds):
                self.poll_once()

        self._poller = threading.Thread(target=poll, name="version-poller", daemon=True)
        self._poller.start()

    def poll_once(self) -> None:
        """Brings every model in line with what is on disk now; a base path that is gone changes nothing."""
        self._reread_configs()
        for config in self._configs.values():
            try:
                self._reconcile(config)
            except Exception as error:
                # Polling goes on whatever happens: the next look may find things in order.
                self._report(f"{config.name}: cannot look for versions in {config.base_path}: {error}")

    def reconfigure(self, configs: Iterable[ModelConfig]) -> None:
        """Takes up another list of models; their versions are loaded and unloaded at the next poll.

        As TensorFlow Serving does with --allow_version_labels_for_unavailable_models: a label that is new may
        name a version that is still to be loaded, one that moves has to find its version AVAILABLE.

        Raises:
            ServableError: FAILED_PRECONDITION, and everything stays as it was.
        """
        wanted = {config.name: config for config in configs}
        for config in wanted.values():
            self._check_labels_may_move(config)
        with self._lock:
            known = self._configs
            self._configs = wanted
            for name in wanted:
                self._versions.setdefault(name, {})
        for name in known.keys() - wanted.keys():
            for version in list(self._versions[name].values()):
                self._unload(name, version)

    def stop(self) -> None:
        """Stops polling and unloads each version as soon as its last request has ended."""
        self._stopping.set()
        for name, versions in self._versions.items():
            for version in list(versions.values()):
                self._unload(name, version)

    @contextmanager
    def servable(
        self, name: str, version: int | None = None, label: str | None = None
    ) -> Iterator[tuple[int, Servable]]:
        """Holds one AVAILABLE version, by default the highest; it stays loaded until the block ends.

        Yields:
            The version number and its servable.

        Raises:
            ServableError: NOT_FOUND, or INVALID_ARGUMENT for a label that is not set.
        """
        if label is not None:
            version = self._labeled_version(name, label)
        held = self._acquire(name, version)
        try:
            assert held.servable is not None
            yield held.number, held.servable
        finally:
            self._release(name, held)

    def statuses(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """The states of one or of all versions that this server has known, the highest first.

        Raises:
            ServableError: NOT_FOUND.
        """
        with self._lock:
            known = self._versions.get(name, {})
            if version is not None and version not in known:
                raise ServableError(tf.errors.NOT_FOUND, f"Could not find version {version} of model {name}")
            if not known:
                raise ServableError(tf.errors.NOT_FOUND, f"Could not find any versions of model {name}")
            numbers = sorted(known, reverse=True) if version is None else [version]
            return [_status(known[number]) for number in numbers]

    def _labeled_version(self, name: str, label: str) -> int:
        config = self._configs.get(name)
        if config is None or label not in config.labels:
            raise ServableError(tf.errors.INVALID_ARGUMENT, f"Unrecognized servable version label: {label}")
        return config.labels[label]

    def _reread_configs(self) -> None:
        if self._reread is None:
            return
        refused = ""
        try:
            self.reconfigure(self._reread())
        except ExportError as error:
            # What is served stays as it was; said once, and not at every poll.
            refused = str(error)
            if refused != self._refused:
                self._report(f"the models stay what they were: {refused}")
        self._refused = refused

    def _check_labels_may_move(self, config: ModelConfig) -> None:
        known = self._configs.get(config.name)
        for label, number in config.labels.items():
            if known is None or known.labels.get(label, number) == number:
                continue
            with self._lock:
                version = self._versions[config.name].get(number)
                if version is None or version.state is not State.AVAILABLE:
                    raise ServableError(
                        tf.errors.FAILED_PRECONDITION,
                        f"Request to assign label to version {number} of model {config.name}, which is not "
                        "currently available for inference",
                    )

    def _acquire(self, name: str, number: int | None) -> _Version:
        with self._lock:
            available = {
                version.number: version
                for version in self._versions.get(name, {}).values()
                if version.state is State.AVAILABLE
            }
            wanted = max(available, default=None) if number is None else number
            if wanted not in available:
                request = f"Latest({name})" if number is None else f"Specific({name}, {number})"
                raise ServableError(tf.errors.NOT_FOUND, f"Servable not found for request: {request}")
            available[wanted].requests_in_flight += 1
            return available[wanted]

    def _release(self, name: str, version: _Version) -> None:
        with self._lock:
            version.requests_in_flight -= 1
            idle = version.requests_in_flight == 0 and version.state is State.UNLOADING
        if idle:
            self._end(name, version)

    def _reconcile(self, config: ModelConfig) -> None:
        on_disk = config.on_disk()
        aspired = config.policy.select(on_disk)
        known = self._versions[config.name]
        fresh = sorted(
            (number for number in aspired if _wants_loading(known.get(number), on_disk[number])), reverse=True
        )
        for number in fresh:
            if self._stopping.is_set():
                return
            self._load(config.name, number, on_disk[number])
        with self._lock:
            serving = {number for number, version in known.items() if version.state is State.AVAILABLE}
        if serving & aspired or not aspired:
            for number in sorted(serving - aspired):
                self._unload(config.name, known[number])

    def _load(self, name: str, number: int, path: Path) -> None:
        version = _Version(number)
        version.state = State.LOADING
        version.files = _files(path)
        with self._lock:
            self._versions[name][number] = version
        self._report(f"{name} version {number}: loading")
        started = time.monotonic()
        try:
            servable = self._load_servable(name, number, path)
        except ServableError as error:
            failure = error
        except Exception as error:
            failure = ServableError(tf.errors.UNKNOWN, f"{type(error).__name__}: {error}")
        else:
            with self._lock:
                version.servable, version.state = servable, State.AVAILABLE
            if self._stopping.is_set():
                self._unload(name, version)
                return
            self._report(f"{name} version {number}: available after {time.monotonic() - started:.1f} s")
            return
        with self._lock:
            version.error, version.state = failure, State.END
        self._report(f"{name} version {number}: failed to load: {failure.message}")

    def _unload(self, name: str, version: _Version) -> None:
        with self._lock:
            if version.state is not State.AVAILABLE:
                return
            version.state = State.UNLOADING
            idle = version.requests_in_flight == 0
        self._report(f"{name} version {version.number}: unloading")
        if idle:
            self._end(name, version)

    def _end(self, name: str, version: _Version) -> None:
        """Closes the session; called once, by whoever saw the last request out."""
        with self._lock:
            servable, version.servable = version.servable, None
        if servable is None:
            return
        servable.close()
        with self._lock:
            version.state = State.END
        self._report(f"{name} version {version.number}: unloaded")

    def _check_loaded(self, config: ModelConfig) -> None:
        statuses = self.statuses(config.name)
        for status in statuses:
            if status.state is not State.AVAILABLE:
                raise ExportError(
                    f"version {status.version} of model {config.name} did not become available: "
                    f"{status.message}",
                    hint="run `saliency-exporter verify` on "
                    f"{config.base_path / str(status.version)} to see what is wrong",
                )
        available = {status.version for status in statuses}
        for label, number in config.labels.items():
            if number not in available:
                raise ExportError(
                    f"label {label!r} is for version {number} of model {config.name}, "
                    "which is not currently available for inference",
                    hint=f"available: {', '.join(map(str, sorted(available)))}",
                )


def _wants_loading(known: _Version | None, path: Path) -> bool:
    if known is None:
        return True
    if known.state is not State.END:
        return False
    return known.error is None or known.files != _files(path)


def _files(path: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of a version's files: a failed load is worth repeating when they change."""
    found = []
    for file in sorted(path.rglob("*")):
        try:
            stat = file.stat()
        except FileNotFoundError:
            continue
        found.append((str(file), stat.st_size, stat.st_mtime_ns))
    return found


def _status(version: _Version) -> VersionStatus:
    if version.error is None:
        return VersionStatus(version.number, version.state)
    return VersionStatus(version.number, version.state, version.error.code, version.error.message)
