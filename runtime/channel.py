"""Messages between crisp's processes: JSON objects and descriptors over SOCK_SEQPACKET.

The zygote and the monitors speak through this module directly; the daemon wraps
it for asyncio in ``runtime.channel_async``. One packet is one JSON object. What
exceeds ``INLINE_LIMIT`` travels in a sealed memfd, which is then the last
descriptor of a packet that says ``{"memfd": true}``.

    request  {"v": 1, "id": n, "op": "...", "args": {...}}
    reply    {"id": n, "ok": {...}}  or  {"id": n, "error": errors.to_wire(...)}
    event    {"event": "exit", ...}

Invariant: whatever a peer sends, ``receive`` either returns one well-formed
message or raises; descriptors that came with a refused packet are closed.
"""

from __future__ import annotations

import _socket
import array
import fcntl
import json
import json.encoder
import os
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

from runtime.errors import Fault, from_wire, to_wire
from runtime.linux.files import sealed_memfd

VERSION = 1
INLINE_LIMIT = 64 * 1024
MESSAGE_LIMIT = 16 * 1024 * 1024
DESCRIPTOR_LIMIT = 32

Message = dict[str, Any]
Socket = _socket.socket
"""What socket.socket wraps: enough here, and a wrapper's every method costs a monitor memory."""

_INT_SIZE = array.array("i").itemsize
_ANCILLARY_SIZE = socket.CMSG_SPACE(DESCRIPTOR_LIMIT * _INT_SIZE)
_UCRED = struct.Struct("3i")
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
# Plain numbers and ready-made codecs: the enumerations and wrappers of the standard library would be run,
# and each function that a monitor runs costs it private memory.
_NOSIGNAL = int(socket.MSG_NOSIGNAL)
_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)
_TRUNCATED = int(socket.MSG_TRUNC) | int(socket.MSG_CTRUNC)
_AF_UNIX, _SOCK_SEQPACKET = int(socket.AF_UNIX), int(socket.SOCK_SEQPACKET)
_SOL_SOCKET, _SCM_RIGHTS = int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS)
# One buffer a process: allocated before the fork, so that a monitor pays only for the pages it fills.
_buffer = bytearray(INLINE_LIMIT + 1)


class MalformedMessage(Fault):
    """A packet that is no message of this protocol; the connection is of no more use."""


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


# The accelerator that JSONEncoder makes anew for each document: no cycle check, (",", ":"), no NaN.
_encode: Callable[[Message, int], Sequence[str]]
_encode = json.encoder.c_make_encoder(  # type: ignore[attr-defined]
    None, None, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, False
)
_scan: Callable[[str, int], tuple[Any, int]]
_scan = json.JSONDecoder(parse_constant=_refuse_constant).scan_once  # type: ignore[attr-defined]


def pair() -> tuple[Socket, Socket]:
    """Two connected ends, close-on-exec."""
    return _socket.socketpair(_AF_UNIX, _SOCK_SEQPACKET)


def close_all(descriptors: Sequence[int]) -> None:
    """Close every descriptor of ``descriptors``."""
    for descriptor in descriptors:
        os.close(descriptor)


def send(sock: Socket, message: Message, descriptors: Sequence[int] = ()) -> None:
    """Send one message; the descriptors stay the caller's.

    Raises:
        MalformedMessage: more than ``MESSAGE_LIMIT`` bytes or ``DESCRIPTOR_LIMIT`` descriptors.
        BlockingIOError: the socket is non-blocking and full; nothing was sent.
        OSError: the peer is gone.
    """
    send_encoded(sock, encode(message), descriptors)


def send_encoded(sock: Socket, payload: bytes, descriptors: Sequence[int] = ()) -> None:
    """``send`` of a message that is JSON already, in any form that ``decode`` reads."""
    if len(payload) > MESSAGE_LIMIT:
        raise MalformedMessage(f"{len(payload)} bytes exceed {MESSAGE_LIMIT}", step="send a message")
    count = len(descriptors) + (len(payload) > INLINE_LIMIT)
    if count > DESCRIPTOR_LIMIT:
        raise MalformedMessage(f"{count} descriptors exceed {DESCRIPTOR_LIMIT}", step="send a message")
    if len(payload) > INLINE_LIMIT:
        memfd = sealed_memfd("crisp-message", payload)
        try:
            send(sock, {"memfd": True}, [*descriptors, memfd])
        finally:
            os.close(memfd)
    elif descriptors:
        sock.sendmsg([payload], [(_SOL_SOCKET, _SCM_RIGHTS, array.array("i", descriptors))], _NOSIGNAL)
    else:
        sock.sendmsg([payload], (), _NOSIGNAL)


def receive(sock: Socket) -> tuple[Message, list[int]] | None:
    """The next message and its descriptors (close-on-exec, the caller's); None at the end.

    Raises:
        MalformedMessage: the packet breaks the protocol.
        BlockingIOError: the socket is non-blocking and there is nothing.
    """
    length, ancillary, flags, _ = sock.recvmsg_into([_buffer], _ANCILLARY_SIZE, _CLOEXEC)
    descriptors = _descriptors_of(ancillary) if ancillary else []
    try:
        if not length:
            if descriptors:
                raise MalformedMessage("descriptors without a message", step="receive a message")
            return None
        if flags & _TRUNCATED or length > INLINE_LIMIT:
            raise MalformedMessage("truncated packet", step="receive a message")
        message = decode(_buffer[:length])
        if message.get("memfd") is True:
            message = decode(_take_memfd(descriptors))
    except BaseException:
        close_all(descriptors)
        raise
    return message, descriptors


def _descriptors_of(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    descriptors: list[int] = []
    for level, kind, data in ancillary:
        if level == _SOL_SOCKET and kind == _SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(data[: len(data) - len(data) % _INT_SIZE])
            descriptors.extend(numbers)
    return descriptors


def _take_memfd(descriptors: list[int]) -> bytes:
    """The content of the last descriptor, which is removed from the list and closed."""
    if not descriptors:
        raise MalformedMessage("memfd announced but not sent", step="receive a message")
    memfd = descriptors.pop()
    try:
        # Only a sealed memfd is sure not to change, shrink or block while it is read.
        if fcntl.fcntl(memfd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise MalformedMessage("memfd is not sealed", step="receive a message")
        size = os.fstat(memfd).st_size
        if size > MESSAGE_LIMIT:
            raise MalformedMessage(f"{size} bytes exceed {MESSAGE_LIMIT}", step="receive a message")
        payload = os.pread(memfd, size, 0)
        if len(payload) != size:
            raise MalformedMessage("memfd is shorter than its size", step="receive a message")
        return payload
    except OSError as error:
        raise MalformedMessage(f"memfd cannot be read: {error.strerror}", step="receive a message") from error
    finally:
        os.close(memfd)


def encode(document: Message) -> bytes:
    """``document`` as one line of ASCII JSON; characters that are none (surrogates) survive."""
    return "".join(_encode(document, 0)).encode()


def decode(payload: bytes | bytearray) -> Message:
    """The JSON object ``payload``, with nothing around it.

    Raises:
        MalformedMessage: it is something else.
    """
    try:
        text = payload.decode()
        message, end = _scan(text, 0)
    except (ValueError, RecursionError, StopIteration) as error:
        raise MalformedMessage("not a JSON document", step="receive a message") from error
    if not isinstance(message, dict) or end != len(text):
        raise MalformedMessage("not a JSON object", step="receive a message")
    return message


def request(number: int, op: str, args: Message) -> Message:
    """A request; ``number`` comes back as the ``id`` of its reply."""
    return {"v": VERSION, "id": number, "op": op, "args": args}


def read_request(message: Message) -> tuple[int, str, Message]:
    """``(id, op, args)`` of a request.

    Raises:
        MalformedMessage: another version, or a field of another type.
    """
    version, number, op, args = message.get("v"), message.get("id"), message.get("op"), message.get("args")
    if version != VERSION:
        raise MalformedMessage(f"protocol version {version!r} is not {VERSION}", step="read a request")
    if type(number) is not int or not isinstance(op, str) or not isinstance(args, dict):
        raise MalformedMessage("request without id, op or args", step="read a request")
    return number, op, args


def answer(number: int, result: Message) -> Message:
    """The reply that carries ``result``."""
    return {"id": number, "ok": result}


def refusal(number: int, error: BaseException) -> Message:
    """The reply that carries ``error``."""
    return {"id": number, "error": to_wire(error)}


def result_of(reply: Message) -> Message:
    """What a reply carries.

    Raises:
        Fault: the one that the peer sent.
        MalformedMessage: it carries neither a result nor an error.
    """
    result, error = reply.get("ok"), reply.get("error")
    if isinstance(error, dict):
        try:
            fault = from_wire(error)
        except (TypeError, ValueError) as garbled:
            raise MalformedMessage("garbled error", step="read a reply") from garbled
        raise fault
    if not isinstance(result, dict):
        raise MalformedMessage("reply without ok or error", step="read a reply")
    return result


def peer_credentials(sock: Socket) -> tuple[int, int, int]:
    """``(pid, uid, gid)`` of the process at the other end (unix(7), SO_PEERCRED)."""
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid, gid
