"""The command `serve`: options in, LocalServer out. TensorFlow is imported only when it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from saliency_exporter.errors import ExportError

if TYPE_CHECKING:
    from saliency_exporter.serving.batching import BatchingParameters
    from saliency_exporter.serving.models import ModelConfig
    from saliency_exporter.serving.tls import TlsFiles
    from saliency_exporter.serving.withholding import Withheld


@click.command("serve")
@click.argument("models", nargs=-1, metavar="NAME=MODEL_DIR...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8500,
    show_default=True,
    help="Port to listen on; 0 picks a free one.",
)
@click.option("--port-file", type=click.Path(path_type=Path), help="Write the port here once it is open.")
@click.option(
    "--encoding",
    type=click.Choice(["fields", "tensor_content"]),
    default="fields",
    show_default=True,
    help="How answers carry tensors; TensorFlow Serving's default is fields.",
)
@click.option(
    "--versions",
    default="latest",
    show_default=True,
    metavar="latest|all|N,N",
    help="Which versions to serve.",
)
@click.option(
    "--label", "labels", multiple=True, metavar="[NAME:]LABEL=N", help="Name a version, and serve it."
)
@click.option(
    "--model-config-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="TensorFlow Serving's models.config, instead of NAME=MODEL_DIR; read again as it changes.",
)
@click.option(
    "--poll",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Seconds between looks for versions and at the model config file; 0: never.",
)
@click.option("--warmup/--no-warmup", default=True, show_default=True, help="Replay the warmup records.")
@click.option(
    "--warmup-threads",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Warmup records side by side [default: cores; 1 with --batching].",
)
@click.option(
    "--running",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Requests that run side by side [default: cores, at least 2].",
)
@click.option(
    "--waiting",
    type=click.IntRange(min=0),
    default=64,
    show_default=True,
    metavar="N",
    help="Requests that may wait for a place.",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    help="Seconds for requests to finish when stopped.",
)
@click.option("--batching", is_flag=True, help="Merge requests as --enable_batching does.")
@click.option(
    "--batching-parameters-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="TensorFlow Serving's file, instead of the next five options.",
)
@click.option("--max-batch-size", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option(
    "--allowed-batch-sizes", metavar="N,N", help="Sizes to pad batches to; the last is the maximum."
)
@click.option("--batch-timeout-micros", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--max-enqueued-batches", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--num-batch-threads", type=click.IntRange(min=0), default=0, help="[default: cores]")
@click.option(
    "--withhold-defaults",
    type=click.Choice(["metadata", "all"]),
    help="For tests of clients: no defaults in the metadata, as TFRT servables have it; all: nor at Predict.",
)
@click.option("--tls-cert", type=click.Path(path_type=Path), help="The server's certificate chain, PEM.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="The certificate's private key, PEM.")
@click.option(
    "--tls-client-ca", type=click.Path(path_type=Path), help="Let in only clients of this authority."
)
@click.option(
    "--intra-op-threads",
    type=click.IntRange(min=0),
    default=0,
    help="Threads inside one op [default: cores].",
)
@click.option(
    "--inter-op-threads", type=click.IntRange(min=0), default=0, help="Ops side by side [default: cores]."
)
@click.option(
    "--xla-cache", type=click.Path(path_type=Path), help="Keep compiled programs in this directory."
)
@click.option(
    "--grpc-channel-arguments",
    metavar="KEY=VALUE,...",
    help="gRPC options as TensorFlow Serving takes them.",
)
@click.option("--verbose", is_flag=True, help="Show TensorFlow's own log.")
def serve_command(
    models: tuple[str, ...],
    host: str,
    port: int,
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
    allowed_batch_sizes: str | None,
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
    grpc_channel_arguments: str | None,
    verbose: bool,
) -> None:
    """Serve exported models over gRPC as TensorFlow Serving does, for development and tests.

    MODEL_DIR holds the numbered version directories of one model. The port opens when every model is loaded
    and warmed up; new versions are picked up as they appear. In production run TensorFlow Serving.

    \b
        saliency-exporter serve resnet50=models/resnet50
        saliency-exporter serve resnet50=models/resnet50 --port 0 --port-file port.txt
        saliency-exporter serve resnet50=models/resnet50 --label stable=1 --label canary=2
    """
    from saliency_exporter.quiet import import_tensorflow, pool_cpu_memory

    if verbose:
        pool_cpu_memory()
    else:
        import_tensorflow()
    from saliency_exporter.serving.server import serve

    finished = serve(
        _model_configs(models, versions, labels, model_config_file),
        host=host,
        port=port,
        port_file=port_file,
        grace=grace,
        encoding=encoding,
        warmup=warmup,
        warmup_threads=warmup_threads,
        poll_seconds=poll,
        reread=_rereading(model_config_file),
        running=running,
        waiting=waiting,
        batching=_batching(
            batching,
            batching_parameters_file,
            max_batch_size,
            batch_timeout_micros,
            max_enqueued_batches,
            num_batch_threads,
            allowed_batch_sizes,
        ),
        withhold_defaults=withhold_defaults,
        tls=_tls(tls_cert, tls_key, tls_client_ca),
        intra_op_threads=intra_op_threads,
        inter_op_threads=inter_op_threads,
        xla_cache=xla_cache,
        grpc_arguments=_grpc_arguments(grpc_channel_arguments or ""),
    )
    if not finished:
        # TensorFlow cannot be interrupted: leaving the interpreter would wait for it.
        sys.stdout.flush()
        os._exit(0)


def _model_configs(
    models: tuple[str, ...], versions: str, labels: tuple[str, ...], model_config_file: Path | None
) -> list[ModelConfig]:
    from saliency_exporter.serving import model_config

    if model_config_file is not None:
        if models or labels:
            raise click.UsageError("give NAME=MODEL_DIR or --model-config-file, not both")
        return model_config.read_model_config_file(model_config_file)
    if not models:
        raise click.UsageError("give at least one NAME=MODEL_DIR")
    return model_config.parse_models(models, versions, labels)


def _rereading(model_config_file: Path | None) -> Callable[[], list[ModelConfig]] | None:
    if model_config_file is None:
        return None
    from saliency_exporter.serving.model_config import read_model_config_file

    return lambda: read_model_config_file(model_config_file)


def _batching(
    batching: bool,
    parameters_file: Path | None,
    max_batch_size: int,
    batch_timeout_micros: int,
    max_enqueued_batches: int,
    num_batch_threads: int,
    allowed_batch_sizes: str | None,
) -> BatchingParameters | None:
    from saliency_exporter.serving.batching import BatchingParameters
    from saliency_exporter.serving.batching_file import read_batching_file

    if not batching:
        if parameters_file is not None:
            raise click.UsageError("--batching-parameters-file needs --batching")
        return None
    if parameters_file is not None:
        return read_batching_file(parameters_file)

    sizes = _numbers(allowed_batch_sizes, "--allowed-batch-sizes") if allowed_batch_sizes else ()
    return BatchingParameters(
        max_batch_size=sizes[-1] if sizes else max_batch_size,
        batch_timeout_micros=batch_timeout_micros,
        max_enqueued_batches=max_enqueued_batches,
        num_batch_threads=num_batch_threads,
        allowed_batch_sizes=sizes,
    )


def _tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> TlsFiles | None:
    from saliency_exporter.serving.tls import TlsFiles

    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        raise click.UsageError("TLS needs both --tls-cert and --tls-key")
    return TlsFiles(certificate, key, client_ca)


def _grpc_arguments(text: str) -> dict[str, int | str]:
    arguments: dict[str, int | str] = {}
    for argument in filter(None, text.split(",")):
        key, separator, value = argument.partition("=")
        if not separator:
            raise ExportError(f"--grpc-channel-arguments takes KEY=VALUE, got {argument!r}")
        arguments[key] = int(value) if value.lstrip("-").isdigit() else value
    return arguments


def _numbers(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ExportError(f"{option} takes numbers with commas between, got {text!r}") from None
