"""Capabilities: capset(2), capget(2), the bounding and the ambient set.

Sets are bit masks here (bit n is capability n of capabilities(7)); names have the
``CAP_`` prefix. ``runtime.identity`` is the main user.

Invariant: a name that this kernel's list does not have is an error, never skipped.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Iterable
from ctypes import c_char_p

from runtime.capability_names import NAMES
from runtime.errors import InvalidArgument
from runtime.linux import libc
from runtime.linux.process import prctl

_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4

_VERSION_3 = 0x20080522
_HEADER = struct.pack("=Ii", _VERSION_3, 0)
_DATA = struct.Struct("=IIIIII")
_LOW = 0xFFFFFFFF

_capset = libc.function("capset", c_char_p, c_char_p)
_capget = libc.function("capget", c_char_p, c_char_p)
_NUMBERS = {name: number for number, name in enumerate(NAMES)}


def mask(names: Iterable[str]) -> int:
    """The bit mask of ``names``.

    Raises:
        InvalidArgument: a name is not a capability.
    """
    bits = 0
    for name in names:
        if name not in _NUMBERS:
            raise InvalidArgument(f"unknown capability {name!r}")
        bits |= 1 << _NUMBERS[name]
    return bits


def names(bits: int) -> list[str]:
    """The names of the capabilities in ``bits``, in the kernel's order."""
    return [name for number, name in enumerate(NAMES) if bits >> number & 1]


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) for the calling thread."""
    sets = (effective, permitted, inheritable)
    data = _DATA.pack(*(bits & _LOW for bits in sets), *(bits >> 32 for bits in sets))
    if _capset(_HEADER, data) < 0:
        raise libc.failed("capset")


def capget() -> tuple[int, int, int]:
    """The effective, permitted and inheritable sets of the calling thread."""
    data = ctypes.create_string_buffer(_DATA.size)
    if _capget(_HEADER, data) < 0:
        raise libc.failed("capget")
    low = _DATA.unpack(data.raw)
    effective, permitted, inheritable = (low[n] | low[n + 3] << 32 for n in range(3))
    return effective, permitted, inheritable


def bounding() -> int:
    """The bounding set of the calling thread: what it or its children can ever have."""
    bits = 0
    for number in range(64):
        try:
            bits |= prctl(_PR_CAPBSET_READ, number) << number
        except libc.SyscallError as error:
            if error.errno != errno.EINVAL:
                raise
            break  # beyond the kernel's last capability
    return bits


def limit_bounding(keep: int) -> None:
    """Drop every capability that is not in ``keep`` from the bounding set; needs CAP_SETPCAP.

    What is in ``keep`` but already lost stays lost.
    """
    for number in range(64):
        if not keep >> number & 1:
            try:
                prctl(_PR_CAPBSET_DROP, number)
            except libc.SyscallError as error:
                if error.errno != errno.EINVAL:
                    raise
                return  # beyond the kernel's last capability


def set_ambient(bits: int) -> None:
    """Make the ambient set exactly ``bits``, which must be permitted and inheritable."""
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(bits.bit_length()):
        if bits >> number & 1:
            prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number)
