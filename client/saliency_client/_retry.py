"""When to send a request again, and after how long. Nothing here waits or sends."""

from __future__ import annotations

import math
from dataclasses import dataclass

from saliency_client._errors import CallError, OptionError, QueueFull, TLSError, Unavailable
from saliency_client._numbers import are_seconds, is_real, is_whole

_JITTER = 0.2


@dataclass(frozen=True)
class RetryPolicy:
    """How a request that met UNAVAILABLE is sent again; explanations have no side effects, so it is safe.

    The k-th wait is `initial_backoff · multiplier^(k-1)` seconds, at most `max_backoff`, give or take 20 %.
    Nothing but UNAVAILABLE is sent again, and never beyond the call's timeout. gRPC's own retries are not
    used: they silently leave out requests above 256 KiB, which is nearly every image.
    `RetryPolicy(attempts=1)` sends once. The default waits 1.2 to 1.8 s in all, which outlasts gRPC's longest
    wait before it connects again to a server that came back (0.6 s).

    Raises:
        OptionError: `attempts` is not a whole number from 1 on, `multiplier` not a finite number from 1 on,
            or a backoff not seconds above 0.

    Example:
        >>> patient = RetryPolicy(attempts=10, max_backoff=30.0)
        >>> with SaliencyClient("localhost:8500", model="efficientnet-lite0", retry=patient) as client:
        ...     client.wait_ready()
    """

    attempts: int = 5
    initial_backoff: float = 0.1
    max_backoff: float = 2.0
    multiplier: float = 2.0

    def __post_init__(self) -> None:
        can_work = (
            is_whole(self.attempts)
            and self.attempts >= 1
            and are_seconds(self.initial_backoff)
            and are_seconds(self.max_backoff)
            and is_real(self.multiplier)
            and 1 <= self.multiplier < math.inf
        )
        if not can_work:
            raise OptionError(
                f"{self} cannot work: it needs a whole number of attempts ≥ 1, backoffs in seconds > 0 and a "
                "finite multiplier ≥ 1"
            )

    def delay(
        self, failure: CallError, *, remaining: float | None, patient: bool, chance: float
    ) -> float | None:
        """Seconds to wait before the next attempt, or None to give up.

        `failure.attempts` have been made; `remaining` seconds are left (None: no limit); `chance` in [0, 1)
        spreads clients apart. `patient` goes on for as long as time remains while the server's queue is full.
        """
        if not isinstance(failure, Unavailable) or isinstance(failure, TLSError):
            return None
        if failure.attempts >= self.attempts and not (patient and isinstance(failure, QueueFull)):
            return None
        backoff = self._backoff(failure.attempts) * (1 - _JITTER + 2 * _JITTER * chance)
        return None if remaining is not None and backoff >= remaining else backoff

    def _backoff(self, attempts: int) -> float:
        try:
            grown = float(self.initial_backoff) * float(self.multiplier) ** min(attempts - 1, 64)
        except OverflowError:  # beyond the largest float, and so beyond the longest wait
            return self.max_backoff
        return min(grown, self.max_backoff)
