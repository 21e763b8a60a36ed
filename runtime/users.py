"""Who a container's process is, by the image's own passwd and group files.

Reading and parsing are apart: :func:`resolve` opens the files below a held root
descriptor (``runtime.rootfs.resolve``) and hands bytes to the pure functions.
It runs in a process of its own, in a mount namespace of its own.

Invariant: a number is ASCII digits and nothing else, between 0 and 2^31-1; a
string of digits is never looked up as a name, and nothing that is malformed falls
back to another meaning, least of all to root.
"""

from __future__ import annotations

import errno
import os
import stat

from runtime.errors import FailedPrecondition, InvalidArgument
from runtime.linux.libc import SyscallError
from runtime.looks import ResolveUserRequest
from runtime.requests import ResolvedUser
from runtime.rootfs.resolve import open_in_root

MAX_ID = 2**31 - 1
MAX_FILE_BYTES = 10 << 20
MAX_NAME = 256
MAX_GROUPS = 4096  # so that the answer is a short one; the kernel takes 65536

_DIGITS = frozenset("0123456789")
_NAME_STARTS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_NAME = _NAME_STARTS | frozenset(".-@$")


class Passwd:
    """An entry of /etc/passwd; fields as they stand there, not yet validated."""

    __slots__ = ("gid", "home", "name", "uid")

    def __init__(self, name: str, uid: str, gid: str, home: str) -> None:
        self.name, self.uid, self.gid, self.home = name, uid, gid, home


class Group:
    """An entry of /etc/group; ``gid`` as it stands there, not yet validated."""

    __slots__ = ("gid", "members", "name")

    def __init__(self, name: str, gid: str, members: frozenset[str]) -> None:
        self.name, self.gid, self.members = name, gid, members


def resolve(root_fd: int, request: ResolveUserRequest) -> ResolvedUser:
    """The numeric identity that ``request`` asks for, by the files below ``root_fd``.

    Raises:
        FailedPrecondition: the user or group is not in the image, is no valid
            number or name, or the image's files cannot be trusted.
        InvalidArgument: the policy or a supplementary group is no such thing.
    """
    passwd = parse_passwd(read_database(root_fd, "/etc/passwd"))
    groups = parse_group(read_database(root_fd, "/etc/group"))
    return plan_identity(request, passwd, groups)


def read_database(root_fd: int, path: str) -> bytes:
    """The content of the image's file ``path``; empty where it has none.

    Raises:
        FailedPrecondition: it is no regular file, larger than 10 MiB, or behind a
            loop or more links than the kernel follows.
    """
    try:
        fd = open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except SyscallError as error:
        if error.errno == errno.ENOENT:
            return b""
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ENODEV, errno.ENAMETOOLONG):
            said = os.strerror(error.errno).lower()
            raise FailedPrecondition(f"the image's file cannot be opened: {said}", object=path) from error
        raise
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise FailedPrecondition("the image has no regular file there", object=path)
        content = b"" if found.st_size > MAX_FILE_BYTES else _read_all(fd)
        if found.st_size > MAX_FILE_BYTES or len(content) > MAX_FILE_BYTES:
            raise FailedPrecondition(f"the image's file is larger than {MAX_FILE_BYTES >> 20} MiB", object=path)
    finally:
        os.close(fd)
    return content


def _read_all(fd: int) -> bytes:
    """Up to one byte more than is allowed: st_size is no promise."""
    chunks = []
    left = MAX_FILE_BYTES + 1
    while left > 0:
        chunk = os.read(fd, min(left, 1 << 20))
        if not chunk:
            break
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)


def parse_id(text: str, what: str) -> int:
    """The number ``text``, exactly ASCII digits from 0 to 2^31-1; ``what`` names it in the error."""
    if not text or not _DIGITS.issuperset(text):
        raise FailedPrecondition(f"{what} {text!r} is not a number of ASCII digits")
    if len(text) > 20 or int(text) > MAX_ID:
        raise FailedPrecondition(f"{what} {text[:24]} is larger than {MAX_ID}")
    return int(text)


def parse_passwd(content: bytes) -> list[Passwd]:
    """The entries of a passwd(5) file. Lines that are no entry are passed over."""
    entries = []
    for fields in _fields(content, 6):
        entries.append(Passwd(fields[0], fields[2], fields[3], fields[5]))
    return entries


def parse_group(content: bytes) -> list[Group]:
    """The entries of a group(5) file. Lines that are no entry are passed over."""
    entries = []
    for fields in _fields(content, 4):
        entries.append(Group(fields[0], fields[2], frozenset(fields[3].split(","))))
    return entries


def _fields(content: bytes, least: int) -> list[list[str]]:
    found = []
    for line in content.split(b"\n"):
        if line and not line.startswith(b"#"):
            fields = line.decode("utf-8", "surrogateescape").strip().split(":")
            if len(fields) >= least and fields[0]:
                found.append(fields)
    return found


def plan_identity(request: ResolveUserRequest, passwd: list[Passwd], groups: list[Group]) -> ResolvedUser:
    """The identity by the entries of the image's files; raises as :func:`resolve`."""
    if request["policy"] not in ("Merge", "Strict"):
        raise InvalidArgument(f"supplementary groups policy {request['policy']!r} is neither Merge nor Strict")
    user, group = _split_user(request["user"])
    entry, uid = _find_user(user, passwd)
    if request["gid"] is not None:
        gid = _requested_id(request["gid"])
    elif group is not None:
        gid = _find_group(group, groups)
    else:
        gid = parse_id(entry.gid, f"the group of user {entry.name!r} in the image") if entry else 0
    additional = [gid, *(_requested_id(number) for number in request["groups"])]
    if request["policy"] == "Merge" and entry is not None:
        additional += [
            parse_id(found.gid, f"the number of group {found.name!r} in the image")
            for found in groups
            if entry.name in found.members
        ]
    unique = list(dict.fromkeys(additional))
    if len(unique) > MAX_GROUPS:
        raise FailedPrecondition(f"the user is in {len(unique)} groups, more than {MAX_GROUPS}")
    return {"uid": uid, "gid": gid, "additionalGids": unique, "home": _home(entry)}


def _split_user(user: str) -> tuple[str, str | None]:
    """``user`` and group of "user" or "user:group"; an empty string is uid 0."""
    name, separator, group = user.partition(":")
    if not user:
        return "0", None
    for part in (name, group) if separator else (name,):
        _check_name(part, user)
    return name, group if separator else None


def _check_name(part: str, user: str) -> None:
    starts_well = part[:1] in _NAME_STARTS and part[:1] != ""
    if not starts_well or not _NAME.issuperset(part) or len(part) > MAX_NAME:
        raise FailedPrecondition(f"user {user[: MAX_NAME * 2]!r} is neither a number nor a name")


def _find_user(user: str, passwd: list[Passwd]) -> tuple[Passwd | None, int]:
    if _DIGITS.issuperset(user):
        uid = parse_id(user, "user")
        return next((entry for entry in passwd if _is_id(entry.uid, uid)), None), uid
    for entry in passwd:
        if entry.name == user:
            return entry, parse_id(entry.uid, f"the number of user {user!r} in the image")
    raise FailedPrecondition(f"the image has no user {user!r}", object="/etc/passwd")


def _find_group(group: str, groups: list[Group]) -> int:
    if _DIGITS.issuperset(group):
        return parse_id(group, "group")
    for entry in groups:
        if entry.name == group:
            return parse_id(entry.gid, f"the number of group {group!r} in the image")
    raise FailedPrecondition(f"the image has no group {group!r}", object="/etc/group")


def _is_id(text: str, number: int) -> bool:
    return text != "" and _DIGITS.issuperset(text) and len(text) <= 20 and int(text) == number


def _requested_id(number: int) -> int:
    if not 0 <= number <= MAX_ID:
        raise InvalidArgument(f"group {number} is not between 0 and {MAX_ID}")
    return number


def _home(entry: Passwd | None) -> str:
    """The home directory, ``/`` where the image names none that is an absolute printable path."""
    home = entry.home if entry else ""
    return home if home.startswith("/") and home.isprintable() else "/"
