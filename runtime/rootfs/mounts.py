"""The mounts of a container: sources opened on the host, attached by descriptor.

The order of init's script: :func:`open_source` in the host's mount namespace,
then, inside the container's own, :func:`create_filesystem` for what is no bind,
and :func:`attach`. Options were parsed by ``runtime.rootfs.options``.

Invariant: a source that was opened is the one that is mounted, whatever happens
to its path; a mount point is a descriptor found below the root; nothing is
mounted on procfs but what lxcfs replaces.
"""

from __future__ import annotations

import errno
import stat

from runtime.child import S_IFMT, file_type, look_at
from runtime.errors import HostFault, StartRefused
from runtime.linux import files, mount, trees
from runtime.linux.libc import AT_FDCWD, AT_RECURSIVE
from runtime.linux.script import Label, Loaded, Script, Slot, load
from runtime.requests import Volume
from runtime.rootfs.options import MountOptions
from runtime.rootfs.resolve import make_dirs_in_root, make_exact_directory, make_file_in_root, open_exactly
from runtime.spec import Mount

MASKABLE_IN_PROC = frozenset(
    f"/proc/{name}" for name in ("cpuinfo", "diskstats", "loadavg", "meminfo", "stat", "swaps", "uptime")
)
"""What a container may mount over in its procfs: the files that lxcfs gives."""

_STATFS_BYTES = 256
_MADE_ALREADY = (errno.EEXIST,)
_CHANGED = dict.fromkeys((errno.ELOOP, errno.ENOENT, errno.ENOTDIR), (StartRefused, "changed while it was mounted on"))
_EXACT_TYPES = {"proc": files.PROC_SUPER_MAGIC, "sysfs": files.SYSFS_MAGIC}


def plan_mounts(mounts: list[Mount], volumes: list[Volume], idmap: bool = False) -> list[Mount]:
    """The mounts in the order to attach: a volume comes before the first mount that may lie below it.

    By its name any deeper bind may, for its path may lead through links of the image: with
    /var/run a link to /run, a volume at /run would cover /var/run/secrets.
    """
    planned = list(mounts)
    for volume in volumes:
        entry: Mount = {
            "destination": volume["destination"],
            "type": "bind",
            "source": volume["source"],
            "options": ["rbind", "rprivate", "rw", *(["ridmap"] if idmap else [])],
        }
        places = [n for n, other in enumerate(planned) if _may_lie_below(other, volume)]
        planned.insert(places[0] if places else len(planned), entry)
    return planned


def _may_lie_below(other: Mount, volume: Volume) -> bool:
    at, place = _normal(volume["destination"]), _normal(other["destination"])
    return place.startswith(f"{at}/") or (other["type"] == "bind" and place.count("/") > at.count("/"))


def make_missing_sources(script: Script, paths: list[str]) -> None:
    """Make the host directories ``paths`` (absolute) that do not exist, mode 0755, with their parents."""
    for path in paths:
        parts = path.strip("/").split("/")
        for depth in range(1, len(parts) + 1):
            made = "/" + "/".join(parts[:depth])
            script.call("mkdirat", AT_FDCWD, made, 0o755, forgive=_MADE_ALREADY, object=made)


def open_source(script: Script, source: str, options: MountOptions, user: Slot | None = None) -> Slot:
    """A detached tree of the host path ``source``, with the attributes of ``options`` set; ``user`` is the
    container's user namespace.

    Raises:
        StartRefused: a bind mount has options of a file system, or is to be idmapped without a user namespace.
    """
    if options.data:
        raise StartRefused(f"a bind mount has no option {options.data[0]!r}", object=source)
    flags = mount.OPEN_TREE_CLONE | (AT_RECURSIVE if options.recursive else 0)
    tree = trees.open_tree(script, AT_FDCWD, source, flags)
    if options.idmap:
        if user is None:
            raise StartRefused("there is no user namespace to idmap by", object=source)
        trees.set_idmap(script, tree, user, options.idmap_below, source)
    set_attributes(script, tree, options, source)
    return tree


def set_attributes(script: Script, tree: Slot, options: MountOptions, source: str = "") -> None:
    """Give the detached bind ``tree`` its attributes; without a propagation it is private."""
    propagation = options.propagation or mount.MS_PRIVATE
    below = options.propagation_below or not options.propagation
    everywhere = propagation if below else 0
    trees.set_attributes(script, tree, options.set_below, options.clear_below, everywhere, recursive=True, name=source)
    if options.set or options.clear or not below:
        trees.set_attributes(script, tree, options.set, options.clear, 0 if below else propagation, name=source)


def create_filesystem(script: Script, fstype: str, source: str, options: MountOptions) -> Slot:
    """A detached tree of a new file system of type ``fstype``; ``options.data`` configure it."""
    configured = [f"source={source}", *options.data] if source else options.data
    tree = trees.create(script, fstype, configured, options.set)
    if options.propagation:
        trees.set_attributes(script, tree, propagation=options.propagation)
    return tree


def attach(script: Script, root: Slot, tree: Slot, entry: Mount) -> None:
    """Mount ``tree`` at the destination of ``entry`` below ``root``.

    procfs, sysfs and /dev only go where the image has a real directory or nothing;
    otherwise the image or the request is refused.
    """
    destination, magic = entry["destination"], _EXACT_TYPES.get(entry["type"])
    if magic is not None or _normal(destination) == "/dev":
        target = make_exact_directory(script, root, destination)
    else:
        target = _make_target(script, root, tree, destination)
    _refuse_procfs(script, target, destination)
    trees.move_mount(script, tree, target, destination)
    script.close(target)
    if magic is not None:
        _verify(script, root, destination, magic)


def _make_target(script: Script, root: Slot, tree: Slot, destination: str) -> Slot:
    """A directory for a directory, else a file."""
    target, file, made = script.slot(), Label(), Label()
    script.jump_unless(file_type(look_at(script, tree)), stat.S_IFDIR, file, S_IFMT)
    script.set(target, make_dirs_in_root(script, root, destination))
    script.jump(made)
    script.here(file)
    script.set(target, make_file_in_root(script, root, destination))
    script.here(made)
    return target


def _normal(destination: str) -> str:
    return "/" + "/".join(part for part in destination.split("/") if part not in ("", "."))


def _refuse_procfs(script: Script, target: Slot, destination: str) -> None:
    if _normal(destination) in MASKABLE_IN_PROC:
        return
    elsewhere = Label()
    script.jump_unless(_magic(script, target), files.PROC_SUPER_MAGIC, elsewhere, 0xFFFFFFFF)
    script.fail(StartRefused, "cannot be mounted on: it is part of /proc", object=destination)
    script.here(elsewhere)


def _verify(script: Script, root: Slot, destination: str, magic: int) -> None:
    """The container's processes will find the file system there, not something on top of it."""
    found = open_exactly(script, root, destination, refuse=_CHANGED)
    wrong = (HostFault, "is not the file system that was just mounted", destination)
    script.expect(_magic(script, found), magic, *wrong, mask=0xFFFFFFFF)
    script.close(found)


def _magic(script: Script, fd: Slot) -> Loaded:
    """The type of the file system that ``fd`` lies on; see statfs(2)."""
    found = script.room(_STATFS_BYTES)
    script.call("fstatfs", fd, found)
    return load(found)
