"""Whole data sets: the step that engines run, the resumable job, and the maps that both store.

    step = ExplainBatch("localhost:8500", "efficientnet-lite0", method="smooth")
    rows = step.rows([open("cat.jpg", "rb").read()])

Names are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saliency_client.bulk.asking import VersionChanged
    from saliency_client.bulk.job import Job, Progress, Summary, run_job
    from saliency_client.bulk.sources.records import Fields
    from saliency_client.bulk.step import ExplainBatch
    from saliency_client.bulk.storage import Missing, StorageError
    from saliency_client.bulk.stored_maps import MapFormat, read_map, store_map

_HOMES = {
    "ExplainBatch": "step",
    "Fields": "sources.records",
    "Job": "job",
    "MapFormat": "stored_maps",
    "Missing": "storage",
    "Progress": "job",
    "StorageError": "storage",
    "Summary": "job",
    "VersionChanged": "asking",
    "read_map": "stored_maps",
    "run_job": "job",
    "store_map": "stored_maps",
}

__all__ = [
    "ExplainBatch",
    "Fields",
    "Job",
    "MapFormat",
    "Missing",
    "Progress",
    "StorageError",
    "Summary",
    "VersionChanged",
    "read_map",
    "run_job",
    "store_map",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
