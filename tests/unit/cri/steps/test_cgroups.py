"""Cgroups of steps: with a unit of systemd around them where the path says so, without asking it elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from cri.host import Host
from cri.steps.cgroups import change_unit, make_cgroup, make_slice, remove_cgroup
from runtime.cgroups.layout import Kind, Layout
from runtime.cgroups.resources import Resources, Write

SLICE = "/a.slice"
SCOPE = f"{SLICE}/crisp-0a1b-f00.scope/container"


class FakeScopes:
    """What is asked of systemd; a unit's directory comes and goes with it."""

    def __init__(self, root: Path) -> None:
        self.root, self.asked = root, list[tuple[Any, ...]]()

    async def make(self, path: str, properties: Sequence[Any], what: str) -> None:
        self.asked.append(("make", path, dict(properties), what))
        (self.root / path[1:]).parent.mkdir(parents=True, exist_ok=True)

    async def change(self, path: str, properties: Sequence[Any]) -> None:
        self.asked.append(("change", path, dict(properties)))

    async def remove(self, path: str) -> None:
        assert not (self.root / path[1:]).exists(), "what is in a unit goes first"
        self.asked.append(("remove", path))


class FakeHost:
    def __init__(self, root: Path) -> None:
        self.layout = Layout(Kind.V2, (), str(root), frozenset(), "/", swap=False, page_sizes=frozenset())
        self.scopes = FakeScopes(root)


@pytest.fixture
def fake(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


async def test_a_unit_comes_before_its_cgroup_and_goes_after_it(fake: FakeHost, tmp_path: Path) -> None:
    host = cast(Host, fake)
    await make_cgroup(host, SCOPE, "f00", [Write("pids", "pids.max", "10")])
    assert (tmp_path / SCOPE[1:]).is_dir()
    await remove_cgroup(host, SCOPE)
    await remove_cgroup(host, SCOPE)
    made = ("make", SCOPE, {"TasksMax": ("t", 11)}, "crisp: f00")
    assert fake.scopes.asked == [made, ("remove", SCOPE), ("remove", SCOPE)]


async def test_systemd_is_not_asked_for_other_cgroups(fake: FakeHost, tmp_path: Path) -> None:
    host = cast(Host, fake)
    await make_cgroup(host, "/crisp-0a1b/f00", "f00", [Write("pids", "pids.max", "10")])
    await change_unit(host, "/crisp-0a1b/f00", [Write("pids", "pids.max", "20")])
    assert (tmp_path / "crisp-0a1b/f00").is_dir()
    await remove_cgroup(host, "/crisp-0a1b/f00")
    assert not (tmp_path / "crisp-0a1b/f00").exists() and fake.scopes.asked == []


async def test_a_slice_has_its_limits_from_the_beginning_and_no_keeper_to_count(fake: FakeHost) -> None:
    host = cast(Host, fake)
    await make_slice(host, SLICE, "pod", None)
    await change_unit(host, SLICE, [Write("pids", "pids.max", "10")])
    assert fake.scopes.asked == [("make", SLICE, {}, "crisp: pod"), ("change", SLICE, {"TasksMax": ("t", 10)})]


async def test_a_limit_that_the_host_has_no_controller_for_is_refused_first(fake: FakeHost) -> None:
    with pytest.raises(Exception, match="no memory controller"):
        await make_slice(cast(Host, fake), SLICE, "pod", Resources(memory_limit=4096))
    assert fake.scopes.asked == []
