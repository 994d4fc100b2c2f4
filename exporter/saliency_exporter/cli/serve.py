"""`saliency-exporter serve`: options in, LocalServer out."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saliency_client.cli.completion import complete_files
from saliency_client.cli.errors import UsageError
from saliency_client.cli.param_types import FILE, FiniteRange
from saliency_client.cli.sections import command, option
from saliency_exporter.cli.params import CHANNEL_ARGUMENTS, DIRECTORY, NUMBERS, PATH
from saliency_exporter.errors import ExportError

if TYPE_CHECKING:
    from saliency_exporter.serving.batching import BatchingParameters
    from saliency_exporter.serving.model_config import ModelConfig
    from saliency_exporter.serving.tls import TlsFiles
    from saliency_exporter.serving.withholding import Withheld


@command("serve", short_help="Serve exported models, for development and tests.")
@click.argument("models", nargs=-1, metavar="NAME=MODEL_DIR...", shell_complete=complete_files)
@option(
    "--versions",
    default="latest",
    show_default=True,
    metavar="latest|all|N,N",
    section="Models",
    help="Which versions to serve.",
)
@option(
    "--label",
    "labels",
    multiple=True,
    metavar="[NAME:]LABEL=N",
    section="Models",
    help="Give a version a label, and serve it. Repeatable.",
)
@option(
    "--model-config-file",
    type=FILE,
    section="Models",
    help="TensorFlow Serving's models.config, instead of NAME=MODEL_DIR. It is read again when it changes.",
)
@option(
    "--poll",
    type=FiniteRange(min=0),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    section="Models",
    help="How often to look for new versions and a changed model config file; 0 is never.",
)
@option(
    "--warmup/--no-warmup",
    default=True,
    show_default=True,
    section="Models",
    help="Replay the warmup records.",
)
@option(
    "--warmup-threads",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    section="Models",
    help="How many warmup records run side by side.  [default: cores; 1 with --batching]",
)
@option("--host", default="127.0.0.1", show_default=True, section="Connections", help="Address to listen on.")
@option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8500,
    show_default=True,
    metavar="N",
    section="Connections",
    help="Port to listen on; 0 picks a free one.",
)
@option(
    "--rest-port",
    type=click.IntRange(0, 65535),
    metavar="N",
    section="Connections",
    help="Answer TensorFlow Serving's REST API as well, on this port; 0 picks a free one.",
)
@option(
    "--rest-timeout",
    type=FiniteRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    section="Connections",
    help="How long a REST request may take, as TensorFlow Serving's --rest_api_timeout_in_ms.",
)
@option("--port-file", type=PATH, section="Connections", help="Write the port to this file when it is open.")
@option(
    "--tls-cert", type=PATH, section="Connections", help="PEM file of the server's chain of certificates."
)
@option("--tls-key", type=PATH, section="Connections", help="PEM file of the certificate's private key.")
@option(
    "--tls-client-ca",
    type=PATH,
    section="Connections",
    help="Admit only clients whose certificate this authority signed.",
)
@option(
    "--grpc-channel-arguments",
    type=CHANNEL_ARGUMENTS,
    section="Connections",
    help="gRPC options, in the form of TensorFlow Serving's flag.",
)
@option(
    "--encoding",
    type=click.Choice(["fields", "tensor_content"]),
    default="fields",
    show_default=True,
    section="Connections",
    help="How answers carry tensors; TensorFlow Serving's default is fields.",
)
@option(
    "--withhold-defaults",
    type=click.Choice(["metadata", "all"]),
    section="Connections",
    help="For tests of clients: omit defaults from the metadata, as TFRT servables do; all: also at Predict.",
)
@option(
    "--running",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    section="Load",
    help="How many requests run side by side.  [default: cores, at least 2]",
)
@option(
    "--waiting",
    type=click.IntRange(min=0),
    default=64,
    show_default=True,
    metavar="N",
    section="Load",
    help="How many requests may wait.",
)
@option(
    "--grace",
    type=FiniteRange(min=0),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    section="Load",
    help="Time for requests to finish when the server is stopped.",
)
@option(
    "--intra-op-threads",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    section="Load",
    help="How many threads run one op.  [default: cores]",
)
@option(
    "--inter-op-threads",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    section="Load",
    help="How many ops run side by side.  [default: cores]",
)
@option(
    "--xla-cache",
    type=DIRECTORY,
    section="Load",
    help="Keep compiled programs in this directory, so that the next process does not compile again.",
)
@option("--batching", is_flag=True, section="Batching", help="Merge requests as --enable_batching does.")
@option(
    "--batching-parameters-file",
    type=FILE,
    section="Batching",
    help="TensorFlow Serving's file, instead of the next five options.",
)
@option(
    "--max-batch-size",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    metavar="N",
    section="Batching",
    help="The largest number of images in a batch.",
)
@option(
    "--allowed-batch-sizes",
    type=NUMBERS,
    section="Batching",
    help="The sizes to which batches are padded; the last is the maximum.",
)
@option(
    "--batch-timeout-micros",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    section="Batching",
    help="How many microseconds a batch waits to be filled.",
)
@option(
    "--max-enqueued-batches",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    metavar="N",
    section="Batching",
    help="How many batches may wait in one queue.",
)
@option(
    "--num-batch-threads",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    section="Batching",
    help="How many batches run side by side.  [default: cores]",
)
@option("--verbose", is_flag=True, section="Output", help="Show TensorFlow's own log.")
def serve(
    models: tuple[str, ...],
    host: str,
    port: int,
    rest_port: int | None,
    rest_timeout: float,
    port_file: Path | None,
    encoding: str,
    versions: str,
    labels: tuple[str, ...],
    model_config_file: Path | None,
    poll: float,
    warmup: bool,
    warmup_threads: int,
    running: int,
    waiting: int,
    grace: float,
    batching: bool,
    batching_parameters_file: Path | None,
    max_batch_size: int,
    allowed_batch_sizes: tuple[int, ...] | None,
    batch_timeout_micros: int,
    max_enqueued_batches: int,
    num_batch_threads: int,
    withhold_defaults: Withheld | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    intra_op_threads: int,
    inter_op_threads: int,
    xla_cache: Path | None,
    grpc_channel_arguments: dict[str, int | str] | None,
    verbose: bool,
) -> None:
    """Serve exported models as TensorFlow Serving does, for development and tests.

    MODEL_DIR holds the numbered version directories of one model. The ports open when every model is loaded
    and warmed up; new versions are picked up as they appear. In production run TensorFlow Serving.

    \b
    saliency-exporter serve resnet50=models/resnet50
    saliency-exporter serve resnet50=models/resnet50 --port 0 --port-file port.txt
    saliency-exporter serve resnet50=models/resnet50 --rest-port 8501
    saliency-exporter serve resnet50=models/resnet50 --label stable=1 --label canary=2
    """
    # What is wrong with the options is said before TensorFlow is imported, which takes seconds.
    _check_together(batching, batching_parameters_file, tls_cert, tls_key, tls_client_ca)
    _check_rest(rest_port, port, encoding, tls_cert)
    named = _named_models(models, versions, labels, model_config_file)
    from saliency_exporter.runtime.quiet import import_tensorflow, pool_cpu_memory

    if verbose:
        pool_cpu_memory()
    else:
        import_tensorflow()
    from saliency_exporter.serving.server import serve as run_server

    reread = _reader(model_config_file)
    finished = run_server(
        reread() if reread is not None else named,
        host=host,
        port=port,
        rest_port=rest_port,
        rest_seconds=rest_timeout,
        port_file=port_file,
        grace=grace,
        encoding=encoding,
        warmup=warmup,
        warmup_threads=warmup_threads,
        poll_seconds=poll,
        reread=reread,
        running=running,
        waiting=waiting,
        batching=_batching_parameters(
            batching_parameters_file,
            max_batch_size=max_batch_size,
            batch_timeout_micros=batch_timeout_micros,
            max_enqueued_batches=max_enqueued_batches,
            num_batch_threads=num_batch_threads,
            allowed_batch_sizes=allowed_batch_sizes or (),
        )
        if batching
        else None,
        withhold_defaults=withhold_defaults,
        tls=_tls(tls_cert, tls_key, tls_client_ca),
        intra_op_threads=intra_op_threads,
        inter_op_threads=inter_op_threads,
        xla_cache=xla_cache,
        grpc_arguments=grpc_channel_arguments or {},
    )
    if not finished:
        # TensorFlow cannot be interrupted: leaving the interpreter would wait for it.
        sys.stdout.flush()
        os._exit(0)


def _named_models(
    models: tuple[str, ...], versions: str, labels: tuple[str, ...], model_config_file: Path | None
) -> list[ModelConfig]:
    """The models of the arguments, each with something to serve; none with a model config file.

    Raises:
        UsageError: an argument is not of its form.
        ExportError: there is nothing to serve of a model.
    """
    from saliency_exporter.serving.model_config import parse_models

    if model_config_file is not None:
        if models or labels:
            raise UsageError(
                "give NAME=MODEL_DIR or --model-config-file, not both",
                hint="the file names models, versions and labels",
            )
        return []
    if not models:
        raise UsageError("give at least one NAME=MODEL_DIR", hint="for example resnet50=models/resnet50")
    try:
        named = parse_models(models, versions, labels)
    except ExportError as error:
        raise UsageError(str(error), hint=error.hint) from error
    for model in named:
        model.refuse_nothing()
    return named


def _check_together(
    batching: bool,
    batching_parameters_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
) -> None:
    if batching_parameters_file is not None and not batching:
        raise UsageError("--batching-parameters-file needs --batching", hint="give both")
    if (tls_cert or tls_key or tls_client_ca) and not (tls_cert and tls_key):
        raise UsageError("TLS needs both --tls-cert and --tls-key", hint="give both")


def _check_rest(rest_port: int | None, port: int, encoding: str, tls_cert: Path | None) -> None:
    if rest_port is None:
        return
    if rest_port == port != 0:
        raise UsageError(f"--port and --rest-port are both {port}", hint="give two, or 0 for a free one")
    if tls_cert is not None:
        raise UsageError(
            "--rest-port does not go with --tls-cert: the REST API has no TLS, nor has TensorFlow Serving's; "
            "it would let in whom TLS keeps out",
            hint="leave one of them out, or put a proxy that speaks TLS before a server without it",
        )
    if encoding == "tensor_content":
        # json_tensor.cc reads float_val, which is empty then: there a REST call reads beyond it.
        raise UsageError(
            "--rest-port does not go with --encoding tensor_content: TensorFlow Serving with "
            "--enable_serialization_as_tensor_content cannot answer Predict over REST",
            hint="leave one of them out",
        )


def _reader(model_config_file: Path | None) -> Callable[[], list[ModelConfig]] | None:
    if model_config_file is None:
        return None
    from saliency_exporter.serving.model_config import read_model_config_file

    return lambda: read_model_config_file(model_config_file)


def _batching_parameters(parameters_file: Path | None, **given: Any) -> BatchingParameters:
    from saliency_exporter.serving.batching import BatchingParameters
    from saliency_exporter.serving.batching_file import read_batching_file

    if parameters_file is not None:
        return read_batching_file(parameters_file)
    sizes = given["allowed_batch_sizes"]
    return BatchingParameters(**{**given, "max_batch_size": sizes[-1] if sizes else given["max_batch_size"]})


def _tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> TlsFiles | None:
    from saliency_exporter.serving.tls import TlsFiles

    if certificate is None or key is None:
        return None
    return TlsFiles(certificate, key, client_ca)
