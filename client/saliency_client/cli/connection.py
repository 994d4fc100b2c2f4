"""From options to a connected client."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saliency_client.cli.errors import CommandError, UsageError

if TYPE_CHECKING:
    from saliency_client import TLS, SaliencyClient

TOKEN_VARIABLE = "SALIENCY_TOKEN"
DEFAULT_TIMEOUT = 60.0
"""Seconds of a request, retries included."""
_GRAPH = "saved_model.pb"


@dataclass(frozen=True)
class Connection:
    """What the options say about the server; `local` is a version directory in place of one."""

    server: str | None
    model: str | None
    version: int | None
    label: str | None
    timeout: float
    tls: bool
    ca: Path | None
    cert: Path | None
    key: Path | None
    server_name: str | None
    token_file: Path | None
    metadata: tuple[str, ...]
    local: Path | None

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """The options that make a connection."""
        return tuple(field.name for field in dataclasses.fields(cls))


@contextmanager
def connect(connection: Connection) -> Iterator[SaliencyClient]:
    """A client for the server and model of the options, closed at the end.

    Raises:
        UsageError: there is no server or no model.
        OptionError: options do not go together.
        CommandError: `local` is asked for without TensorFlow installed.
    """
    from saliency_client import SaliencyClient

    which = {"version": connection.version, "label": connection.label}
    with client_options(connection, **which) as options, SaliencyClient(**options) as client:
        yield client


@contextmanager
def client_options(connection: Connection, **others: Any) -> Iterator[dict[str, Any]]:
    """The arguments of a client of either kind; the version and the label are among the others, if any.

    Raises:
        UsageError: there is no server or no model.
        CommandError: `local` is asked for without TensorFlow installed.
    """
    _check_named(connection)
    with ExitStack() as stack:
        target, model = _target(connection, stack)
        yield {"target": target, "model": model, **_how(connection), **others}


def is_path(server: str) -> bool:
    """Whether a server's address is a file of this machine, such as a socket."""
    return any(
        one.strip().startswith(("unix:", "unix-abstract:", "vsock:", "/")) for one in server.split(",")
    )


def check_given(connection: Connection) -> None:
    """Check the options of the connection, as far as they can be without it; opens none.

    A command that first looks at files calls this before it does so: wrong usage is wrong whatever is there.

    Raises:
        UsageError: there is no server or no model, or one beside --local.
        OptionError: options cannot work, or do not go together.
    """
    from saliency_client import SaliencyClient

    _check_named(connection)
    targets = "localhost:8500" if connection.local is not None else _targets(connection)
    model = "local" if connection.local is not None else str(connection.model)
    options = {**_how(connection), "version": connection.version, "label": connection.label}
    # A client connects with its first call.
    SaliencyClient(targets, model=model, **options).close()


def _how(connection: Connection) -> dict[str, Any]:
    """The arguments of a client beside the target and the model."""
    return {
        "timeout": connection.timeout,
        "tls": _tls(connection),
        "token": _token(connection),
        "metadata": [_pair(item) for item in connection.metadata],
        "user_agent": "saliency-client-cli",
    }


def _check_named(connection: Connection) -> None:
    if connection.local is not None:
        for option in ("server", "model"):
            source = click.get_current_context().get_parameter_source(option)
            if source is click.core.ParameterSource.COMMANDLINE:
                raise UsageError(f"--local runs without a server; leave --{option} out")
    elif connection.server is None:
        raise UsageError(
            "no server is given",
            hint="give --server HOST:PORT (TensorFlow Serving's gRPC port is 8500), or set SALIENCY_SERVER",
        )
    elif connection.model is None:
        raise UsageError("no model is given", hint="give --model NAME, or set SALIENCY_MODEL")


def _target(connection: Connection, stack: ExitStack) -> tuple[str | list[str], str]:
    if connection.local is not None:
        return stack.enter_context(_local_server(connection.local))
    assert connection.model is not None
    return _targets(connection), connection.model


def _targets(connection: Connection) -> str | list[str]:
    assert connection.server is not None
    targets = [target.strip() for target in connection.server.split(",") if target.strip()]
    return targets if len(targets) > 1 else connection.server


@contextmanager
def _local_server(version_dir: Path) -> Iterator[tuple[str, str]]:
    """(target, model name) of a server in this process.

    This module alone imports the exporter, inside the functions of --local: all else runs where neither
    it nor TensorFlow is installed.
    """
    _check_version_dir(version_dir)
    try:
        from saliency_exporter.runtime.quiet import import_tensorflow

        import_tensorflow()
        from saliency_exporter.errors import ExportError
        from saliency_exporter.serving import local_target
    except ImportError as error:
        raise CommandError(
            f"--local needs TensorFlow, and it cannot be imported: {error}",
            hint="pip install 'saliency-serving[exporter]' (in a clone: pip install -e '.[exporter]'), "
            "or ask a server with --server",
        ) from error
    with ExitStack() as stack:
        try:
            target = stack.enter_context(local_target(version_dir))
        except ExportError as error:
            raise CommandError(str(error), hint=error.hint) from error
        yield target


def _check_version_dir(path: Path) -> None:
    if (path / _GRAPH).exists():
        return
    below = (version for folder in _folders(path) for version in _exported_versions(folder)[-1:])
    version = next(iter(_exported_versions(path)[-1:]), None) or next(below, None)
    hint = f"name a version in it: --local {version}" if version else "export a model first"
    raise CommandError(f"{path} is not a version of an exported model: it has no {_GRAPH}", hint=hint)


def _exported_versions(model_dir: Path) -> list[Path]:
    """The version directories that hold a model, the highest number last."""
    from saliency_exporter.runtime.version_directories import version_directories

    try:
        return [version for version in version_directories(model_dir) if (version / _GRAPH).exists()]
    except OSError:  # not a folder that this user may list
        return []


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(folder for folder in path.iterdir() if folder.is_dir())
    except OSError:
        return []


def _tls(connection: Connection) -> bool | TLS:
    from saliency_client import TLS

    if not (connection.tls or connection.ca or connection.cert or connection.key or connection.server_name):
        return False
    return TLS(connection.ca, connection.cert, connection.key, connection.server_name)


def _token(connection: Connection) -> str | Callable[[], str] | None:
    path = connection.token_file
    if path is not None:
        # Read for every request: whoever rotates a token rewrites its file.
        return lambda: path.read_text().strip()
    return os.environ.get(TOKEN_VARIABLE) or None


def _pair(item: str) -> tuple[str, str]:
    key, separator, value = item.partition("=")
    if not separator:
        raise UsageError(f"--metadata {item!r} is not KEY=VALUE")
    return key, value
