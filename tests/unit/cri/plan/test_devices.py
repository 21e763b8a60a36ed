"""Device nodes and rules."""

from __future__ import annotations

import pytest

from cri.plan.devices import device_paths, plan_devices
from cri.plan.facts import DeviceFacts, HostDevice
from proto import api_pb2 as api
from runtime.cgroups.devices import ALL_DEVICES, DEFAULT_RULES
from runtime.errors import FailedPrecondition
from runtime.spec import UNMAPPED

KVM = HostDevice("/dev/kvm", "c", 10, 232, 0o660, 0, 104)
SOUND = (HostDevice("/dev/snd/seq", "c", 116, 1), HostDevice("/dev/snd/by-path/x", "c", 116, 2))
DEFAULTS = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"]


def config(*devices: tuple[str, str, str], privileged: bool = False) -> api.ContainerConfig:
    made = api.ContainerConfig(
        devices=[
            api.Device(host_path=source, container_path=target, permissions=may) for source, target, may in devices
        ]
    )
    made.linux.security_context.privileged = privileged
    return made


def test_the_defaults_are_what_every_container_has() -> None:
    plan = plan_devices(config(), DeviceFacts())
    assert [node["path"] for node in plan.nodes] == DEFAULTS
    assert [(node["major"], node["minor"]) for node in plan.nodes] == [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0)]
    assert all(node["fileMode"] == 0o666 for node in plan.nodes)
    assert plan.rules == DEFAULT_RULES


def test_a_requested_device_keeps_the_hosts_numbers_and_owner() -> None:
    asked = config(("/dev/kvm", "/dev/vm", "wr"))
    plan = plan_devices(asked, DeviceFacts({"/dev/kvm": (KVM,)}))
    assert plan.nodes[-1] == {
        "path": "/dev/vm",
        "type": "c",
        "major": 10,
        "minor": 232,
        "fileMode": 0o660,
        "uid": 0,
        "gid": 104,
    }
    assert plan.rules[-1] == {"allow": True, "type": "c", "major": 10, "minor": 232, "access": "rw"}
    assert device_paths(asked) == ("/dev/kvm",)


def test_a_link_is_the_device_that_it_leads_to() -> None:
    plan = plan_devices(config(("/dev/mine", "/dev/mine", "r")), DeviceFacts({"/dev/mine": (KVM,)}))
    assert plan.nodes[-1]["path"] == "/dev/mine"


def test_a_directory_is_all_devices_in_it() -> None:
    plan = plan_devices(config(("/dev/snd/", "/dev/audio", "rwm")), DeviceFacts({"/dev/snd/": SOUND}))
    assert [node["path"] for node in plan.nodes[-2:]] == ["/dev/audio/seq", "/dev/audio/by-path/x"]
    assert len(plan.rules) == len(DEFAULT_RULES) + 2


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(FailedPrecondition, match="/dev/none: no device there"):
        plan_devices(config(("/dev/none", "/dev/none", "r")), DeviceFacts())


def test_a_privileged_container_has_the_hosts_devices_but_its_own_terminals() -> None:
    own = [HostDevice(f"/dev/{name}", "c", 5, 1) for name in ("console", "ptmx", "pts/0", "shm/x")]
    facts = DeviceFacts({}, (KVM, *own))
    plan = plan_devices(config(privileged=True), facts)
    assert [node["path"] for node in plan.nodes] == [*DEFAULTS, "/dev/kvm"]
    assert plan.rules == ALL_DEVICES
    assert [node["path"] for node in plan_devices(config(), facts).nodes] == DEFAULTS


def test_the_hosts_devices_are_nobodys_to_the_root_of_a_user_namespace_but_for_those_it_asks_for() -> None:
    disk = HostDevice("/dev/sda", "b", 8, 0, 0o660, 0, 6)
    null = HostDevice("/dev/null", "c", 1, 3, 0o666, 0, 0)
    facts = DeviceFacts({"/dev/kvm": (KVM,)}, all=(null, disk, KVM))
    asked = config(("/dev/kvm", "/dev/kvm", "rw"), privileged=True)
    owners = {node["path"]: (node["uid"], node["gid"]) for node in plan_devices(asked, facts, owned=False).nodes}
    nobodys = (UNMAPPED, UNMAPPED)
    assert [owners[path] for path in ("/dev/null", "/dev/sda", "/dev/kvm")] == [(0, 0), nobodys, (0, 104)]
    owners = {node["path"]: (node["uid"], node["gid"]) for node in plan_devices(asked, facts).nodes}
    assert owners["/dev/sda"] == (0, 6)
