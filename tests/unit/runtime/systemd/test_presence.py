"""Whether systemd could give pods their cgroups."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from runtime.cgroups.layout import Kind, Layout
from runtime.systemd.presence import BUS, PRIVATE, find_obstacle

V2 = Layout(Kind.V2, (), "/sys/fs/cgroup", frozenset(), "/", swap=False, page_sizes=frozenset())


@pytest.mark.parametrize("socket", [BUS, PRIVATE])
def test_either_socket_will_do_where_systemd_runs_the_host(tmp_path: Path, socket: str) -> None:
    assert "systemd does not run this host" in find_obstacle(V2, str(tmp_path))
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    assert find_obstacle(V2, str(tmp_path)) == f"there is neither {BUS} nor {PRIVATE}"
    place = Path(f"{tmp_path}{socket}")
    place.parent.mkdir(exist_ok=True)
    place.touch()
    assert find_obstacle(V2, str(tmp_path)) == ""


@pytest.mark.parametrize("kind", [Kind.V1, Kind.HYBRID])
def test_other_cgroups_than_v2_are_an_obstacle(tmp_path: Path, kind: Kind) -> None:
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    assert find_obstacle(replace(V2, kind=kind), str(tmp_path)).endswith(f"this host has {kind.value}")
