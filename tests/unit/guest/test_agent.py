"""The guest's agent over a socket instead of its port."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.guest import agent


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, its = socket.socketpair()
    with ours, its:
        yield ours, its


def carry_out(ends: tuple[socket.socket, socket.socket], *words: str, timeout: float = 60) -> tuple[int, str]:
    ours, its = ends
    status = agent.carry_out(its.fileno(), list(words), timeout, {"WORD": "from the host"})
    its.shutdown(socket.SHUT_WR)
    with ours.makefile() as lines:
        return status, "".join(json.loads(line)["output"] for line in lines)


def test_output_and_status_are_passed_on(ends: tuple[socket.socket, socket.socket]) -> None:
    assert carry_out(ends, "sh", "-c", "echo $WORD; echo error >&2; exit 7") == (7, "from the host\nerror\n")


def test_a_signal_is_told_as_a_shell_tells_it(ends: tuple[socket.socket, socket.socket]) -> None:
    assert carry_out(ends, "sh", "-c", "kill -9 $$")[0] == 137


def test_a_command_that_takes_too_long_is_killed_with_its_children(ends: tuple[socket.socket, socket.socket]) -> None:
    status, said = carry_out(ends, "sh", "-c", "echo begun; sleep 1000 | sleep 1000", timeout=0.2)
    assert (status, said) == (agent.TIMED_OUT, "begun\n")


def test_what_a_command_leaves_running_is_not_waited_for(ends: tuple[socket.socket, socket.socket]) -> None:
    status, said = carry_out(ends, "sh", "-c", "sleep 2 & echo done")
    assert (status, said) == (0, "done\n")


def test_a_message_may_come_in_pieces_and_two_at_once(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, its = ends
    buffered = bytearray()
    ours.sendall(b'{"run": ["tr')
    later = threading.Timer(0.05, ours.sendall, [b'ue"]}\n{"run": []}\n'])
    later.start()
    assert agent.receive(its.fileno(), buffered) == {"run": ["true"]}
    assert agent.receive(its.fileno(), buffered) == {"run": []}
    later.join()
