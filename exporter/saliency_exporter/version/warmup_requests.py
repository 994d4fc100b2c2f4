"""Which requests make a server ready before it is AVAILABLE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest

import numpy as np
from tensorflow.core.protobuf import meta_graph_pb2

from saliency_client._contract import large_outputs
from saliency_exporter.methods.declarations import Method
from saliency_exporter.version.reference import inputs_of
from saliency_exporter.version.warmup import WarmupRecord


def warmup_records(
    signatures: Mapping[str, meta_graph_pb2.SignatureDef],
    methods: Sequence[Method],
    reference: Mapping[str, np.ndarray],
    batch_sizes: Sequence[int],
) -> list[WarmupRecord]:
    """The records of an export, made of the reference's examples.

    One request for each signature and batch size, since every shape is compiled once; and one for each set of
    outputs that clients ask for, since a server prepares its graph anew for each.

    The order is for servers that run several side by side: each signature's first request before all others,
    since two that meet before the graph is prepared for them prepare it twice; what takes long before what
    does not, so that no thread is left alone with it at the end; and requests that prepare between requests
    that compile, since one graph is prepared at a time.
    """
    maps = {method.signature: method.map_kind.output for method in methods}
    first, rest = [], []
    for signature, definition in reversed(list(signatures.items())):
        smallest, *sizes = (
            WarmupRecord(signature, _rows(reference, signature, definition, size)) for size in batch_sizes
        )
        first.append(smallest)
        sets = output_sets(definition, maps[signature]) if signature in maps else []
        prepared = [smallest._replace(outputs=outputs) for outputs in sets]
        rest += [one for pair in zip_longest(prepared, sizes) for one in pair if one is not None]
    return [*first, *rest]


def _rows(
    reference: Mapping[str, np.ndarray],
    signature: str,
    definition: meta_graph_pb2.SignatureDef,
    size: int,
) -> dict[str, np.ndarray]:
    inputs = inputs_of(reference, signature, sorted(definition.inputs))
    return {name: value[np.arange(size) % len(value)] for name, value in inputs.items()}


def output_sets(signature: meta_graph_pb2.SignatureDef, own_map: str) -> list[list[str]]:
    """The sets of outputs, sorted, that clients ask for beside all of them.

    All but the large outputs, which is what clients ask for by default; and that with the method's own map,
    where it is not all there is.

    Args:
        signature: of a method.
        own_map: name of the output that holds the method's map.
    """
    large = large_outputs(
        _rank(signature.inputs["images"]), {name: _rank(info) for name, info in signature.outputs.items()}
    )
    small = sorted(set(signature.outputs) - large)
    sets = [small, sorted({*small, own_map})]
    return [names for names in sets if large and set(names) != set(signature.outputs)]


def _rank(info: meta_graph_pb2.TensorInfo) -> int | None:
    return None if info.tensor_shape.unknown_rank else len(info.tensor_shape.dim)
