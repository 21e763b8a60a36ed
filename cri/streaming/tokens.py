"""What a streaming URL stands for, until it is fetched or its minute is over.

``cri.streaming.server`` issues a token for a ticket and redeems it when the client comes.

Invariant: a token has ``TOKEN_BYTES`` random bytes, is good once and for ``LIFETIME`` seconds
of the monotonic clock, and no more than ``COUNT_LIMIT`` are good at once.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from runtime.errors import ResourceExhausted

TOKEN_BYTES = 24
LIFETIME = 60.0
COUNT_LIMIT = 1000

T = TypeVar("T")


class Tokens(Generic[T]):
    """``clock`` is the monotonic one but in tests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: OrderedDict[str, tuple[float, T]] = OrderedDict()

    def __len__(self) -> int:
        self._forget_old()
        return len(self._waiting)

    def issue(self, value: T) -> str:
        """A new token for ``value``, safe in a URL.

        Raises:
            ResourceExhausted: too many are waiting.
        """
        if len(self) >= COUNT_LIMIT:
            message = f"{COUNT_LIMIT} streaming requests wait to be fetched; try again in a minute"
            raise ResourceExhausted(message, step="offer a stream")
        token = secrets.token_urlsafe(TOKEN_BYTES)
        self._waiting[token] = self._clock() + LIFETIME, value
        return token

    def peek(self, token: str) -> T | None:
        """What ``token`` is good for; it stays good."""
        self._forget_old()
        found = self._waiting.get(token)
        return None if found is None else found[1]

    def redeem(self, token: str) -> T | None:
        """What ``token`` was good for; None if it is not, or not any more."""
        self._forget_old()
        found = self._waiting.pop(token, None)
        return None if found is None else found[1]

    def _forget_old(self) -> None:
        now = self._clock()
        while self._waiting and next(iter(self._waiting.values()))[0] <= now:
            self._waiting.popitem(last=False)
