"""Facts about the host that plans need: read here, so that plans stay pure.

``cri.assembly`` calls ``read_host_facts`` once; ``cri.rpc.container_create`` asks
for the devices of a request.

Invariant: reads only; nothing here changes the host.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from cri.plan.devices import device_paths
from cri.plan.facts import DeviceFacts, HostDevice, HostFacts
from proto import api_pb2 as api
from runtime.cgroups.layout import Layout
from runtime.linux import capabilities, mount

DEVICE_LIMIT = 4096
"""Nodes that one request may bring in."""


def read_text(path: str) -> str:
    """The stripped content of a small kernel file; empty if it is not there."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def read_boot_id() -> str:
    return read_text("/proc/sys/kernel/random/boot_id")


def read_host_facts(layout: Layout, *, systemd: bool = False) -> HostFacts:
    """``systemd``: it makes the cgroups of pods that come."""
    return HostFacts(
        hostname=os.uname().nodename,
        layout=layout,
        bounding=tuple(capabilities.names(capabilities.bounding())),
        seccomp="seccomp" in read_text("/proc/sys/kernel/seccomp/actions_avail")
        or os.path.isdir("/proc/sys/kernel/seccomp"),
        apparmor=read_text("/sys/module/apparmor/parameters/enabled") == "Y",
        selinux=read_text("/sys/fs/selinux/enforce") == "1",
        recursive_read_only=mount.has_mount_setattr(),
        cpus=read_text("/sys/devices/system/cpu/online"),
        mems=read_text("/sys/devices/system/node/online"),
        cgroup2_options=cgroup2_options(read_text("/proc/self/mounts")),
        systemd=systemd,
    )


def cgroup2_options(mounts: str) -> tuple[str, ...]:
    """The options of the host's cgroup2 mount that a new mount of it must repeat."""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) > 3 and fields[2] == "cgroup2":
            return tuple(each for each in fields[3].split(",") if each in ("nsdelegate", "memory_recursiveprot"))
    return ()


def read_device_facts(config: api.ContainerConfig) -> DeviceFacts:
    """What the host has at the requested paths, and all of /dev for a privileged container."""
    requested = {path: tuple(devices_at(path)) for path in device_paths(config)}
    everything = tuple(devices_at("/dev")) if config.linux.security_context.privileged else ()
    return DeviceFacts(requested=requested, all=everything)


def devices_at(path: str) -> Iterator[HostDevice]:
    """The node at ``path`` (links followed), or every node of a folder there."""
    found = node_at(path, follow=True)
    if found is not None:
        yield found
        return
    count = 0
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            found = node_at(f"{folder}/{name}", follow=False)
            if found is not None and count < DEVICE_LIMIT:
                count += 1
                yield found


def node_at(path: str, *, follow: bool) -> HostDevice | None:
    try:
        info = os.stat(path, follow_symlinks=follow)
    except OSError:
        return None
    if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
        kind = "c" if stat.S_ISCHR(info.st_mode) else "b"
        numbers = os.major(info.st_rdev), os.minor(info.st_rdev)
        return HostDevice(path, kind, *numbers, stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid)
    return None
