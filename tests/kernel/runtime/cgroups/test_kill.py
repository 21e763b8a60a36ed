from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.cgroups import kill
from runtime.cgroups.layout import Kind, dirs, parse
from runtime.requests import CgroupDirs
from tests.kernel.runtime.cgroups.processes import cgroup, ended_by, living_in, wait_for

LAYOUT = parse(*(Path(f"/proc/{file}").read_text() for file in ("self/mountinfo", "cgroups", "self/cgroup")))
"""With the v1 trees that no container needs beside v2."""

needs_v1 = pytest.mark.skipif(LAYOUT.root("freezer") is None or not LAYOUT.v1, reason="no cgroup v1 freezer")
needs_v2 = pytest.mark.skipif(LAYOUT.v2 is None, reason="no cgroup v2 tree")
needs_hybrid = pytest.mark.skipif(LAYOUT.kind is not Kind.HYBRID, reason="no hybrid cgroup hierarchy")


@pytest.fixture
def found() -> Iterator[CgroupDirs]:
    with cgroup(LAYOUT) as path:
        yield dirs(LAYOUT, path)


def v1_of(found: CgroupDirs) -> CgroupDirs:
    return {"v1": found["v1"], "v2": None}


def breed() -> None:
    """Fork as fast as possible; the children do the same."""
    if os.fork() != 0:
        signal.sigtimedwait([signal.SIGCHLD], 0.002)
        return


def test_join_moves_the_caller_into_every_v1_directory(found: CgroupDirs) -> None:
    with living_in(found) as pid:
        for directory in [*found["v1"], *filter(None, [found["v2"]])]:
            assert kill.pids(directory) == [pid]


@needs_v1
def test_join_names_the_file_that_refused() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        kill.join({"v1": ["/sys/fs/cgroup/crisp-nowhere"], "v2": None})
    assert caught.value.filename == "/sys/fs/cgroup/crisp-nowhere/tasks"


def test_a_kill_ends_every_process_also_in_cgroups_below(found: CgroupDirs) -> None:
    below: CgroupDirs = {"v1": [f"{path}/child" for path in found["v1"] if "freezer" in path], "v2": None}
    if found["v2"]:
        below["v2"] = f"{found['v2']}/child"
    for directory in [*below["v1"], *filter(None, [below["v2"]])]:
        os.mkdir(directory)
    with living_in(found) as one, living_in(below) as other:
        kill.kill(found)
        assert [ended_by(one), ended_by(other)] == [signal.SIGKILL, signal.SIGKILL]


@needs_v1
def test_a_v1_cgroup_that_forks_all_the_time_is_killed_whole(found: CgroupDirs) -> None:
    pids_limit = next((path for path in found["v1"] if os.path.exists(f"{path}/pids.max")), None)
    assert pids_limit, "the pids controller bounds this test"
    Path(f"{pids_limit}/pids.max").write_text("200")
    with living_in(v1_of(found), body=breed):
        wait_for(lambda: len(kill.pids(pids_limit)) > 20, "it has many processes")
        kill.kill(v1_of(found))
        wait_for(lambda: not kill.pids(pids_limit), "all are gone")


@needs_v1
def test_a_cgroup_that_was_frozen_by_someone_is_thawed_and_killed(found: CgroupDirs) -> None:
    freezer = next(path for path in found["v1"] if os.path.exists(f"{path}/freezer.state"))
    with living_in(v1_of(found)) as pid:
        Path(f"{freezer}/freezer.state").write_text("FROZEN")
        kill.kill(v1_of(found))
        assert ended_by(pid) == signal.SIGKILL


@needs_hybrid
def test_what_somebody_has_frozen_in_v1_is_thawed_for_the_kill_in_v2(found: CgroupDirs) -> None:
    freezer = next(path for path in found["v1"] if os.path.exists(f"{path}/freezer.state"))
    with living_in(found) as pid:
        Path(f"{freezer}/freezer.state").write_text("FROZEN")
        kill.kill(found)
        assert ended_by(pid) == signal.SIGKILL


@needs_hybrid
@pytest.mark.parametrize("freezer", [True, False])
def test_a_process_in_v1_alone_is_killed_on_a_hybrid_host(found: CgroupDirs, freezer: bool) -> None:
    if not freezer:
        found["v1"] = [path for path in found["v1"] if not os.path.exists(f"{path}/freezer.state")]
    with living_in(v1_of(found)) as pid:
        kill.kill(found)
        assert ended_by(pid) == signal.SIGKILL


@needs_hybrid
def test_an_exec_that_is_by_itself_in_v2_alone_does_not_take_its_container_along(found: CgroupDirs) -> None:
    os.mkdir(f"{found['v2']}/exec-1")
    others = [path for path in found["v1"] if not os.path.exists(f"{path}/freezer.state")]
    own: CgroupDirs = {"v1": others, "v2": f"{found['v2']}/exec-1"}
    with living_in(found) as container, living_in(own) as pid:
        kill.kill(own)
        assert ended_by(pid) == signal.SIGKILL
        assert os.waitpid(container, os.WNOHANG) == (0, 0)


@needs_v1
def test_without_a_freezer_the_processes_are_signalled(found: CgroupDirs) -> None:
    directory = next(path for path in found["v1"] if "freezer" not in path)
    with living_in({"v1": [directory], "v2": None}) as pid:
        kill.kill({"v1": [directory], "v2": None})
        assert ended_by(pid) == signal.SIGKILL


@needs_v2
def test_v2_alone(found: CgroupDirs) -> None:
    only: CgroupDirs = {"v1": [], "v2": found["v2"]}
    fd = kill.open_v2(only)
    assert fd is not None
    assert os.readlink(f"/proc/self/fd/{fd}") == found["v2"]
    os.close(fd)
    with living_in(only) as pid:
        kill.kill(only)
        assert ended_by(pid) == signal.SIGKILL


def test_without_v2_there_is_nothing_to_clone_into() -> None:
    assert kill.open_v2({"v1": [], "v2": None}) is None


def test_killing_what_does_not_exist_is_no_error() -> None:
    kill.kill({"v1": ["/sys/fs/cgroup/freezer/crisp-gone"], "v2": "/sys/fs/cgroup/crisp-gone"})
    kill.kill({"v1": [], "v2": None})
    assert kill.pids("/sys/fs/cgroup/crisp-gone") == []


def test_processes_of_other_pid_namespaces_are_never_signalled(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").write_text("0\n12\n0\n")
    (tmp_path / "child").mkdir()
    (tmp_path / "child/cgroup.procs").write_text("13\n")
    assert kill.pids(str(tmp_path)) == [12, 13]


@pytest.mark.parametrize(
    "text", ["oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", "low 0\noom 5\noom_kill 2\noom_group_kill 1\n"]
)
def test_the_oom_counter_of_v1_and_of_v2(tmp_path: Path, text: str) -> None:
    (tmp_path / "events").write_text(text)
    assert kill.oom_kills(str(tmp_path / "events")) == 2


def test_no_counter_is_no_kill(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("under_oom 0\n")
    assert kill.oom_kills(str(tmp_path / "events")) == 0
    assert kill.oom_kills(str(tmp_path / "gone")) == 0


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        kill.oom_kills(str(tmp_path))
    (tmp_path / "cgroup.kill").mkdir()
    with pytest.raises(IsADirectoryError):
        kill.kill({"v1": [], "v2": str(tmp_path)})


def test_the_module_costs_the_monitor_no_imports() -> None:
    code = "import sys; import os, signal, time; before = set(sys.modules); import runtime.cgroups.kill; "
    # errno is built in; whether it was there before depends on the Python.
    code += "print(sorted(set(sys.modules) - before - {'errno'}))"
    root = Path(__file__).resolve().parents[4]
    ran = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=root, check=True, capture_output=True, text=True, timeout=30
    )
    loaded = ran.stdout.strip()
    assert loaded == "['__future__', 'runtime', 'runtime.cgroups', 'runtime.cgroups.kill']"
