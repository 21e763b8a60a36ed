"""The daemon's end of a channel, for asyncio: calls with replies, events, the end.

``runtime.channel`` has the format; ``runtime.supervisor`` uses this for the zygote
and ``runtime.monitor_client`` for monitors. The zygote never loads this module.

Invariant: every call ends: with the peer's reply, its fault, the call's own
deadline or the end of the connection; and descriptors that nobody takes are closed.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from runtime import channel
from runtime.channel import Message
from runtime.errors import DeadlineExceeded, Fault, Unavailable

BACKLOG_LIMIT = 1024
"""Requests that wait for a peer to read, at most."""

EARLY_LIMIT = 64
"""Events that are kept for whoever listens later, at most: more than a pod has before it is ready."""

Result = tuple[Message, list[int]]


class AsyncChannel:
    """One connection, of the running loop. ``name`` says in faults who the peer is."""

    def __init__(self, sock: channel.Socket, name: str, on_event: Callable[[Message], None] | None = None) -> None:
        """``sock`` is taken over. ``on_event`` as in :meth:`listen`."""
        sock.setblocking(False)
        self.name = name
        self._on_event = on_event
        self._early: list[Message] = []
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._pending: dict[int, asyncio.Future[Result]] = {}
        self._backlog: deque[tuple[int, Message, Sequence[int]]] = deque()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(sock.fileno(), self._on_readable)

    def listen(self, on_event: Callable[[Message], None]) -> None:
        """Give each event to ``on_event``, in the order sent, those that came before included; it must not raise."""
        self._on_event = on_event
        early, self._early = self._early, []
        for event in early:
            on_event(event)

    @property
    def closed(self) -> bool:
        return self._sock.fileno() < 0

    async def wait_closed(self) -> None:
        """Return once the connection has ended, for whatever reason."""
        await asyncio.shield(self._ended)

    def add_close_callback(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when the connection has ended; soon, if it has already."""
        self._ended.add_done_callback(lambda _: callback())

    async def call(
        self, op: str, args: Message, descriptors: Sequence[int] = (), *, timeout: float | None = 30.0
    ) -> Result:
        """Ask the peer; its result and the descriptors that came with it (the caller's).

        ``descriptors`` stay the caller's and must stay open until this returns.
        ``timeout`` in seconds, None for none.

        Raises:
            Fault: the one that the peer answered.
            Unavailable: the connection has ended, or too much waits for the peer already.
            DeadlineExceeded: no reply in time; what the peer does is not known.
        """
        number, taken = next(self._numbers), False
        future: asyncio.Future[Result] = self._loop.create_future()
        self._pending[number] = future
        try:
            self._send(number, channel.request(number, op, args), descriptors)
            async with asyncio.timeout(timeout):
                result = await future
            taken = True
            return result
        except TimeoutError as error:
            if isinstance(error, Fault):
                raise  # a fault that the peer sent
            raise DeadlineExceeded(f"no answer in {timeout} s", step=op, object=self.name) from error
        finally:
            del self._pending[number]
            if not taken:
                self._abandon(number, future)

    def post(self, op: str, args: Message, descriptors: Sequence[int] = ()) -> bool:
        """Ask the peer for what nobody waits for; its answer is dropped. ``descriptors`` stay the caller's.

        False: it could not be sent at once, and has not been.
        """
        if self.closed or self._backlog:
            return False
        message = channel.request(next(self._numbers), op, args)
        try:
            channel.send_encoded(self._sock, encode(message), descriptors)
        except (OSError, channel.MalformedMessage):
            return False
        return True

    def close(self) -> None:
        """End the connection; calls in flight raise Unavailable."""
        if self.closed:
            return
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._backlog.clear()
        for future in self._pending.values():
            if not future.done():
                future.set_exception(self._gone())
        if not self._ended.done():
            self._ended.set_result(None)

    def _gone(self) -> Unavailable:
        return Unavailable("the connection has ended", object=self.name)

    def _abandon(self, number: int, future: asyncio.Future[Result]) -> None:
        """Undo what a call that ends without a result has left: a request unsent, a reply untaken."""
        for entry in [entry for entry in self._backlog if entry[0] == number]:
            self._backlog.remove(entry)
        if not future.done():
            future.cancel()
        elif not future.cancelled() and future.exception() is None:
            channel.close_all(future.result()[1])

    def _send(self, number: int, message: Message, descriptors: Sequence[int]) -> None:
        if self.closed:
            raise self._gone()
        if len(self._backlog) >= BACKLOG_LIMIT:
            raise Unavailable("does not read what is sent to it", object=self.name)
        self._backlog.append((number, message, descriptors))
        self._flush()

    def _flush(self) -> None:
        while self._backlog:
            number, message, descriptors = self._backlog[0]
            try:
                channel.send_encoded(self._sock, encode(message), descriptors)
            except BlockingIOError:
                self._loop.add_writer(self._sock.fileno(), self._flush)
                return
            except OSError:
                self.close()
                return
            except channel.MalformedMessage as error:
                self._fail(number, error)
            self._backlog.popleft()
        self._loop.remove_writer(self._sock.fileno())

    def _fail(self, number: int, error: Fault) -> None:
        future = self._pending.get(number)
        if future is not None and not future.done():
            future.set_exception(error)

    def _on_readable(self) -> None:
        # Not only one packet a turn: the events of a busy pod should not queue behind each other's wakeups.
        for _ in range(16):
            try:
                received = channel.receive(self._sock)
            except BlockingIOError:
                return
            except (OSError, channel.MalformedMessage):
                received = None
            if received is None:
                self.close()
                return
            self._take(*received)
            if self.closed:
                return

    def _take(self, message: Message, descriptors: list[int]) -> None:
        if "event" in message:
            channel.close_all(descriptors)
            if self._on_event is not None:
                self._on_event(message)
            elif len(self._early) < EARLY_LIMIT:
                self._early.append(message)
            return
        number = message.get("id")
        future = self._pending.get(number) if isinstance(number, int) else None
        if future is None or future.done():
            channel.close_all(descriptors)  # whoever asked has gone
            return
        try:
            future.set_result((channel.result_of(message), descriptors))
        except Fault as fault:
            channel.close_all(descriptors)
            future.set_exception(fault)


def encode(message: Message) -> bytes:
    """As ``channel.encode``, for which a container's document is a millisecond's work."""
    try:
        return msgspec.json.encode(message)
    except UnicodeEncodeError:  # an environment value that is not UTF-8
        return channel.encode(message)
