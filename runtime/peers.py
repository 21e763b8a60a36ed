"""The monitor's conversations: who may talk to it, requests in, replies and events out.

``monitor`` gives the table of operations; ``runtime.channel`` has the format. A
daemon that restarts connects anew through ``<pod>/monitor.sock``; more than one
connection at a time is fine.

Invariant: a peer that sends garbage or does not read is dropped, and nothing else
happens: the monitor never waits for a peer.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Sequence

from runtime import channel
from runtime.channel import Message, Socket
from runtime.errors import InvalidArgument, NotSupported
from runtime.loop import READ, WRITE, Loop

BACKLOG_LIMIT = 256
"""Messages that wait for a peer to read, at most."""

ACCEPT_PAUSE = 0.5
"""Seconds before a failed accept is tried again."""

SOCKET_NAME = "monitor.sock"

_LISTENER = int(socket.AF_UNIX), int(socket.SOCK_SEQPACKET) | int(socket.SOCK_NONBLOCK) | int(socket.SOCK_CLOEXEC)


class Peer:
    """One connection, from a daemon. Its requests go to ``peers.dispatch``."""

    def __init__(self, sock: Socket, peers: Peers) -> None:
        sock.setblocking(False)
        self.closed = False
        self._sock = sock
        self._peers = peers
        self._backlog: deque[tuple[Message, Sequence[int]]] = deque()
        peers.loop.watch(sock.fileno(), READ, self._ready)

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send now or as soon as the peer reads; takes the descriptors over."""
        if self.closed or len(self._backlog) >= BACKLOG_LIMIT:
            channel.close_all(descriptors)
            self.close()
            return
        self._backlog.append((message, descriptors))
        if len(self._backlog) == 1:
            self._flush()

    def flush(self, timeout: float) -> None:
        """Send what waits, blocking at most ``timeout`` seconds a message: for the last words of a monitor."""
        if not self.closed:
            self._sock.settimeout(timeout)
            self._flush()

    def close(self) -> None:
        """End the connection and drop what has not been sent."""
        if self.closed:
            return
        self.closed = True
        self._peers.loop.unwatch(self._sock.fileno())
        self._sock.close()
        while self._backlog:
            channel.close_all(self._backlog.popleft()[1])
        self._peers.forget(self)

    def _flush(self) -> None:
        while self._backlog:
            message, descriptors = self._backlog[0]
            try:
                channel.send(self._sock, message, descriptors)
            except BlockingIOError:
                self._peers.loop.watch(self._sock.fileno(), READ | WRITE, self._ready_for_more)
                return
            except OSError:
                self.close()
                return
            self._backlog.popleft()
            if descriptors:
                channel.close_all(descriptors)

    def _ready_for_more(self) -> None:
        self._flush()
        if not self.closed:
            if not self._backlog:
                self._peers.loop.watch(self._sock.fileno(), READ, self._ready)
            self._ready()

    def _ready(self) -> None:
        try:
            received = channel.receive(self._sock)
            if received is not None:
                message, descriptors = received
                try:
                    number, op, args = channel.read_request(message)
                    self._peers.dispatch(op, args, Reply(self, number, descriptors))
                finally:
                    channel.close_all(descriptors)
                return
        except BlockingIOError:
            return
        except (OSError, channel.MalformedMessage):
            pass
        self.close()


class Reply:
    """The answer that one request is owed; given once, now or later.

    ``descriptors`` came with the request; they are closed once its operation has returned.
    """

    __slots__ = ("_number", "_peer", "descriptors", "given")

    def __init__(self, peer: Peer, number: int, descriptors: Sequence[int] = ()) -> None:
        self._peer = peer
        self._number = number
        self.descriptors = descriptors
        self.given = False

    def script(self) -> int:
        """The descriptor of the script that the request is about.

        Raises: as ``expect``.
        """
        return self.expect(1)[0]

    def expect(self, count: int) -> Sequence[int]:
        """The descriptors of a request that has ``count``, a script first.

        Raises:
            InvalidArgument: it has fewer, or more.
        """
        found = len(self.descriptors)
        if found != count:
            raise InvalidArgument(f"{found} descriptors, expected {count} with a script", step="ask the monitor")
        return self.descriptors

    def ok(self, result: Message, descriptors: Sequence[int] = ()) -> None:
        """Answer with ``result``; takes the descriptors over."""
        self.given = True
        self._peer.send(channel.answer(self._number, result), descriptors)

    def fail(self, error: BaseException) -> None:
        """Answer with ``error``."""
        self.given = True
        self._peer.send(channel.refusal(self._number, error))


Operation = Callable[[Message, Reply], None]


class Peers:
    """All connections, and the socket on which new ones arrive."""

    def __init__(self, loop: Loop, operations: dict[str, Operation], on_last_closed: Callable[[], None]) -> None:
        self.loop = loop
        self._operations = operations
        self._on_last_closed = on_last_closed
        self._peers: list[Peer] = []
        self._listener: Socket | None = None

    def __len__(self) -> int:
        return len(self._peers)

    def add(self, sock: Socket) -> None:
        """Serve the connected socket ``sock``, which is the peer's own from now on."""
        self._peers.append(Peer(sock, self))

    def forget(self, peer: Peer) -> None:
        """``peer`` has been closed."""
        self._peers.remove(peer)
        if not self._peers:
            self._on_last_closed()

    def announce(self, event: Message) -> None:
        """Send ``event`` to every peer."""
        for peer in list(self._peers):
            peer.send(event)

    def dispatch(self, op: str, args: Message, reply: Reply) -> None:
        """Carry out one operation; what it raises is its answer."""
        try:
            operation = self._operations.get(op)
            if operation is None:
                raise NotSupported(f"unknown operation {op!r}", step="ask the monitor")
            operation(args, reply)
        except Exception as error:  # noqa: BLE001 - the boundary to the daemon: every fault goes to whoever asked
            if reply.given:
                self.loop.on_fault(error)
            else:
                reply.fail(error)

    def listen(self, directory: int) -> None:
        """Accept connections at ``monitor.sock`` in the open ``directory``, and there only.

        Raises:
            OSError: the socket cannot be made; the former one, if any, still serves.
        """
        listener = Socket(*_LISTENER)
        mask = os.umask(0o177)
        try:
            _bind(listener, directory)
            listener.listen(16)
        except BaseException:
            listener.close()
            raise
        finally:
            os.umask(mask)
        self.deafen()
        self._listener = listener
        self.loop.watch(listener.fileno(), READ, self._accept)

    def deafen(self) -> None:
        """Accept no more connections."""
        if self._listener is not None:
            self.loop.unwatch(self._listener.fileno())
            self._listener.close()
            self._listener = None

    def close(self, patience: float = 1.0) -> None:
        """Say what is left to say, within ``patience`` seconds a message, and end all connections."""
        self.deafen()
        for peer in list(self._peers):
            peer.flush(patience)
            peer.close()

    def _accept(self) -> None:
        if self._listener is None:
            return
        try:
            descriptor, _ = self._listener._accept()  # type: ignore[attr-defined] # below socket.accept
        except OSError:
            # Short of descriptors: the connection stays in the queue, so look again, but do not spin.
            self.loop.unwatch(self._listener.fileno())
            self.loop.later(ACCEPT_PAUSE, self._resume)
            return
        sock = Socket(fileno=descriptor)
        if channel.peer_credentials(sock)[1] != os.getuid():
            sock.close()
            return
        self.add(sock)

    def _resume(self) -> None:
        if self._listener is not None:
            self.loop.watch(self._listener.fileno(), READ, self._accept)


def _bind(listener: Socket, directory: int) -> None:
    """By way of the descriptor: sun_path holds 108 bytes, the pod's directory may need more."""
    path = f"/proc/self/fd/{directory}/{SOCKET_NAME}"
    try:
        listener.bind(path)
    except OSError:
        os.unlink(SOCKET_NAME, dir_fd=directory)  # of a monitor that has died
        listener.bind(path)
