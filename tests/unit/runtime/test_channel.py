"""The channel carries messages whole, with their descriptors, and refuses everything else."""

from __future__ import annotations

import array
import fcntl
import json
import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime import channel
from runtime.errors import HostFault, NotFound
from tests.descriptors import open_descriptors

Pair = tuple[channel.Socket, channel.Socket]


@pytest.fixture(autouse=True)
def no_leaked_descriptor() -> Iterator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() == before


@pytest.fixture
def ends(no_leaked_descriptor: None) -> Iterator[Pair]:
    left, right = channel.pair()
    yield left, right
    left.close()
    right.close()


def take(sock: channel.Socket) -> tuple[channel.Message, list[int]]:
    received = channel.receive(sock)
    assert received is not None
    return received


def test_a_message_arrives_as_it_was_sent(ends: Pair) -> None:
    message = channel.request(7, "start", {"env": ["A=\u00e9", "B=\udc80"], "n": None})
    channel.send(ends[0], message)
    assert take(ends[1]) == (message, [])


def test_descriptors_arrive_close_on_exec_and_in_order(ends: Pair) -> None:
    read, write = os.pipe()
    channel.send(ends[0], {"event": "x"}, [read, write])
    os.close(read)
    os.close(write)
    _, (got_read, got_write) = take(ends[1])
    assert not os.get_inheritable(got_read)
    os.write(got_write, b"through")
    assert os.read(got_read, 10) == b"through"
    channel.close_all([got_read, got_write])


def test_a_long_message_travels_in_a_memfd_behind_the_other_descriptors(ends: Pair) -> None:
    null = os.open("/dev/null", os.O_RDONLY)
    message = {"blob": "x" * (3 * channel.INLINE_LIMIT)}
    channel.send(ends[0], message, [null])
    got, descriptors = take(ends[1])
    assert got == message
    assert [os.fstat(fd).st_rdev for fd in descriptors] == [os.fstat(null).st_rdev]
    channel.close_all([null, *descriptors])


def test_a_message_beyond_the_limit_is_refused_by_the_sender(ends: Pair) -> None:
    with pytest.raises(channel.MalformedMessage, match="exceed"):
        channel.send(ends[0], {"blob": "x" * channel.MESSAGE_LIMIT})


def test_too_many_descriptors_are_refused_by_the_sender(ends: Pair) -> None:
    with pytest.raises(channel.MalformedMessage, match="33 descriptors"):
        channel.send(ends[0], {}, [0] * 33)


def test_too_many_descriptors_are_refused_by_the_receiver(ends: Pair) -> None:
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * 40))
    ends[0].sendmsg([b"{}"], [rights])
    with pytest.raises(channel.MalformedMessage, match="truncated"):
        channel.receive(ends[1])


def test_the_end_is_none(ends: Pair) -> None:
    ends[0].close()
    assert channel.receive(ends[1]) is None


def test_an_empty_packet_with_a_descriptor_is_refused(ends: Pair) -> None:
    ends[0].sendmsg([b""], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))])
    with pytest.raises(channel.MalformedMessage, match="without a message"):
        channel.receive(ends[1])


def test_a_packet_above_the_inline_limit_is_refused(ends: Pair) -> None:
    ends[0].sendall(b'"' + b"x" * (channel.INLINE_LIMIT + 10) + b'"')
    with pytest.raises(channel.MalformedMessage, match="truncated"):
        channel.receive(ends[1])


def test_a_full_socket_blocks_nobody(ends: Pair) -> None:
    ends[0].setblocking(False)
    with pytest.raises(BlockingIOError):
        for _ in range(10_000):
            channel.send(ends[0], {"blob": "x" * 10_000})


@pytest.mark.parametrize("seals", [0, fcntl.F_SEAL_WRITE, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW])
def test_a_memfd_that_can_still_change_is_refused(ends: Pair, seals: int) -> None:
    memfd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.write(memfd, b"{}")
    fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, seals)
    channel.send(ends[0], {"memfd": True}, [memfd])
    os.close(memfd)
    with pytest.raises(channel.MalformedMessage, match="not sealed"):
        channel.receive(ends[1])


def test_a_pipe_in_the_place_of_the_memfd_is_refused(ends: Pair) -> None:
    read, write = os.pipe()
    channel.send(ends[0], {"memfd": True}, [read])
    channel.close_all([read, write])
    with pytest.raises(channel.MalformedMessage, match="cannot be read"):
        channel.receive(ends[1])


def test_an_oversized_memfd_is_not_read(ends: Pair) -> None:
    memfd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(memfd, channel.MESSAGE_LIMIT + 1)
    fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, channel._SEALS)
    channel.send(ends[0], {"memfd": True}, [memfd])
    os.close(memfd)
    with pytest.raises(channel.MalformedMessage, match="exceed"):
        channel.receive(ends[1])


def test_an_announced_memfd_has_to_come(ends: Pair) -> None:
    ends[0].sendall(b'{"memfd":true}')
    with pytest.raises(channel.MalformedMessage, match="not sent"):
        channel.receive(ends[1])


@pytest.mark.parametrize(
    "packet", [b"[]", b"1", b"{", b"\xff\xfe", b'{"a":NaN}', b"[" * 60_000, b'{"a":' + b"9" * 5000]
)
def test_what_is_no_json_object_is_refused(ends: Pair, packet: bytes) -> None:
    ends[0].sendall(packet)
    with pytest.raises(channel.MalformedMessage):
        channel.receive(ends[1])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(packet=st.binary(min_size=1, max_size=300), count=st.integers(0, 3))
def test_garbage_is_a_message_or_a_refusal_and_leaks_nothing(ends: Pair, packet: bytes, count: int) -> None:
    before = len(os.listdir("/proc/self/fd"))  # the fixture has collected garbage; each time is too slow
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * count))
    ends[0].sendmsg([packet], [rights] if count else [])
    try:
        message, descriptors = take(ends[1])
    except channel.MalformedMessage:
        pass
    else:
        assert isinstance(message, dict)
        assert len(descriptors) == count
        channel.close_all(descriptors)
    assert len(os.listdir("/proc/self/fd")) == before


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
documents = st.dictionaries(st.sampled_from(["v", "id", "op", "args", "ok", "error", "kind"]), json_values)


@given(documents)
def test_an_odd_request_is_read_or_refused(message: channel.Message) -> None:
    try:
        number, op, args = channel.read_request(message)
    except channel.MalformedMessage:
        return
    assert channel.request(number, op, args).items() <= message.items()


@given(documents | st.builds(lambda error: {"error": error}, json_values))
def test_an_odd_reply_is_a_result_or_a_fault(message: channel.Message) -> None:
    try:
        assert channel.result_of(message) == message["ok"]
    except (channel.MalformedMessage, HostFault):
        return


def test_a_request_of_another_version_is_refused() -> None:
    with pytest.raises(channel.MalformedMessage, match="version 2"):
        channel.read_request({"v": 2, "id": 1, "op": "x", "args": {}})


def test_a_boolean_is_no_request_id() -> None:
    with pytest.raises(channel.MalformedMessage):
        channel.read_request({"v": 1, "id": True, "op": "x", "args": {}})


def test_a_fault_crosses_the_channel_as_itself() -> None:
    wire = json.loads(json.dumps(channel.refusal(3, NotFound("no such container", object="abc"))))
    with pytest.raises(NotFound, match="abc: no such container"):
        channel.result_of(wire)


def test_a_garbled_errno_is_a_refusal() -> None:
    with pytest.raises(channel.MalformedMessage, match="garbled"):
        channel.result_of({"error": {"kind": "HostFault", "errno": "many"}})


def test_a_result_crosses_the_channel() -> None:
    assert channel.result_of(channel.answer(3, {"pid": 4})) == {"pid": 4}


def test_the_peer_is_known_by_its_credentials(ends: Pair) -> None:
    assert channel.peer_credentials(ends[0]) == (os.getpid(), os.getuid(), os.getgid())
