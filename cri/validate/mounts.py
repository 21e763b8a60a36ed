"""The mounts and devices of a container, as far as their text tells.

What needs the host's mount table (whether a source is shared) or its files is
checked where these are at hand.

Invariant: no destination is relative, has ``..``, is the root or hides /proc.
"""

from __future__ import annotations

from collections.abc import Iterable

from cri.plan.facts import HostFacts
from cri.plan.mounts import PROPAGATION
from cri.plan.paths import clean, is_below
from cri.validate.text import check_path, check_relative, not_yet, refuse, show
from proto import api_pb2 as api
from runtime.errors import FailedPrecondition
from runtime.spec import IdMapping

LXCFS = frozenset(f"/proc/{name}" for name in ("cpuinfo", "meminfo", "stat", "uptime", "loadavg", "diskstats", "swaps"))
"""Files of /proc that lxcfs provides, so that a container sees its own limits."""

OPTIONS = frozenset({"noexec", "nodev", "nosuid"})


def check_mounts(mounts: Iterable[api.Mount], host: HostFacts, ids: IdMapping | None, field: str) -> None:
    """``ids`` is the mapping of the pod's user namespace.

    Raises:
        InvalidArgument: a path or a combination that can never be right.
        FailedPrecondition: what crisp or the kernel does not have.
    """
    for n, mount in enumerate(mounts):
        where = f"{field}[{n}]"
        check_destination(mount.container_path, f"{where}.container_path")
        check_options(mount, where)
        if mount.HasField("image"):
            check_image_mount(mount, where)
        else:
            check_path(mount.host_path, f"{where}.host_path")
            if mount.image_sub_path:
                raise refuse(f"{where}.image_sub_path", "is for a mount with an image only")
        check_mappings(mount, ids, where)
        if mount.recursive_read_only and not host.recursive_read_only:
            raise FailedPrecondition("the kernel has no recursive read-only mounts (mount_setattr)", object=where)


def check_destination(path: str, field: str) -> None:
    check_path(path, field)
    place = clean(path)
    if place == "/":
        raise refuse(field, "must not be the root")
    if (place == "/proc" or is_below(place, "/proc")) and place not in LXCFS:
        raise refuse(field, f"must not be in /proc: {show(path)}")


def check_options(mount: api.Mount, field: str) -> None:
    if mount.propagation not in PROPAGATION:
        raise refuse(f"{field}.propagation", f"has no such mode: {mount.propagation}")
    if mount.recursive_read_only and not mount.readonly:
        raise refuse(f"{field}.recursive_read_only", "needs readonly")
    if mount.recursive_read_only and mount.propagation != api.PROPAGATION_PRIVATE:
        raise refuse(f"{field}.recursive_read_only", "needs private propagation")
    for option in mount.mount_options:
        if option not in OPTIONS:
            raise refuse(f"{field}.mount_options", f"must be of {', '.join(sorted(OPTIONS))}, not {show(option)}")


def check_mappings(mount: api.Mount, ids: IdMapping | None, field: str) -> None:
    """A mount is idmapped by the pod's user namespace, and so as that has it."""
    for name, mappings in (("uidMappings", mount.uidMappings), ("gidMappings", mount.gidMappings)):
        if ids is None and mappings:
            raise refuse(f"{field}.{name}", "is for a pod with a user namespace")
        if ids is not None and (mount.uidMappings or mount.gidMappings):
            wanted = api.IDMapping(host_id=ids["host"], length=ids["size"])
            if list(mappings) != [wanted]:
                raise refuse(f"{field}.{name}", "is not what the pod has")


def check_image_mount(mount: api.Mount, field: str) -> None:
    if not mount.image.image:
        raise refuse(f"{field}.image", "names no image")
    if mount.host_path:
        raise refuse(f"{field}.host_path", "must be empty with an image")
    if not mount.readonly:
        raise refuse(f"{field}.readonly", "must be set with an image")
    if mount.propagation == api.PROPAGATION_BIDIRECTIONAL:  # from the host there is nothing to come
        raise refuse(f"{field}.propagation", "must not be bidirectional with an image")
    check_relative(mount.image_sub_path, f"{field}.image_sub_path")


def check_devices(config: api.ContainerConfig, field: str) -> None:
    for n, device in enumerate(config.devices):
        where = f"{field}.devices[{n}]"
        check_path(device.container_path, f"{where}.container_path")
        check_path(device.host_path, f"{where}.host_path")
        place = clean(device.container_path)
        if place == "/" or place == "/proc" or is_below(place, "/proc"):
            raise refuse(f"{where}.container_path", f"must not be the root or in /proc: {show(place)}")
        if not device.permissions or not set(device.permissions) <= set("rwm"):
            raise refuse(f"{where}.permissions", f"must be some of r, w and m, not {show(device.permissions)}")
    if config.CDI_devices:
        raise not_yet(f"{field}.CDI_devices", "CDI devices")
