"""A D-Bus connection to systemd: over the system bus, or to its private socket where there is no bus.

jeepney has the wire format, and does no input or output of its own. That is what the private
socket needs: there is nobody who gives names there, and a client library that begins with a
Hello gets no answer. It is imported with the first connection, for most hosts need none.

``runtime.systemd.units`` says what is called.

Invariant: a call gets its answer, or a Fault: also if the connection ends.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runtime.errors import AlreadyExists, DeadlineExceeded, Fault, HostFault, InvalidArgument, NotFound, Unavailable

if TYPE_CHECKING:
    from jeepney import Message

SYSTEMD = "org.freedesktop.systemd1"
DBUS = "org.freedesktop.DBus"

CALL_SECONDS = 30.0
"""How long systemd, or the bus, may take to answer one call."""

_STEP = "ask systemd"

REFUSALS: dict[str, type[Fault]] = {
    f"{SYSTEMD}.NoSuchUnit": NotFound,
    f"{SYSTEMD}.UnitExists": AlreadyExists,
    f"{SYSTEMD}.TransactionIsDestructive": Unavailable,
    f"{DBUS}.Error.InvalidArgs": InvalidArgument,
    f"{DBUS}.Error.UnknownObject": NotFound,
    f"{DBUS}.Error.NoReply": Unavailable,
    f"{DBUS}.Error.Disconnected": Unavailable,
    f"{DBUS}.Error.NameHasNoOwner": Unavailable,
    f"{DBUS}.Error.ServiceUnknown": Unavailable,
}
"""What an error's name means; any other is the host's."""

Signal = Callable[[str, tuple[Any, ...]], None]
"""Is told a signal's member and its arguments."""

Closed = Callable[["Bus"], None]
"""Is told which connection has ended."""


class Bus(asyncio.Protocol):
    """``closed``: it is of no use any more."""

    def __init__(self, on_signal: Signal, on_closed: Closed) -> None:
        from jeepney import Parser
        from jeepney.auth import Authenticator

        self.closed = False
        self._parser = Parser()
        self._login = Authenticator()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_signal, self._on_closed = on_signal, on_closed
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._serials = itertools.count(1)

    @classmethod
    async def connect(cls, path: str, on_signal: Signal, on_closed: Closed, *, private: bool = False) -> Bus:
        """A connection that is logged in, by the user id that the socket tells. ``private``: to systemd itself,
        where nobody has or is given a name.

        Raises:
            Unavailable: nobody is there.
            HostFault: it is refused.
        """
        try:
            async with asyncio.timeout(CALL_SECONDS):
                loop = asyncio.get_running_loop()
                _, bus = await loop.create_unix_connection(lambda: cls(on_signal, on_closed), path)
                try:
                    await bus._ready
                    if not private:
                        await bus.call("/org/freedesktop/DBus", DBUS, "Hello", to=DBUS)
                except BaseException:
                    bus.close()
                    raise
        except Fault:
            raise
        except TimeoutError as late:
            raise Unavailable("does not answer", step=_STEP, object=path) from late
        except OSError as error:
            raise Unavailable((error.strerror or str(error)).lower(), step=_STEP, object=path) from error
        return bus

    async def call(
        self, path: str, interface: str, member: str, signature: str = "", body: tuple[Any, ...] = (), to: str = SYSTEMD
    ) -> tuple[Any, ...]:
        """The arguments of the answer.

        Raises:
            Unavailable: the connection has ended.
            DeadlineExceeded: there is no answer.
            Fault: the error that came instead (``REFUSALS``), in its own words.
        """
        from jeepney import DBusAddress, MessageType, new_method_call

        if self.closed:
            raise Unavailable("the connection has ended", step=_STEP, object=member)
        serial = next(self._serials)
        message = new_method_call(DBusAddress(path, to, interface), member, signature or None, body)
        answered: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[serial] = answered
        try:
            self._transport.write(message.serialise(serial))
            async with asyncio.timeout(CALL_SECONDS):
                answer = await answered
        except Fault:
            raise
        except TimeoutError as late:
            raise DeadlineExceeded(f"no answer in {CALL_SECONDS:g} s", step=_STEP, object=member) from late
        finally:
            self._waiting.pop(serial, None)
        if answer.header.message_type is MessageType.error:
            raise refusal(answer, member)
        return tuple(answer.body)

    def close(self) -> None:
        self._transport.close()

    # ------------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._login.data_to_send() or b"")

    def data_received(self, data: bytes) -> None:
        try:
            if not self._login.authenticated:
                self._log_in(data)
                return
            for message in self._parser.feed(data):
                self._receive(message)
        except Exception as error:  # noqa: BLE001 - what cannot be read ends the connection, and those who wait hear of it
            self._fail(HostFault(f"sends what is not D-Bus: {error}", step=_STEP))
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(Unavailable("the connection has ended", step=_STEP))

    def _log_in(self, data: bytes) -> None:
        from jeepney.auth import BEGIN

        self._login.feed(data)
        if self._login.authenticated and not self._ready.done():
            self._transport.write(BEGIN)
            self._ready.set_result(None)

    def _receive(self, message: Message) -> None:
        from jeepney import HeaderFields, MessageType

        fields = message.header.fields
        if message.header.message_type is MessageType.signal:
            self._on_signal(fields[HeaderFields.member], tuple(message.body))
            return
        answered = self._waiting.get(fields.get(HeaderFields.reply_serial, 0))
        if answered is not None and not answered.done():
            answered.set_result(message)

    def _fail(self, fault: Fault) -> None:
        self.closed = True
        for waiting in (self._ready, *self._waiting.values()):
            if not waiting.done():
                waiting.set_exception(fault)
        if not self._ready.cancelled():
            self._ready.exception()  # whoever connects may have given up
        self._on_closed(self)


def refusal(answer: Message, member: str) -> Fault:
    """The fault that an error is."""
    from jeepney import HeaderFields

    name = answer.header.fields.get(HeaderFields.error_name, "")
    said = answer.body[0] if answer.body and isinstance(answer.body[0], str) else name
    return REFUSALS.get(name, HostFault)(said.rstrip(".")[:1000], step=_STEP, object=member)
