"""Descriptors that go from one process to another, in a script: SCM_RIGHTS of unix(7).

What a child hands over its monitor takes in ``runtime.newborn``; a process that waits takes
what ``runtime.blank_init`` sends.

Invariant: what is handed over stays open here, what is taken over is close-on-exec.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Sequence

from runtime.errors import HostFault
from runtime.linux.script import Argument, At, Label, Script, Slot, load, offset, plus

_LEVEL, _RIGHTS = int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS)
_MESSAGE, _VECTOR, _CONTROL = struct.Struct("=QQQQQQQ"), struct.Struct("=QQ"), struct.Struct("=Qii")
"""struct msghdr, iovec and cmsghdr of a machine with 64 bits."""


def hand_over(
    script: Script,
    word: bytes,
    descriptors: Sequence[Slot],
    number: Argument = None,
    *,
    to: Slot | None = None,
    ended: Label | None = None,
) -> None:
    """Send ``descriptors`` as ``word`` to the monitor, or into the socket ``to``. ``number``, eight bytes, goes
    along where it is given. Where nobody listens any more: ``ended``, or a failure without it."""
    count, size = len(descriptors), len(word)
    said = script.data(word)
    if number is not None:
        said = script.room(size + 8)
        script.fill(said, word)
        script.store(plus(said, size), number)
        size += 8
    header, rights = _message(script, said, size, count)
    script.fill(rights, _CONTROL.pack(_CONTROL.size + 4 * count, _LEVEL, _RIGHTS))
    for index, descriptor in enumerate(descriptors):
        script.store(plus(rights, _CONTROL.size + 4 * index), descriptor)
    forgive = () if ended is None else (errno.EPIPE,)
    where = script.given["report"] if to is None else to
    script.call("sendmsg", where, header, 0, forgive=forgive, otherwise=ended)


def take_over(script: Script, on: Slot, count: int, ended: Label) -> list[Slot]:
    """Wait for a word of one byte with ``count`` descriptors from the socket ``on``; ``ended`` if it ends instead."""
    word, size = script.room(8), script.slot()
    header, rights = _message(script, word, 1, count)
    script.call("recvmsg", on, header, socket.MSG_CMSG_CLOEXEC.value, to=size)
    script.jump_if(size, 0, ended)
    expected = _CONTROL.size + 4 * count
    script.expect(load(rights), expected, HostFault, "was not given what belongs to the word", "descriptors")
    taken = [script.slot() for _ in range(count)]
    for index, slot in enumerate(taken):
        script.set(slot, load(rights, _CONTROL.size + 4 * index))  # the kernel takes the lower half for a descriptor
    return taken


def _message(script: Script, said: At, size: int, count: int) -> tuple[At, At]:
    """A struct msghdr for ``size`` bytes at ``said``, and where its ``count`` descriptors are."""
    header, vector = script.room(_MESSAGE.size), script.room(_VECTOR.size)
    rights = script.room(_CONTROL.size + 4 * count + 8)
    script.fill(vector, _VECTOR.pack(offset(said), size))
    padded = _CONTROL.size + (4 * count + 7 & ~7)
    script.fill(header, _MESSAGE.pack(0, 0, offset(vector), 1, offset(rights), padded, 0))
    for at in (vector, plus(header, 16), plus(header, 32)):
        script.relocate(at, 1)
    return header, rights
