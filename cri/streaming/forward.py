"""Carries the connections of one port-forward session into a pod's network.

Each is dialled inside the pod's network namespace (``network.sockets``), to 127.0.0.1
and then to ::1, where a server in a pod listens that wants to be private; then bytes
go both ways, and each half ends by itself.

Invariant: connections know nothing of each other: whatever happens to one of them, the
session and the others go on. Bytes are held only as far as one read; who does not read
makes the other side wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable

from cri.streaming.descriptor import CHUNK, Connection
from cri.streaming.session import Forward, ForwardSession, StreamReset
from runtime.errors import Fault, Unavailable

LOG = logging.getLogger("crisp.forward")

CONNECT = 10.0
"""Seconds to connect: to a loopback address that takes long only where the server's queue is full."""

LOOPBACK = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))

Open = Callable[[int], Awaitable[socket.socket]]
"""Makes a socket of the given family inside the pod's network."""


async def forward(session: ForwardSession, open_socket: Open, ended: Awaitable[object]) -> None:
    """Serve ``session`` until its client, or the pod (``ended``), has gone."""
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(accept_all(session, open_socket))
        gone = group.create_task(wait_for(ended))
        await asyncio.wait((serving, gone), return_when=asyncio.FIRST_COMPLETED)
        serving.cancel()
        gone.cancel()


async def accept_all(session: ForwardSession, open_socket: Open) -> None:
    """Cancelled, or at the session's end, every connection is cut off."""
    async with asyncio.TaskGroup() as group:
        running: set[asyncio.Task[None]] = set()
        while (wanted := await session.accept()) is not None:
            task = group.create_task(serve(wanted, open_socket))
            running.add(task)
            task.add_done_callback(running.discard)
        for task in running:
            task.cancel()


async def wait_for(ended: Awaitable[object]) -> None:
    await ended


async def serve(wanted: Forward, open_socket: Open) -> None:
    """One connection, to its end. Why there is none goes to its error stream; never raises."""
    try:
        connection = Connection(await dial(wanted.port, open_socket))
    except (Fault, OSError) as error:
        await refuse(wanted, str(error))
        return
    except BaseException:
        wanted.data.reset()
        raise
    try:
        await exchange(wanted, connection)
    except (OSError, asyncio.CancelledError) as error:
        # The end of a half that was cut off must not look like the end of the data.
        connection.abort()
        wanted.data.reset()
        if isinstance(error, asyncio.CancelledError):
            raise
        # Nothing on the error stream: kubectl ends the whole session when there is a word on it.
        LOG.debug("a forwarded connection to port %d was cut off: %s", wanted.port, error)
    else:
        connection.close()
    await wanted.error.finish()


async def refuse(wanted: Forward, why: str) -> None:
    """Say ``why`` there is no connection, and end its streams."""
    LOG.info("port-forward: %s", why)
    with contextlib.suppress(StreamReset):
        await wanted.error.write(why.encode())
    await wanted.error.finish()
    await wanted.data.finish()


async def exchange(wanted: Forward, connection: Connection) -> None:
    """Both directions, until each has ended.

    Raises:
        OSError: either side was cut off.
    """

    async def inward() -> None:
        taken = True
        while data := await wanted.data.read():
            if taken:
                try:
                    await connection.write(data)
                except OSError:
                    taken = False  # the server reads no more, but what it has said is still to be delivered
        connection.finish()

    async def outward() -> None:
        while data := await connection.read(CHUNK):
            await wanted.data.write(data)
            await connection.rest(len(data))
        await wanted.data.finish()

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(inward())
            group.create_task(outward())
    except* OSError as cut_off:
        raise ConnectionError(str(cut_off.exceptions[0])) from None


async def dial(port: int, open_socket: Open) -> socket.socket:
    """A connection to ``port`` of the pod's own loopback, IPv4 before IPv6.

    Raises:
        Unavailable: nobody listens; says what both have answered.
        Fault: the pod's network is not there.
    """
    reasons: list[str] = []
    for family, address in LOOPBACK:
        try:
            return await connect(await open_socket(family), address, port)
        except TimeoutError:
            reasons.append(f"{address}: no answer in {CONNECT:g} s")
        except OSError as error:
            if isinstance(error, Fault):
                raise
            reasons.append(f"{address}: {os.strerror(error.errno or 0).lower()}")
    raise Unavailable("; ".join(reasons), step="port-forward", object=f"nothing answers on port {port} in the pod")


async def connect(sock: socket.socket, address: str, port: int) -> socket.socket:
    """``sock``, connected; closed if it cannot be."""
    try:
        async with asyncio.timeout(CONNECT):
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except BaseException:
        sock.close()
        raise
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
