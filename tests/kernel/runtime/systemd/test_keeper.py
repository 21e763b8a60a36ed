"""Keepers: born in the daemon's cgroup, ended with their scopes, found if they are lost."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.cgroups import tree
from runtime.cgroups.layout import detect
from runtime.pause import PAUSE
from runtime.procfs import start_time
from runtime.systemd.keeper import Keepers, end_stray, strays
from runtime.systemd.names import scope_name
from tests.processes import wait_asleep, wait_command_line

LAYOUT = detect()
pytestmark = pytest.mark.skipif(LAYOUT.v2 is None, reason="no cgroup v2 tree")
SCOPE = scope_name("0a1b2c3d", "f00")


@pytest.fixture
def keepers() -> Iterator[Keepers]:
    made = Keepers()
    yield made
    for process in (each for started in made._started.values() for each in started):  # those of a test that failed
        process.kill()
        process.wait()
    made.close()


@pytest.fixture
def cgroup() -> Iterator[Path]:
    path = f"/crisp-test-{secrets.token_hex(4)}"
    tree.create(LAYOUT, path, "test")
    yield Path(f"{LAYOUT.v2}{path}")
    assert tree.remove(LAYOUT, path, ours=True)


async def test_a_keeper_has_nothing_of_the_daemons_and_ends_with_its_scope(keepers: Keepers) -> None:
    pid = keepers.start(SCOPE)
    wait_command_line(pid, f"keeper of {SCOPE}")
    assert Path(f"/proc/{pid}/environ").read_bytes() == b""
    assert os.getsid(pid) == pid and Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    descriptors = sorted(os.listdir(f"/proc/{pid}/fd"), key=int)
    assert descriptors[:3] == ["0", "1", "2"]
    assert [Path(f"/proc/{pid}/fd/{fd}").readlink() for fd in descriptors[:3]] == [Path("/dev/null")] * 3
    (program,) = descriptors[3:]
    assert os.path.samefile(f"/proc/{pid}/fd/{program}", PAUSE)
    await keepers.end(SCOPE)
    assert not Path(f"/proc/{pid}").exists()
    await keepers.end(SCOPE)


async def test_its_program_cannot_be_written_through_it(keepers: Keepers) -> None:
    pid = keepers.start(SCOPE)
    with pytest.raises(OSError, match=r"Read-only|busy"):
        os.open(f"/proc/{pid}/exe", os.O_WRONLY)
    await keepers.end(SCOPE)


async def test_one_that_is_in_no_scope_is_found_by_its_name_and_ended(keepers: Keepers, cgroup: Path) -> None:
    pid = keepers.start(SCOPE)
    wait_command_line(pid, f"keeper of {SCOPE}")
    (cgroup / "cgroup.procs").write_text(str(pid))
    assert strays(str(cgroup), "0a1b2c3d") == [(pid, SCOPE)]
    assert strays(str(cgroup), "ffffffff") == [] and strays(f"{cgroup}/absent", "0a1b2c3d") == []
    end_stray(pid, "another.scope")
    began = start_time(pid)
    assert began and strays(str(cgroup), "0a1b2c3d")
    end_stray(pid, SCOPE)
    await keepers.end(SCOPE)
    assert strays(str(cgroup), "0a1b2c3d") == []


def test_keepers_outlive_their_daemon(keepers: Keepers) -> None:
    pid = keepers.start(SCOPE)
    keepers.close()
    wait_asleep(pid)
    os.kill(pid, 15)
    assert os.waitpid(pid, 0) == (pid, 0)
