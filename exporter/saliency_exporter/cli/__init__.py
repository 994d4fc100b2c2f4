"""The command line: `saliency-exporter`. Each command is a module, and imports what is heavy when it runs."""

from __future__ import annotations

from typing import Any

import click

from saliency_client.cli.application import Application, application
from saliency_client.cli.errors import CommandError
from saliency_exporter.cli.interrupts import interrupts
from saliency_exporter.cli.last_resort import last_resort

_HOME = "saliency_exporter.cli"
_COMMANDS = {
    "export": f"{_HOME}.export:export",
    "verify": f"{_HOME}.verify:verify",
    "inspect": f"{_HOME}.inspect_version:inspect_version",
    "compare": f"{_HOME}.compare:compare",
    "sanity": f"{_HOME}.sanity:sanity",
    "serve": f"{_HOME}.serve:serve",
    "serving-config": f"{_HOME}.serving_config:serving_config",
    "demo": f"{_HOME}.demo:demo",
    "from-vertex": f"{_HOME}.from_vertex:from_vertex",
    "completion": f"{_HOME}.completion:completion",
}

_OF_THE_EXTRA = ("tensorflow", "tensorflow_serving", "keras", "msgspec", "grpc_health", "grpc_reflection")
"""The packages that saliency-serving[exporter] brings, by the name that is imported."""


def _command(context: click.Context) -> str:
    return f"saliency-exporter {context.invoked_subcommand or ''}".rstrip()


class _Exporter(Application):
    """Commands that run TensorFlow, which comes with an extra and handles interrupts in its own way."""

    def invoke(self, context: click.Context) -> Any:
        try:
            # Inside, as an error that an interrupt came out as is none.
            with interrupts(), last_resort(lambda: _command(context)):
                return super().invoke(context)
        except ModuleNotFoundError as error:
            # The command comes with the plain install, as the client's does; what it runs on does not.
            if (error.name or "").partition(".")[0] not in _OF_THE_EXTRA:
                raise
            raise CommandError(
                f"saliency-exporter needs the package {error.name!r}, which is not installed",
                hint="pip install 'saliency-serving[exporter]', or in a clone: pip install -e '.[exporter]'",
            ) from error
        except KeyboardInterrupt as interrupt:
            raise click.Abort() from interrupt


@application("saliency-exporter", _COMMANDS, kind=_Exporter)
def main() -> None:
    """Export a TensorFlow image classifier as a model that TensorFlow Serving serves and explains.

    \b
    saliency-exporter export MobileNetV2 models/mobilenet
    saliency-exporter serve mobilenet=models/mobilenet
    saliency-client explain cat.jpg --server localhost:8500 --model mobilenet

    \b
    Exit codes:
      0     done
      1     failed: nothing was exported, or an answer is not within tolerance
      2     wrong usage
      130   interrupted
    SALIENCY_DEBUG=1 shows tracebacks and TensorFlow's own log.
    """
