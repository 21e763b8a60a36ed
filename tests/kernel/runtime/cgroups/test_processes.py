from __future__ import annotations

import os
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.cgroups import processes
from runtime.cgroups.layout import detect, dirs
from runtime.cgroups.processes import look_at, measure_processes
from tests.kernel.runtime.cgroups.processes import cgroup, living_in

LAYOUT = detect()


@pytest.fixture
def path() -> Iterator[str]:
    with cgroup(LAYOUT) as made:
        yield made


def open_a_socket_and_wait() -> None:
    with socket.socket(socket.AF_UNIX):
        signal.pause()


def test_processes_descriptors_and_sockets_are_counted(path: str) -> None:
    with living_in(dirs(LAYOUT, path)), living_in(dirs(LAYOUT, path), body=open_a_socket_and_wait) as pid:
        while not any(
            os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:") for fd in os.listdir(f"/proc/{pid}/fd")
        ):
            os.sched_yield()
        found = measure_processes(LAYOUT, path)
        assert found.processes == 2 and found.sockets >= 1
        assert found.descriptors >= len(os.listdir(f"/proc/{pid}/fd"))
        assert found.open_files == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_a_cgroup_without_processes_or_that_is_gone_has_none(path: str) -> None:
    for each in (path, "/crisp-test-nowhere"):
        found = measure_processes(LAYOUT, each)
        assert (found.processes, found.descriptors, found.open_files) == (0, 0, None)


def test_the_work_is_bounded_and_all_descriptors_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LOOKED_AT", 3)
    for pid in (7, 8):
        (tmp_path / str(pid) / "fd").mkdir(parents=True)
        for number in range(4):
            (tmp_path / str(pid) / "fd" / str(number)).symlink_to("socket:[1]")
    (tmp_path / "7" / "limits").write_text(
        "Limit  Soft  Hard\nMax open files            unlimited   unlimited  files\n"
    )
    found = look_at([7, 8, 9], str(tmp_path))
    assert (found.processes, found.descriptors, found.sockets, found.open_files) == (2, 8, 3, -1)
