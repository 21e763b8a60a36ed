"""Which device nodes a container gets, and which it may open.

``cri.plan.container`` puts both into the spec; the init process makes the nodes,
``runtime.cgroups.devices`` enforces the rules.

Invariant: a node carries the host's own numbers, and the rules allow what the nodes
need and nothing more, except to a privileged container.
"""

from __future__ import annotations

import msgspec

from cri.plan.facts import DeviceFacts, HostDevice
from cri.plan.paths import clean, is_below
from proto import api_pb2 as api
from runtime.cgroups.devices import ALL_DEVICES, DEFAULT_RULES
from runtime.errors import FailedPrecondition
from runtime.spec import UNMAPPED, Device, DeviceRule

DEFAULT_NODES = tuple(
    HostDevice(f"/dev/{name}", "c", major, minor)
    for name, major, minor in (
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    )
)

OF_THE_CONTAINER = ("/dev/console", "/dev/ptmx")
FOLDERS_OF_THE_CONTAINER = ("/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd")
"""Not taken over from the host's /dev: the container has its own."""


class DevicePlan(msgspec.Struct, frozen=True):
    nodes: list[Device]
    rules: tuple[DeviceRule, ...]


def device_paths(config: api.ContainerConfig) -> tuple[str, ...]:
    """The host paths that ``DeviceFacts.requested`` has to tell about."""
    return tuple(dict.fromkeys(device.host_path for device in config.devices))


def plan_devices(config: api.ContainerConfig, facts: DeviceFacts, *, owned: bool = True) -> DevicePlan:
    """The default nodes, the host's when privileged, then the requested ones on top.

    Where those of a privileged container are not ``owned``, its root is nobody to them: it is that of a user
    namespace, to which the host's disks do not belong.

    Raises:
        FailedPrecondition: a requested path has no device on the host.
    """
    privileged = config.linux.security_context.privileged
    nodes = {node.path: node for node in DEFAULT_NODES}
    if privileged:
        found = [node for node in facts.all if not _is_of_the_container(node.path)]
        if not owned:
            found = [_unowned(node) for node in found if node.path not in nodes]
        nodes |= {node.path: node for node in found}
    rules: list[DeviceRule] = []
    for device in config.devices:
        for node in _requested_nodes(device, facts):
            nodes[node.path] = node
            rules.append(_rule(node, device.permissions))
    return DevicePlan(
        nodes=[_device(node) for node in nodes.values()],
        rules=ALL_DEVICES if privileged else (*DEFAULT_RULES, *rules),
    )


def _requested_nodes(device: api.Device, facts: DeviceFacts) -> list[HostDevice]:
    found = facts.requested.get(device.host_path, ())
    if not found:
        raise FailedPrecondition("no device there", step="plan the devices", object=device.host_path)
    source, target = clean(device.host_path), clean(device.container_path)
    nodes = []
    for node in found:
        inner = node.path[len(source) :] if is_below(node.path, source) else ""
        nodes.append(msgspec.structs.replace(node, path=f"{target}{inner}"))
    return nodes


def _is_of_the_container(path: str) -> bool:
    inside = any(path == folder or is_below(path, folder) for folder in FOLDERS_OF_THE_CONTAINER)
    return inside or path in OF_THE_CONTAINER


def _unowned(node: HostDevice) -> HostDevice:
    return msgspec.structs.replace(node, uid=UNMAPPED, gid=UNMAPPED)


def _rule(node: HostDevice, permissions: str) -> DeviceRule:
    return DeviceRule(
        allow=True,
        type=node.type,
        major=node.major,
        minor=node.minor,
        access="".join(letter for letter in "rwm" if letter in permissions),
    )


def _device(node: HostDevice) -> Device:
    return Device(
        path=node.path,
        type=node.type,
        major=node.major,
        minor=node.minor,
        fileMode=node.mode,
        uid=node.uid,
        gid=node.gid,
    )
