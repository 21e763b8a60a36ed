"""Sockets inside a pod's network namespace, for the daemon, which stays outside.

A socket belongs to the namespace of the thread that made it, for good; so one thread
enters the namespace for the socket() call alone and the rest (connect, read, write)
is done on the event loop. ``cri.streaming.forward`` dials with them.

Invariant: the thread is back in the host's namespace before it takes the next job; one
that cannot go back makes no further socket and ends.
"""

from __future__ import annotations

import asyncio
import os
import socket
from concurrent.futures import ThreadPoolExecutor

from runtime.errors import FailedPrecondition, HostFault
from runtime.linux import namespaces
from runtime.linux.libc import SyscallError

_OWN = "/proc/thread-self/ns/net"
_STEP = "make a socket in the pod's network"


class Sockets:
    """The thread is started when it is first needed."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None

    async def open(
        self, family: int, namespace: str | None, kind: int = socket.SOCK_STREAM, protocol: int = 0
    ) -> socket.socket:
        """A socket, TCP if nothing else is said, non-blocking, in the network namespace that is bound to the
        path ``namespace``; None for the daemon's own.

        Raises:
            FailedPrecondition: the namespace is not there any more.
            OSError: the kernel has no such family, or descriptors are short.
        """
        if namespace is None:
            return _open(family, kind, protocol)
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, "crisp-sockets")
        executor = self._executor
        job = executor.submit(open_inside, family, namespace, kind, protocol)
        try:
            return await asyncio.shield(asyncio.wrap_future(job))
        except asyncio.CancelledError:
            job.add_done_callback(lambda done: None if done.cancelled() or done.exception() else done.result().close())
            raise
        except Stranded:
            if self._executor is executor:
                self._executor = None
            executor.shutdown(wait=False)
            raise

    def close(self) -> None:
        """Wait for the jobs that were submitted, then end the thread."""
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None


class Stranded(HostFault):
    """The thread could not go back to the host's network namespace."""


def open_inside(family: int, namespace: str, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> socket.socket:
    """In the thread. Raises as ``Sockets.open``, or Stranded."""
    try:
        target = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise FailedPrecondition("its network namespace has gone", step=_STEP, object=namespace) from error
    try:
        own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            namespaces.setns(target, namespaces.CLONE_NEWNET)
            made = None
            try:
                made = _open(family, kind, protocol)
            finally:
                _go_back(own, made)
            return made
        finally:
            os.close(own)
    finally:
        os.close(target)


def _go_back(own: int, made: socket.socket | None) -> None:
    try:
        namespaces.setns(own, namespaces.CLONE_NEWNET)
    except SyscallError as error:
        if made is not None:
            made.close()
        raise Stranded("cannot go back", step=_STEP, call="setns", errno=error.errno or 0) from error


def _open(family: int, kind: int, protocol: int) -> socket.socket:
    return socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
