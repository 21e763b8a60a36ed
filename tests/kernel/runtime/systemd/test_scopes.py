"""Scopes and slices in a real cgroup v2 tree, made by a systemd of the tests."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.cgroups import tree
from runtime.cgroups.layout import Kind, Layout, detect
from runtime.errors import AlreadyExists, HostFault, NotFound
from runtime.systemd.names import inner, outer, scope_name, slice_name, slice_path
from runtime.systemd.scopes import Scopes
from runtime.systemd.units import Units
from tests.fake_systemd import FakeSystemd

HOST = detect()
pytestmark = pytest.mark.skipif(HOST.v2 is None, reason="no cgroup v2 tree")
INSTANCE = secrets.token_hex(4)
PARENT = f"crisptest{INSTANCE}.slice"
SCOPE = scope_name(INSTANCE, "f00")
PATH = inner(slice_path(PARENT), SCOPE)


@pytest.fixture
def layout() -> Layout:
    """The v2 tree of this host as if there were no other."""
    return Layout(Kind.V2, (), HOST.v2, HOST.v2_controllers, HOST.own_v2, swap=False, page_sizes=frozenset())


@pytest.fixture
async def systemd(tmp_path: Path) -> AsyncIterator[FakeSystemd]:
    fake = FakeSystemd(root=Path(HOST.v2 or ""))
    async with fake.serving(tmp_path / "bus"):
        yield fake
        for unit in list(fake.units):
            fake.stop(unit)


@pytest.fixture
async def scopes(systemd: FakeSystemd, layout: Layout, tmp_path: Path) -> AsyncIterator[Scopes]:
    made = Scopes(layout, Units(str(tmp_path / "bus"), str(tmp_path / "private")))
    yield made
    made.close()


def place(path: str) -> Path:
    return Path(f"{HOST.v2}{path}")


async def test_a_scope_has_no_process_itself_so_that_it_can_hand_controllers_down(
    scopes: Scopes, systemd: FakeSystemd, layout: Layout
) -> None:
    await scopes.make(PATH, [("MemoryMax", ("t", 4096))], "crisp: f00")
    scope = place(outer(PATH))
    assert not (scope / "cgroup.procs").read_text()
    (keeper,) = (scope / "keeper/cgroup.procs").read_text().split()
    told = systemd.units[SCOPE]
    assert told["PIDs"] == [int(keeper)] and told["Slice"] == PARENT and told["Description"] == "crisp: f00"
    assert told["Delegate"] and not told["DefaultDependencies"] and told["MemoryAccounting"]
    assert (told["MemoryMax"], told["TasksMax"], told["CollectMode"]) == (4096, (1 << 64) - 1, "inactive-or-failed")
    tree.create(layout, PATH, "f00")
    if layout.v2_controllers:
        assert set((scope / "cgroup.subtree_control").read_text().split()) == layout.v2_controllers & tree.USED
    assert tree.remove(layout, PATH, ours=True) and scope.exists()
    await scopes.remove(PATH)
    assert not scope.exists() and systemd.units == {} and not Path(f"/proc/{keeper}").exists()
    await scopes.remove(PATH)


async def test_a_scope_of_nobody_is_made_anew(scopes: Scopes, systemd: FakeSystemd) -> None:
    await scopes.make(PATH, [], "first")
    before = (place(outer(PATH)) / "keeper/cgroup.procs").read_text()
    await scopes.make(PATH, [], "second")
    assert systemd.units[SCOPE]["Description"] == "second"
    assert (place(outer(PATH)) / "keeper/cgroup.procs").read_text() != before
    await scopes.remove(PATH)


async def test_what_systemd_refuses_leaves_no_keeper(scopes: Scopes, systemd: FakeSystemd) -> None:
    systemd.errors["StartTransientUnit"] = "org.freedesktop.DBus.Error.AccessDenied", "No."
    with pytest.raises(HostFault, match="StartTransientUnit: No"):
        await scopes.make(PATH, [], "f00")
    systemd.errors["StartTransientUnit"] = "org.freedesktop.systemd1.UnitExists", "Again."
    with pytest.raises(AlreadyExists):
        await scopes.make(PATH, [], "f00")
    assert scopes._keepers._started == {}


async def test_a_scope_whose_job_fails_is_taken_back(scopes: Scopes, systemd: FakeSystemd) -> None:
    systemd.results[SCOPE] = "failed"
    with pytest.raises(HostFault, match="ended as failed"):
        await scopes.make(PATH, [], "f00")
    systemd.results.clear()
    assert SCOPE not in systemd.units and not place(outer(PATH)).exists()


async def test_properties_change_with_what_is_written_and_only_of_units(scopes: Scopes, systemd: FakeSystemd) -> None:
    await scopes.make(PATH, [], "f00")
    await scopes.change(PATH, [("CPUWeight", ("t", 7))])
    assert systemd.units[SCOPE]["CPUWeight"] == 7
    await scopes.remove(PATH)
    await scopes.change(PATH, [("CPUWeight", ("t", 8))])
    seen = len(systemd.calls)
    await scopes.change("/crisp-1/pod", [("CPUWeight", ("t", 9))])
    await scopes.change(PATH, [])
    await scopes.remove("/crisp-1/pod")
    assert len(systemd.calls) == seen


async def test_a_slice_of_crisps_own_goes_when_nobody_is_in_it(scopes: Scopes, systemd: FakeSystemd) -> None:
    await scopes.make(slice_path(PARENT), [("TasksMax", ("t", 9))], "pod")
    await scopes.make(slice_path(PARENT), [], "again")
    assert systemd.units[PARENT]["Description"] == "pod" and systemd.units[PARENT]["TasksMax"] == 9
    await scopes.make(PATH, [], "f00")
    await scopes.remove(slice_path(PARENT))
    assert PARENT in systemd.units
    await scopes.remove(PATH)
    await scopes.remove(slice_path(PARENT))
    assert PARENT not in systemd.units and not place(slice_path(PARENT)).exists()


async def test_a_daemon_finds_what_it_has_made(scopes: Scopes, systemd: FakeSystemd) -> None:
    systemd.root = None
    names = [SCOPE, slice_name(INSTANCE, "f00")]
    systemd.units = {name: {} for name in (*names, "crisp-ffffffff-f00.scope", "session-1.scope")}
    assert await scopes.find(INSTANCE) == names
    with pytest.raises(NotFound):
        await scopes.units.change("session-2.scope", [])
