"""When a request is sent again."""

from __future__ import annotations

import math

import grpc
import numpy as np
import pytest

from saliency_client import OptionError, RetryPolicy
from saliency_client._channel import ChannelOptions
from saliency_client._errors import DeadlineExceeded, QueueFull, ServerError, TLSError, Unavailable

POLICY = RetryPolicy(attempts=5, initial_backoff=0.1, max_backoff=0.5, multiplier=2)


def delay(attempts, *, kind=Unavailable, remaining=None, patient=False, chance=0.5, policy=POLICY):
    failure = kind("", code=grpc.StatusCode.UNAVAILABLE, attempts=attempts)
    return policy.delay(failure, remaining=remaining, patient=patient, chance=chance)


def test_waits_double_up_to_the_longest_and_end_with_the_attempts():
    assert [delay(attempts) for attempts in range(1, 6)] == pytest.approx([0.1, 0.2, 0.4, 0.5, None])


def test_chance_spreads_waits_by_a_fifth_to_either_side():
    assert [delay(1, chance=chance) for chance in (0, 0.5, 1)] == pytest.approx([0.08, 0.1, 0.12])


@pytest.mark.parametrize("kind", [DeadlineExceeded, ServerError, TLSError])
def test_nothing_but_unavailable_is_sent_again_and_no_tls_quarrel(kind):
    assert delay(1, kind=kind) is None


def test_a_wait_as_long_as_the_time_left_is_not_begun():
    assert delay(1, remaining=0.1) is None
    assert delay(1, remaining=0.11) == pytest.approx(0.1)


def test_patience_with_a_full_queue_has_no_end_but_the_time_left():
    assert delay(10_000, kind=QueueFull, patient=True) == pytest.approx(0.5)
    assert delay(10_000, kind=QueueFull) is None
    assert delay(10_000, kind=Unavailable, patient=True) is None
    assert delay(10_000, kind=QueueFull, patient=True, remaining=0.4) is None


def test_the_default_retries_outlast_grpcs_longest_wait_before_it_connects_again():
    # gRPC's waits vary by 20 % (its connection backoff protocol); half a second is for TCP, TLS and HTTP/2.
    longest = 1.2 * dict(ChannelOptions().arguments())["grpc.max_reconnect_backoff_ms"] / 1000
    waits = [delay(attempts, chance=0, policy=RetryPolicy()) for attempts in range(1, 5)]
    assert sum(waits) >= longest + 0.5
    assert delay(5, policy=RetryPolicy()) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"attempts": 2.5},
        {"attempts": True},
        {"attempts": "3"},
        {"attempts": math.nan},
        {"initial_backoff": 0},
        {"initial_backoff": math.nan},
        {"initial_backoff": True},
        {"max_backoff": -1},
        {"max_backoff": math.inf},
        {"max_backoff": "2"},
        {"multiplier": 0.5},
        {"multiplier": math.nan},
        {"multiplier": math.inf},
        {"multiplier": None},
    ],
    ids=str,
)
def test_a_policy_that_cannot_work_is_refused(wrong):
    with pytest.raises(OptionError, match="cannot work"):
        RetryPolicy(**wrong)


def test_numbers_may_be_numpys():
    policy = RetryPolicy(np.int64(3), np.float32(0.5), np.float64(2), np.int32(2))
    assert [delay(attempts, policy=policy) for attempts in (1, 2, 3)] == [0.5, 1.0, None]


@pytest.mark.parametrize("multiplier", [1e6, 1e300, np.float64(1e300)])
def test_a_wait_beyond_the_largest_float_is_the_longest_one(multiplier):
    """1e6 to the 64th is beyond it; Python raises there, and NumPy warns."""
    policy = RetryPolicy(attempts=100, max_backoff=0.5, multiplier=multiplier)
    assert delay(99, policy=policy) == pytest.approx(0.5)
