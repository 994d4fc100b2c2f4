"""Branches that are decided before an image is seen: a training switch, an input that is held at a constant.

TensorFlow 1 wrote dropout and batch normalization as both of their forms and a switch between them, fed or
with a default; what is left once it is held is one form, and its activations can be recognized.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.graph.evaluate import evaluate, independent_of_input, static_shapes
from saliency_exporter.graph.forward_graph import ForwardGraph, node_name, prune, tensor_name, with_inputs

# Op to the place of its condition among its inputs.
_CONDITION = {"Switch": 1, "RefSwitch": 1, "Select": 0, "SelectV2": 0}


def without_decided_branches(graph: ForwardGraph) -> ForwardGraph:
    """The graph without the paths that a condition which does not depend on the input never takes.

    A selection of one of two tensors goes only where the taken one already has the result's shape.
    """
    decided = _decided(graph)
    if not decided:
        return graph
    shapes = static_shapes(graph) if any(node.op.startswith("Select") for node in graph.nodes) else {}
    aliases: dict[str, str] = {}
    dead: set[str] = set()
    kept: list[NodeDef] = []
    for node in (with_inputs(node, aliases) for node in graph.nodes):
        inputs = [tensor_name(name) for name in node.input]
        if node.op in ("Merge", "RefMerge"):
            alive = [name for name in inputs if name not in dead]
            if len(alive) == 1 and len(inputs) > 1:
                aliases[f"{node.name}:0"] = alive[0]
                continue
        elif any(name in dead for name in inputs):
            dead |= {f"{node.name}:{index}" for index in range(max(1, _outputs(node)))}
            continue
        if node.name not in decided:
            kept.append(node)
            continue
        taken = decided[node.name]
        if node.op in ("Switch", "RefSwitch"):
            aliases[f"{node.name}:{int(taken)}"] = inputs[0]
            dead.add(f"{node.name}:{int(not taken)}")
            continue
        branch = inputs[1 if taken else 2]
        if shapes.get(branch) is not None and shapes[branch] == shapes[f"{node.name}:0"]:
            aliases[f"{node.name}:0"] = branch
        else:
            kept.append(node)
    scores = aliases.get(graph.scores, graph.scores)
    return prune(replace(graph, nodes=tuple(kept), scores=scores))


def _decided(graph: ForwardGraph) -> dict[str, bool]:
    """By branching node: the value of its condition, where that is one truth value without the input."""
    independent = independent_of_input(graph)
    conditions = {
        node.name: tensor_name(node.input[_CONDITION[node.op]])
        for node in graph.nodes
        if node.op in _CONDITION and node_name(node.input[_CONDITION[node.op]]) in independent
    }
    if not conditions:
        return {}
    names = sorted(set(conditions.values()))
    values = dict(zip(names, evaluate(graph, list(independent.values()), names), strict=True))
    return {node: bool(values[name]) for node, name in conditions.items() if np.ndim(values[name]) == 0}


def _outputs(node: NodeDef) -> int:
    return max(
        (len(value.list.type) for value in node.attr.values() if value.WhichOneof("value") == "list"),
        default=1,
    )
