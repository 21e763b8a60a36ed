"""The layer applier: a tar stream becomes a directory that overlayfs can stack.

Runs in the jailed worker (``worker``), on entries of ``tar``, in directories of
``tree``. Whiteouts become overlayfs's own (a 0:0 character device, the opaque
xattr); owners, modes, times, setuid bits and file capabilities are kept.
Source: OCI image-spec, layer.md; Linux Documentation/filesystems/overlayfs.rst.

Invariant: an entry changes at most what its name says, below the root, once; a
layer has no way to say "whiteout" but the one of the specification.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from runtime.errors import FailedPrecondition, Fault, HostFault, ResourceExhausted
from runtime.images import tar, tree, xattrs
from runtime.images.tar import Entry, TarReader, printable
from runtime.images.tree import Tree, normalise

WHITEOUT_PREFIX = b".wh."
METADATA_PREFIX = b".wh..wh."
OPAQUE_MARK = b".wh..wh..opq"
MAX_MAJOR = (1 << 12) - 1
MAX_MINOR = (1 << 20) - 1
BLOCK = 4096

_STEP = "apply layer"
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM})
_CONTENT = frozenset({errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ENOENT})


@dataclass(frozen=True, slots=True)
class Budget:
    """What one layer may use: ``disk_bytes`` in whole blocks, ``entries`` of headers and of inodes."""

    disk_bytes: int
    entries: int


@dataclass(slots=True)
class Applied:
    """What was made: ``disk_bytes`` in whole blocks, ``entries`` inodes, ``implied`` the
    directories that had no entry of their own, in order, ``dropped_xattrs`` not set."""

    disk_bytes: int
    entries: int
    implied: list[bytes]
    dropped_xattrs: int = 0


class Applier:
    """Applies one layer to the empty directory ``root`` (a descriptor, not closed here).

    The process's umask must be 0, and its working directory may change.
    """

    def __init__(self, root: int, budget: Budget) -> None:
        self._root = root
        self._budget = budget
        self._tree = Tree(root, self._count_implied)
        self._applied = Applied(0, 0, [])
        self._times: dict[bytes, tuple[int, int]] = {}  # directory -> inode, mtime: set when all is in place
        self._makers = {
            tar.REGULAR: self._make_file,
            tar.DIRECTORY: self._make_directory,
            tar.SYMLINK: self._make_symlink,
            tar.HARDLINK: self._make_hardlink,
            tar.CHARACTER: self._make_node,
            tar.BLOCKDEVICE: self._make_node,
            tar.FIFO: self._make_node,
        }

    def apply(self, reader: TarReader) -> Applied:
        """Apply all entries of ``reader``.

        Raises:
            FailedPrecondition: the layer's content is not acceptable.
            ResourceExhausted: the budget or the disk is used up.
            HostFault: the host refused a call.
        """
        self._reader = reader
        try:
            while (entry := reader.next_entry()) is not None:
                try:
                    self._apply_entry(entry)
                except OSError as error:
                    if isinstance(error, Fault):
                        raise
                    raise _fault(error, entry) from error
            self._set_times()
        finally:
            self._tree.forget()
        return self._applied

    def _apply_entry(self, entry: Entry) -> None:
        path = normalise(entry.name)
        if not path:
            self._apply_root(entry)
            return
        parent_path, _, name = path.rpartition(b"/")
        if WHITEOUT_PREFIX in path:
            if METADATA_PREFIX in path and self._is_metadata(parent_path, name):
                return
            if parent_path.startswith(WHITEOUT_PREFIX) or b"/" + WHITEOUT_PREFIX in parent_path:
                raise _refused("a whiteout is not a directory", entry)
        parent = self._tree.directory(parent_path)
        if name.startswith(WHITEOUT_PREFIX):
            self._apply_whiteout(entry, parent, name)
            return
        self._count(entry.size)
        self._makers[entry.kind](entry, parent, name, path)

    @staticmethod
    def _is_metadata(parent_path: bytes, name: bytes) -> bool:
        """What AUFS kept beside the files means nothing here; containerd passes it over as well."""
        in_metadata = parent_path.startswith(METADATA_PREFIX) or b"/" + METADATA_PREFIX in parent_path
        return in_metadata or (name.startswith(METADATA_PREFIX) and name != OPAQUE_MARK)

    def _apply_root(self, entry: Entry) -> None:
        if entry.kind != tar.DIRECTORY:
            raise _refused("the root is not a directory", entry)
        self._finish_directory(entry, self._root, b"")

    def _apply_whiteout(self, entry: Entry, parent: int, name: bytes) -> None:
        if name == OPAQUE_MARK:
            xattrs.set_opaque(parent)
            return
        hidden = name[len(WHITEOUT_PREFIX) :]
        if hidden in (b"", b".", b".."):
            raise _refused("a whiteout without a name", entry)
        self._count(0)
        try:
            os.mknod(hidden, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
        except FileExistsError:
            # A whiteout speaks of the layers below: what this layer has there already hides
            # a file; of a directory it means that nothing shows through.
            if stat.S_ISDIR(os.stat(hidden, dir_fd=parent, follow_symlinks=False).st_mode):
                fd = os.open(hidden, tree.OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
                try:
                    xattrs.set_opaque(fd)
                finally:
                    os.close(fd)

    def _make_file(self, entry: Entry, parent: int, name: bytes, path: bytes) -> None:
        try:
            fd = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        except FileExistsError:
            parent = self._clear(parent, name, path)
            fd = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            while chunk := self._reader.read_data():
                while chunk:
                    chunk = chunk[os.write(fd, chunk) :]
            os.fchown(fd, entry.uid, entry.gid)  # first: it takes away setuid bits and capabilities
            if entry.xattrs:
                self._applied.dropped_xattrs += xattrs.set_on(fd, entry.xattrs)
            os.fchmod(fd, entry.mode)
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(fd)

    def _make_directory(self, entry: Entry, parent: int, name: bytes, path: bytes) -> None:
        opaque = False
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            there = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(there.st_mode):
                opaque = stat.S_ISCHR(there.st_mode) and there.st_rdev == 0
                parent = self._clear(parent, name, path)
                os.mkdir(name, 0o700, dir_fd=parent)
        fd = os.open(name, tree.OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            if opaque:
                xattrs.set_opaque(fd)
            self._finish_directory(entry, fd, path)
        finally:
            os.close(fd)

    def _finish_directory(self, entry: Entry, fd: int, path: bytes) -> None:
        os.fchown(fd, entry.uid, entry.gid)
        if entry.xattrs:
            self._applied.dropped_xattrs += xattrs.set_on(fd, entry.xattrs)
        os.fchmod(fd, entry.mode)
        self._times[path] = os.fstat(fd).st_ino, entry.mtime
        self._applied.disk_bytes += BLOCK

    def _make_symlink(self, entry: Entry, parent: int, name: bytes, path: bytes) -> None:
        try:
            os.symlink(entry.link, name, dir_fd=parent)
        except FileExistsError:
            parent = self._clear(parent, name, path)
            os.symlink(entry.link, name, dir_fd=parent)
        self._finish_node(entry, parent, name)

    def _make_hardlink(self, entry: Entry, parent: int, name: bytes, path: bytes) -> None:
        """Another name of a file of this layer; the header's owner and mode are not the target's."""
        if _climbs(entry.link):
            raise _refused("a hard link to outside of the image", entry)
        target_path, _, target = normalise(entry.link).rpartition(b"/")
        target_parent = self._tree.directory(target_path, make=False)
        there = os.stat(target, dir_fd=target_parent, follow_symlinks=False)
        if stat.S_ISDIR(there.st_mode) or (stat.S_ISCHR(there.st_mode) and there.st_rdev == 0):
            raise _refused("a hard link to a directory or a whiteout", entry)
        try:
            os.link(target, name, src_dir_fd=target_parent, dst_dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            if os.path.samestat(os.stat(name, dir_fd=parent, follow_symlinks=False), there):
                return
            parent = self._clear(parent, name, path)
            target_parent = self._tree.directory(target_path, make=False)
            os.link(target, name, src_dir_fd=target_parent, dst_dir_fd=parent, follow_symlinks=False)

    def _make_node(self, entry: Entry, parent: int, name: bytes, path: bytes) -> None:
        kind = {tar.CHARACTER: stat.S_IFCHR, tar.BLOCKDEVICE: stat.S_IFBLK}.get(entry.kind, stat.S_IFIFO)
        if not 0 <= entry.major <= MAX_MAJOR or not 0 <= entry.minor <= MAX_MINOR:
            raise _refused("no such device number", entry)
        if kind == stat.S_IFCHR and entry.major == entry.minor == 0:
            raise _refused("a whiteout written as a device", entry)
        device = os.makedev(entry.major, entry.minor)
        try:
            os.mknod(name, kind | 0o600, device, dir_fd=parent)
        except FileExistsError:
            parent = self._clear(parent, name, path)
            os.mknod(name, kind | 0o600, device, dir_fd=parent)
        self._finish_node(entry, parent, name)

    def _finish_node(self, entry: Entry, parent: int, name: bytes) -> None:
        """What is not opened: links, devices and pipes."""
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        if entry.xattrs:
            self._applied.dropped_xattrs += xattrs.set_beside(parent, name, entry.xattrs)
        if entry.kind != tar.SYMLINK:
            os.chmod(name, entry.mode, dir_fd=parent)
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)

    def _clear(self, parent: int, name: bytes, path: bytes) -> int:
        """Remove what is at ``name``: a later entry replaces it. The parent, opened anew."""
        parent_path = path.rpartition(b"/")[0]
        tree.remove(parent, name)
        self._tree.forget()
        return self._tree.directory(parent_path)

    def _count(self, size: int) -> None:
        applied = self._applied
        applied.entries += 1
        applied.disk_bytes += -(-size // BLOCK) * BLOCK
        if applied.entries > self._budget.entries or applied.disk_bytes > self._budget.disk_bytes:
            raise ResourceExhausted("the layer is larger than allowed", step=_STEP)

    def _count_implied(self, path: bytes) -> None:
        self._count(BLOCK)
        self._applied.implied.append(path)

    def _set_times(self) -> None:
        for path, (inode, mtime) in self._times.items():
            try:
                fd = self._tree.directory(path, make=False)
            except OSError:
                continue  # replaced by a later entry
            if os.fstat(fd).st_ino == inode:
                os.utime(fd, ns=(mtime, mtime))


def _climbs(name: bytes) -> bool:
    depth = 0
    for part in name.split(b"/"):
        depth += -1 if part == b".." else part not in (b"", b".")
        if depth < 0:
            return True
    return False


def _refused(reason: str, entry: Entry) -> FailedPrecondition:
    return FailedPrecondition(reason, step=_STEP, object=printable(entry.name))


def _fault(error: OSError, entry: Entry) -> Fault:
    reason = os.strerror(error.errno or 0).lower()
    if error.errno in _SPACE:
        return ResourceExhausted(reason, step=_STEP, object=printable(entry.name))
    if error.errno in _CONTENT:
        what = f"{reason} (link target {printable(entry.link)})" if entry.link else reason
        return FailedPrecondition(what, step=_STEP, object=printable(entry.name))
    return HostFault(step=_STEP, object=printable(entry.name), errno=error.errno or 0)
