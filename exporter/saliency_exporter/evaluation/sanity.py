"""The randomisation test: do a method's maps depend on what the model has learned?

Layer after layer, from the class scores down to the input, gets random weights, and the maps of the version
are compared with those of the trained model (Adebayo et al. 2018, arXiv 1810.03292, section 4.1, cascading
randomization). What is tested is what is served: the SavedModel, with other values in its variables.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from saliency_client.evaluation.similarity import in_units_of_largest, spearman, ssim
from saliency_exporter.errors import ExportError
from saliency_exporter.evaluation.card import Card, MethodOutcome, Row
from saliency_exporter.evaluation.randomisation import chosen_depths, entropy, permuted
from saliency_exporter.evaluation.weights import Weights
from saliency_exporter.graph.weight_groups import weight_groups
from saliency_exporter.methods.declarations import CLASS_INDEX
from saliency_exporter.runtime.servable import Servable, load_servable
from saliency_exporter.version.manifest import Manifest, MethodEntry, read_manifest

DEPTHS = 8
"""At how many depths maps are made."""

SAMPLES = 20
"""How many samples or steps a map is made of at most; of masks ten times as many, as they say less each."""

SEED, OTHER_SEED = "seed", 1
"""The parameter of what a method draws, 0 by default, and the value that tells how much of a map is noise."""

_SAMPLES_OF_ONE = 200
"""A method whose default is so many samples or less takes each of them for one."""

Maps = npt.NDArray[np.float32]


def check_sanity(
    version_dir: Path,
    images: Mapping[str, np.ndarray],
    *,
    methods: Sequence[str] = (),
    depths: int = DEPTHS,
    samples: int = SAMPLES,
    seed: int = 0,
    progress: Callable[[str], None] = lambda words: None,
    manifest: Manifest | None = None,
) -> Card:
    """The randomisation test of a version directory, which is left as it is.

    Args:
        version_dir: the version.
        images: by name, each as the version's signatures take one, without the batch.
        methods: names of exported methods; none means all.
        depths: at how many depths maps are made, at most.
        samples: how many samples, steps or tens of masks a map is made of, at most.
        seed: of the order that weights get.
        progress: called with one line before each step.
        manifest: of the version, where it has been read.

    Raises:
        ExportError: a method is not exported, the model has no weights, or the version cannot be loaded.
    """
    started = time.monotonic()
    manifest = manifest or read_manifest(version_dir)
    entries = _chosen(manifest, methods, version_dir)
    progress("loading the version")
    servable = load_servable(version_dir)
    try:
        predictions = servable.signature_defs[manifest.predictions]
        groups = weight_groups(
            servable.session.graph.as_graph_def(),
            predictions.inputs[manifest.input.name].name,
            [output.name for output in predictions.outputs.values()],
        )
        if not groups:
            raise ExportError(
                f"the scores of {manifest.model} depend on no weights: there is nothing to randomise",
                hint="the test is for models that have learned something",
            )
        weights = Weights(servable, [name for group in groups for name in group.variables])
        explain = _Explainer(servable, entries, np.stack(list(images.values())), samples)
        progress(f"explaining {len(images)} images with the trained weights")
        trained = explain()
        by_other_seed = explain(other_seed=True)
        chosen = chosen_depths(len(groups), depths)
        tables: dict[str, list[tuple[Row, Row, Row]]] = {name: [] for name in entries}
        unchanged: list[str] = []
        done = 0
        for number, depth in enumerate(chosen, 1):
            layer = groups[depth - 1].layer
            progress(
                f"depth {number} of {len(chosen)}: explaining with {depth} of {len(groups)} layers random, "
                f"down to {layer}"
            )
            for index in range(done, depth):
                values = weights.read(groups[index].variables)
                rng = np.random.default_rng([seed, index])
                drawn = {name: permuted(value, rng) for name, value in values.items()}
                if all(np.array_equal(drawn[name], values[name]) for name in values):
                    unchanged.append(groups[index].layer)
                weights.write(drawn)
            done = depth
            for name, maps in explain().items():
                tables[name].append(_compared(trained[name], maps))
    finally:
        servable.close()
    return Card(
        images=tuple(images),
        seed=seed,
        layers=tuple(group.layer for group in groups),
        unchanged=tuple(unchanged),
        depths=tuple(chosen),
        methods={
            name: MethodOutcome(
                spearman=tuple(rows[0] for rows in table),
                ssim=tuple(rows[1] for rows in table),
                entropy=tuple(rows[2] for rows in table),
                trained_entropy=_row(entropy(one) for one in trained[name]),
                parameters=explain.parameters[name],
                other_seed=_row(map(spearman, trained[name], by_other_seed.get(name, ()))),
            )
            for name, table in tables.items()
        },
        seconds=time.monotonic() - started,
    )


class _Explainer:
    """Of every method the saliency, or |map| where inputs have no places, of the trained model's classes."""

    def __init__(
        self, servable: Servable, entries: Mapping[str, MethodEntry], images: np.ndarray, samples: int
    ) -> None:
        self.servable = servable
        self.images = images
        self.parameters = {name: _fewer(entry, samples) for name, entry in entries.items()}
        self.class_index = np.full(len(images), -1, np.int32)
        self.drawn = {
            name
            for name, entry in entries.items()
            if any(parameter.name == SEED for parameter in entry.parameters)
        }
        # Of features without a place, saliency is one number, which has no order.
        places = images.ndim > 2
        self.outputs = {name: "saliency" if places else entry.map for name, entry in entries.items()}

    def __call__(self, *, other_seed: bool = False) -> dict[str, Maps]:
        """[B, *sizes] by method; the first call decides the classes. By another seed, of those that draw."""
        maps: dict[str, Maps] = {}
        for name, parameters in self.parameters.items():
            if other_seed:
                if name not in self.drawn:
                    continue
                parameters = {**parameters, SEED: OTHER_SEED}
            inputs = {
                "images": self.images,
                CLASS_INDEX: self.class_index,
                **{key: np.full(len(self.images), value, np.int32) for key, value in parameters.items()},
            }
            output = self.outputs[name]
            answer = self.servable.predict(f"explain_{name}", inputs, [output, CLASS_INDEX])
            maps[name] = np.abs(answer[output])
            self.class_index = answer[CLASS_INDEX]
        return maps


def _fewer(entry: MethodEntry, samples: int) -> dict[str, int]:
    """Of the parameters that count passes over the model, those whose default is more than what is wanted."""
    wanted = {
        parameter.name: samples * max(1, int(parameter.default) // _SAMPLES_OF_ONE)
        for parameter in entry.parameters
        if parameter.name.startswith("num_")
    }
    defaults = {
        parameter.name: int(parameter.default) for parameter in entry.parameters if parameter.name in wanted
    }
    return {name: value for name, value in wanted.items() if value < defaults[name]}


def _chosen(manifest: Manifest, methods: Sequence[str], version_dir: Path) -> dict[str, MethodEntry]:
    for name in methods:
        if name not in manifest.methods:
            raise ExportError(
                f"{version_dir} has no method {name!r}", hint=f"its methods are {', '.join(manifest.methods)}"
            )
    return {name: entry for name, entry in manifest.methods.items() if not methods or name in methods}


def _compared(trained: Maps, maps: Maps) -> tuple[Row, Row, Row]:
    """Spearman, SSIM and entropy of each image's map."""
    return (
        _row(spearman(a, b) for a, b in zip(trained, maps, strict=True)),
        _row(
            ssim(in_units_of_largest(a), in_units_of_largest(b)) for a, b in zip(trained, maps, strict=True)
        ),
        _row(map(entropy, maps)),
    )


def _row(values: Iterable[float]) -> Row:
    return tuple(None if math.isnan(value) else value for value in values)
