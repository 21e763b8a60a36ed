"""A request becomes what the monitor is told and a script, or a refusal; a seccomp program is never left out."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from runtime import births
from runtime.errors import HostFault, InvalidArgument, StartRefused
from runtime.identity import Filter
from runtime.requests import PAUSE_ROOT, CgroupDirs

ALLOW = b"\x06\0\0\0\0\0\xff\x7f"
NOWHERE: CgroupDirs = {"v1": [], "v2": None}


def process(**changes: Any) -> Any:
    sets = ("bounding", "effective", "permitted", "inheritable", "ambient")
    return {
        "terminal": False,
        "user": {"uid": 0, "gid": 0, "additionalGids": []},
        "args": ["/bin/true"],
        "env": [],
        "cwd": "/",
        "capabilities": {name: [] for name in sets},
        "rlimits": [],
        "noNewPrivileges": False,
        **changes,
    }


def container(described: Any = None, **changes: Any) -> Any:
    kinds = ("pid", "network", "ipc", "uts", "mount", "cgroup")
    linux = {
        "namespaces": [{"type": kind} for kind in kinds],
        "devices": [],
        "maskedPaths": [],
        "readonlyPaths": [],
        "rootfsPropagation": "rslave",
        "cgroupsPath": "/x",
        "sysctl": {},
    }
    spec = {
        "process": described or process(),
        "root": {"path": "rootfs", "readonly": False},
        "hostname": "h",
        "mounts": [],
        "linux": linux,
    }
    rootfs = {"lowerdirs": ["/layer"], "upperdir": "/u", "workdir": "/w", "staging": "/s"}
    return {
        "container": "c",
        "spec": spec,
        "rootfs": rootfs,
        "volumes": [],
        "images": [],
        "missing_sources": [],
        "cgroup": NOWHERE,
        "pid_mode": "container",
        "target": None,
        "seccomp": None,
        "log_path": "/log/0.log",
        "stdin": True,
        "stdin_once": False,
        "memory_events": "/events",
        **changes,
    }


def command(**changes: Any) -> Any:
    made = {"container": "c", "exec": "e", "process": process(), "cgroup": NOWHERE, "seccomp": None}
    return {**made, "stdin": False, "timeout": 1.5, **changes}


def sandbox(**changes: Any) -> Any:
    return {
        "namespaces": ["network", "ipc", "uts"],
        "hostname": "pod",
        "sysctls": {},
        "cgroup": NOWHERE,
        "user": {"uid": 65535, "gid": 65535, "additionalGids": []},
        "no_new_privileges": True,
        "seccomp": None,
        "oom_score_adj": 0,
        **changes,
    }


def test_a_monitor_is_told_of_a_container_what_it_has_to_know_itself() -> None:
    told, script = births.container(container())
    assert told == {
        "container": "c",
        "terminal": False,
        "stdin": True,
        "joined": ["ipc", "network", "uts"],
        "cgroup": NOWHERE,
        "pid_mode": "container",
        "target": None,
        "log_path": "/log/0.log",
        "memory_events": "/events",
    }
    assert list(script.given) == ["report", "stdin", "stdout", "stderr", "ipc", "network", "uts"]
    told, _ = births.container(container(log_directory="/log"))
    assert told["log_directory"] == "/log"


def test_the_pods_namespaces_are_those_that_the_document_lists_by_path_or_not() -> None:
    request = container()
    namespaces = request["spec"]["linux"]["namespaces"]
    request["spec"]["linux"]["namespaces"] = [entry for entry in namespaces if entry["type"] != "network"]
    next(entry for entry in namespaces if entry["type"] == "uts")["path"] = "/run/crisp/pods/p/ns/uts"
    told, script = births.container(request)
    assert told["joined"] == ["ipc", "uts"]
    assert list(script.given)[4:] == ["ipc", "uts"]


def test_a_monitor_is_told_of_a_command_what_it_has_to_know_itself() -> None:
    told, script = births.command(command())
    assert told == {
        "container": "c",
        "exec": "e",
        "terminal": False,
        "stdin": False,
        "cgroup": NOWHERE,
        "timeout": 1.5,
    }
    assert list(script.given) == ["report", "stdin", "stdout", "stderr", "target"]


def test_a_monitor_is_told_which_namespaces_are_new() -> None:
    told, script = births.sandbox(sandbox(), ["network", "uts"])
    assert told == {"held": ["network", "uts", PAUSE_ROOT], "new": ["ipc"], "cgroup": NOWHERE}
    assert list(script.given) == ["report", "network", "uts", PAUSE_ROOT]


def test_the_same_request_makes_the_same_script() -> None:
    for first, second in (
        (births.container(container()), births.container(container())),
        (births.command(command()), births.command(command())),
        (births.sandbox(sandbox(), []), births.sandbox(sandbox(), [])),
    ):
        assert first[1].bytes() == second[1].bytes()


@pytest.mark.parametrize("terminal", [True, False])
def test_the_essence_of_a_request_is_all_that_its_script_depends_on(terminal: bool) -> None:
    request = container(process(terminal=terminal, oomScoreAdj=5))
    del request["spec"]["linux"]["namespaces"][3]  # uts: the name is the container's own
    essence = births.container_essence(request)
    assert (
        births.container_script(essence, Filter(ALLOW)).bytes()
        == births.container_script(request, Filter(ALLOW)).bytes()
    )
    request.update({"container": "other", "log_path": None, "memory_events": None, "stdin_once": True})
    assert births.container_essence(request) == essence


@pytest.mark.parametrize("birth", [lambda described: births.container(container(described)), None])
def test_what_a_request_asks_for_and_cannot_be_is_refused_with_its_step(birth: Any) -> None:
    birth = birth or (lambda described: births.command(command(process=described)))
    limit = {"type": "RLIMIT_NOSUCH", "soft": 1, "hard": 2}
    with pytest.raises(StartRefused, match="set the resource limits: no such resource limit as 'RLIMIT_NOSUCH'"):
        birth(process(rlimits=[limit]))
    with pytest.raises(StartRefused, match="there is no command"):
        birth(process(args=[]))


def test_a_refusal_is_bounded() -> None:
    huge = "x" * 10_000_000
    with pytest.raises(StartRefused) as refused:
        births.command(command(process=process(rlimits=[{"type": huge, "soft": 1, "hard": 2}])))
    assert len(str(refused.value)) < 10_000
    with pytest.raises(StartRefused) as refused:
        births.command(command(process=process(args=[huge, "\0"])))
    assert len(str(refused.value)) < 10_000


def test_what_a_pod_asks_for_and_cannot_be_stays_what_it_is() -> None:
    with pytest.raises(InvalidArgument, match="not in a namespace of the pod"):
        births.sandbox(sandbox(sysctls={"vm.swappiness": "1"}), [])
    with pytest.raises(InvalidArgument, match="nonsense"):
        births.sandbox(sandbox(namespaces=["nonsense"]), [])


def test_the_seccomp_program_of_a_request_is_in_its_script(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(ALLOW * 3)
    path = str(program)
    for _, script in (
        births.container(container(seccomp=path)),
        births.command(command(seccomp=path)),
        births.sandbox(sandbox(seccomp=path), []),
    ):
        assert ALLOW * 3 in script.bytes()


def test_a_seccomp_program_is_read_or_refused_and_never_taken_for_none(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"12345678")
    assert births.read_seccomp(command(seccomp=str(program), seccomp_flags=4)) == Filter(b"12345678", 4)
    assert births.read_seccomp(command(seccomp=None)) is None
    for content in (b"", b"x" * (4096 * 8 + 1)):
        program.write_bytes(content)
        with pytest.raises(HostFault, match="no seccomp program"):
            births.read_seccomp(command(seccomp=str(program)))
    program.unlink()
    os.symlink("elsewhere", program)
    for path, number in ((str(program), errno.ELOOP), ("/absent.bpf", errno.ENOENT)):
        with pytest.raises(HostFault) as failed:
            births.command(command(seccomp=path))
        assert (failed.value.step, failed.value.object) == ("read the seccomp program", path)
        assert failed.value.errno == number


def test_a_program_that_is_cut_off_is_a_fault_of_the_host(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(ALLOW[:-1])
    for birth in (births.container, births.command):
        request: Any = container if birth is births.container else command
        with pytest.raises(HostFault, match="seccomp instructions"):
            birth(request(seccomp=str(program)))
