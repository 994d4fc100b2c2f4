from __future__ import annotations

import gc

import pytest

from saliency_exporter.quiet import _nothing_collected


def test_nothing_is_collected_within_and_collection_goes_on_after_an_error():
    before = gc.get_freeze_count()
    within = []

    def fails():
        with _nothing_collected():
            within.append(gc.isenabled())
            raise ImportError

    with pytest.raises(ImportError):
        fails()
    assert within == [False]
    assert gc.isenabled()
    assert gc.get_freeze_count() > before
    gc.unfreeze()


def test_a_collection_that_was_switched_off_stays_so():
    gc.disable()
    try:
        with _nothing_collected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
