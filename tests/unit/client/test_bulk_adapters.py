"""The engines' adapters where their engine is not installed: options, the schema, what to install."""

from __future__ import annotations

import sys

import pytest

from saliency_client import OptionError
from saliency_client.bulk import ExplainBatch
from saliency_client.bulk.ray import explain_dataset
from saliency_client.bulk.spark import ExplainFrames, columns_ddl

STEP = ExplainBatch("localhost:8500", "classifier", numbers=("relative_error", "odd`name"))


def test_without_ray_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(OptionError, match="Ray Data cannot be imported") as raised:
        explain_dataset(None, STEP)
    assert raised.value.hint == "pip install 'saliency-serving[bulk-ray]'"


@pytest.mark.parametrize("concurrency", [0, (0, 4), (3, 2)])
def test_a_pool_has_one_actor_at_least_and_no_fewer_at_most(concurrency):
    with pytest.raises(OptionError, match=r"concurrency is .*; it must be"):
        explain_dataset(None, STEP, concurrency=concurrency)


def test_batches_of_no_rows_are_refused():
    with pytest.raises(OptionError, match="batch_size is 0"):
        explain_dataset(None, STEP, batch_size=0)
    with pytest.raises(OptionError, match="batch_size is 0"):
        ExplainFrames(STEP, batch_size=0)


def test_the_schema_for_spark_has_the_columns_of_a_row_in_their_order():
    assert columns_ddl(STEP) == (
        "`class_index` int, `label` string, `probability` float, `score` float, "
        "`relative_error` float, `odd``name` float, `error` string, `version` bigint, "
        "`map` binary, `map_scale` float, `map_shape` array<int>"
    )


def test_a_column_of_the_explanations_name_is_refused_and_so_is_a_batch_without_images():
    with pytest.raises(OptionError, match="has no column 'image'; it has path"):
        STEP.check_columns(["path"])
    with pytest.raises(OptionError, match="would replace: label, map"):
        STEP.check_columns(["image", "map", "path", "label"])
    STEP.check_columns(["image", "path"])


def test_engines_want_the_numbers_by_name():
    step = ExplainBatch("localhost:8500", "classifier", numbers=None)
    with pytest.raises(OptionError, match="numbers is None"):
        explain_dataset(None, step)
    with pytest.raises(OptionError, match="numbers is None"):
        columns_ddl(step)
