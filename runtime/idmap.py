"""Whether this host has user namespaces for pods, found out by making one.

``cri.assembly`` and ``cri.probes`` ask. The calls are those that pods are made of
(``runtime.user_namespace``, ``runtime.rootfs.overlay``), by processes that end at once.

Invariant: nothing that is made here outlives the call, but for what it returns.
"""

from __future__ import annotations

import array
import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Sequence

from runtime import user_namespace
from runtime.errors import Fault
from runtime.linux import trees
from runtime.linux.libc import AT_FDCWD
from runtime.linux.passing import hand_over
from runtime.linux.script import Script
from runtime.linux.spawn import closing_script, failure, spawn
from runtime.program import LAUNCH, open_program
from runtime.requests import Rootfs
from runtime.rootfs import overlay
from runtime.spec import IdMapping

_ANY_IDS: IdMapping = {"host": 65536, "size": 65536}
_SECONDS = 10.0


def why_no_user_namespaces(folder: str) -> str:
    """Why no pod whose images are below the existing directory ``folder`` can have a user namespace; "" if it can."""
    try:
        scratch = tempfile.mkdtemp(prefix=".crisp-idmap-", dir=folder)
    except OSError as error:
        return f"{folder}: {(error.strerror or str(error)).lower()}"
    try:
        user = make_user_namespace(_ANY_IDS)
        try:
            _mount_root(scratch, user)
        finally:
            os.close(user)
    except (Fault, OSError) as error:
        return str(error)
    finally:
        shutil.rmtree(scratch)
    return ""


def make_user_namespace(ids: IdMapping) -> int:
    """A descriptor of a new user namespace with that mapping, which ends with it.

    Raises:
        HostFault: the host has none.
    """
    script = Script()
    with script.step("make a user namespace"):
        user_namespace.create(script, ids, lambda outside, directory: None).finish()
        made = script.opened("openat", AT_FDCWD, "/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC, 0)
    hand_over(script, b"user", [made])
    script.call("exit_group", 0)
    (given,) = _carry_out(script)
    return given


def _mount_root(scratch: str, user: int) -> None:
    folders = {name: f"{scratch}/{name}" for name in ("upper", "work", "staging", "lower")}
    for folder in folders.values():
        os.mkdir(folder)
    rootfs: Rootfs = {
        "lowerdirs": [folders["lower"]],
        "upperdir": folders["upper"],
        "workdir": folders["work"],
        "staging": folders["staging"],
    }
    script = Script(["user"])
    with script.step("mount an idmapped overlay", scratch):
        with trees.in_mount_namespace_aside(script):
            overlay.make_detached(script, rootfs, script.given["user"])
        script.call("exit_group", 0)
    _carry_out(script, [user])


def _carry_out(script: Script, given: Sequence[int] = ()) -> list[int]:
    """Wait for the process that carries it out; the descriptors that it has handed over.

    Raises:
        Fault: what a call of it has failed with.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.ExitStack() as undo:
        undo.callback(ours.close)
        program = open_program(LAUNCH)
        undo.callback(os.close, program)
        memfd = undo.enter_context(closing_script(script.bytes()))
        with theirs:
            pid = spawn(program, memfd, theirs.fileno(), given)
        undo.callback(os.waitpid, pid, 0)
        return _listen(script, ours)


def _listen(script: Script, report: socket.socket) -> list[int]:
    handed: list[int] = []
    failed = None
    report.settimeout(_SECONDS)
    while True:
        said, ancillary, _, _ = report.recvmsg(4096, socket.CMSG_SPACE(4 * 8), socket.MSG_CMSG_CLOEXEC)
        for _, _, rights in ancillary:
            handed += array.array("i", rights)
        failed = failed or failure(said)
        if not said:
            break
    if failed is not None:
        for descriptor in handed:
            os.close(descriptor)
        raise script.fault(*failed)
    return handed
