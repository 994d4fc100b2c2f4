"""Cut a custom resource's schema out of its project's definition, small enough to keep beside the tests.

    cd tests/integration/docker; python prune_crd.py DEFINITION.yaml SOURCE > crd_schemas/NAME.json

DEFINITION.yaml is the CustomResourceDefinition of a release, SOURCE says which (project, release, path,
licence). Kept is what the API server holds an object to: types, required fields, enumerations, patterns,
bounds, and that a field which the definition does not name is refused. Left out are descriptions and
defaults, `status`, the rules in CEL, and all below a field that no manifest of docker/kubernetes has: its
name is known, and anything may be in it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

MANIFESTS = Path(__file__).parents[3] / "docker" / "kubernetes"
KEPT = (
    *("type", "enum", "pattern", "required", "minimum", "maximum"),
    *("minLength", "maxLength", "minItems", "anyOf"),
)


def pruned(schema: dict[str, Any], examples: list[Any]) -> dict[str, Any]:
    """A JSON Schema of the OpenAPI one, as deep as the examples go."""
    kept: dict[str, Any] = {key: schema[key] for key in KEPT if key in schema}
    if schema.get("nullable"):
        kept["type"] = [schema["type"], "null"]
    if schema.get("x-kubernetes-int-or-string"):
        kept["type"] = ["integer", "string"]
        kept.pop("anyOf", None)
    objects = [example for example in examples if isinstance(example, dict)]
    if "properties" in schema:
        kept["properties"] = {
            name: _property(below, [example[name] for example in objects if name in example])
            for name, below in schema["properties"].items()
        }
        kept["additionalProperties"] = schema.get("x-kubernetes-preserve-unknown-fields", False)
    elif isinstance(schema.get("additionalProperties"), dict):
        values = [value for example in objects for value in example.values()]
        kept["additionalProperties"] = pruned(schema["additionalProperties"], values)
    if "items" in schema:
        items = [item for example in examples if isinstance(example, list) for item in example]
        kept["items"] = pruned(schema["items"], items)
    return kept


def _property(schema: dict[str, Any], examples: list[Any]) -> dict[str, Any]:
    nested = "properties" in schema or "items" in schema
    return {} if nested and not examples else pruned(schema, examples)


def main(definition: str, source: str) -> None:
    resource = yaml.safe_load(Path(definition).read_text())["spec"]
    kind = resource["names"]["kind"]
    documents = [one for page in MANIFESTS.rglob("*.yaml") for one in yaml.safe_load_all(page.read_text())]
    examples = [one for one in documents if one["kind"] == kind]
    (version,) = [one for one in resource["versions"] if one["storage"]]
    schema = version["schema"]["openAPIV3Schema"]
    del schema["properties"]["status"]
    group = f"{resource['group']}/{version['name']}"
    identity = {"apiVersion": {"const": group}, "kind": {"const": kind}}
    kept = pruned(schema, examples)
    kept["properties"].update(identity)
    kept["required"] = ["apiVersion", "kind", "metadata", "spec"]
    json.dump({"$comment": source, **kept}, sys.stdout, indent=1, sort_keys=True)
    print()


if __name__ == "__main__":
    main(*sys.argv[1:])
