"""The signal that asks a container to stop.

``cri.plan.container`` puts its number into the plan, so that StopContainer needs
neither the request nor the image.

Invariant: a number from 1 to 64. Source: signal(7); real-time signals are numbered
as libc shows them (SIGRTMIN is 34), as with the peers.
"""

from __future__ import annotations

import re
import signal

from proto import api_pb2 as api
from runtime.errors import FailedPrecondition

SIGRTMIN, SIGRTMAX = 34, 64

_NUMBERS = {name: int(number) for name, number in signal.Signals.__members__.items() if not name.startswith("SIGRT")}
_NUMBERS |= {"SIGCLD": int(signal.SIGCHLD), "SIGPOLL": int(signal.SIGIO), "SIGIOT": int(signal.SIGABRT)}


_NAMES: dict[int, str] = {number: name.removeprefix("SIGNAL_") for name, number in api.Signal.items()}


def plan_stop_signal(requested: int, image: str) -> int:
    """The request's (a CRI Signal) before the image's (STOPSIGNAL) before SIGTERM.

    Raises:
        FailedPrecondition: the image names no signal.
    """
    if requested != api.SIGNAL_RUNTIME_DEFAULT:
        return signal_number(_NAMES[requested].replace("PLUS", "+").replace("MINUS", "-"))
    try:
        return signal_number(image) if image else int(signal.SIGTERM)
    except ValueError:
        raise FailedPrecondition(f"is no signal: {image!r}", object="STOPSIGNAL of the image") from None


def status_signal(number: int) -> api.Signal.ValueType:
    """What StopContainer sends, as ContainerStatus says it; the API has no name for 32 and 33."""
    return _BY_NUMBER.get(number, api.SIGNAL_RUNTIME_DEFAULT)


def signal_number(text: str) -> int:
    """``SIGTERM``, ``term``, ``15``, ``SIGRTMIN+3``, ``RTMAX-1``.

    Raises:
        ValueError: it is none of these.
    """
    if re.fullmatch(r"[0-9]{1,2}", text):
        number = int(text)
    else:
        name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
        number = _NUMBERS.get(name) or _real_time_number(name)
    if not 1 <= number <= SIGRTMAX:
        raise ValueError(f"no signal: {text!r}")
    return number


def _real_time_number(name: str) -> int:
    found = re.fullmatch(r"SIGRT(?:(MIN)(?:\+([0-9]{1,2}))?|(MAX)(?:-([0-9]{1,2}))?)", name)
    if not found:
        raise ValueError(f"no signal: {name!r}")
    number = SIGRTMIN + int(found[2] or 0) if found[1] else SIGRTMAX - int(found[4] or 0)
    if not SIGRTMIN <= number <= SIGRTMAX:
        raise ValueError(f"no signal: {name!r}")
    return number


_BY_NUMBER: dict[int, api.Signal.ValueType] = {
    plan_stop_signal(value, ""): value for value in reversed(api.Signal.values()) if value != api.SIGNAL_RUNTIME_DEFAULT
}
"""Of several names for one number the usual one, which comes first: SIGABRT, not SIGIOT."""
