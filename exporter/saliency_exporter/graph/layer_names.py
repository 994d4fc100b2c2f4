"""The names of layers, from those of the nodes that they were traced into."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_CALL = "StatefulPartitionedCall"
"""How TensorFlow names the call of a function of a SavedModel: no layer."""


def layer_names(nodes: Iterable[str]) -> dict[str, list[str]]:
    """By node, the layers that it is inside of, the outermost first.

    Keras 3 opens the name scope of a layer twice, once to build it and once to call it, so that TensorFlow
    names the second one conv_1 for a layer conv, and conv_1_2 for a layer conv_1. Where each of the outer
    scopes can come from that, they are taken back.

    Args:
        nodes: names of nodes, in the order in which they were traced.
    """
    parts = {node: [part for part in node.split("/")[:-1] if not part.startswith(_CALL)] for node in nodes}
    scopes = dict.fromkeys(
        "/".join(scope[:depth]) for scope in parts.values() for depth in range(1, len(scope) + 1)
    )
    original = _opened_twice(scopes)
    return {
        node: [original["/".join(scope[: depth + 1])] for depth in range(len(scope))]
        for node, scope in parts.items()
    }


def _opened_twice(scopes: Iterable[str]) -> dict[str, str]:
    """By scope, the name that it was opened by; the scope's own last part where it was opened once."""
    used: dict[str, int] = {}
    found: dict[str, str] = {}
    for scope in scopes:
        parent, slash, part = scope.rpartition("/")
        base = re.sub(r"_\d+$", "", part)
        after = dict(used)
        first, second = (_unique(after, f"{parent}{slash}{base}") for _ in range(2))
        if base != part and second == scope and first != second:
            used, found[scope] = after, base
        elif scope.count("/") < 2:
            return {scope: scope.rpartition("/")[2] for scope in scopes}
        else:
            found[scope] = part
    return found


def _unique(used: dict[str, int], name: str) -> str:
    """As `tf.Graph.unique_name` makes a name unique; `used` are those that there are."""
    key = name.lower()
    number = used.get(key, 0)
    used[key] = number + 1
    if number == 0:
        return name
    base = key
    while key in used:
        key = f"{base}_{number}"
        number += 1
    used[key] = 1
    return f"{name}_{number - 1}"


def innermost(layers: Mapping[str, list[str]], node: str) -> str:
    """The layer that a node belongs to; its own name where it is in none."""
    return layers[node][-1] if layers[node] else node
