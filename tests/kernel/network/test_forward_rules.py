"""Other programs' tables and pods: told in words, or settled where the settings want it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from network.forward_rules import ForwardRules
from network.nft import Table
from runtime.errors import HostFault

WALL = "table inet wall { chain passing { type filter hook forward priority 10; policy drop; }; }"
VERSIONS = frozenset({4, 6})


class Told:
    """ForwardRules and the table they are asked with, on a host."""

    def __init__(self, host: Any, table: Table, *, wanted: bool) -> None:
        self.host, self.table = host, table
        self.rules = ForwardRules("crt0", wanted=wanted)

    def settle(self) -> None:
        self.host.do(lambda: self.rules.settle(self.table, VERSIONS))

    def notes(self) -> tuple[str, ...]:
        found: tuple[str, ...] = self.host.do(lambda: self.rules.notes(self.table, VERSIONS))
        return found


Make = Callable[[bool], Told]


@pytest.fixture
def told(host: Any) -> Iterator[Make]:
    """Makes one; whether rules are wanted is said each time."""
    table = host.do(lambda: Table("0badcafe"))
    yield lambda wanted: Told(host, table, wanted=wanted)
    table.close()


@pytest.fixture
def look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("network.forward_rules.NOTES_SECONDS", 0.0)


def raise_wall(host: Any) -> None:
    assert host.run("nft", WALL).returncode == 0


def wall(host: Any) -> str:
    return str(host.run("nft", "list", "table", "inet", "wall").stdout)


def test_a_rule_that_was_lost_comes_back_and_goes_when_the_setting_is_off(
    host: Any, told: Make, look_at_once: None
) -> None:
    opening, closed = told(True), told(False)
    opening.settle()
    assert opening.notes() == ()
    for _ in range(2):
        raise_wall(host)
        assert opening.notes() == ()
        assert 'comment "crisp 0badcafe"' in wall(host)
        assert host.run("nft", "delete", "table", "inet", "wall").returncode == 0
    raise_wall(host)
    assert opening.notes() == ()
    closed.settle()
    assert "crisp 0badcafe" not in wall(host)
    (said,) = closed.notes()
    assert "inet wall passing" in said and "[network] forward_rule = true" in said


def test_rules_are_removed_whether_or_not_they_are_wanted(host: Any, told: Make) -> None:
    raise_wall(host)
    told(True).settle()
    assert "crisp 0badcafe" in wall(host)
    refused = told(False)
    host.do(lambda: refused.rules.remove(refused.table))
    assert "crisp 0badcafe" not in wall(host)


def test_notes_are_kept_a_while(host: Any, told: Make) -> None:
    closed = told(False)
    assert closed.notes() == ()
    raise_wall(host)
    assert closed.notes() == ()
    closed.settle()
    assert "inet wall passing" in closed.notes()[0]


def test_a_table_that_takes_no_rule_is_told_and_nothing_is_raised(
    host: Any, told: Make, look_at_once: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise HostFault(step="let pods through", errno=errno.EPERM)

    raise_wall(host)
    opening = told(True)
    monkeypatch.setattr("network.foreign.Others.plan_entries", refuse)
    opening.settle()
    assert "let pods through" in caplog.text and "inet wall passing" in opening.notes()[0]
    monkeypatch.setattr("network.foreign.Others.obstacles", refuse)
    assert opening.notes() == (str(HostFault(step="let pods through", errno=errno.EPERM)),)
