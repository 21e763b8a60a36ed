"""The fault that only networking knows; the rest are in ``runtime.errors``.

Invariant: ``reason`` is one CamelCase word, fit for the CRI's NetworkReady condition.
"""

from __future__ import annotations

from runtime.errors import Unavailable


class NetworkNotReady(Unavailable):
    """No pod can have a network now; ``reason`` says what is awaited (``NoPodSubnet``)."""

    def __init__(self, message: str, *, reason: str, step: str = "", object: str = "") -> None:
        super().__init__(message, step=step, object=object)
        self.reason = reason
