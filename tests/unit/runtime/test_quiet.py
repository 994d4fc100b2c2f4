from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from saliency_exporter.runtime.quiet import _imports_kept


@pytest.fixture(autouse=True)
def _collection_as_before() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)
    gc.enable()


def test_nothing_is_collected_within_and_collection_goes_on_after_an_error():
    before = gc.get_freeze_count()
    within = []

    def fails():
        with _imports_kept():
            within.append(gc.isenabled())
            raise ImportError

    with pytest.raises(ImportError):
        fails()
    assert within == [False]
    assert gc.isenabled()
    assert gc.get_freeze_count() > before


def test_a_collection_that_was_switched_off_stays_so():
    gc.disable()
    with _imports_kept():
        pass
    assert not gc.isenabled()
