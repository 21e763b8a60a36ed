"""Migrations: an empty file gets every table, an older one the rest, a newer one is refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from cri.state import schema
from runtime.errors import FailedPrecondition

FIRST = ("CREATE TABLE pods (id TEXT)",)
SECOND = (*FIRST, "ALTER TABLE pods ADD COLUMN age INTEGER; CREATE TABLE more (id TEXT)")


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    opened = sqlite3.connect(":memory:", isolation_level=None)
    yield opened
    opened.close()


def tables(connection: sqlite3.Connection) -> set[str]:
    return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def test_an_empty_file_gets_every_table(connection: sqlite3.Connection) -> None:
    schema.migrate(connection)
    assert tables(connection) >= {"meta", "sandboxes", "containers", "operations", "images", "leases", "host_ports"}
    assert schema.read_version(connection) == schema.VERSION


def test_a_second_run_changes_nothing(connection: sqlite3.Connection) -> None:
    schema.migrate(connection)
    schema.migrate(connection)
    assert schema.read_version(connection) == schema.VERSION


def test_an_older_file_gets_what_it_lacks_and_keeps_its_rows(connection: sqlite3.Connection) -> None:
    schema.migrate(connection, FIRST)
    connection.execute("INSERT INTO pods VALUES ('a')")
    schema.migrate(connection, SECOND)
    assert connection.execute("SELECT id, age FROM pods").fetchall() == [("a", None)]
    assert schema.read_version(connection) == 2


def test_a_newer_file_is_refused_untouched(connection: sqlite3.Connection) -> None:
    schema.migrate(connection, SECOND)
    with pytest.raises(FailedPrecondition, match="newer crisp"):
        schema.migrate(connection, FIRST)
    assert "more" in tables(connection)


def test_a_migration_that_fails_leaves_the_version_before(connection: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.OperationalError):
        schema.migrate(connection, (*FIRST, "CREATE TABLE half (id TEXT); NONSENSE"))
    assert schema.read_version(connection) == 1
    assert "half" not in tables(connection)
