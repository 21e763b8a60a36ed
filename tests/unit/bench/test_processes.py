from __future__ import annotations

import os
import time
from pathlib import Path

from tests.bench import processes


def test_a_pods_processes_are_those_in_cgroups_named_by_its_ids(tmp_path: Path) -> None:
    for name, pid in {"pod/aaa": 1, "pod/crio-bbb": 2, "pod/bbb/exec-1": 3, "other": 4}.items():
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "cgroup.procs").write_text(f"{pid}\n")
    assert set(processes.members(["aaa"], tmp_path)) == {1}
    assert set(processes.members(["bbb"], tmp_path)) == {2, 3}


def test_the_keeper_is_the_parent_outside() -> None:
    assert processes.keepers({os.getpid()}) == {os.getppid()} - {1}
    assert processes.keepers({os.getpid(), os.getppid()}).isdisjoint({os.getpid(), os.getppid()})


def test_memory_that_a_process_gets_is_counted() -> None:
    before = processes.private_bytes(os.getpid())
    held = bytearray(os.urandom(1 << 20)) * 8
    assert processes.private_bytes(os.getpid()) - before > len(held) // 2


def test_the_time_of_all_threads_of_a_process_is_counted() -> None:
    pid = os.getpid()
    before, own = processes.cpu_seconds([pid]), time.process_time()
    while time.process_time() - own < 0.02:
        pass
    assert 0.02 <= processes.cpu_seconds([pid]) - before < 5


def test_a_process_that_is_gone_counts_as_nothing() -> None:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)
    assert (processes.private_bytes(pid), processes.cpu_seconds([pid]), processes.parent_of(pid)) == (0, 0.0, 0)


def test_the_file_system_on_top_is_named() -> None:
    assert processes.file_system_type("/proc/self") == "proc"
