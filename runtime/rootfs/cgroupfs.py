"""What a container sees at /sys/fs/cgroup.

On a pure v2 host: the cgroup2 file system, from the container's own cgroup
downwards when it has a cgroup namespace, else as the host sees it. On v1 and
hybrid hosts: a read-only tmpfs with the container's own cgroup of each hierarchy.

Invariant: no cgroup file system is mounted from the initial cgroup namespace. A
new cgroup2 mount there would reset the host's ``nsdelegate`` and
``memory_recursiveprot`` unless it repeated them; a bind of the host's mount
cannot.
"""

from __future__ import annotations

from runtime.linux import mount, trees
from runtime.linux.libc import AT_FDCWD, AT_RECURSIVE
from runtime.linux.script import Script, Slot
from runtime.requests import CgroupDirs
from runtime.rootfs.mounts import attach, create_filesystem
from runtime.rootfs.options import MountOptions
from runtime.rootfs.resolve import make_exact_directory
from runtime.spec import Mount

ROOT = "/sys/fs/cgroup"


def plan_hierarchies(cgroup: CgroupDirs) -> list[tuple[str, str]]:
    """(name below /sys/fs/cgroup, the container's directory) of each hierarchy of a v1 or hybrid host."""
    directories = [*cgroup["v1"], *([cgroup["v2"]] if cgroup["v2"] else [])]
    return [(directory.removeprefix(f"{ROOT}/").partition("/")[0], directory) for directory in directories]


def open_cgroups(script: Script, cgroup: CgroupDirs, private: bool, options: MountOptions) -> list[tuple[str, Slot]]:
    """Detached trees to be attached by :func:`attach_cgroups`, opened in the host's mount namespace.

    ``private``: the container has a cgroup namespace of its own. The name is empty
    for the one tree that is all of /sys/fs/cgroup; the list is empty where the file
    system has to be made inside.
    """
    if not cgroup["v1"]:
        return [] if private else [("", _open(script, ROOT, AT_RECURSIVE, options))]
    return [(name, _open(script, directory, 0, options)) for name, directory in plan_hierarchies(cgroup)]


def attach_cgroups(
    script: Script, root: Slot, opened: list[tuple[str, Slot]], entry: Mount, options: MountOptions
) -> None:
    """Mount what :func:`open_cgroups` opened at the destination of ``entry``, in the container's namespaces.

    Closes it.
    """
    if [name for name, _ in opened] == [""]:
        attach(script, root, opened[0][1], entry)
    else:
        made = _new_tmpfs(script) if opened else create_filesystem(script, "cgroup2", "cgroup", options)
        attach(script, root, made, entry)
        if opened:
            _compose(script, made, opened, entry)
            trees.set_attributes(script, made, options.set, name=entry["destination"])
        script.close(made)
    script.close(*(tree for _, tree in opened))


def _open(script: Script, directory: str, flags: int, options: MountOptions) -> Slot:
    tree = trees.open_tree(script, AT_FDCWD, directory, mount.OPEN_TREE_CLONE | flags)
    recursive = bool(flags)
    trees.set_attributes(script, tree, options.set, options.clear, mount.MS_PRIVATE, recursive, name=directory)
    return tree


def _new_tmpfs(script: Script) -> Slot:
    attributes = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV | mount.MOUNT_ATTR_NOEXEC
    return trees.create(script, "tmpfs", ("source=tmpfs", "mode=755", "size=64k"), attributes)


def _compose(script: Script, tmpfs: Slot, opened: list[tuple[str, Slot]], entry: Mount) -> None:
    """One directory a hierarchy; a link for each controller of a joint one (``cpu -> cpu,cpuacct``)."""
    for name, tree in opened:
        target = make_exact_directory(script, tmpfs, name)
        trees.move_mount(script, tree, target, f"{entry['destination']}/{name}")
        script.close(target)
        if "," in name:
            for controller in name.split(","):
                script.call("symlinkat", name, tmpfs, controller, object=f"{entry['destination']}/{controller}")
