"""What travels from a plan to the process that carries it out, and back.

From a ``StartRequest``, an ``ExecRequest`` or a ``SandboxRequest`` the daemon writes the script of
a process (``runtime.init``, ``runtime.command``, ``runtime.pause``) and sends it to the monitor,
with what the monitor itself has to know: ``ContainerBirth``, ``ExecBirth``, ``SandboxBirth``.
They are typed dictionaries, not classes: the monitor reads them straight from JSON, with
nothing to construct and nothing to import. ``runtime.spec`` has the document in them.

Invariant: everything in here is plain JSON (str, int, bool, None, list, dict).
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

from runtime.spec import IdMapping, Process, Spec, User


class Rootfs(TypedDict):
    """How the root is composed. ``lowerdirs`` are host directories, topmost first; ``label`` is the SELinux
    context of everything in it."""

    lowerdirs: list[str]
    upperdir: str
    workdir: str
    staging: str
    label: NotRequired[str]


class Mountpoint(TypedDict):
    """Where something goes in an image: ``kind`` is file, directory, exact (a directory that
    is no link and behind none) or plain (a directory that nothing is mounted on)."""

    path: str
    kind: str


class Volume(TypedDict):
    """An image VOLUME: ``source`` (a host directory of ours) is filled with what
    the image has at ``destination``, owners and modes included, then bound there."""

    destination: str
    source: str


class ImageMount(TypedDict):
    """What the mount of type "image" at ``destination`` shows: the stacked ``lowerdirs``, topmost first, or of
    them what is at ``sub_path``, which may be empty."""

    destination: str
    lowerdirs: list[str]
    sub_path: str


class CgroupDirs(TypedDict):
    """Absolute directories to be in. ``v1`` ones are joined by writing 0 to
    ``tasks``; ``v2`` (also on hybrid hosts) by CLONE_INTO_CGROUP; None: no v2."""

    v1: list[str]
    v2: str | None


class StartRequest(TypedDict):
    """Everything that starting one container needs.

    ``pid_mode`` is pod, container, node or target (then ``target`` is the
    container of this pod whose PID namespace is joined). ``seccomp`` is the path
    of a compiled BPF program (array of struct sock_filter) or None, ``seccomp_flags`` what
    seccomp(2) is told with it. ``images`` has one for each mount of type "image".
    ``missing_sources`` are bind sources to be made as directories, mode 0755, if absent.
    ``memory_events`` is the file whose ``oom_kill`` counter is read at exit
    (v2 memory.events, v1 memory.oom_control) or None.
    ``log_directory`` is the directory above ``log_path`` below which no link is followed.
    """

    container: str
    spec: Spec
    rootfs: Rootfs
    volumes: list[Volume]
    images: list[ImageMount]
    missing_sources: list[str]
    cgroup: CgroupDirs
    pid_mode: str
    target: str | None
    seccomp: str | None
    seccomp_flags: NotRequired[int]
    log_path: str | None
    log_directory: NotRequired[str]
    stdin: bool
    stdin_once: bool
    memory_events: str | None


class ExecRequest(TypedDict):
    """A command inside a running container. ``timeout`` in seconds, None for none.

    ``cgroup`` is the exec's own (below the container's). The monitor enforces the
    timeout by killing that cgroup, whether or not a daemon is there.
    """

    container: str
    exec: str
    process: Process
    cgroup: CgroupDirs
    seccomp: str | None
    seccomp_flags: NotRequired[int]
    stdin: bool
    timeout: float | None
    ids: NotRequired[IdMapping]
    """Of the container's user namespace, if it has one."""


PAUSE_ROOT = "root"
"""Among a blank pod's namespaces: the mount namespace with an empty root that its pause will be in."""


class SandboxRequest(TypedDict):
    """The pod's namespaces and its pause process.

    ``namespaces`` lists the new ones among user (then ``ids`` is its mapping), network, ipc, uts, pid.
    ``sysctls`` are written inside them. ``user`` and what follows it are the security context of the pause process.
    """

    namespaces: list[str]
    hostname: str
    sysctls: dict[str, str]
    cgroup: CgroupDirs
    user: User
    no_new_privileges: bool
    apparmor: NotRequired[str]
    selinux: NotRequired[str]
    seccomp: str | None
    seccomp_flags: NotRequired[int]
    oom_score_adj: int
    ids: NotRequired[IdMapping]


class ContainerBirth(TypedDict):
    """What the monitor has to know of a container whose script it is sent; the fields are those of
    ``StartRequest``. ``joined`` are the pod's namespaces that are given to the script after the
    standard streams, in that order."""

    container: str
    terminal: bool
    stdin: bool
    joined: list[str]
    cgroup: CgroupDirs
    pid_mode: str
    target: str | None
    log_path: str | None
    log_directory: NotRequired[str]
    memory_events: str | None


class ExecBirth(TypedDict):
    """As ``ContainerBirth``, of an ``ExecRequest``."""

    container: str
    exec: str
    terminal: bool
    stdin: bool
    cgroup: CgroupDirs
    timeout: float | None


class SandboxBirth(TypedDict):
    """As ``ContainerBirth``, of a ``SandboxRequest``: ``held`` namespaces are given to the script, ``new``
    ones it hands over."""

    held: list[str]
    new: list[str]
    cgroup: CgroupDirs


class ResolvedUser(TypedDict):
    uid: int
    gid: int
    additionalGids: list[int]
    home: str


class ExitRecord(TypedDict):
    """What the monitor writes to ``exits/<container>.json`` before it tells anyone.

    ``code`` is 128+n for signal n; ``oom`` only if the kernel's counter moved and
    the main process was killed by SIGKILL; ``finished_at`` in ns since the epoch.
    ``log_dropped`` are the log entries that the disk had refused by then, if any.
    """

    container: str
    pid: int
    code: int
    signal: int
    oom: bool
    finished_at: int
    reason: NotRequired[str]
    message: NotRequired[str]
    log_dropped: NotRequired[int]
