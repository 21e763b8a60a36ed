"""What a network provider is: the seam between ``cri`` and the ways a pod gets packets.

``network.bridge`` is the built-in provider, ``network.cni`` the one that calls plugins,
``network.host`` the one of pods in the node's own network. Requests and results are plain
data, so a plan can hold them and a test can assert them.

Invariant: ``attach`` and ``detach`` may be repeated; after an ``attach`` that began,
however it ended, ``detach`` is owed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class PortMapping:
    """A port of the host that leads to the pod: ``protocol`` is tcp, udp or sctp, ``host_ip`` '' for any address."""

    protocol: str
    host_port: int
    container_port: int
    host_ip: str


@dataclass(frozen=True, slots=True)
class Dns:
    """What the pod's resolv.conf says."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachRequest:
    """``netns_fd`` is the pod's network namespace, ``netlink_fd`` a NETLINK_ROUTE socket that
    was opened in it. Both are borrowed: ``attach`` works on duplicates. ``netns_path`` is where
    the namespace is pinned. The rest is what the pod's configuration says; a blank pod has none."""

    sandbox_id: str
    netns_fd: int
    netlink_fd: int
    netns_path: str = ""
    pod_name: str = ""
    pod_namespace: str = ""
    pod_uid: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    dns: Dns = Dns()
    port_mappings: tuple[PortMapping, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """What a pod got. ``addresses`` are IPs without prefix, primary first; ``interface`` is
    the name inside the pod and ``host_interface`` its other end, both '' for the host's network."""

    provider: str
    addresses: tuple[str, ...]
    gateway: str = ""
    interface: str = ""
    host_interface: str = ""
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class NetworkStatus:
    """The CRI's NetworkReady: ``reason`` is one CamelCase word, ``message`` for people; both
    are '' when ready and nothing is to be said."""

    ready: bool
    reason: str = ""
    message: str = ""


class OrphanKind(StrEnum):
    LINK = "link"
    ELEMENT = "nft element"
    LEASE = "lease"
    HOST_PORT = "host port"
    ATTACHMENT = "CNI attachment"


@dataclass(frozen=True, slots=True)
class Orphan:
    """Something on the host that is this instance's and belongs to no known sandbox.

    ``name`` is the link's name, the address or the port; ``owner`` the sandbox id that it carries.
    """

    kind: OrphanKind
    name: str
    owner: str

    def describe(self) -> str:
        return f"{self.kind} {self.name} of the unknown sandbox {self.owner or '(none named)'}"


@dataclass(frozen=True, slots=True)
class Hop:
    """One thing on a packet's way. ``part`` is a kind of thing and ``name`` which one it is;
    ``found`` is what the kernel has of it, ``missing`` says in words what is not as it has to be, '' if nothing is."""

    part: str
    name: str
    found: str = ""
    missing: str = ""


class Provider(Protocol):
    """One way to connect pods. All methods are for the daemon's event loop."""

    @property
    def name(self) -> str: ...

    async def prepare(self) -> None:
        """Make what all pods share. Idempotent.

        Raises:
            FailedPrecondition: something of it belongs to somebody else; do not start.
            HostFault: the host cannot (yet); ``status`` says so, ``attach`` tries again.
        """
        ...

    def reserve(
        self, sandbox_id: str, port_mappings: Sequence[PortMapping]
    ) -> contextlib.AbstractAsyncContextManager[None]:
        """To be held while a pod with host ports is being made: what another pod has, or gets at the
        same time, is refused on entry, before anything is done.

        Raises:
            FailedPrecondition: names the port and who has it, or why pods here cannot have it.
        """
        ...

    async def attach(self, request: AttachRequest) -> Attachment: ...

    async def detach(self, sandbox_id: str, *, force: bool = False) -> None:
        """Take the pod's network back. ``force`` also deletes its link now, which waits for
        the kernel (some 30 ms); else the kernel does when the namespace ends, and a link
        that is then still there is deleted a little later."""
        ...

    async def status(self) -> NetworkStatus:
        """Whether a pod could be attached now. Makes again what is missing of what
        ``prepare`` made, as kubelet sends no pod to a node that is not ready."""
        ...

    async def set_subnets(self, subnets: Sequence[str]) -> None:
        """The subnets of pods that come; those that run keep what they have.

        Raises:
            InvalidArgument: see ``network.subnet.parse_subnets``.
            FailedPrecondition: a subnet is in use on this host; the old ones stay.
        """
        ...

    async def orphans(self, known: Collection[str]) -> tuple[Orphan, ...]:
        """What is this instance's and belongs to none of the sandbox ids in ``known``."""
        ...

    async def remove_orphan(self, orphan: Orphan) -> None:
        """Remove it; gone already is no error."""
        ...

    async def explain(self, sandbox_id: str, fds: Sequence[int]) -> tuple[Hop, ...]:
        """The path of a packet of the pod as it is now, and what is missing of it. ``fds``: a NETLINK_ROUTE
        socket that was opened in its network namespace, borrowed, or nothing if that is gone."""
        ...

    async def teardown(self) -> None:
        """Remove what ``prepare`` made; for when no pod is left. Idempotent.

        Raises:
            FailedPrecondition: a pod still has an address.
        """
        ...
