"""The Grafana dashboard that docker/ ships, and what its panels ask Prometheus."""

from __future__ import annotations

import json
import re
from pathlib import Path

FILE = Path(__file__).parents[1] / "docker/monitoring/grafana/dashboards/tensorflow-serving.json"


def panels() -> list[dict]:
    """The dashboard's panels."""
    return json.loads(FILE.read_text())["panels"]


def queries() -> list[str]:
    """The panels' PromQL."""
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def metrics_in(query: str) -> set[str]:
    """Names of the server's, Envoy's and a job's metrics in a query."""
    return set(re.findall(r"(?::tensorflow:|\benvoy_|\bsaliency_)[\w:]+", query))


def labels_in(query: str) -> set[str]:
    """Names of the labels that a query selects or groups by."""
    grouped = re.findall(r"by \(([^)]*)\)", query)
    return set(re.findall(r"(\w+)!?=~?\"", query)) | {
        label.strip() for group in grouped for label in group.split(",")
    }
