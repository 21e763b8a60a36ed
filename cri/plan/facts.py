"""What plans and validation know of the host, handed in so that they stay pure.

``cri.daemon`` gathers ``HostFacts`` once at its start, ``cri.rpc.container_create``
the ``DeviceFacts`` of a request.

Invariant: plain values; a plan made twice from the same facts is the same plan.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from runtime.cgroups.layout import Kind, Layout


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The host as it was when the daemon started.

    ``bounding``: the daemon's capability bounding set, names with ``CAP_``.
    ``seccomp``, ``apparmor``, ``selinux``: whether the kernel has them and they are on.
    ``recursive_read_only``: the kernel has mount_setattr(2), and so all options of binds. ``cpus`` and ``mems`` are
    the online lists (``0-3``), empty if not known. ``cgroup2_options`` are those of
    nsdelegate and memory_recursiveprot that the host's cgroup2 mount has. ``systemd``: the cgroup
    driver of pods that come is systemd's. ``no_user_namespaces``: why pods cannot have user namespaces,
    empty if they can.
    """

    hostname: str
    layout: Layout
    bounding: tuple[str, ...]
    seccomp: bool = True
    apparmor: bool = False
    selinux: bool = False
    recursive_read_only: bool = True
    cpus: str = ""
    mems: str = ""
    cgroup2_options: tuple[str, ...] = ()
    systemd: bool = False
    no_user_namespaces: str = ""

    @property
    def unified(self) -> bool:
        """Whether cgroup v2 is all there is, so that a cgroup namespace hides the host's tree."""
        return self.layout.kind is Kind.V2


class HostDevice(msgspec.Struct, frozen=True):
    """A device node of the host; ``type`` is c or b, ``mode`` the permission bits."""

    path: str
    type: str
    major: int
    minor: int
    mode: int = 0o666
    uid: int = 0
    gid: int = 0


class DeviceFacts(msgspec.Struct, frozen=True):
    """``requested``: for each requested host path what is there, links followed: the one
    node, or a directory's nodes (all below it, paths as found), or nothing. ``all``: every
    node in the host's /dev, wanted for a privileged container only."""

    requested: Mapping[str, tuple[HostDevice, ...]] = {}
    all: tuple[HostDevice, ...] = ()
