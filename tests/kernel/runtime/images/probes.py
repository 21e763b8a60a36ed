"""What a worker that was taken over would try. Run inside the jail by ``test_jail``."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

from runtime.images import jail
from runtime.linux import mount, namespaces


def attempt(action: Callable[[], object]) -> str:
    """What came of ``action``: the name of what it raised, or what it returned."""
    try:
        return f"worked: {action()}"
    except Exception as error:  # noqa: BLE001 - which one it is, is the answer
        return type(error).__name__


def break_out(args: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """Enter the jail in ``fds[0]``, then try to leave it; ``args["outside"]`` is a host's file."""
    jail.enter(fds[0], jail.Limits(1 << 30, 1 << 20, 60), args["rights"])
    outside = args["outside"]
    return {
        "root": sorted(os.listdir("/")),
        "given descriptor": attempt(lambda: sorted(os.listdir(fds[0]))),
        "dotdot": attempt(lambda: os.open("../../../../.." + outside, os.O_RDONLY, dir_fd=fds[0])),
        "absolute": attempt(lambda: os.open(outside, os.O_RDONLY)),
        "link": attempt(lambda: os.open("out", os.O_RDONLY, dir_fd=fds[0])),
        "proc": attempt(lambda: os.listdir("/proc")),
        "device": attempt(lambda: os.open("null", os.O_RDONLY)),
        "import": attempt(lambda: __import__("planted")),
        "lazy import": attempt(lambda: __import__("wave")),
        "program": attempt(lambda: subprocess.call(["/bin/true"])),
        "execve": attempt(lambda: os.execv("/tool", ["/tool"])),
        "socket": attempt(lambda: socket.socket(socket.AF_INET)),
        "mount": attempt(lambda: mount.mount("proc", "/", "proc", 0)),
        "namespace": attempt(lambda: namespaces.unshare(namespaces.CLONE_NEWUSER)),
        "chroot": attempt(lambda: os.chroot("/")),
        "more memory": attempt(lambda: len(bytearray(2 << 30))),
        "large file": attempt(_large_file),
        "more rights": attempt(lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1))),
        "chown": attempt(lambda: os.chown("/out", 1, 1, follow_symlinks=False)),
        "mknod": attempt(lambda: os.mknod("/made", 0o020600, os.makedev(1, 3))),
        "status": attempt(lambda: os.getpid() > 0),
    }


def _large_file() -> int:
    fd = os.open("/large", os.O_WRONLY | os.O_CREAT)
    try:
        os.lseek(fd, 2 << 20, os.SEEK_SET)
        return os.write(fd, b"x")
    finally:
        os.close(fd)
