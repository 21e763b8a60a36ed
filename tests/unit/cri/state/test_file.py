"""The file state.db: checked at open, moved aside when damaged, with a reserve beside it."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
from pathlib import Path

import pytest

from cri.state import file
from runtime.errors import HostFault, ResourceExhausted


def sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("said by sqlite")
    error.sqlite_errorcode = code
    return error


def test_a_new_file_is_in_wal_mode_with_foreign_keys(tmp_path: Path) -> None:
    connection = file.open_file(tmp_path / "state.db")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA foreign_keys").fetchone() == (1,)
    assert connection.execute("PRAGMA synchronous").fetchone() == (1,)
    assert {found.name: found.stat().st_mode & 0o777 for found in tmp_path.iterdir()} == dict.fromkeys(
        ("state.db", "state.db-wal", "state.db-shm", "state.db.reserve"), 0o600
    )
    connection.close()


def test_a_damaged_file_is_kept_aside_and_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"this is no database at all, though it is long enough to be looked at" * 100)
    with caplog.at_level(logging.ERROR):
        connection = file.open_file(path)
    connection.close()
    [aside] = [found for found in tmp_path.iterdir() if ".corrupt-" in found.name]
    assert aside.read_bytes().startswith(b"this is no database")
    assert aside.name in caplog.text


def test_a_page_overwritten_in_the_middle_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    connection = file.open_file(path)
    connection.execute("BEGIN")
    for number in range(2000):
        connection.execute("INSERT INTO images VALUES (?, ?)", (f"image-{number:06}", b"x" * 100))
    connection.execute("COMMIT")
    connection.close()
    data = bytearray(path.read_bytes())
    data[4096 * 20 : 4096 * 24] = b"\xff" * (4096 * 4)
    path.write_bytes(data)
    connection = file.open_file(path)
    assert connection.execute("SELECT count(*) FROM images").fetchone() == (0,)
    connection.close()
    assert any(".corrupt-" in found.name for found in tmp_path.iterdir())


def test_a_path_that_cannot_be_opened_is_not_taken_for_damage(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        file.open_file(tmp_path / "absent" / "state.db")


def test_the_reserve_takes_its_room_once(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    file.make_reserve(path)
    first = file.reserve_path(path).stat()
    file.make_reserve(path)
    assert first.st_size == file.RESERVE
    assert first.st_blocks * 512 >= file.RESERVE
    assert file.reserve_path(path).stat().st_ino == first.st_ino


def test_folding_in_leaves_a_new_log_with_one_small_write(tmp_path: Path) -> None:
    connection = file.open_file(tmp_path / "state.db")
    for number in range(50):
        connection.execute("INSERT INTO meta (key, value) VALUES (?, ?)", (str(number), "x" * 1000))
    file.fold_in(connection)
    folded = sqlite3.connect(f"file:{tmp_path / 'state.db'}?immutable=1", uri=True)  # the file without its log
    assert folded.execute("SELECT count(*) FROM meta WHERE length(value) = 1000").fetchone() == (50,)
    folded.close()
    assert connection.execute("SELECT value FROM meta WHERE key = 'logs'").fetchone() == ("1",)
    frames = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1]
    assert 0 < frames < 5
    connection.close()


def test_a_log_that_cannot_be_folded_in_stays(tmp_path: Path) -> None:
    connection = file.open_file(tmp_path / "state.db")
    connection.execute("PRAGMA query_only=1")
    file.fold_in(connection)
    assert connection.execute("SELECT value FROM meta WHERE key = 'logs'").fetchone() is None
    connection.close()


def test_a_reserve_that_was_made_by_half_is_completed(tmp_path: Path) -> None:
    reserve = file.reserve_path(tmp_path / "state.db")
    reserve.touch()
    assert file.make_reserve(tmp_path / "state.db")
    assert reserve.stat().st_size == file.RESERVE


@pytest.mark.parametrize(("number", "works"), [(errno.ENOSPC, False), (errno.EDQUOT, False), (errno.EIO, True)])
def test_a_reserve_that_cannot_be_made_leaves_no_file_and_says_whether_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, works: bool
) -> None:
    def refuse(fd: int, offset: int, size: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.posix_fallocate", refuse)
    assert file.make_reserve(tmp_path / "state.db") is works
    assert list(tmp_path.iterdir()) == []
    assert file.make_reserve(tmp_path / "absent" / "state.db")


def test_what_may_not_begin_is_told_why(tmp_path: Path) -> None:
    assert "nothing new is begun until there is room" in str(file.refusal(tmp_path))


def test_a_full_disk_is_resource_exhausted_and_the_rest_a_host_fault(tmp_path: Path) -> None:
    full = file.fault_of(sqlite_error(sqlite3.SQLITE_FULL), tmp_path)
    assert isinstance(full, ResourceExhausted)
    other = file.fault_of(sqlite_error(sqlite3.SQLITE_BUSY), tmp_path)
    assert isinstance(other, HostFault)
    assert "said by sqlite" in str(other)


def test_a_full_disk_is_seen_through_the_rollback_that_it_caused() -> None:
    rolled_back = sqlite3.OperationalError("the transaction was rolled back")
    rolled_back.__cause__ = sqlite_error(sqlite3.SQLITE_FULL)
    assert file.is_full(rolled_back)
    assert not file.is_full(sqlite3.OperationalError("other"))
    assert not file.is_full(None)
