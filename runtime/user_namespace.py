"""A pod's user namespace: made with its mapping, entered, and what is born inside.

Written into the scripts of pause, of a container's init and of an exec. Who enters a user
namespace has no power over the host any more, and in it no id until he takes one; so the
mapping, and what else only the host's root may do, is written by a second process of the
script, ``Outside``, which stays there and ends. A PID namespace belongs to the user namespace
in which its maker was: for one of the pod's own the script goes on in a process that is born
there (``be_reborn``), and the monitor follows it by its pidfd (``runtime.newborn``).

Invariant: from :func:`create` or :func:`enter` on the process is the namespace's root, ends
with the monitor, and nobody inside can look at it.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Callable

from runtime.errors import HostFault
from runtime.linux import namespaces
from runtime.linux.libc import AT_FDCWD
from runtime.linux.passing import hand_over
from runtime.linux.script import Label, Script, Slot, load
from runtime.linux.spawn import REBORN, RELEASE
from runtime.spec import IdMapping

_CLONE_PIDFD = 0x1000
_CLONE_PARENT = 0x8000
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PAIR = (socket.AF_UNIX.value, socket.SOCK_SEQPACKET.value | socket.SOCK_CLOEXEC.value, 0)
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_NO_NAMESPACES = {
    errno.ENOSPC: (HostFault, "the host allows no more user namespaces (user.max_user_namespaces)"),
}


class Outside:
    """The process of a script that stays the host's root, while the other becomes that of a new user namespace.

    It takes steps in turn with the other one: first the mapping, then ``work`` when :meth:`finish` says so.
    """

    def __init__(self, script: Script, ids: IdMapping, work: Callable[[Script, Slot], None]) -> None:
        """``work`` is given the directory in /proc of the process inside."""
        self._script = script
        directory = script.opened("openat", AT_FDCWD, "/proc/self", _DIRECTORY, 0, object="/proc/self")
        self._ours, theirs = _pair(script)
        inside, self._pid = Label(), script.slot()
        script.call("clone", signal.SIGCHLD.value, 0, None, None, None, to=self._pid)
        script.jump_unless(self._pid, 0, inside)
        script.call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL.value)
        script.close(self._ours)
        _wait(script, theirs)
        content = b"0 %d %d\n" % (ids["host"], ids["size"])
        for name in ("uid_map", "gid_map"):
            file = script.opened("openat", directory, name, os.O_WRONLY | os.O_CLOEXEC, 0, object=name)
            script.call("write", file, content, len(content), object=name)
            script.close(file)
        _tell(script, theirs)
        _wait(script, theirs)
        work(script, directory)
        script.call("exit_group", 0)
        script.here(inside)
        script.close(directory, theirs)

    def give_mapping(self) -> None:
        """In the process inside, right after it has made its user namespace."""
        _tell(self._script, self._ours)
        _wait(self._script, self._ours)

    def finish(self) -> None:
        """Have it do its work, and wait for its end."""
        script, status = self._script, self._script.room(8)
        _tell(script, self._ours)
        script.call("wait4", self._pid, status, 0, None)
        script.close(self._ours)
        # Its own report of a failed call came first, and counts.
        script.expect(load(status), 0, HostFault, "could not be set up from outside", "user namespace")


def create(script: Script, ids: IdMapping, work: Callable[[Script, Slot], None]) -> Outside:
    """Make a user namespace with the mapping ``ids`` and be its root; ``work`` is for the process outside."""
    outside = Outside(script, ids, work)
    script.call("unshare", namespaces.CLONE_NEWUSER, refuse=_NO_NAMESPACES)
    outside.give_mapping()
    become_root(script)
    return outside


def enter(script: Script, user: Slot) -> None:
    """Be the root of the user namespace ``user``, whose descriptor is closed."""
    script.call("setns", user, namespaces.CLONE_NEWUSER, object="user")
    script.close(user)
    become_root(script)


def become_root(script: Script) -> None:
    """Of the user namespace that the process has just entered, in which it has every capability and no id."""
    script.call("setgroups", 0, None)
    script.call("setresgid", 0, 0, 0)
    script.call("setresuid", 0, 0, 0)
    _be_private(script)


def be_reborn(script: Script) -> None:
    """Go on as the first process of a new PID namespace, which belongs to the process's user namespace.

    It has the same parent, which is told by the word ``REBORN`` and a pidfd before it takes its first step.
    """
    ours, theirs = _pair(script)
    born, pidfd, room, child = script.slot(), script.slot(), script.room(8), Label()
    script.call("unshare", namespaces.CLONE_NEWPID)
    script.call("clone", _CLONE_PARENT | _CLONE_PIDFD | signal.SIGCHLD.value, 0, room, None, None, to=born)
    script.jump_if(born, 0, child)
    script.set(pidfd, load(room))
    hand_over(script, REBORN, [pidfd], born)
    _tell(script, ours)
    script.call("exit_group", 0)
    script.here(child)
    script.close(ours)
    _wait(script, theirs)
    script.close(theirs)
    script.call("setsid")
    _be_private(script)


def _be_private(script: Script) -> None:
    """What a change of credentials, and a birth, undo. The session keyring, new and empty, stays."""
    script.call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL.value)
    script.call("prctl", _PR_SET_DUMPABLE, 0)


def _pair(script: Script) -> tuple[Slot, Slot]:
    """Two connected sockets; a word sent into one is received from the other."""
    room, first, second = script.room(16), script.slot(), script.slot()
    script.call("socketpair", *_PAIR, room)
    script.set(first, load(room))  # the kernel takes the lower half for a descriptor
    script.set(second, load(room, 4))
    return first, second


def _tell(script: Script, to: Slot) -> None:
    script.call("sendto", to, RELEASE, 1, socket.MSG_NOSIGNAL.value, None, 0)


def _wait(script: Script, on: Slot) -> None:
    word = script.room(8)
    script.call("read", on, word, 1)
    script.expect(load(word), ord(RELEASE), HostFault, "its other half has ended", "user namespace", mask=0xFF)
