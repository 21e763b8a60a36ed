"""The code that a monitor runs, put together in memory.

A function that is called writes into its code object: the count of its references, the
counters of what is not specialised. Code lies where its module was loaded, between what
nobody touches, so each function would cost a monitor a page of its own.

``runtime.zygote`` calls this before it rehearses, with one rehearsal for telling what is run.

Invariant: the functions stay the objects that they are, and do what they did.
"""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import Callable
from typing import Any


def gather_code(play: Callable[[], None]) -> int:
    """Give every function that ``play`` calls a copy of its code, one beside the other; how many.

    Raises:
        Exception: what ``play`` raises.
    """
    called = _called(play)
    functions: dict[types.CodeType, list[types.FunctionType]] = {}
    for each in gc.get_objects():
        if type(each) is types.FunctionType and each.__code__ in called:
            functions.setdefault(each.__code__, []).append(each)
    for code in called:
        if code in functions:
            copy = code.replace()
            for function in functions[code]:
                function.__code__ = copy
    return len(functions)


def _called(play: Callable[[], None]) -> dict[types.CodeType, None]:
    """In the order of their first calls."""
    found: dict[types.CodeType, None] = {}

    def see(frame: types.FrameType, event: str, _arg: Any) -> None:
        if event == "call":
            found.setdefault(frame.f_code)

    sys.setprofile(see)
    try:
        play()
    finally:
        sys.setprofile(None)
    return found
