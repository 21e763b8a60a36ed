from __future__ import annotations

import ipaddress
import tomllib
from pathlib import Path
from typing import Any, cast

import pytest

from tests.bench.__main__ import GROUPS, columns, parse, report, settings
from tests.bench.endpoint import Endpoint
from tests.bench.report import Samples, summary


class End:
    def __init__(self, name: str, address: str) -> None:
        self.name, self.address, self.samples = name, address, Samples()


def ends(*pairs: tuple[str, str]) -> list[Endpoint]:
    return [cast("Endpoint", cast("Any", End(*pair))) for pair in pairs]


def test_everything_is_measured_unless_something_is_chosen() -> None:
    assert parse([]).only == list(GROUPS)
    assert parse(["--only", "log,calls"]).only == ["log", "calls"]
    with pytest.raises(SystemExit):
        parse(["--only", "logs"])


def test_two_of_the_same_version_are_told_apart_by_their_sockets() -> None:
    assert list(columns(ends(("crisp 1", "unix:///a"), ("other 2", "unix:///b")))) == ["crisp 1", "other 2"]
    assert list(columns(ends(("crisp 1", "unix:///a"), ("crisp 1", "unix:///b")))) == [
        "crisp 1 unix:///a",
        "crisp 1 unix:///b",
    ]


def test_the_json_has_the_values_that_the_table_is_made_of() -> None:
    (end,) = ends(("crisp 1", "unix:///a"))
    end.samples.add("call", 1.0, "ms")
    end.samples.add("(first)", 9.0, "ms")
    told = report("conditions", {"crisp 1": end}, {"crisp 1": summary(end.samples)})
    assert told["values"] == {"crisp 1": {"call": [1.0]}}
    assert told["endpoints"]["crisp 1"]["call"]["p50"] == 1.0


def test_runs_beside_each_other_have_bridges_and_subnets_of_their_own() -> None:
    networks = [tomllib.loads(settings(Path("/x"), number))["network"] for number in (4_194_300, 4_194_301, 4_194_316)]
    assert len({network["bridge"] for network in networks}) == 3
    assert all(len(network["bridge"]) <= 15 for network in networks)  # IFNAMSIZ
    subnets = [ipaddress.ip_network(subnet) for network in networks for subnet in network["subnets"]]
    assert not any(one.overlaps(other) for n, one in enumerate(subnets) for other in subnets[:n])
