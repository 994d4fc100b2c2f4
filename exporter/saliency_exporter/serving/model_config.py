"""Which models to serve: from the command line, or from TensorFlow Serving's models.config.

Needs no TensorFlow, but for a models.config.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from saliency_exporter.errors import ExportError
from saliency_exporter.runtime.version_directories import version_directories, version_number


@dataclass(frozen=True)
class VersionPolicy:
    """Which of the versions on disk are served: the `latest` highest, those named in `specific`, or all."""

    latest: int = 1
    specific: frozenset[int] = frozenset()
    every: bool = False

    def select(self, versions: Iterable[int]) -> set[int]:
        """The versions to serve out of those on disk."""
        on_disk = sorted(versions)
        if self.every:
            return set(on_disk)
        return set(on_disk[len(on_disk) - self.latest :] if self.latest else ()) | self.specific & set(
            on_disk
        )


@dataclass(frozen=True)
class ModelConfig:
    """One model to serve.

    Attributes:
        name: what requests call it.
        base_path: holds a directory per version, named by its number.
        policy: which of them are served.
        labels: names for version numbers that requests can use instead.
        only: one version directory to serve instead of those under base_path, whatever it is called.
    """

    name: str
    base_path: Path
    policy: VersionPolicy = VersionPolicy()
    labels: Mapping[str, int] = field(default_factory=dict)
    only: Path | None = None

    @classmethod
    def of_version(cls, version_dir: Path) -> ModelConfig:
        """A model that is one version directory; it is named after the directory above."""
        return cls(version_dir.parent.name or "model", version_dir.parent, only=version_dir)

    def on_disk(self) -> dict[int, Path]:
        """The version directories by number.

        Raises:
            OSError: the base path cannot be read.
        """
        if self.only is not None:
            return {version_number(self.only.name) or 1: self.only}
        self.base_path.stat()  # raises where there is none
        return {int(path.name): path for path in version_directories(self.base_path)}

    def refuse_nothing(self) -> None:
        """Refuses a model of which there is nothing to serve.

        Raises:
            ExportError: there is no base path, or no version in it that the policy selects.
        """
        if not self.base_path.is_dir():
            raise ExportError(
                f"could not find base path {self.base_path} of model {self.name}",
                hint="give the directory that holds the numbered version directories",
            )
        if not self.policy.select(self.on_disk()):
            raise ExportError(
                f"no version of model {self.name} to serve under {self.base_path}",
                hint=_base_path_hint(self.base_path),
            )


def _base_path_hint(path: Path) -> str:
    if (path / "saved_model.pb").is_file():
        return f"this is one version; give the directory above it, {path.parent}"
    return f"a version is a directory named by its number, such as {path / '1'}; a base path holds them"


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
    from tensorflow_serving.config import model_server_config_pb2

    from saliency_exporter.serving.text_protos import read_text_proto

    config = read_text_proto(path, model_server_config_pb2.ModelServerConfig())
    if not config.model_config_list.config:
        raise ExportError(f"{path} names no model", hint="add a config { … } to its model_config_list")
    return [
        ModelConfig(
            model.name, Path(model.base_path), _policy(model.model_version_policy), dict(model.version_labels)
        )
        for model in config.model_config_list.config
    ]


def _policy(policy: Any) -> VersionPolicy:
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
    numbers = [version_number(number.strip()) for number in versions.split(",")]
    if None in numbers:
        raise ExportError(f"--versions is latest, all, or numbers with commas between; got {versions!r}")
    return VersionPolicy(latest=0, specific=frozenset(number for number in numbers if number is not None))


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
    if not text or version_number(number) is None:
        raise ExportError(f"--label {label} is not of the form [NAME:]LABEL=N")
    return name, text, int(number)
