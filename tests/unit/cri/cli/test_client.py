"""Reaching the daemon: what it refuses arrives as the same class of fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from cri.cli.client import FAULTS, NoDaemon, admin, fault_of
from cri.errors import CODES
from cri.settings import Settings
from proto import admin_pb2
from runtime.errors import FailedPrecondition, Fault, NotFound, Unavailable


class Refused(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, words: str) -> None:
        self._code, self._words = code, words

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._words


def ask(state: Path) -> Any:
    with admin(Settings(state=str(state))) as stub:
        return stub.DaemonInfo(admin_pb2.DaemonInfoRequest(), timeout=10)


def test_an_answer_comes_back(admin: Any, state: Path) -> None:
    assert ask(state).pid == 42


def test_nobody_there_is_told_apart(state: Path) -> None:
    with pytest.raises(NoDaemon, match=f"{state}/admin.sock: no daemon answers"):
        ask(state)


def test_a_stale_socket_is_nobody_there(state: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(f"{state}/admin.sock")
    with pytest.raises(NoDaemon):
        ask(state)


def test_a_refusal_keeps_its_class_and_words(admin: Any, state: Path) -> None:
    admin.refuse = (grpc.StatusCode.NOT_FOUND, "pod x: does not exist")
    with pytest.raises(NotFound, match=r"^pod x: does not exist$"):
        ask(state)


def test_a_daemon_that_recovers_is_not_an_absent_one() -> None:
    fault = fault_of(Refused(grpc.StatusCode.UNAVAILABLE, "still recovering"), "/s")
    assert type(fault) is Unavailable


def test_a_code_without_a_class_is_a_fault_with_a_message() -> None:
    fault = fault_of(Refused(grpc.StatusCode.INTERNAL, ""), "/s")
    assert type(fault) is Fault
    assert str(fault) == "internal"


def test_the_table_is_the_reverse_of_the_servers() -> None:
    for name, cls in FAULTS.items():
        assert CODES[cls].name == name
    assert FAULTS["FAILED_PRECONDITION"] is FailedPrecondition
