"""Framing as bytes, and transactions against a scripted kernel behind a socket pair."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from network import netlink
from network.netlink import NLM_F_ACK, NLMSG_DONE, NLMSG_ERROR, Message, NetlinkSocket
from runtime.errors import HostFault
from tests.descriptors import open_descriptors

Script = Callable[[bytes], list[bytes]]


def _message(call: str = "RTM_NEWLINK", flags: int = NLM_F_ACK) -> Message:
    return Message(call, "eth0", 16, flags, b"body")


def _header(kind: int, sequence: int, body: bytes, flags: int = 0) -> bytes:
    raw = struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body
    return raw + b"\0" * (-len(raw) % 4)


def _ack(sequence: int, number: int = 0) -> bytes:
    return _header(NLMSG_ERROR, sequence, struct.pack("=i", -number) + bytes(16))


class ScriptedSocket(socket.socket):
    """Answers each ``send`` with the datagrams that the script makes of it."""

    def script(self, kernel: socket.socket, script: Script) -> None:
        self._kernel, self._script = kernel, script

    def send(self, data: bytes, flags: int = 0) -> int:  # type: ignore[override]
        for answer in self._script(bytes(data)):
            self._kernel.send(answer)
        return len(data)


@pytest.fixture
def scripted() -> Iterator[Callable[[Script], NetlinkSocket]]:
    opened: list[socket.socket] = []

    def make(script: Script) -> NetlinkSocket:
        ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        wrapped = ScriptedSocket(fileno=ours.detach())
        wrapped.settimeout(5)
        wrapped.script(kernel, script)
        opened.extend((wrapped, kernel))
        return NetlinkSocket(wrapped)

    yield make
    for sock in opened:
        sock.close()


def test_an_attribute_is_length_type_payload_and_padding() -> None:
    assert netlink.attribute(3, b"abcde") == struct.pack("=HH", 9, 3) + b"abcde\0\0\0"
    assert netlink.text(3, "abc") == struct.pack("=HH", 8, 3) + b"abc\0"
    assert netlink.u32(4, 1500) == struct.pack("=HHI", 8, 4, 1500)
    assert netlink.nested(18, netlink.u32(1, 7)) == struct.pack("=HH", 12, 18 | 0x8000) + netlink.u32(1, 7)


@given(st.dictionaries(st.integers(1, 0x3FFF), st.binary(max_size=60), max_size=8))
def test_attributes_are_read_as_they_were_written(attributes: dict[int, bytes]) -> None:
    raw = b"".join(netlink.attribute(kind, payload) for kind, payload in attributes.items())
    assert netlink.parse_attributes(raw) == attributes


def test_a_70_kb_attribute_is_refused_and_never_cut() -> None:
    with pytest.raises(ValueError, match="70000 bytes"):
        netlink.attribute(1, bytes(70000))


@pytest.mark.parametrize("raw", [struct.pack("=HH", 3, 1), struct.pack("=HH", 9, 1) + b"abcd"])
def test_an_attribute_that_leaves_its_message_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="a netlink attribute of length"):
        netlink.parse_attributes(raw)


@pytest.mark.parametrize("length", [15, 21])
def test_a_message_that_leaves_its_datagram_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="a netlink message of length"):
        list(netlink.parse_replies(struct.pack("=IHHII", length, 16, 0, 1, 0) + b"abcd"))


@given(st.binary(max_size=200))
def test_garbage_is_parsed_or_refused_but_nothing_else(raw: bytes) -> None:
    for parse in (netlink.parse_attributes, lambda data: list(netlink.parse_replies(data))):
        try:
            parse(raw)
        except ValueError:
            continue


def test_a_batch_is_one_datagram_and_ends_with_its_last_acknowledgement(
    scripted: Callable[[Script], NetlinkSocket],
) -> None:
    seen: list[bytes] = []

    def kernel(data: bytes) -> list[bytes]:
        seen.append(data)
        return [_ack(99, errno.EPERM) + _ack(1), _header(16, 2, b"answer"), _ack(2)]

    answers = scripted(kernel).transact([_message(), _message("RTM_GETLINK")], step="test")
    assert [(reply.kind, reply.body) for reply in answers] == [(16, b"answer")]
    assert seen == [_message().encode(1) + _message().encode(2)]
    assert struct.unpack_from("=IHHII", seen[0]) == (20, 16, 0x5, 1, 0)


def test_the_first_refused_message_is_the_fault(scripted: Callable[[Script], NetlinkSocket]) -> None:
    sock = scripted(lambda _: [_ack(1), _ack(2, errno.EEXIST), _ack(3, errno.ENODEV)])
    messages = [_message(), Message("RTM_NEWADDR", "10.0.0.2/24", 20, NLM_F_ACK, b""), _message("RTM_NEWROUTE")]
    with pytest.raises(HostFault) as caught:
        sock.transact(messages, step="configure")
    assert (caught.value.call, caught.value.errno) == ("RTM_NEWADDR", errno.EEXIST)
    assert str(caught.value) == "configure: 10.0.0.2/24: RTM_NEWADDR: file exists (EEXIST)"


def test_a_refused_batch_frame_ends_the_batch(scripted: Callable[[Script], NetlinkSocket]) -> None:
    sock = scripted(lambda _: [_ack(1, errno.EOPNOTSUPP)])
    messages = [Message("NFNL_MSG_BATCH_BEGIN", "t", 16, 0, b""), _message()]
    with pytest.raises(HostFault) as caught:
        sock.transact(messages, step="add")
    assert (caught.value.call, caught.value.errno) == ("NFNL_MSG_BATCH_BEGIN", errno.EOPNOTSUPP)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (b"Attribute failed policy validation\0", "Attribute failed policy validation: invalid argument (EINVAL)"),
        (b"Invalid argument\0", "RTM_NEWLINK: invalid argument (EINVAL)"),
    ],
)
def test_the_kernels_own_words_are_in_the_fault_once(
    scripted: Callable[[Script], NetlinkSocket], said: bytes, shown: str
) -> None:
    body = struct.pack("=i", -errno.EINVAL) + bytes(16) + netlink.attribute(1, said)
    sock = scripted(lambda _: [_header(NLMSG_ERROR, 1, body, netlink.NLM_F_ACK_TLVS)])
    with pytest.raises(HostFault) as caught:
        sock.transact([_message()], step="test")
    assert str(caught.value).endswith(shown)


def test_a_dump_is_read_to_its_end(scripted: Callable[[Script], NetlinkSocket]) -> None:
    answers = [
        _header(7, 5, b"old") + _header(16, 1, b"one!"),
        _header(16, 1, b"two!"),
        _header(NLMSG_DONE, 1, bytes(4)),
    ]
    found = scripted(lambda _: answers).dump(_message(flags=netlink.NLM_F_DUMP), step="list")
    assert [reply.body for reply in found] == [b"one!", b"two!"]


def test_a_dump_that_changed_meanwhile_is_taken_again(scripted: Callable[[Script], NetlinkSocket]) -> None:
    tries: list[int] = []

    def kernel(data: bytes) -> list[bytes]:
        sequence = struct.unpack_from("=I", data, 8)[0]
        tries.append(sequence)
        flags = netlink.NLM_F_DUMP_INTR if len(tries) == 1 else 0
        body = b"try%d" % len(tries)
        return [_header(16, sequence, body, flags) + _header(NLMSG_DONE, sequence, bytes(4))]

    assert [reply.body for reply in scripted(kernel).dump(_message(), step="list")] == [b"try2"]


def test_a_dump_that_never_holds_still_and_a_refused_one_are_faults(
    scripted: Callable[[Script], NetlinkSocket],
) -> None:
    def restless(data: bytes) -> list[bytes]:
        return [_header(NLMSG_DONE, struct.unpack_from("=I", data, 8)[0], bytes(4), netlink.NLM_F_DUMP_INTR)]

    with pytest.raises(HostFault, match="the listing kept changing"):
        scripted(restless).dump(_message("RTM_GETLINK"), step="list")
    with pytest.raises(HostFault) as caught:
        scripted(lambda _: [_ack(1, errno.EPERM)]).dump(_message("RTM_GETLINK"), step="list")
    assert caught.value.errno == errno.EPERM


def test_silence_and_a_closed_end_are_faults(scripted: Callable[[Script], NetlinkSocket]) -> None:
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with NetlinkSocket(ours) as sock, pytest.raises(HostFault) as caught:
        sock.transact([_message()], step="test")
    assert (caught.value.call, caught.value.errno) == ("recv", errno.ETIMEDOUT)
    with NetlinkSocket(kernel) as sock, pytest.raises(HostFault) as caught:
        sock.transact([_message()], step="test")
    assert (caught.value.call, caught.value.errno) == ("send", errno.EPIPE)


def test_a_real_socket_asks_the_kernel_for_lo_and_leaves_no_descriptor() -> None:
    before = open_descriptors()
    index = struct.pack("=BxHiII", 0, 0, 1, 0, 0)
    with NetlinkSocket.open(netlink.NETLINK_ROUTE) as opened:
        answers = opened.transact([Message("RTM_GETLINK", "lo", 18, NLM_F_ACK, index)], step="test")
        assert netlink.parse_attributes(answers[0].body[16:])[3] == b"lo\0"
        with pytest.raises(HostFault) as caught:
            opened.transact([Message("RTM_GETLINK", "none", 18, NLM_F_ACK, index[:4])], step="test")
        assert caught.value.errno in (errno.EINVAL, errno.ENODEV)
    raw = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netlink.NETLINK_ROUTE)
    NetlinkSocket.adopt(raw.detach()).close()
    plain, other = socket.socketpair()
    other.close()
    with pytest.raises(OSError):
        NetlinkSocket.adopt(plain.detach())
    assert open_descriptors() == before
