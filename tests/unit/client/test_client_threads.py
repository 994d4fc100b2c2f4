from __future__ import annotations

import _thread
import signal
import threading

import numpy as np
import pytest

from saliency_client._bulk import Batcher, BatchReader
from saliency_client._threads import in_order


@pytest.fixture
def interrupts():
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


def test_an_interrupt_that_wakes_no_wait_ends_it_all_the_same(interrupts) -> None:
    """`interrupt_main` notes a signal and sends none, as if it had come just before the wait began."""
    waited_out = threading.Event()

    def explain(items, cancellation):
        threading.Timer(0.1, _thread.interrupt_main).start()
        if not cancellation._stop.wait(10):
            waited_out.set()
        return []

    source = BatchReader(iter(np.zeros((1, 4, 4, 3), np.uint8)), Batcher(1, {}))
    with pytest.raises(KeyboardInterrupt):
        list(in_order(source, explain, 1))
    assert not waited_out.is_set()
