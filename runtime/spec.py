"""The OCI runtime specification (v1.2), as far as crisp fills it.

``Spec`` and what it holds is kept in a container's record as its config.json; ``runtime.requests``
carries it to the process that is born by it. They are typed dictionaries, not classes: there is
nothing to construct.

Invariant: everything in here is plain JSON (str, int, bool, None, list, dict).
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

UNMAPPED = 2**32 - 1
"""As chown(2) has it: the owner stays who it is."""


class User(TypedDict):
    """Numeric only: names were resolved before (OCI ``process.user``)."""

    uid: int
    gid: int
    additionalGids: list[int]
    umask: NotRequired[int]


class Capabilities(TypedDict):
    """Names with the ``CAP_`` prefix."""

    bounding: list[str]
    effective: list[str]
    permitted: list[str]
    inheritable: list[str]
    ambient: list[str]


class Rlimit(TypedDict):
    type: str
    soft: int
    hard: int


class Process(TypedDict):
    terminal: bool
    user: User
    args: list[str]
    env: list[str]
    cwd: str
    capabilities: Capabilities
    rlimits: list[Rlimit]
    noNewPrivileges: bool
    oomScoreAdj: NotRequired[int]
    apparmorProfile: NotRequired[str]
    selinuxLabel: NotRequired[str]


class Root(TypedDict):
    path: str
    readonly: bool


class Mount(TypedDict):
    """``type`` "bind" with options as mount(8) spells them (rbind, ro, rro,
    nosuid, nodev, noexec, and one of private/rprivate/slave/rslave/shared/rshared),
    or "image" with options of a bind (then ``source`` is the image's id), or a filesystem
    type with its own options."""

    destination: str
    type: str
    source: str
    options: list[str]


class Namespace(TypedDict):
    """``type`` is pid, network, ipc, uts, mount, cgroup or user. Without ``path``
    a new one is made; with it that one is joined; not listed means the host's."""

    type: str
    path: NotRequired[str]


class Device(TypedDict):
    """``type`` is c, b or p; ``fileMode`` permission bits. An owner of ``UNMAPPED`` has no id in the container."""

    path: str
    type: str
    major: int
    minor: int
    fileMode: int
    uid: int
    gid: int


class DeviceRule(TypedDict):
    allow: bool
    type: NotRequired[str]
    major: NotRequired[int]
    minor: NotRequired[int]
    access: NotRequired[str]


class SeccompArg(TypedDict):
    index: int
    value: int
    valueTwo: int
    op: str


class SeccompCall(TypedDict):
    names: list[str]
    action: str
    errnoRet: NotRequired[int]
    args: NotRequired[list[SeccompArg]]


class Seccomp(TypedDict):
    """A profile of type Localhost (OCI ``linux.seccomp``), without what does not apply to its container."""

    defaultAction: str
    defaultErrnoRet: NotRequired[int]
    architectures: list[str]
    flags: list[str]
    syscalls: list[SeccompCall]


class OciIdMapping(TypedDict):
    containerID: int
    hostID: int
    size: int


class IdMapping(TypedDict):
    """Users and groups alike: ``size`` ids from 0 on in a pod's user namespace are those from ``host`` on outside."""

    host: int
    size: int


class Linux(TypedDict):
    """Without ``uidMappings`` there is no user namespace; ``gidMappings`` are the same."""

    namespaces: list[Namespace]
    uidMappings: NotRequired[list[OciIdMapping]]
    gidMappings: NotRequired[list[OciIdMapping]]
    devices: list[Device]
    cgroupsPath: str
    sysctl: dict[str, str]
    maskedPaths: list[str]
    readonlyPaths: list[str]
    rootfsPropagation: str
    deviceRules: NotRequired[list[DeviceRule]]
    seccomp: NotRequired[Seccomp]
    mountLabel: NotRequired[str]


class Spec(TypedDict):
    """The OCI runtime document, ``config.json``."""

    ociVersion: str
    process: Process
    root: Root
    hostname: str
    mounts: list[Mount]
    annotations: dict[str, str]
    linux: Linux


def mapping_of(linux: Linux) -> IdMapping | None:
    """That of the user namespace of a document, None without one."""
    mappings = linux.get("uidMappings")
    return None if not mappings else {"host": mappings[0]["hostID"], "size": mappings[0]["size"]}


def to_host(number: int, ids: IdMapping) -> int:
    """The id on the host of ``number`` in the user namespace; ``UNMAPPED`` where it has none."""
    return ids["host"] + number if 0 <= number < ids["size"] else UNMAPPED
