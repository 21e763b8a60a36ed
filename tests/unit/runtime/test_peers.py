"""Whoever talks to a monitor gets an answer, or is dropped; the monitor never waits."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import channel, peers
from runtime.channel import Message
from runtime.errors import NotFound, NotSupported
from runtime.loop import Loop
from runtime.peers import Peers, Reply
from tests.descriptors import open_descriptors


class Desk:
    """Peers with a few operations, turned by hand."""

    def __init__(self) -> None:
        self.faults: list[BaseException] = []
        self.left = 0
        self.late: list[Reply] = []
        self.loop = Loop(self.faults.append)
        self.loop.open()
        operations: dict[str, peers.Operation] = {
            "echo": self.echo,
            "fail": self.fail,
            "late": self.later,
            "twice": self.twice,
            "fd": self.give,
        }
        self.peers = Peers(self.loop, operations, self.on_left)

    def on_left(self) -> None:
        self.left += 1

    def echo(self, args: Message, reply: Reply) -> None:
        reply.ok(args)

    def fail(self, args: Message, reply: Reply) -> None:
        raise NotFound("nothing there")

    def later(self, args: Message, reply: Reply) -> None:
        self.late.append(reply)

    def twice(self, args: Message, reply: Reply) -> None:
        reply.ok({})
        raise RuntimeError("after the answer")

    def give(self, args: Message, reply: Reply) -> None:
        reply.ok({}, [os.open("/dev/null", os.O_RDONLY)])

    def join(self) -> channel.Socket:
        near, far = channel.pair()
        near.settimeout(5)
        self.peers.add(far)
        return near

    def ask(self, near: channel.Socket, op: str, args: Message | None = None) -> tuple[Message, list[int]]:
        channel.send(near, channel.request(1, op, args or {}))
        self.loop.turn(1)
        received = channel.receive(near)
        assert received is not None
        return received


@pytest.fixture
def desk() -> Iterator[Desk]:
    before = open_descriptors()
    made = Desk()
    yield made
    made.peers.close()
    made.loop.close()
    assert open_descriptors() == before


def test_a_request_is_answered_under_its_number(desk: Desk) -> None:
    near = desk.join()
    assert desk.ask(near, "echo", {"a": 1}) == ({"id": 1, "ok": {"a": 1}}, [])
    near.close()


def test_what_an_operation_raises_is_the_answer(desk: Desk) -> None:
    near = desk.join()
    reply, _ = desk.ask(near, "fail")
    with pytest.raises(NotFound, match="nothing there"):
        channel.result_of(reply)
    near.close()


def test_an_unknown_operation_is_refused(desk: Desk) -> None:
    near = desk.join()
    reply, _ = desk.ask(near, "fly")
    with pytest.raises(NotSupported, match="'fly'"):
        channel.result_of(reply)
    near.close()


def test_a_fault_after_the_answer_is_noted_not_sent(desk: Desk) -> None:
    near = desk.join()
    assert desk.ask(near, "twice")[0] == {"id": 1, "ok": {}}
    assert [str(fault) for fault in desk.faults] == ["after the answer"]
    assert desk.ask(near, "echo")[0] == {"id": 1, "ok": {}}
    near.close()


def test_descriptors_travel_with_the_answer_and_are_closed_here(desk: Desk) -> None:
    near = desk.join()
    before = len(open_descriptors())
    _, descriptors = desk.ask(near, "fd")
    assert len(open_descriptors()) == before + 1
    channel.close_all(descriptors)
    near.close()


def test_descriptors_that_come_with_a_request_are_closed(desk: Desk) -> None:
    near = desk.join()
    before = len(open_descriptors())
    channel.send(near, channel.request(1, "echo", {}), [0, 1])
    desk.loop.turn(1)
    assert len(open_descriptors()) == before
    near.close()


def test_an_event_reaches_every_peer(desk: Desk) -> None:
    ends = [desk.join(), desk.join()]
    desk.peers.announce({"event": "exit"})
    assert [channel.receive(near) for near in ends] == [({"event": "exit"}, [])] * 2
    for near in ends:
        near.close()


@pytest.mark.parametrize("garbage", [b"{", b"[]", b'{"v":9,"id":1,"op":"echo","args":{}}', b'{"op":"echo"}'])
def test_a_peer_that_sends_garbage_is_dropped_and_the_others_stay(desk: Desk, garbage: bytes) -> None:
    good, bad = desk.join(), desk.join()
    bad.sendall(garbage)
    desk.loop.turn(1)
    assert channel.receive(bad) is None
    assert desk.ask(good, "echo")[0] == {"id": 1, "ok": {}}
    assert len(desk.peers) == 1
    good.close()
    bad.close()


def test_the_end_of_the_last_peer_is_told(desk: Desk) -> None:
    ends = [desk.join(), desk.join()]
    for near in ends:
        near.close()
        desk.loop.turn(1)
    assert desk.left == 1


def test_an_answer_to_a_peer_that_has_gone_is_dropped_with_its_descriptors(desk: Desk) -> None:
    near = desk.join()
    channel.send(near, channel.request(1, "late", {}))
    desk.loop.turn(1)
    near.close()
    desk.loop.turn(1)
    desk.late[0].ok({}, [os.open("/dev/null", os.O_RDONLY)])
    desk.late[0].fail(NotFound("x"))


def test_a_peer_that_does_not_read_delays_nobody_and_is_dropped(desk: Desk) -> None:
    slow, quick = desk.join(), desk.join()
    event = {"event": "x" * 10_000}
    for _ in range(2 * peers.BACKLOG_LIMIT):
        desk.peers.announce(event)
        while len(desk.peers) == 2 and channel.receive(quick) is None:
            pytest.fail("the quick one was dropped")
        if len(desk.peers) == 1:
            break
    assert len(desk.peers) == 1
    slow.close()
    quick.close()


def test_what_waits_is_sent_once_the_peer_reads(desk: Desk) -> None:
    near = desk.join()
    for number in range(60):
        desk.peers.announce({"event": "x" * 10_000, "number": number})
    numbers: list[int] = []
    while len(numbers) < 60:
        desk.loop.turn(0)
        received = channel.receive(near)
        assert received is not None
        numbers.append(int(received[0]["number"]))
    assert numbers == list(range(60))
    assert desk.ask(near, "echo")[0] == {"id": 1, "ok": {}}
    near.close()


def test_last_words_are_sent_before_the_end(desk: Desk) -> None:
    near = desk.join()
    desk.peers.announce({"event": "last"})
    desk.peers.close()
    assert channel.receive(near) == ({"event": "last"}, [])
    assert channel.receive(near) is None
    near.close()


def open_directory(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


def connect(directory: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(5)
    sock.connect(f"/proc/self/fd/{directory}/{peers.SOCKET_NAME}")
    return sock


def test_a_daemon_finds_the_socket_however_long_the_path_is(desk: Desk, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    directory = open_directory(deep)
    desk.peers.listen(directory)
    assert (deep / peers.SOCKET_NAME).stat().st_mode & 0o777 == 0o600
    with connect(directory) as sock:
        desk.loop.turn(1)
        assert desk.ask(sock, "echo")[0] == {"id": 1, "ok": {}}
    os.close(directory)


def test_the_socket_of_a_dead_monitor_is_replaced(desk: Desk, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(tmp_path / peers.SOCKET_NAME))
    directory = open_directory(tmp_path)
    desk.peers.listen(directory)
    with connect(directory):
        desk.loop.turn(1)
        assert len(desk.peers) == 1
    os.close(directory)


def test_a_place_that_takes_no_socket_keeps_the_former_one(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "new" / peers.SOCKET_NAME).mkdir(parents=True)
    directory, other = open_directory(tmp_path), open_directory(tmp_path / "new")
    desk.peers.listen(directory)
    with pytest.raises(OSError):
        desk.peers.listen(other)
    with connect(directory):
        desk.loop.turn(1)
        assert len(desk.peers) == 1
    os.close(directory)
    os.close(other)


def test_another_user_is_not_served(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = open_directory(tmp_path)
    desk.peers.listen(directory)
    monkeypatch.setattr(channel, "peer_credentials", lambda sock: (1, os.getuid() + 1, 0))
    with connect(directory) as sock:
        desk.loop.turn(1)
        assert channel.receive(sock) is None
    assert len(desk.peers) == 0
    os.close(directory)


def test_a_failed_accept_is_tried_again_without_spinning(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Short:
        def __init__(self, sock: channel.Socket) -> None:
            self._sock = sock

        def fileno(self) -> int:
            return self._sock.fileno()

        def close(self) -> None:
            self._sock.close()

        def _accept(self) -> tuple[int, object]:
            raise OSError(24, "Too many open files")

    monkeypatch.setattr(peers, "ACCEPT_PAUSE", 0.01)
    directory = open_directory(tmp_path)
    desk.peers.listen(directory)
    listener = desk.peers._listener
    assert listener is not None
    desk.peers._listener = Short(listener)  # type: ignore[assignment]
    with connect(directory):
        desk.loop.turn(1)
        desk.peers._listener = listener
        desk.loop.turn(1)
        desk.loop.turn(1)
        assert len(desk.peers) == 1
    os.close(directory)
