"""What is mounted where in a container, parents before children.

``cri.plan.container`` puts it into the spec. The init process opens every bind
source in the host's mount namespace and resolves every destination below the
container's root (``runtime.rootfs``); nothing here looks at a file system.

Invariant: a mount of the request wins over a default one at the same place, and a
destination never has ``..``. Source: the mounts of containerd's default spec.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import msgspec

from cri.plan.facts import HostFacts
from cri.plan.image_volumes import ImageVolume
from cri.plan.paths import clean, depth, is_below
from cri.plan.sandbox import NODE, SandboxPlan
from proto import api_pb2 as api
from runtime.errors import FailedPrecondition
from runtime.requests import Volume
from runtime.spec import Mount

PROPAGATION: dict[int, str] = {
    api.PROPAGATION_PRIVATE: "rprivate",
    api.PROPAGATION_HOST_TO_CONTAINER: "rslave",
    api.PROPAGATION_BIDIRECTIONAL: "rshared",
}

POD_FILES = {"/etc/hostname": "hostname", "/etc/hosts": "hosts", "/etc/resolv.conf": "resolv.conf"}


TTY_GROUP = 5
"""Who may write to a terminal, in most distributions."""


class MountPlan(msgspec.Struct, frozen=True):
    """``missing_sources`` are host paths that become directories if they are absent;
    ``rootfs_propagation`` is that of the container's whole tree. ``replaces_dev``: /dev is
    the request's own mount, so that nodes made there would be made on the host."""

    mounts: list[Mount]
    missing_sources: list[str]
    rootfs_propagation: str
    replaces_dev: bool


def plan_mounts(
    config: api.ContainerConfig, pod: SandboxPlan, facts: HostFacts, images: Sequence[ImageVolume] = ()
) -> MountPlan:
    """The default mounts, then the pod's files and the request's mounts by depth; ``images`` are those of the
    mounts that have one, in their order."""
    context = config.linux.security_context
    in_turn = iter(images)
    requested = [
        _image_mount(mount, next(in_turn)) if mount.HasField("image") else _request_mount(mount)
        for mount in config.mounts
    ]
    taken = {mount["destination"] for mount in requested}
    defaults = [
        mount
        for mount in _default_mounts(facts, pod, privileged=context.privileged)
        if mount["destination"] not in taken and not _is_hidden(mount["destination"], taken)
    ]
    pods = [mount for mount in _pod_mounts(pod, context.readonly_rootfs) if mount["destination"] not in taken]
    bound = sorted([*requested, *pods], key=lambda mount: depth(mount["destination"]))
    shared = any(mount.propagation == api.PROPAGATION_BIDIRECTIONAL for mount in config.mounts)
    return MountPlan(
        mounts=[*defaults, *bound],
        missing_sources=list(dict.fromkeys(mount.host_path for mount in config.mounts if mount.host_path)),
        rootfs_propagation="rshared" if shared else "rslave",
        replaces_dev="/dev" in taken,
    )


def plan_volumes(volumes: Iterable[str], mounts: Collection[Mount], directory: str) -> list[Volume]:
    """The image's VOLUMEs that nothing else is mounted at, with a directory of ours for each.

    Raises:
        FailedPrecondition: one is the root, or inside /proc or /sys.
    """
    taken = {mount["destination"] for mount in mounts}
    wanted = {clean(path) for path in volumes} - taken
    for path in wanted:
        if path == "/" or any(path == kernel or is_below(path, kernel) for kernel in ("/proc", "/sys")):
            raise FailedPrecondition(f"cannot be at {path}", object="VOLUME of the image")
    ordered = sorted(wanted, key=lambda path: (depth(path), path))
    return [Volume(destination=path, source=f"{directory}/volume-{n}") for n, path in enumerate(ordered)]


def _request_mount(mount: api.Mount) -> Mount:
    options = ["rbind", PROPAGATION[mount.propagation]]
    if mount.readonly:
        options.append("rro" if mount.recursive_read_only else "ro")
    options += dict.fromkeys(mount.mount_options)
    if mount.uidMappings:  # which are the pod's (``cri.validate.mounts``)
        options.append("ridmap")
    return Mount(destination=clean(mount.container_path), type="bind", source=mount.host_path, options=options)


def _image_mount(mount: api.Mount, image: ImageVolume) -> Mount:
    options = ["ro", "rprivate", *dict.fromkeys(mount.mount_options)]
    return Mount(destination=image.destination, type="image", source=image.image_id, options=options)


def _is_hidden(destination: str, taken: Collection[str]) -> bool:
    return any(is_below(destination, other) for other in taken)


def _default_mounts(facts: HostFacts, pod: SandboxPlan, *, privileged: bool) -> list[Mount]:
    access = [] if privileged else ["ro"]
    cgroup = ["nosuid", "noexec", "nodev", "relatime", *access]
    if facts.unified and privileged and pod.ids is None:
        # Without a cgroup namespace this mounts the host's own superblock, and options that
        # are not repeated would be taken from the whole host.
        cgroup += facts.cgroup2_options
    devpts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    if pod.ids is None or pod.ids["size"] > TTY_GROUP:
        devpts.append(f"gid={TTY_GROUP}")
    sysfs = ["nosuid", "noexec", "nodev", *access]
    return [
        _fs("/proc", "proc", "proc", ["nosuid", "noexec", "nodev"]),
        _fs("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _fs("/dev/pts", "devpts", "devpts", devpts),
        _fs("/dev/mqueue", "mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
        _sysfs(pod, sysfs),
        _fs("/sys/fs/cgroup", "cgroup", "cgroup", cgroup),
    ]


def _sysfs(pod: SandboxPlan, options: list[str]) -> Mount:
    """A sysfs is that of a network; none is made of the host's by the root of a user namespace, which gets a view."""
    if pod.ids is not None and pod.network == NODE:
        return Mount(destination="/sys", type="bind", source="/sys", options=["bind", "rprivate", *options])
    return _fs("/sys", "sysfs", "sysfs", options)


def _fs(destination: str, kind: str, source: str, options: list[str]) -> Mount:
    return Mount(destination=destination, type=kind, source=source, options=options)


def _pod_mounts(pod: SandboxPlan, readonly_rootfs: bool) -> list[Mount]:
    options = ["rbind", "rprivate", "nosuid", "nodev", "noexec"]
    shm = ["rbind", "rprivate", "nosuid", "nodev"] if pod.ipc == NODE else list(options)
    files = [*options, "ro"] if readonly_rootfs else options
    return [
        Mount(destination="/dev/shm", type="bind", source=pod.shm, options=shm),
        *(
            Mount(destination=path, type="bind", source=pod.file_path(name), options=list(files))
            for path, name in POD_FILES.items()
        ),
    ]
