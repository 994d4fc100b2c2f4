"""What tests share: exported models, made once a run by the command that users type."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from exports import export_classifier, once
from preloaded import READ_AT_START
from server_process import ServerProcess

# A shell's background job ignores SIGINT, and so would every process that it starts, which tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# And what nohup starts ignores SIGHUP.
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# A collection for every 700 objects walks all modules again and again: an eighth of the time of an export.
gc.set_threshold(50_000, 20, 50)


_VARIABLES: set[str] = set()


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What is imported by now is never garbage, and what it set in the environment stays."""
    gc.collect()
    gc.freeze()
    _VARIABLES.update(os.environ)


@pytest.fixture(autouse=True)
def _variables_of_tensorflow_stay_in_their_test() -> Iterator[None]:
    """A command that runs in this process sets some; with them, no later one could be a fork."""
    yield
    for name in os.environ.keys() - _VARIABLES:
        if name.startswith(READ_AT_START):
            del os.environ[name]


@pytest.fixture(scope="session", autouse=True)
def _servers_begin_with_tensorflow_imported() -> None:
    ServerProcess.forked = True


@pytest.fixture
def new_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers of this test are new interpreters."""
    monkeypatch.setattr(ServerProcess, "forked", False)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Files go to workers whole, in their order, so that what a file prepares is prepared once.

    The conformance suite goes as one: its files ask the same server.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "tests/conformance" if file.startswith("tests/conformance/") else file

    config.option.loadscopereorder = False
    return ByFile(config, log)


@pytest.fixture(scope="session")
def run_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The temporary folder of the whole run, which the workers of pytest-xdist share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if hasattr(request.config, "workerinput") else base


@pytest.fixture(scope="session")
def xla_cache(run_folder: Path) -> Path:
    """Compiled programs that processes of this run share."""
    folder = run_folder / "xla-cache"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def exported_model(run_folder: Path, xla_cache: Path) -> Path:
    """Model base path of a small compiled classifier with all signatures; version 1, batch sizes 1 and 4."""
    return once(
        run_folder / "models",
        lambda folder: export_classifier(folder / "classifier", "--xla-cache", str(xla_cache)),
    )


@pytest.fixture(scope="session")
def exported_version(exported_model: Path) -> Path:
    """Version directory of the small exported classifier."""
    return exported_model / "1"


@pytest.fixture(scope="session")
def uncompiled_version(run_folder: Path) -> Path:
    """Version directory of the same classifier exported with --compile none: loads and runs at once."""
    options = ("--compile", "none", "--no-verify")
    return once(
        run_folder / "uncompiled-models",
        lambda folder: export_classifier(folder / "classifier", *options) / "1",
    )


@pytest.fixture(scope="session")
def brightness_version(run_folder: Path) -> Path:
    """Version directory of a classifier whose maps do not depend on what it has learned."""
    options = ("--compile", "none", "--no-verify", "--methods", "gradients,gradient_x_input")
    return once(
        run_folder / "brightness-models",
        lambda folder: export_classifier(folder / "model", *options, model="models:brightness") / "1",
    )


@pytest.fixture(scope="session")
def saved_versions(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Version directories 1 and 2 of a tiny model that TensorFlow saved; copy them to change them."""
    from serving_models import save_model

    directory = tmp_path_factory.mktemp("saved")
    return {number: save_model(directory / str(number), number=float(number)) for number in (1, 2)}


@pytest.fixture
def model_dir(tmp_path: Path, saved_versions: dict[int, Path]) -> Path:
    """A model base path of this test alone, with version 1 of that tiny model."""
    shutil.copytree(saved_versions[1], tmp_path / "model" / "1")
    return tmp_path / "model"
