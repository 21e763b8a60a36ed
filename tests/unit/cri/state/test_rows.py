"""Records to rows and back, and what cannot be read goes to quarantine."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from cri.state import rows, schema
from cri.state.records import OperationPhase
from runtime.errors import AlreadyExists, FailedPrecondition, NotFound
from tests.unit.cri.state.samples import container, operation, sandbox


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    opened = sqlite3.connect(":memory:", isolation_level=None)
    opened.execute("PRAGMA foreign_keys=ON")
    schema.migrate(opened)
    yield opened
    opened.close()


def test_records_come_back_as_they_were(connection: sqlite3.Connection) -> None:
    rows.put(connection, sandbox())
    rows.put(connection, container())
    rows.begin_operation(connection, operation())
    assert rows.load(connection) == ([sandbox()], [container()], [operation()])
    assert rows.read_sandbox(connection, "s1") == sandbox()
    assert rows.read_container(connection, "c1") == container()


def test_an_operator_can_read_a_record_in_the_shell(connection: sqlite3.Connection) -> None:
    rows.put(connection, sandbox())
    assert connection.execute("SELECT json_extract(record, '$.state') FROM sandboxes").fetchone() == ("ready",)


def test_a_name_is_taken_until_its_record_is_deleted(connection: sqlite3.Connection) -> None:
    rows.put(connection, sandbox("s1"))
    with pytest.raises(AlreadyExists, match="sandbox web"):
        rows.put(connection, sandbox("s2"))
    rows.delete_all(connection, [sandbox("s1")])
    rows.put(connection, sandbox("s2"))
    rows.put(connection, container("c1", "s2"))
    with pytest.raises(AlreadyExists, match="container main"):
        rows.put(connection, container("c2", "s2"))


def test_deleting_an_object_forgets_its_operation(connection: sqlite3.Connection) -> None:
    rows.put(connection, sandbox())
    rows.begin_operation(connection, operation())
    rows.delete_all(connection, [sandbox()])
    assert rows.load(connection) == ([], [], [])


def test_a_sandbox_with_containers_is_not_deleted(connection: sqlite3.Connection) -> None:
    rows.put(connection, sandbox())
    rows.put(connection, container())
    connection.execute("BEGIN")
    with pytest.raises(FailedPrecondition, match="still has 1 containers"):
        rows.delete_all(connection, [sandbox()])
    rows.delete_all(connection, [sandbox(), container()])
    connection.execute("COMMIT")
    assert rows.load(connection) == ([], [], [])


def test_an_operation_ends_once_it_has_begun(connection: sqlite3.Connection) -> None:
    with pytest.raises(NotFound):
        rows.end_operation(connection, "k")
    rows.begin_operation(connection, operation())
    assert rows.end_operation(connection, "k").phase is OperationPhase.DONE
    rows.forget_operations(connection, ("k", "absent"))
    assert rows.load(connection)[2] == []


def test_what_is_not_there_is_not_found(connection: sqlite3.Connection) -> None:
    with pytest.raises(NotFound, match="sandbox absent"):
        rows.read_sandbox(connection, "absent")


@pytest.mark.parametrize("blob", [b"{", b"\xff", b'{"id": "s1"}'])
def test_a_record_that_cannot_be_decoded_is_set_aside(connection: sqlite3.Connection, blob: bytes) -> None:
    rows.put(connection, sandbox("s1"))
    rows.put(connection, sandbox("s2", "other"))
    connection.execute("UPDATE sandboxes SET record = ? WHERE id = 's1'", (blob,))
    assert rows.load(connection)[0] == [sandbox("s2", "other")]
    assert connection.execute("SELECT kind, id, record FROM quarantine").fetchall() == [("sandboxes", "s1", blob)]


def test_a_container_of_an_unreadable_sandbox_goes_with_it(connection: sqlite3.Connection) -> None:
    rows.put(connection, sandbox())
    rows.put(connection, container())
    connection.execute("UPDATE sandboxes SET record = ?", (b"{",))
    connection.execute("BEGIN")
    assert rows.load(connection) == ([], [], [])
    connection.execute("COMMIT")
    assert {row[0] for row in connection.execute("SELECT id FROM quarantine")} == {"s1", "c1"}
