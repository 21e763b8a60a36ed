"""Groups, capabilities and privileges are exactly what was asked for (R5, R8)."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cri.plan.capabilities import DEFAULT
from proto import api_pb2 as api
from runtime.capability_names import NAMES
from tests.security.attacks import Attacked, Code, parse_status, refused, status_of
from tests.security.images import Member, build_probe

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.leaks("module")]

SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
NONE = f"{0:016x}"
GETEUID = 107 if os.uname().machine == "x86_64" else 175


def mask(names: frozenset[str]) -> str:
    return f"{sum(1 << NAMES.index(name) for name in names):016x}"


async def test_inheritable_capabilities_survive_a_careless_start() -> None:
    """CVE-2022-24769, CVE-2022-29162 as they were: a set that is not emptied is the program's."""
    careless = ["setpriv", "--inh-caps", "+chown", "sh", "-c", "grep CapInh /proc/self/status"]
    assert NONE not in subprocess.run(careless, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("uid", [0, 1000])
async def test_no_capability_is_inheritable_or_ambient(uid: int, crisp: Attacked) -> None:
    """CVE-2022-24769, CVE-2022-29162, CVE-2022-27649, CVE-2022-27650, CVE-2022-27651, CVE-2025-27612: init and
    commands, of root and others."""
    config = crisp.attacker("sleep", "1000")
    config.linux.security_context.run_as_user.value = uid
    id = await crisp.run(await crisp.run_pod(), config)
    command = parse_status(await crisp.say(id, "cat", "/proc/self/status"))
    effective = NONE if uid else mask(DEFAULT)
    for status in (status_of(crisp.pid(id)), command):
        assert [status[name] for name in SETS] == [NONE, effective, effective, mask(DEFAULT), NONE]
        assert status["NoNewPrivs"] == "0"


async def test_dropped_capabilities_are_dropped_for_commands_too(crisp: Attacked) -> None:
    """CVE-2022-27652: ALL dropped and one added leaves one; an ambient capability is refused."""
    config = crisp.attacker("sleep", "1000")
    asked = config.linux.security_context.capabilities
    asked.drop_capabilities.append("ALL")
    asked.add_capabilities.append("CHOWN")
    pod = await crisp.run_pod()
    id = await crisp.run(pod, config)
    only = mask(frozenset({"CAP_CHOWN"}))
    for status in (status_of(crisp.pid(id)), parse_status(await crisp.say(id, "cat", "/proc/self/status"))):
        assert [status[name] for name in SETS] == [NONE, only, only, only, NONE]
    asked.add_ambient_capabilities.append("CHOWN")
    config.metadata.attempt = 1
    await refused(crisp.create(pod, config), Code.FAILED_PRECONDITION, "ambient")


async def test_groups_are_kept_by_a_careless_change_of_user() -> None:
    """CVE-2022-2995, CVE-2022-36109 as they were: the supplementary groups of the runtime are still there."""
    ids = ["setpriv", "--reuid", "1000", "--regid", "1000", "--keep-groups", "id", "-G"]
    careless = subprocess.run(["setpriv", "--groups", "0,4,42", *ids], capture_output=True, text=True, check=True)
    assert careless.stdout.split() == ["1000", "0", "4", "42"]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [(api.Merge, "1000 7 50 60"), (api.Strict, "1000 7")],
)
async def test_supplementary_groups_are_exact(
    policy: api.SupplementalGroupsPolicy.ValueType, expected: str, crisp: Attacked
) -> None:
    """CVE-2022-2995, CVE-2022-36109, CVE-2022-2990, CVE-2023-25173: of init and of commands, by each policy."""
    members = [
        Member("etc/passwd", content=b"root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n"),
        Member("etc/group", content=b"root:x:0:root\nfifty:x:50:other,user\nsixty:x:60:user\nuserx:x:70:userx\n"),
    ]
    config = crisp.attacker("sleep", "1000", image=await crisp.image(members))
    context = config.linux.security_context
    context.run_as_username = "user"
    context.supplemental_groups.append(7)
    context.supplemental_groups_policy = policy
    id = await crisp.run(await crisp.run_pod(), config)
    assert set(status_of(crisp.pid(id))["Groups"].split()) == set(expected.split())
    command = parse_status(await crisp.say(id, "cat", "/proc/self/status"))
    assert set(command["Groups"].split()) == set(expected.split())
    assert command["Gid"].split() == ["1000"] * 4


async def test_root_without_groups_has_only_its_own(crisp: Attacked) -> None:
    """CVE-2022-2990: nothing of the daemon's groups, and nothing for a user that the image does not know."""
    pod = await crisp.run_pod()
    for uid, groups in ((0, "0"), (4242, "0")):
        config = crisp.attacker("sleep", "1000")
        config.linux.security_context.run_as_user.value = uid
        assert status_of(crisp.pid(await crisp.run(pod, config)))["Groups"] == groups


@pytest.mark.parametrize("forbidden", [False, True])
async def test_no_new_privileges_ends_setuid(forbidden: bool, crisp: Attacked) -> None:
    """What no_new_privs is for: a setuid program of the image gains nothing; without it, it does."""
    name = await crisp.image([Member("bin/setuid-probe", mode=0o4755, content=build_probe())])
    config = crisp.attacker("sleep", "1000", image=name)
    config.linux.security_context.no_new_privs = forbidden
    config.linux.security_context.run_as_user.value = 1000
    id = await crisp.run(await crisp.run_pod(), config)
    assert status_of(crisp.pid(id))["NoNewPrivs"] == str(int(forbidden))
    for program, expected in (("probe", 1000), ("setuid-probe", 1000 if forbidden else 0)):
        assert await crisp.say(id, program, "call", str(GETEUID)) == str(expected)


async def test_annotations_and_labels_change_nothing(crisp: Attacked, tmp_path: Path) -> None:
    """CVE-2024-3154, CVE-2023-6476, CVE-2026-53488: systemd properties, cgroup keys and labels are only text.

    Who believes them, the weak variant, runs what an image says.
    """
    canary = tmp_path / "canary"
    hostile = {
        "org.systemd.property.ExecStartPre": f"['/bin/touch', '{canary}']",
        "io.kubernetes.cri-o.UnifiedCgroup.main": "memory.max=max;pids.max=max",
        "io.kubernetes.cri-o.userns-mode": "auto",
        "io.kubernetes.cri-o.Devices": "/dev/kmsg:/dev/kmsg:rwm",
        "io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw": "true",
        "seccomp.security.alpha.kubernetes.io/pod": "unconfined",
        "container.apparmor.security.beta.kubernetes.io/main": "unconfined",
        "run.oci.keep_original_groups": "1",
        "run.oci.hooks.stderr": str(canary),
        "containerd.io/restart.status": "running",
        "io.containerd.image.unpack.user": "root",
    }
    settings = {"Labels": {**hostile, "containerd.io/restart.logpath": f"file://{canary}"}}
    plain = await crisp.run(await crisp.run_pod(), crisp.attacker("sleep", "1000"))
    name = await crisp.image(settings=settings)
    config = crisp.attacker("sleep", "1000", image=name, annotations=hostile, labels=hostile)
    id = await crisp.run(await crisp.run_pod(crisp.pod(annotations=hostile, labels=hostile)), config)
    for name in (*SETS, "Uid", "Groups", "Seccomp", "NoNewPrivs"):
        assert status_of(crisp.pid(id))[name] == status_of(crisp.pid(plain))[name]
    devices = [sorted(os.listdir(f"/proc/{crisp.pid(each)}/root/dev")) for each in (id, plain)]
    assert devices[0] == devices[1]
    assert "Read-only file system" in await crisp.say(id, "mkdir", "/sys/fs/cgroup/x")
    assert not canary.exists()
    subprocess.run(ast.literal_eval(hostile["org.systemd.property.ExecStartPre"]), check=True)
    assert canary.exists()
    answer = await crisp.status(id)
    assert dict(answer.annotations) == hostile and dict(answer.labels) == hostile


async def test_a_value_that_is_joined_to_others_is_another_sysctl(tmp_path: Path) -> None:
    """CVE-2022-0811 as it was: the assignments are one argument of a program, with plus signs between them.
    CVE-2022-0532: a name of a namespace that the pod shares with the node is the node's."""
    sysctls = {"kernel.shm_rmid_forced": "1+kernel.core_pattern=|/bin/sh"}
    argument = "+".join(f"{name}={value}" for name, value in sysctls.items())
    assert dict(each.split("=") for each in argument.split("+"))["kernel.core_pattern"] == "|/bin/sh"
    name = "/proc/sys/net/ipv4/ip_default_ttl"
    script = f"echo 77 > {name}; {sys.executable} -c \"open('{name}', 'w').write('78')\"; cat {name}"
    node = subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True, text=True, check=True)
    assert node.stdout == "78\n"


async def test_a_sysctl_of_the_host_is_never_written(crisp: Attacked) -> None:
    """CVE-2022-0811, CVE-2022-0532: values that continue another one, and names of namespaces that are the host's."""
    before = {name: Path(f"/proc/sys/{name}").read_text() for name in ("kernel/core_pattern", "net/ipv4/ip_forward")}

    def pod(**sysctls: str) -> api.PodSandboxConfig:
        config = crisp.pod()
        config.linux.sysctls.update({name.replace("__", "/"): value for name, value in sysctls.items()})
        return config

    injected = {"kernel.shm_rmid_forced": "1+kernel.core_pattern=|/bin/sh", "net.ipv4.ip_forward": "1\nkernel.x=1"}
    config = pod()
    config.linux.sysctls["net.ipv4.ip_forward"] = injected["net.ipv4.ip_forward"]
    await refused(crisp.run_pod(config), Code.INVALID_ARGUMENT, "sysctls")
    for name in ("kernel.core_pattern", "vm.swappiness", "kernel.hostname", "kernel.shm_rmid_forced/../core_pattern"):
        config = pod()
        config.linux.sysctls[name] = "1"
        await refused(crisp.run_pod(config), Code.INVALID_ARGUMENT, "sysctls")
    config = pod()
    config.linux.sysctls["net.ipv4.ip_forward"] = "1"
    config.linux.security_context.namespace_options.network = api.NODE
    config.hostname = ""
    await refused(crisp.run_pod(config), Code.INVALID_ARGUMENT, "network")
    config = pod()
    config.linux.sysctls["kernel.shm_rmid_forced"] = injected["kernel.shm_rmid_forced"]
    await refused(crisp.run_pod(config), Code.INVALID_ARGUMENT, "one value")
    config = pod()
    config.linux.sysctls["net.ipv4.ip_forward"] = "many"
    await refused(crisp.run_pod(config), Code.INVALID_ARGUMENT, "net/ipv4/ip_forward: write")
    config = pod()
    config.linux.sysctls["net.ipv4.no_such_thing"] = "1"
    await refused(crisp.run_pod(config), Code.FAILED_PRECONDITION, "no_such_thing")
    assert before == {name: Path(f"/proc/sys/{name}").read_text() for name in before}
