"""Pods from privileged to restricted, looked at from inside: each has what was asked for, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass

import pytest

from cri.plan.capabilities import DEFAULT
from proto import api_pb2 as api
from runtime.capability_names import NAMES
from runtime.linux import capabilities
from tests.security.attacks import Attacked, status_of
from tests.security.images import Member, build_inside
from tests.security.pod_specs import LOOKED_AT, MASKED, SPECS, Spec, defaults, parse

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.leaks("module"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of system calls are those of x86_64"),
]

EVERYTHING = frozenset(capabilities.names(capabilities.bounding()))
OWN = frozenset({"ipc", "mnt", "net", "pid", "uts"})
NODES = {"full": "1:7", "null": "1:3", "random": "1:8", "tty": "5:0", "urandom": "1:9", "zero": "1:5"}
LINKS = {"core", "fd", "ptmx", "stderr", "stdin", "stdout"}
ONLY_WITH_CAPABILITIES = {"pivot_root": 155, "sethostname": 170, "swapoff": 168, "reboot": 169}
ONLY_WITHOUT_PROFILE = {"keyctl": 250, "add_key": 248, "userfaultfd": 323, "io_uring_setup": 425, "bpf": 321}


@dataclass(frozen=True, slots=True)
class Expected:
    """``held`` are the capabilities of the bounding set, which root has. ``own`` are the namespaces that are not
    the node's. ``user`` is uid, gid and groups."""

    held: frozenset[str] = DEFAULT
    user: tuple[str, str, str] = ("0", "0", "0")
    profile: bool = True
    masked: bool = True
    privileged: bool = False
    no_new_privs: bool = False
    read_only: bool = False
    own: frozenset[str] = OWN

    @property
    def root(self) -> bool:
        return self.user[0] == "0"


RESTRICTED = frozenset({"CAP_NET_BIND_SERVICE"})
EXPECTED = {
    "privileged, on the node": Expected(
        held=EVERYTHING, profile=False, masked=False, privileged=True, own=frozenset({"mnt"})
    ),
    "privileged": Expected(held=EVERYTHING, profile=False, masked=False, privileged=True),
    "on the node": Expected(profile=False, own=frozenset({"mnt"})),
    "all capabilities": Expected(held=EVERYTHING, profile=False),
    "by default": Expected(profile=False),
    "unmasked": Expected(masked=False),
    "capabilities added and dropped": Expected(
        held=(DEFAULT | ({"CAP_NET_ADMIN", "CAP_SYS_TIME"} & EVERYTHING)) - {"CAP_MKNOD", "CAP_CHOWN"}
    ),
    "RuntimeDefault": Expected(),
    "users and groups": Expected(user=("1000", "3000", "3000 4000 5000")),
    "restricted": Expected(held=RESTRICTED, user=("1000", "0", "0"), no_new_privs=True),
    "restricted, read-only": Expected(held=frozenset(), user=("1000", "0", "0"), no_new_privs=True, read_only=True),
}


class Seen:
    """What was said of one container."""

    def __init__(self, said: str) -> None:
        self.facts = parse(said)

    def of(self, subject: str) -> dict[str, str]:
        return {fact.name: fact.value.strip() for fact in self.facts if fact.subject == subject}

    def mounts(self) -> dict[str, set[str]]:
        """The options of each mount by its place, those of the file system too."""
        rows = [fact.value.split() for fact in self.facts if fact.subject == "mount"]
        return {row[4]: set(row[5].split(",")) | set(row[-1].split(",")) for row in rows}


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
async def test_a_container_sees_what_was_asked_for(spec: Spec, crisp: Attacked) -> None:
    expected = EXPECTED[spec.name]
    pod = crisp.pod()
    config = crisp.attacker("sleep", "1000", image=await crisp.image([Member("bin/inside", content=build_inside())]))
    defaults(pod, config)
    spec.change(pod, config)
    config.linux.resources.oom_score_adj = 900
    id = await crisp.run(await crisp.run_pod(pod), config)
    seen = Seen((await crisp.exec(id, "inside", *LOOKED_AT, timeout=60)).stdout.decode())
    of_command = seen.of("status")
    for status in (status_of(crisp.pid(id)), of_command):
        check_rights(status, expected)
    assert of_command["Umask"] == "0022" and seen.of("oom_score_adj") == {"": "900"}
    check_namespaces(seen, expected)
    check_devices(seen, expected)
    check_paths(seen, expected, config.linux.security_context)
    check_calls(seen.of("call"), expected)


def mask(names: Collection[str]) -> str:
    return f"{sum(1 << NAMES.index(name) for name in names):016x}"


def check_rights(status: dict[str, str], expected: Expected) -> None:
    held = mask(expected.held)
    effective = held if expected.root else mask(())
    sets = [status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")]
    assert sets == [mask(()), effective, effective, held, mask(())]
    uid, gid, groups = expected.user
    assert (status["Uid"].split(), status["Gid"].split()) == ([uid] * 4, [gid] * 4)
    assert status["Groups"] == groups
    assert status["NoNewPrivs"] == str(int(expected.no_new_privs))
    assert status["Seccomp"] == ("2" if expected.profile else "0")


def check_namespaces(seen: Seen, expected: Expected) -> None:
    shown = seen.of("namespace")
    own = {kind for kind, name in shown.items() if os.readlink(f"/proc/self/ns/{kind}") != name}
    assert own - {"cgroup"} == expected.own


def check_devices(seen: Seen, expected: Expected) -> None:
    """The same ones whoever asks, unless privileged: then the node's as well."""
    nodes = {path.removeprefix("/dev/"): value.split() for path, value in seen.of("device").items()}
    links = {path.removeprefix("/dev/") for path in seen.of("link")}
    assert links >= LINKS and (links == LINKS or expected.privileged)
    assert nodes.keys() >= NODES.keys() and (nodes.keys() == NODES.keys() or expected.privileged)
    for name, numbers in NODES.items():
        kind, found, mode, owner, opened = nodes[name]
        assert (kind, found, owner) == ("c", numbers, "0:0") and mode[-3:] == "666"
        assert opened == ("ENXIO" if name == "tty" else "ok"), "it has no terminal"
    made = {each.split()[1]: outcome for each, outcome in seen.of("mknod").items()}
    if expected.read_only:
        assert set(made.values()) == {"EROFS"}
    elif not expected.root or "CAP_MKNOD" not in expected.held:
        assert set(made.values()) == {"EPERM"}
    else:
        assert made["1:3"] == "ok ok"
        assert expected.privileged or {made["1:1"], made["10:229"]} == {"ok EPERM"}, "made, and never opened"


def check_paths(seen: Seen, expected: Expected, asked: api.LinuxContainerSecurityContext) -> None:
    read, written, made = seen.of("read"), seen.of("write"), seen.of("make")
    for path in filter(os.path.exists, MASKED):
        if expected.masked:
            assert read[path] == "0"
        elif os.path.isfile(path) and expected.root:
            assert int(read[path]) > 0
    domainname = written["/proc/sys/kernel/domainname"]
    assert domainname == ("ok" if expected.root and not expected.masked else "EROFS" if expected.root else "EACCES")
    cgroups = "/sys/fs/cgroup"
    assert made.pop(cgroups) == ("ok" if expected.privileged else "EROFS")
    assert made.pop("/dev/shm") == made.pop("/dev/mqueue") == "ok"
    closed = "EROFS" if expected.read_only else "ok" if expected.root else "EACCES"
    assert made.pop("/dev") == ("ok" if expected.root else "EACCES")
    assert made.pop("/tmp") == ("EROFS" if expected.read_only else "ok")
    assert set(made.values()) == {closed}
    mounts = seen.mounts()
    assert ("ro" in mounts["/sys"] or "ro" in mounts[cgroups]) is not expected.privileged
    for place in ("/proc", "/sys", "/dev/mqueue", "/dev/pts", cgroups):
        assert {"nosuid", "noexec"} <= mounts[place], place
    hidden = [path for path in (*asked.masked_paths, *asked.readonly_paths) if os.path.exists(path)]
    assert {path for path in mounts if path.startswith("/proc/")} == {
        path for path in hidden if path.startswith("/proc/")
    }


def check_calls(refused: dict[str, str], expected: Expected) -> None:
    """``refused`` are the numbers of calls that do not look at their arguments."""
    for name, number in ONLY_WITH_CAPABILITIES.items():
        powerful = expected.root and expected.held == EVERYTHING
        assert (refused.get(str(number)) == "EPERM") is not powerful, name
    for name, number in ONLY_WITHOUT_PROFILE.items():
        if expected.profile:
            assert refused.get(str(number)) == "EPERM", name
    if not expected.profile:
        assert "250" not in refused and "248" not in refused, "keyctl and add_key need no right"
