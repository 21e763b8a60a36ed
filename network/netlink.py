"""Netlink without a fork and without a library: framing, acknowledged batches, dumps.

``network.rtnetlink`` builds the messages for links, addresses and routes,
``network.nft`` those for set elements; both send them through ``NetlinkSocket``.
A batch is one ``send``: the kernel works it off before ``send`` returns, so a batch
costs two system calls however many messages it has. Formats: netlink(7),
linux/netlink.h.

Invariant: ``transact`` returns only after every message that asked for it was
acknowledged, and an answer to another request is never taken for one to this.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

from runtime.errors import HostFault

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_ACK_TLVS = 0x200
NLM_F_EXCL = 0x200
NLM_F_REPLACE = 0x100
NLM_F_DUMP = 0x300
NLM_F_CREATE = 0x400

NLMSG_ERROR = 2
NLMSG_DONE = 3
_NLMSGERR_ATTR_MSG = 1
_NLA_F_NESTED = 0x8000
_NLA_TYPE_MASK = 0x3FFF
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERRNO = struct.Struct("=i")
_MAX_ATTRIBUTE = 0xFFFF
_RECEIVE_BYTES = 1 << 16
_RECEIVE_SECONDS = 10
_DUMP_TRIES = 10


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes.

    Raises:
        ValueError: a payload that the 16-bit length cannot hold; a cut length would
            turn the rest of the payload into attributes of its own.
    """
    length = _ATTRIBUTE.size + len(payload)
    if length > _MAX_ATTRIBUTE:
        raise ValueError(f"a netlink attribute of {len(payload)} bytes")
    return _ATTRIBUTE.pack(length, kind) + payload + b"\0" * (-length % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | _NLA_F_NESTED, b"".join(attributes))


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def text(kind: int, value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return attribute(kind, raw + b"\0")


def parse_attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in ``data`` by type, flags off; of a repeated type the last one.

    Raises:
        ValueError: a length that leaves ``data``.
    """
    return dict(iterate_attributes(data))


def iterate_attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Each attribute in ``data`` as (type, payload); for lists, whose types repeat."""
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size or offset + length > len(data):
            raise ValueError(f"a netlink attribute of length {length} in {len(data) - offset} bytes")
        yield kind & _NLA_TYPE_MASK, data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


@dataclass(frozen=True, slots=True)
class Message:
    """A request. ``call`` is the kernel's name for it and ``object`` what it is about;
    both are for the fault's message. ``flags`` without NLM_F_REQUEST, which is implied."""

    call: str
    object: str
    kind: int
    flags: int
    body: bytes

    def encode(self, sequence: int) -> bytes:
        length = _HEADER.size + len(self.body)
        return _HEADER.pack(length, self.kind, self.flags | NLM_F_REQUEST, sequence, 0) + self.body


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, its header taken off."""

    kind: int
    flags: int
    sequence: int
    body: bytes

    @property
    def errno(self) -> int:
        """Of an NLMSG_ERROR or NLMSG_DONE; 0 is the acknowledgement."""
        return -int(_ERRNO.unpack_from(self.body)[0]) if len(self.body) >= _ERRNO.size else 0

    @property
    def explanation(self) -> str:
        """The kernel's own words (NLMSGERR_ATTR_MSG), where it has any."""
        if self.kind != NLMSG_ERROR or not self.flags & NLM_F_ACK_TLVS:
            return ""
        # NETLINK_CAP_ACK: after the errno comes the request's header alone.
        attributes = parse_attributes(self.body[_ERRNO.size + _HEADER.size :])
        return attributes.get(_NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode(errors="replace")


def parse_replies(data: bytes) -> Iterator[Reply]:
    """The messages in one datagram.

    Raises:
        ValueError: a length that leaves ``data``.
    """
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size or offset + length > len(data):
            raise ValueError(f"a netlink message of length {length} in {len(data) - offset} bytes")
        yield Reply(kind, flags, sequence, data[offset + _HEADER.size : offset + length])
        offset += (length + 3) & ~3


class NetlinkSocket:
    """A netlink socket of one thread; it belongs to the namespace that it was opened in."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._sequence = 0

    @classmethod
    def open(cls, protocol: int) -> NetlinkSocket:
        """A socket in the calling thread's network namespace."""
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        return cls._configured(sock)

    @classmethod
    def adopt(cls, fd: int) -> NetlinkSocket:
        """Take over ``fd``, an open netlink socket; closing this closes it."""
        return cls._configured(socket.socket(fileno=fd))

    @classmethod
    def _configured(cls, sock: socket.socket) -> NetlinkSocket:
        try:
            sock.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            sock.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
            # The kernel answers within send; the limit only keeps a bug from hanging the thread.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", _RECEIVE_SECONDS, 0))
        except OSError:
            sock.close()
            raise
        return cls(sock)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> NetlinkSocket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def transact(self, messages: Sequence[Message], *, step: str) -> list[Reply]:
        """Send ``messages`` as one batch and wait for the acknowledgements they ask for.

        The kernel goes on after a failed message, so what follows it may have
        happened. Returns the replies that are not acknowledgements.

        Raises:
            HostFault: the first message, in their order, that the kernel refused.
        """
        sent = self._send(messages, step)
        awaited = {number for number, message in sent.items() if message.flags & NLM_F_ACK}
        refused: dict[int, Reply] = {}
        answers: list[Reply] = []
        while awaited:
            for reply in self._receive(step):
                if reply.sequence not in sent:
                    continue  # the rest of a request that was given up
                if reply.kind != NLMSG_ERROR:
                    answers.append(reply)
                    continue
                if reply.errno:
                    refused[reply.sequence] = reply
                    if reply.sequence not in awaited:
                        awaited.clear()  # a batch frame was refused, and so the batch
                awaited.discard(reply.sequence)
        if refused:
            number = min(refused)
            raise _refusal(sent[number], refused[number], step)
        return answers

    def dump(self, message: Message, *, step: str) -> list[Reply]:
        """Everything that ``message`` asks for, in one consistent listing.

        Raises:
            HostFault: the kernel refused, or the listing changed under every try.
        """
        for _ in range(_DUMP_TRIES):
            found, consistent = self._dump_once(message, step)
            if consistent:
                return found
        raise HostFault("the listing kept changing", step=step, object=message.object, call=message.call)

    def _dump_once(self, message: Message, step: str) -> tuple[list[Reply], bool]:
        sent = self._send([message], step)
        found: list[Reply] = []
        consistent = True
        while True:
            for reply in self._receive(step):
                if reply.sequence not in sent:
                    continue
                consistent = consistent and not reply.flags & NLM_F_DUMP_INTR
                if reply.kind in (NLMSG_ERROR, NLMSG_DONE):
                    if reply.errno:
                        raise _refusal(message, reply, step)
                    return found, consistent
                found.append(reply)

    def _send(self, messages: Sequence[Message], step: str) -> dict[int, Message]:
        sent: dict[int, Message] = {}
        for message in messages:
            self._sequence = (self._sequence + 1) & 0xFFFFFFFF
            sent[self._sequence] = message
        data = b"".join(message.encode(number) for number, message in sent.items())
        try:
            self._socket.send(data)
        except OSError as error:
            raise HostFault(step=step, object=messages[0].object, call="send", errno=error.errno or 0) from error
        return sent

    def _receive(self, step: str) -> Iterator[Reply]:
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except OSError as error:
            number = errno.ETIMEDOUT if error.errno == errno.EAGAIN else error.errno or 0
            raise HostFault("no answer from netlink", step=step, call="recv", errno=number) from error
        if not data:
            raise HostFault("the netlink socket has no other end", step=step, call="recv")
        return parse_replies(data)


def _refusal(message: Message, reply: Reply, step: str) -> HostFault:
    said = reply.explanation
    if said and said.lower() == os.strerror(reply.errno).lower():
        said = ""
    return HostFault(said, step=step, object=message.object, call=message.call, errno=reply.errno)
