"""What each TensorFlow registers, and what each has that the one before has not.

    python tests/matrix/tensorflow_releases.py

prints what the installed TensorFlow registers, as JSON. tensorflow_matrix.py compares the versions and writes
exporter/saliency_exporter/version/tensorflow_releases.json, by which an export finds the servers that know
its ops.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def registered() -> dict[str, Any]:
    """`graph_version`, and `names`: ops, attributes as `Op.attribute`, values as `Op.attribute=value`."""
    import tensorflow as tf
    from tensorflow.core.framework import op_def_pb2, types_pb2
    from tensorflow.python.client import pywrap_tf_session

    ops = op_def_pb2.OpList.FromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    names = set()
    for op in ops.op:
        names.add(op.name)
        for attribute in op.attr:
            name = f"{op.name}.{attribute.name}"
            names.add(name)
            allowed = attribute.allowed_values.list
            names |= {f"{name}={types_pb2.DataType.Name(number)}" for number in allowed.type}
            names |= {f"{name}={value.decode()}" for value in allowed.s}
    return {"graph_version": tf.version.GRAPH_DEF_VERSION, "names": sorted(names)}


def changes(registries: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What each version has that the ones before have not, as `server_needs.releases` reads it.

    Args:
        registries: what `registered` gave, by minor version, oldest first.
    """
    table: dict[str, dict[str, Any]] = {}
    known: set[str] | None = None
    for version, registry in registries.items():
        names = set(registry["names"])
        new = names - (names if known is None else known)
        # What belongs to a new op is new with it; so are the values of a new attribute.
        new = {name for name in new if not any(whole in new for whole in _wholes(name))}
        table[version] = {"graph_version": registry["graph_version"], "new": sorted(new)}
        known = names | (known or set())
    return table


def _wholes(name: str) -> list[str]:
    """The op of an attribute; the op and the attribute of a value."""
    attribute, _, _ = name.partition("=")
    op = attribute.partition(".")[0]
    return [whole for whole in (op, attribute) if whole != name]


if __name__ == "__main__":
    print(json.dumps(registered()))
