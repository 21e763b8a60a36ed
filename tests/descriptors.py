"""What this process has open, so that a test can compare before and after.

Garbage of an earlier test closes its descriptors whenever it is collected, also between two
looks; so it is collected first. What only the collection would close counts as closed: sockets
and files warn of it, and warnings are errors.

Invariant: the descriptor of the look itself is never told.
"""

from __future__ import annotations

import gc
import os


def open_descriptors() -> set[int]:
    """The numbers of what is open now."""
    gc.collect()
    return {number for number in map(int, os.listdir("/proc/self/fd")) if is_open(number)}


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
