"""How an export is made, beside the model itself."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Literal

from saliency_client._contract import DEFAULT_SIGNATURE, IMAGES_SIGNATURE
from saliency_exporter.graph.forward_graph import Rule
from saliency_exporter.graph.lower_precision import Precision
from saliency_exporter.methods.declarations import Method
from saliency_exporter.methods.registry import DEFAULT, find_methods
from saliency_exporter.rules.lowering import lowering_rules
from saliency_exporter.runtime.kernels import Kernels, running_kernels

DEFAULT_BATCH_SIZES = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Settings:
    """How an export is made, beside the model itself.

    Attributes:
        methods: what there are explain signatures of.
        batch_sizes: the compiled batch sizes, ascending.
        compile: "xla"; "none" for the same signatures without XLA; "auto" for either, see `uncompiled`.
        uncompiled: with "auto", by signature the batch sizes that XLA is not worth compiling for, as
            `compile_choice` measures them.
        target: the device that the export will run on; lowering rules depend on it.
        kernels: which of TensorFlow's kernels will run there what is not compiled; so do lowering rules.
        lowering: whether slow ops are replaced by equal ones that are faster on the target.
        max_samples: the bound of parameters that say how many samples a call takes.
        labels: class names, or None.
        sample_precision: in what methods that take a mean over samples replay the model for each sample.
    """

    methods: tuple[Method, ...] = field(default_factory=lambda: find_methods(DEFAULT))
    batch_sizes: tuple[int, ...] = DEFAULT_BATCH_SIZES
    compile: Literal["xla", "none", "auto"] = "xla"
    uncompiled: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    target: Literal["cpu", "gpu"] = "gpu"
    kernels: Kernels = field(default_factory=running_kernels)
    lowering: bool = True
    max_samples: int = 1000
    labels: tuple[str, ...] | None = None
    sample_precision: Precision = "float32"

    @property
    def compiled(self) -> bool:
        """Whether cores are compiled by XLA, all or some."""
        return self.compile != "none"

    def rules(self, *, compiled: bool) -> dict[str, Rule]:
        """Lowering rules by op type, of what is compiled or of what is not."""
        if not self.lowering:
            return {}
        return lowering_rules(self.target, compiled=compiled, kernels=self.kernels)


def predictions_signature(kept: Container[str]) -> str:
    """Under which name the model's predictions are: not that of a signature that is kept as it was.

    Args:
        kept: names of the signatures that the model brought along.
    """
    return IMAGES_SIGNATURE if DEFAULT_SIGNATURE in kept else DEFAULT_SIGNATURE
