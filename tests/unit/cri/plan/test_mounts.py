"""Mounts and volumes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.plan.facts import HostFacts
from cri.plan.image_volumes import ImageVolume
from cri.plan.mounts import MountPlan, plan_mounts, plan_volumes
from cri.plan.paths import depth
from cri.plan.sandbox import SandboxPlan
from proto import api_pb2 as api
from runtime.errors import FailedPrecondition
from runtime.spec import IdMapping, Mount

DEFAULTS = ["/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys", "/sys/fs/cgroup"]
POD = ["/dev/shm", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf"]


def bind(target: str, source: str = "/h", **fields: object) -> api.Mount:
    return api.Mount(container_path=target, host_path=source, **fields)  # type: ignore[arg-type]


def places(plan: MountPlan) -> list[str]:
    return [mount["destination"] for mount in plan.mounts]


def at(plan: MountPlan, place: str) -> Mount:
    (found,) = [mount for mount in plan.mounts if mount["destination"] == place]
    return found


def test_the_default_mounts(pod: SandboxPlan, host: HostFacts) -> None:
    plan = plan_mounts(api.ContainerConfig(), pod, host)
    assert places(plan) == DEFAULTS + POD
    assert at(plan, "/proc")["options"] == ["nosuid", "noexec", "nodev"]
    assert at(plan, "/dev")["options"] == ["nosuid", "strictatime", "mode=755", "size=65536k"]
    assert at(plan, "/dev/pts")["options"][-3:] == ["ptmxmode=0666", "mode=0620", "gid=5"]
    assert at(plan, "/sys")["options"] == ["nosuid", "noexec", "nodev", "ro"]
    assert at(plan, "/sys/fs/cgroup")["options"] == ["nosuid", "noexec", "nodev", "relatime", "ro"]
    assert at(plan, "/dev/shm")["source"] == pod.shm
    assert at(plan, "/etc/hosts")["source"] == f"{pod.directory}/files/hosts"
    assert "ro" not in at(plan, "/etc/hosts")["options"]
    assert plan.missing_sources == []
    assert plan.rootfs_propagation == "rslave"
    assert not plan.replaces_dev


def test_an_image_is_mounted_read_only_by_its_id(pod: SandboxPlan, host: HostFacts) -> None:
    spec = api.ImageSpec(image="i")
    config = api.ContainerConfig(
        mounts=[
            bind("/deep/er/still"),
            api.Mount(container_path="/b//", image=spec, readonly=True, mount_options=["noexec", "nodev", "noexec"]),
            api.Mount(container_path="/a", image=spec, readonly=True),
        ]
    )
    images = [ImageVolume("/b", "sha256:b", ("l",)), ImageVolume("/a", "sha256:a", ("m",))]
    plan = plan_mounts(config, pod, host, images)
    options = ["ro", "rprivate"]
    assert at(plan, "/b") == Mount(
        destination="/b", type="image", source="sha256:b", options=[*options, "noexec", "nodev"]
    )
    assert at(plan, "/a") == Mount(destination="/a", type="image", source="sha256:a", options=options)
    assert plan.missing_sources == ["/h"]


def test_a_privileged_container_writes_to_sys(pod: SandboxPlan, host: HostFacts, v1_host: HostFacts) -> None:
    config = api.ContainerConfig()
    config.linux.security_context.privileged = True
    options = ("nsdelegate", "memory_recursiveprot")
    plan = plan_mounts(config, pod, msgspec.structs.replace(host, cgroup2_options=options))
    assert "ro" not in at(plan, "/sys")["options"]
    assert at(plan, "/sys/fs/cgroup")["options"] == ["nosuid", "noexec", "nodev", "relatime", *options]
    v1 = plan_mounts(config, pod, msgspec.structs.replace(v1_host, cgroup2_options=options))
    assert at(v1, "/sys/fs/cgroup")["options"] == ["nosuid", "noexec", "nodev", "relatime"]


def test_the_pods_files_are_read_only_with_the_root(pod: SandboxPlan, host: HostFacts) -> None:
    config = api.ContainerConfig()
    config.linux.security_context.readonly_rootfs = True
    plan = plan_mounts(config, pod, host)
    assert all("ro" in at(plan, path)["options"] for path in POD[1:])
    assert "ro" not in at(plan, "/dev/shm")["options"]


def test_the_nodes_shm_keeps_its_exec(pod: SandboxPlan, host: HostFacts) -> None:
    plan = plan_mounts(api.ContainerConfig(), msgspec.structs.replace(pod, ipc="node", shm="/dev/shm"), host)
    assert at(plan, "/dev/shm") == {
        "destination": "/dev/shm",
        "type": "bind",
        "source": "/dev/shm",
        "options": ["rbind", "rprivate", "nosuid", "nodev"],
    }


@pytest.mark.parametrize(
    ("mount", "options"),
    [
        (bind("/c"), ["rbind", "rprivate"]),
        (bind("/c", readonly=True), ["rbind", "rprivate", "ro"]),
        (bind("/c", readonly=True, recursive_read_only=True), ["rbind", "rprivate", "rro"]),
        (bind("/c", propagation=api.PROPAGATION_HOST_TO_CONTAINER), ["rbind", "rslave"]),
        (bind("/c", propagation=api.PROPAGATION_BIDIRECTIONAL), ["rbind", "rshared"]),
        (bind("/c", mount_options=["noexec", "nodev", "noexec"]), ["rbind", "rprivate", "noexec", "nodev"]),
    ],
)
def test_the_options_of_a_request(pod: SandboxPlan, host: HostFacts, mount: api.Mount, options: list[str]) -> None:
    plan = plan_mounts(api.ContainerConfig(mounts=[mount]), pod, host)
    assert at(plan, "/c")["options"] == options
    assert plan.missing_sources == ["/h"]
    shared = mount.propagation == api.PROPAGATION_BIDIRECTIONAL
    assert plan.rootfs_propagation == ("rshared" if shared else "rslave")


def test_the_request_wins_over_a_default(pod: SandboxPlan, host: HostFacts) -> None:
    mounts = [bind("/etc/hosts/"), bind("//dev/shm"), bind("/sys"), bind("/etc")]
    plan = plan_mounts(api.ContainerConfig(mounts=mounts), pod, host)
    assert places(plan) == [
        "/proc",
        "/dev",
        "/dev/pts",
        "/dev/mqueue",
        "/sys",
        "/etc",
        "/etc/hosts",
        "/dev/shm",
        "/etc/hostname",
        "/etc/resolv.conf",
    ]
    assert at(plan, "/etc/hosts")["source"] == "/h"
    assert plan.missing_sources == ["/h"]


def test_a_requested_dev_has_nothing_of_ours_in_it_but_shm(pod: SandboxPlan, host: HostFacts) -> None:
    plan = plan_mounts(api.ContainerConfig(mounts=[bind("/dev", "/dev")]), pod, host)
    assert plan.replaces_dev
    assert [place for place in places(plan) if place.startswith("/dev")] == ["/dev", "/dev/shm"]


@given(st.lists(st.sampled_from(["/a", "/a/b", "/a/b/c", "/d", "/etc", "/sys/x", "/proc/stat", "/dev/x"]), max_size=8))
def test_parents_are_mounted_before_children(targets: list[str]) -> None:
    pod = msgspec.convert(
        {
            **dict.fromkeys(("id", "directory", "cgroup_parent", "pause_cgroup", "hostname", "log_directory"), "/x"),
            **dict.fromkeys(("network", "ipc", "pid"), "pod"),
            "directories": [],
            "cgroup_owned": False,
            "namespaces": [],
            "sysctls": {},
            "files": {},
            "shm": "/s",
            "shm_size": None,
            "privileged": False,
            "pause": {"user": {"uid": 0, "gid": 0, "additionalGids": []}, "seccomp": None},
        },
        SandboxPlan,
    )
    host = msgspec.convert(
        {
            "hostname": "n",
            "bounding": [],
            "layout": {
                "kind": "v2",
                "v1": [],
                "v2": "/c",
                "v2_controllers": [],
                "own_v2": "/",
                "swap": False,
                "page_sizes": [],
            },
        },
        HostFacts,
    )
    plan = plan_mounts(api.ContainerConfig(mounts=[bind(target) for target in targets]), pod, host)
    order = places(plan)[len(DEFAULTS) :]
    assert [depth(place) for place in order] == sorted(depth(place) for place in order)
    assert sorted(order) == sorted([*targets, *POD])


def test_volumes_get_a_directory_each_below_ours() -> None:
    taken = [Mount(destination="/data", type="bind", source="/h", options=[])]
    volumes = plan_volumes(["/b/c", "/data/", "/a", "a", "/../../etc", "/b/../b"], taken, "/root/c1")
    assert volumes == [
        {"destination": "/a", "source": "/root/c1/volume-0"},
        {"destination": "/b", "source": "/root/c1/volume-1"},
        {"destination": "/etc", "source": "/root/c1/volume-2"},
        {"destination": "/b/c", "source": "/root/c1/volume-3"},
    ]


@pytest.mark.parametrize("path", ["/", "/..", "", "/proc/x", "/x/../sys", "/proc"])
def test_a_volume_cannot_hide_the_kernels_trees(path: str) -> None:
    with pytest.raises(FailedPrecondition, match="VOLUME of the image"):
        plan_volumes([path], [], "/r")


IDS: IdMapping = {"host": 65536, "size": 65536}


def test_mounts_of_a_pod_with_a_user_namespace(pod: SandboxPlan, host: HostFacts) -> None:
    theirs = msgspec.structs.replace(pod, ids=IDS)
    mapping = [api.IDMapping(host_id=65536, length=65536)]
    config = api.ContainerConfig(mounts=[bind("/data", uidMappings=mapping, gidMappings=mapping), bind("/plain")])
    plan = plan_mounts(config, theirs, host)
    assert at(plan, "/data")["options"] == ["rbind", "rprivate", "ridmap"]
    assert "ridmap" not in at(plan, "/plain")["options"]
    assert plan.mounts[:6] == plan_mounts(config, pod, host).mounts[:6]


def test_the_terminals_group_is_left_out_where_it_has_no_id(pod: SandboxPlan, host: HostFacts) -> None:
    for size, there in ((5, False), (6, True)):
        theirs = msgspec.structs.replace(pod, ids=IdMapping(host=65536, size=size))
        assert ("gid=5" in at(plan_mounts(api.ContainerConfig(), theirs, host), "/dev/pts")["options"]) == there


def test_with_the_nodes_network_the_root_of_a_user_namespace_has_a_view_of_the_nodes_sys(
    pod: SandboxPlan, host: HostFacts
) -> None:
    theirs = msgspec.structs.replace(pod, ids=IDS, network="node")
    assert at(plan_mounts(api.ContainerConfig(), theirs, host), "/sys") == {
        "destination": "/sys",
        "type": "bind",
        "source": "/sys",
        "options": ["bind", "rprivate", "nosuid", "noexec", "nodev", "ro"],
    }
    assert (
        at(plan_mounts(api.ContainerConfig(), msgspec.structs.replace(theirs, ids=None), host), "/sys")["type"]
        == "sysfs"
    )


def test_a_privileged_root_of_a_user_namespace_mounts_its_own_cgroups(pod: SandboxPlan, host: HostFacts) -> None:
    config = api.ContainerConfig()
    config.linux.security_context.privileged = True
    theirs = msgspec.structs.replace(pod, ids=IDS)
    plan = plan_mounts(config, theirs, msgspec.structs.replace(host, cgroup2_options=("nsdelegate",)))
    assert at(plan, "/sys/fs/cgroup")["options"] == ["nosuid", "noexec", "nodev", "relatime"]
