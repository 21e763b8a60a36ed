"""How much goes through a connection: for tests of what limits it.

``LACKING`` says why this kernel cannot limit anything, for tests to skip by.

Invariant: both ends are closed and the sender's thread has ended when ``measure`` returns.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from cri.probes import in_thread, probe_bandwidth
from runtime.linux import namespaces

LACKING = in_thread(probe_bandwidth, namespaces.CLONE_NEWNET)

WARMING, MEASURED = 0.3, 1.5
"""Seconds: in the first a bucket's burst passes and the sender finds its pace."""

IN_FLIGHT = 96 << 10
"""Bytes at most: fewer than a bucket's queue holds at 10 Mbit/s. What is measured is then the limit, and not
how a sender gets over the losses of its beginning; and more than goes in the time that a busy CPU takes."""

TRIES = 4
"""A machine that is busy with something else makes a rate lower. Only the limit makes it no higher."""

PATIENCE = 30


def measure(sender: socket.socket, receiver: socket.socket, enough: float) -> float:
    """Mbit/s of what arrives, of a connection's two ends; headers do not count. Where it is not ``enough``
    it is measured again, and the highest counts."""
    thread = threading.Thread(target=_send, args=(sender,))
    with receiver:
        receiver.settimeout(PATIENCE)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, IN_FLIGHT)
        thread.start()
        try:
            return _receive(receiver, enough)
        finally:
            receiver.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                sender.shutdown(socket.SHUT_RDWR)
            thread.join()
            sender.close()


def _send(sender: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            sender.sendall(bytes(1 << 14))


def _receive(receiver: socket.socket, enough: float) -> float:
    _read_for(receiver, WARMING)
    highest = 0.0
    for _ in range(TRIES):
        got, seconds = _read_for(receiver, MEASURED)
        highest = max(highest, got * 8 / seconds / 1e6)
        if highest >= enough:
            break
    return highest


def _read_for(receiver: socket.socket, seconds: float) -> tuple[int, float]:
    """Bytes, and the seconds in which they came: from a read to a read."""
    got, begin = 0, time.monotonic()
    while (taken := time.monotonic() - begin) < seconds:
        got += len(receiver.recv(1 << 16))
    return got, taken
