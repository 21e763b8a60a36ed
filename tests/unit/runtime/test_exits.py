"""Exit records are whole or absent, and odd files never pass for one."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import exits
from runtime.errors import HostFault
from runtime.requests import ExitRecord

RECORD: ExitRecord = {
    "container": "c0ffee",
    "pid": 12,
    "code": 137,
    "signal": 9,
    "oom": True,
    "finished_at": 1_700_000_000_000_000_000,
}


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    pod = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    made = exits.open_directory(pod)
    os.close(pod)
    yield made
    os.close(made)


def test_a_record_comes_back_as_written(directory: int, tmp_path: Path) -> None:
    exits.write_exit(directory, RECORD)
    assert exits.read_exit(str(tmp_path / "exits/c0ffee.json")) == RECORD


def test_reason_and_message_are_kept(directory: int, tmp_path: Path) -> None:
    record: ExitRecord = {**RECORD, "reason": "StartError", "message": "no such file"}
    exits.write_exit(directory, record)
    assert exits.read_exit(str(tmp_path / "exits/c0ffee.json")) == record


def test_lost_log_entries_are_kept(directory: int, tmp_path: Path) -> None:
    record: ExitRecord = {**RECORD, "log_dropped": 7}
    exits.write_exit(directory, record)
    assert exits.read_exit(str(tmp_path / "exits/c0ffee.json")) == record


def test_the_directory_and_the_record_are_private(directory: int, tmp_path: Path) -> None:
    exits.write_exit(directory, RECORD)
    assert (tmp_path / "exits").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "exits/c0ffee.json").stat().st_mode & 0o777 == 0o600


def test_an_existing_directory_is_used(directory: int, tmp_path: Path) -> None:
    pod = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    again = exits.open_directory(pod)
    assert os.path.samestat(os.fstat(again), os.fstat(directory))
    os.close(again)
    os.close(pod)


def test_a_failed_write_leaves_nothing_and_says_why(
    directory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, content: memoryview) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(HostFault, match=r"record the exit: c0ffee: .*ENOSPC"):
        exits.write_exit(directory, RECORD)
    assert list((tmp_path / "exits").iterdir()) == []


def test_no_record_is_none(tmp_path: Path) -> None:
    assert exits.read_exit(str(tmp_path / "none.json")) is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        json.dumps({**RECORD, "code": "0"}),
        json.dumps({**RECORD, "pid": True}),
        '{"container": "c0ffee"}',
        json.dumps({**RECORD, "reason": 5}),
    ],
)
def test_what_is_no_record_is_refused(directory: int, tmp_path: Path, content: str) -> None:
    (tmp_path / "exits/c0ffee.json").write_text(content)
    with pytest.raises(HostFault, match="read an exit record"):
        exits.read_exit(str(tmp_path / "exits/c0ffee.json"))


@pytest.mark.parametrize(("status", "expected"), [(0, (0, 0)), (3 << 8, (3, 0)), (9, (137, 9)), (15, (143, 15))])
def test_a_wait_status_becomes_an_exit_code(status: int, expected: tuple[int, int]) -> None:
    assert exits.exit_code(status) == expected
