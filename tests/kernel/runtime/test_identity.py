"""A process becomes what the document says, nothing inherited reaches its program, and a refusal says why."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime import identity
from runtime.errors import HostFault, InvalidArgument, StartRefused
from runtime.identity import Filter
from runtime.linux import capabilities
from runtime.linux.numbers import NUMBERS
from runtime.linux.script import Script
from runtime.spec import Process, Rlimit
from tests.kernel.runtime.forked import in_child
from tests.kernel.runtime.launched import carried_out, needs_launch
from tests.kernel.runtime.observed import fields, printed, stopped

pytestmark = needs_launch

TWO = ["CAP_CHOWN", "CAP_KILL"]
MASK = capabilities.mask(TWO)
COMMON = ("read", "write", "openat", "close", "statx", "ioctl", "exit_group")
"""What the shell itself needs."""
ALLOW = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)


def described(uid: int = 0, gid: int = 0, groups: list[int] | None = None, **changes: Any) -> Process:
    sets = {"bounding": TWO, "effective": TWO, "permitted": TWO, "inheritable": [], "ambient": []}
    sets.update(changes.pop("sets", {}))
    made: Any = {
        "terminal": False,
        "user": {"uid": uid, "gid": gid, "additionalGids": groups or []},
        "args": [],
        "env": [],
        "cwd": "/",
        "capabilities": sets,
        "rlimits": [],
        "noNewPrivileges": False,
    }
    made.update(changes)
    result: Process = made
    return result


def status(wanted: Process, *names: str, seccomp: Filter | None = None) -> list[str]:
    """Fields of /proc/self/status of a process that has become ``wanted``."""
    with stopped(lambda script: identity.become(script, wanted, seccomp)) as (pid, _):
        return fields(pid, *names)


def sets(wanted: Process) -> list[int]:
    return [int(text, 16) for text in status(wanted, "CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb")]


def executed(wanted: Process, command: str, seccomp: Filter | None = None) -> list[str]:
    """The words that a shell prints which is executed by a process that has become ``wanted``."""

    def write(script: Script) -> None:
        identity.become(script, wanted, seccomp)
        identity.execute(script, ["/bin/sh", "-c", command], ["PATH=/usr/bin:/bin"])

    return printed(write)


def test_root_keeps_what_the_document_says() -> None:
    assert sets(described()) == [MASK, MASK, 0, MASK, 0]


def test_another_user_keeps_nothing_over_execve_but_the_bounding_set() -> None:
    wanted = described(uid=1000, gid=1001, groups=[1001, 5])
    words = executed(wanted, "id -u; id -G; grep Cap /proc/self/status")
    assert words[:3] == ["1000", "1001", "5"]
    assert words[3:] == [
        "CapInh:",
        f"{0:016x}",
        "CapPrm:",
        f"{0:016x}",
        "CapEff:",
        f"{0:016x}",
        "CapBnd:",
        f"{MASK:016x}",
        "CapAmb:",
        f"{0:016x}",
    ]


def test_ambient_capabilities_that_were_asked_for_survive_it() -> None:
    asked = {"inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]}
    words = executed(described(uid=1000, sets=asked), "grep -E 'CapEff|CapAmb' /proc/self/status")
    assert words == ["CapEff:", f"{1 << 5:016x}", "CapAmb:", f"{1 << 5:016x}"]


def test_the_inherited_groups_are_gone() -> None:
    def work() -> list[str]:
        os.setgroups([1, 2, 3])
        return status(described(uid=7, gid=8), "Groups", "Uid", "Gid")

    assert in_child(work) == ["", "7 7 7 7", "8 8 8 8"]


def test_inherited_inheritable_capabilities_are_gone() -> None:
    """CVE-2022-24769: what is inheritable in the daemon must not be in the container."""

    def work() -> list[int]:
        effective, permitted, _ = capabilities.capget()
        capabilities.capset(effective, permitted, permitted)
        capabilities.set_ambient(MASK)
        return sets(described())[2::2]

    assert in_child(work) == [0, 0]


def test_the_umask_is_the_document_s_or_022() -> None:
    wanted = described()
    assert status(wanted, "Umask") == ["0022"]
    wanted["user"]["umask"] = 0o077  # type: ignore[typeddict-unknown-key, unused-ignore]
    assert status(wanted, "Umask") == ["0077"]


@pytest.mark.parametrize("no_new_privs", [True, False])
@pytest.mark.parametrize("uid", [0, 1000])
def test_a_seccomp_program_is_loaded_with_and_without_no_new_privs(uid: int, no_new_privs: bool) -> None:
    wanted = described(uid=uid, noNewPrivileges=no_new_privs)
    words = executed(wanted, "grep -E '^(Seccomp|NoNewPrivs|CapBnd):' /proc/self/status", Filter(ALLOW))
    assert words == ["CapBnd:", f"{MASK:016x}", "NoNewPrivs:", str(int(no_new_privs)), "Seccomp:", "2"]


def test_capabilities_are_those_of_the_document_when_the_program_is_loaded() -> None:
    names = ("CapPrm", "CapEff", "CapInh", "CapBnd")
    assert status(described(uid=7), *names, seccomp=Filter(ALLOW)) == [f"{bits:016x}" for bits in (MASK, MASK, 0, MASK)]


def refusing(*numbers: int) -> Filter:
    """Answers these calls with EPERM."""
    tests = [(0x15, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
    instructions = [(0x20, 0, 0, 0), *tests, (0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x50001)]
    return Filter(b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions))


def test_a_seccomp_program_decides_from_then_on() -> None:
    with pytest.raises(HostFault) as failed:
        status(described(), "Seccomp", seccomp=refusing(NUMBERS["capset"]))
    assert (failed.value.call, failed.value.errno) == ("capset", errno.EPERM)


def test_a_profile_need_not_list_what_is_done_before_the_program() -> None:
    ours = [number for name, number in NUMBERS.items() if name not in ("execve", "capset", "rt_sigprocmask", *COMMON)]
    assert executed(described(uid=1000), "echo fine", refusing(*ours)) == ["fine"]
    rest = [*ours, NUMBERS["capset"]]
    assert executed(described(uid=1000, noNewPrivileges=True), "echo fine", refusing(*rest)) == ["fine"]


def test_the_flags_reach_the_kernel() -> None:
    assert status(described(), "Seccomp", seccomp=Filter(ALLOW, 1 | 2 | 4)) == ["2"]
    with pytest.raises(HostFault) as failed:
        status(described(), "Seccomp", seccomp=Filter(ALLOW, 1 << 20))
    assert (failed.value.call, failed.value.errno) == ("seccomp", errno.EINVAL)


@pytest.mark.parametrize("program", [b"", b"1234567", ALLOW * 4097])
def test_what_is_no_seccomp_program_is_never_taken_for_none(program: bytes) -> None:
    with pytest.raises(HostFault, match="is not 1 to 4096 seccomp instructions"):
        identity.become(Script(), described(), Filter(program))


def test_no_new_privs_alone() -> None:
    assert status(described(noNewPrivileges=True), "Seccomp", "NoNewPrivs") == ["0", "1"]


def test_an_unknown_capability_is_refused_while_the_script_is_written() -> None:
    with pytest.raises(InvalidArgument):
        identity.become(Script(), described(sets={"permitted": ["CAP_NOSUCH"]}), None)


def test_a_user_that_cannot_be_become_is_a_fault_that_names_the_call() -> None:
    def write(script: Script) -> None:
        script.call("capset", capabilities._HEADER, bytes(24))
        identity._become_user(script, 5, 6, [])

    with pytest.raises(HostFault) as failed:
        carried_out(write)
    assert (failed.value.call, failed.value.object) == ("setgroups", "5:6")


def limit(soft: int, hard: int, kind: str = "RLIMIT_NOFILE") -> Rlimit:
    return {"type": kind, "soft": soft, "hard": hard}


def limits_of(write: Callable[[Script], None]) -> dict[int, tuple[int, int]]:
    numbers = (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)
    with stopped(write) as (pid, _):
        return {number: resource.prlimit(pid, number) for number in numbers}


def test_limits_are_lowered_as_asked() -> None:
    wanted = [limit(100, 200), limit(0, 2**64 - 1, "RLIMIT_CORE")]
    found = limits_of(lambda script: identity.set_rlimits(script, wanted))
    assert found[resource.RLIMIT_NOFILE] == (100, 200)
    assert found[resource.RLIMIT_CORE][0] == 0


@pytest.mark.parametrize(("soft", "expected"), [(150, (150, 200)), (10_000, (200, 200)), (2**64 - 1, (200, 200))])
def test_a_raise_that_is_refused_goes_as_far_as_it_can(soft: int, expected: tuple[int, int]) -> None:
    """What counts are the limits of the process, whatever those of the writer of its script are."""

    def write(script: Script) -> None:
        script.call("prlimit64", 0, resource.RLIMIT_NOFILE, struct.pack("=QQ", 100, 200), None)
        script.call("capset", capabilities._HEADER, bytes(24))
        identity.set_rlimits(script, [limit(soft, 2**64 - 1)])

    assert limits_of(write)[resource.RLIMIT_NOFILE] == expected


@pytest.mark.parametrize("bad", [limit(5, 4), limit(2**64 - 1, 4), limit(1, 2, "RLIMIT_NOSUCH")])
def test_a_limit_that_makes_no_sense_is_refused(bad: Rlimit) -> None:
    with pytest.raises(InvalidArgument):
        identity.set_rlimits(Script(), [bad])


def shell(command: str) -> Callable[[Script], None]:
    return lambda script: identity.execute(script, ["/bin/sh", "-c", command], ["PATH=/usr/bin:/bin"])


def test_ignored_and_blocked_signals_do_not_reach_the_program() -> None:
    def work() -> list[str]:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        return printed(shell("grep -E 'Sig(Ign|Blk)' /proc/self/status"))

    _, blocked, _, ignored = in_child(work)
    assert (int(blocked, 16), int(ignored, 16)) == (0, 0)


def test_no_descriptor_reaches_the_program() -> None:
    def work() -> list[str]:
        for _ in range(3):
            os.set_inheritable(os.open("/etc", os.O_RDONLY), True)
        return printed(shell("exec ls /proc/self/fd"))

    assert in_child(work) == ["0", "1", "2", "3"]  # 3 is the listing's own


def test_the_environment_is_exactly_that_of_the_document() -> None:
    assert printed(lambda script: identity.execute(script, ["/usr/bin/env"], ["A=1", "B="])) == ["A=1", "B="]
    assert printed(lambda script: identity.execute(script, ["/usr/bin/env"], [])) == []


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    for name, content, mode in (
        ("fine", "#!/bin/sh\necho fine\n", 0o755),
        ("plain", "#!/bin/sh\n", 0o644),
        ("rubbish", "\1\2\3\4\n", 0o755),
        ("orphan", "#!/no/such/interpreter\n", 0o755),
        ("stranger", "#!/dev/null/interpreter\n", 0o755),
    ):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(mode)
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


def refused(args: list[str], env: list[str]) -> str:
    with pytest.raises(StartRefused) as caught:
        carried_out(lambda script: identity.execute(script, args, env))
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nope", "no such file or directory"),
        ("plain", "permission denied"),
        ("folder", "is a directory"),
        ("rubbish", "exec format error"),
        ("orphan", "no such file or directory: its interpreter is missing"),
        ("fine/x", "not a directory"),
        ("stranger", "not a directory"),
        ("loop", "too many levels of symbolic links"),
    ],
)
def test_a_path_that_cannot_be_executed_says_why(programs: Path, name: str, said: str) -> None:
    assert refused([f"{programs}/{name}"], []) == f'exec: "{programs}/{name}": {said}'


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nope", "executable file not found in $PATH"),
        ("plain", "permission denied"),
        ("folder", "is a directory"),
        ("orphan", "no such file or directory: its interpreter is missing"),
        ("stranger", "not a directory"),
        ("rubbish", "exec format error"),
    ],
)
def test_a_name_that_cannot_be_executed_says_why(programs: Path, name: str, said: str) -> None:
    assert refused([name], [f"PATH=/nowhere:{programs}"]) == f'exec: "{name}": {said}'


def test_the_last_path_of_the_environment_counts_and_there_is_a_default(programs: Path) -> None:
    def run(env: list[str], name: str) -> list[str]:
        return printed(lambda script: identity.execute(script, [name, "x"], env))

    assert run(["PATH=/nowhere", f"PATH={programs}"], "fine") == ["fine"]
    assert run([], "echo") == ["x"]


def test_an_empty_entry_of_the_path_is_the_working_directory(programs: Path) -> None:
    def write(script: Script) -> None:
        script.call("chdir", str(programs))
        identity.execute(script, ["fine"], ["PATH=/nowhere::/bin"])

    assert printed(write) == ["fine"]


def test_a_denied_candidate_does_not_end_the_search(programs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("plain", "folder"):
        (other / name).write_text(f"#!/bin/sh\necho {name}\n")
        (other / name).chmod(0o755)
    env = [f"PATH={programs}:{other}"]
    for name in ("plain", "folder"):
        words = printed(lambda script, name=name: identity.execute(script, [name], env))  # type: ignore[misc]
        assert words == [name]


def test_of_several_denied_candidates_the_first_is_named(programs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "plain").mkdir(parents=True)
    assert refused(["plain"], [f"PATH={programs}:{other}"]) == 'exec: "plain": permission denied'
    assert refused(["plain"], [f"PATH={other}:{programs}"]) == 'exec: "plain": is a directory'


def test_a_path_of_very_many_directories_is_not_searched() -> None:
    """Each is some calls of the script: ten megabytes of PATH would be a thousand of script."""
    many = "PATH=" + ":".join(f"/{number}" for number in range(1001))
    assert refused(["x"], [many]) == "$PATH has 1001 directories: more than 1000 are not searched"
    script = Script()
    identity.execute(script, ["x"], ["PATH=" + ":" * 100_000])  # one directory, named often
    assert len(script.bytes()) < 200_000


@pytest.mark.parametrize("args", [[], [""]])
def test_no_command_is_refused(args: list[str]) -> None:
    assert refused(args, []) == "there is no command"


def test_a_nul_byte_is_refused() -> None:
    assert "NUL" in refused(["/bin/sh", "a\0b"], [])
    assert "NUL" in refused(["/bin/sh"], ["A=\0"])


def test_arguments_that_are_too_long_are_the_request_s_fault() -> None:
    assert "argument list too long" in refused(["/bin/true", "x" * (1 << 20)], [])


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.EIO, errno.ETXTBSY])
def test_what_the_host_lacks_is_a_fault_of_the_host(number: int) -> None:
    script = Script()
    identity.execute(script, ["/bin/true"], [])
    (at,) = [place for place, call in enumerate(script._calls) if call[0] == "execve"]
    fault = script.fault(at, number)
    assert isinstance(fault, HostFault)
    assert (fault.call, fault.errno, fault.object) == ("execve", number, "/bin/true")


def test_a_program_that_is_being_written_is_busy_and_not_refused(tmp_path: Path) -> None:
    busy = tmp_path / "busy"
    busy.write_text("#!/bin/sh\n")
    busy.chmod(0o755)
    with open(busy, "a"), pytest.raises(HostFault) as failed:
        carried_out(lambda script: identity.execute(script, [str(busy)], []))
    assert (failed.value.call, failed.value.errno) == ("execve", errno.ETXTBSY)


def test_a_program_that_another_user_may_not_execute_is_refused(programs: Path) -> None:
    secret = programs / "secret"
    secret.write_text("#!/bin/sh\n")
    secret.chmod(0o700)
    for parent in (programs, *programs.parents[:2]):
        parent.chmod(stat.S_IMODE(parent.stat().st_mode) | 0o755)

    def write(script: Script) -> None:
        identity.become(script, described(uid=1000), None)
        identity.execute(script, [str(secret)], [])

    with pytest.raises(StartRefused, match="permission denied"):
        carried_out(write)
