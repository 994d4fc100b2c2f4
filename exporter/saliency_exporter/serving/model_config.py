"""Which models to serve: from the command line, or from TensorFlow Serving's models.config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from saliency_exporter.errors import ExportError
from saliency_exporter.serving.models import ModelConfig, VersionPolicy


def parse_models(models: Sequence[str], versions: str, labels: Sequence[str]) -> list[ModelConfig]:
    """Reads NAME=MODEL_DIR arguments, a version policy and [NAME:]LABEL=N labels.

    A version that has a label is served whatever the policy says.

    Raises:
        ExportError: an argument is not of its form, or a name occurs twice.
    """
    policy = _parse_policy(versions)
    configs: dict[str, ModelConfig] = {}
    for model in models:
        name, separator, base_path = model.partition("=")
        if not (name and separator and base_path):
            raise ExportError(
                f"{model!r} is not of the form NAME=MODEL_DIR", hint="for example resnet50=models/resnet50"
            )
        if name in configs:
            raise ExportError(f"model {name} is given twice")
        configs[name] = ModelConfig(name, Path(base_path), policy)
    for label in labels:
        name, text, version = _parse_label(label, configs)
        config = configs[name]
        configs[name] = replace(
            config,
            labels={**config.labels, text: version},
            policy=replace(config.policy, specific=config.policy.specific | {version}),
        )
    return list(configs.values())


def read_model_config_file(path: Path) -> list[ModelConfig]:
    """Reads TensorFlow Serving's models.config: a ModelServerConfig in text form.

    Raises:
        ExportError: the file cannot be read or parsed, or holds no model.
    """
    config = model_server_config_pb2.ModelServerConfig()
    try:
        text_format.Parse(path.read_text(), config)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ExportError(
            f"cannot read {path}: {error}", hint="it is a ModelServerConfig text proto"
        ) from error
    if not config.model_config_list.config:
        raise ExportError(f"{path} names no model", hint="add a config {{ … }} to its model_config_list")
    return [
        ModelConfig(
            model.name, Path(model.base_path), _policy(model.model_version_policy), dict(model.version_labels)
        )
        for model in config.model_config_list.config
    ]


def _policy(policy: object) -> VersionPolicy:
    match policy.WhichOneof("policy_choice"):
        case "all":
            return VersionPolicy(every=True)
        case "specific":
            return VersionPolicy(latest=0, specific=frozenset(policy.specific.versions))
        case "latest":
            return VersionPolicy(latest=max(1, policy.latest.num_versions))
        case _:
            return VersionPolicy()


def _parse_policy(versions: str) -> VersionPolicy:
    if versions == "latest":
        return VersionPolicy()
    if versions == "all":
        return VersionPolicy(every=True)
    try:
        return VersionPolicy(latest=0, specific=frozenset(int(number) for number in versions.split(",")))
    except ValueError:
        raise ExportError(
            f"--versions is latest, all, or numbers with commas between; got {versions!r}"
        ) from None


def _parse_label(label: str, configs: dict[str, ModelConfig]) -> tuple[str, str, int]:
    named, _, number = label.rpartition("=")
    name, separator, text = named.rpartition(":")
    if not separator:
        if len(configs) > 1:
            raise ExportError(f"--label {label} does not say for which model", hint=f"NAME:{label}")
        (name,) = configs
    if name not in configs:
        raise ExportError(
            f"--label {label} is for model {name}, which is not served", hint=f"served: {', '.join(configs)}"
        )
    if not text or not number.isdigit():
        raise ExportError(f"--label {label} is not of the form [NAME:]LABEL=N")
    return name, text, int(number)
