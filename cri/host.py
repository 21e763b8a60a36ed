"""The object graph that RPCs and steps work with: one value, built once by ``cri.assembly``.

``cri.rpc`` reads it and orchestrates, ``cri.steps`` acts on it.

Invariant: ``pods`` holds exactly the sandboxes that have a connected monitor.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from cri.apparmor import AppArmorProfiles
from cri.dropped import Dropped
from cri.events import Events
from cri.failpoints import Failpoints
from cri.images import Images
from cri.layers import Layers
from cri.metrics import Metrics
from cri.mountpoints import Mountpoints
from cri.plan.facts import HostFacts
from cri.plan.sandbox import BRIDGE, CNI, SandboxPlan
from cri.pool import Pool
from cri.profiles import Profiles
from cri.rpc.encoded import EncodedList
from cri.rpc.messages import container, pod_sandbox, pod_sandbox_status, status_of_container
from cri.rpc.metric_messages import MetricMessages
from cri.rpc.stats_messages import StatsMessages
from cri.settings import Settings
from cri.spares import Spares
from cri.state.journal import Operations
from cri.state.meta import Meta
from cri.state.records import ContainerRecord, SandboxRecord
from cri.state.store import Store
from cri.streaming.descriptor import Descriptor
from cri.streaming.session import Offers, Ticket
from cri.sweep import Readings
from cri.tasks import Tasks
from network.bridge import BridgeProvider
from network.cni.provider import CniProvider
from network.provider import Provider
from network.sockets import Sockets
from proto import api_pb2 as api
from runtime.cgroups.layout import Layout
from runtime.cgroups.stats import Sweeper
from runtime.errors import Unavailable
from runtime.images.trash import Trash
from runtime.monitor_client import MonitorClient
from runtime.requests import ResolvedUser, Rootfs
from runtime.spec import IdMapping
from runtime.steps import Execution, Stage
from runtime.supervisor import Supervisor
from runtime.systemd.scopes import Scopes
from runtime.written import Written


@dataclass(frozen=True, slots=True)
class PlannedInit:
    """A container's init, and its root's writable layer, which gets the attributes of the topmost layer below,
    by the mapping ``ids`` of its user namespace."""

    init: Written
    rootfs: Rootfs
    ids: IdMapping | None = None


class Started(NamedTuple):
    """A container's first process, and when it was started (ns since the epoch). ``oom_score_adj`` is the
    one that it has where that is not the one that was asked for."""

    pid: int
    at: int
    oom_score_adj: int | None = None


@dataclass(slots=True)
class Attached:
    """A session that is attached to ``container``. ``ended`` is the monitor's word: empty, or why it let go
    of the client; ``input`` is what is typed into, until ``input_ended``."""

    container: str
    ended: asyncio.Future[str]
    input: Descriptor | None = None
    input_ended: bool = False


@dataclass(slots=True)
class LivePod:
    """A pod's monitor and, while the pod is being made, the descriptors it handed out.

    ``namespaces`` maps the OCI type to an open descriptor; ``netlink`` is a
    NETLINK_ROUTE socket opened inside the pod's network namespace, or -1. ``provider`` is the network's
    that this daemon has attached it to. ``stopping``: its end
    is our own doing. ``execs`` are the commands that run in it: their code, and whether
    they were killed at their timeout. ``attached`` are the attach sessions, ``prepared`` the
    containers of which an init waits to be released, if nothing has happened to it.
    """

    monitor: MonitorClient
    namespaces: dict[str, int] = field(default_factory=dict)
    netlink: int = -1
    pause_pid: int = 0
    addresses: tuple[str, ...] = ()
    provider: str = ""
    stopping: bool = False
    execs: dict[str, asyncio.Future[tuple[int, bool]]] = field(default_factory=dict)
    attached: dict[str, Attached] = field(default_factory=dict)
    prepared: set[str] = field(default_factory=set)

    def close_descriptors(self) -> None:
        """Idempotent; the bind mounts of the pod keep its namespaces from here on."""
        for fd in (*self.namespaces.values(), self.netlink):
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self.namespaces.clear()
        self.netlink = -1

    def end_sessions(self, why: str) -> None:
        """The monitor has gone and tells nobody any more how a command or an attach has ended."""
        waiting: list[asyncio.Future[Any]] = [*self.execs.values(), *(each.ended for each in self.attached.values())]
        for session in waiting:
            if not session.done():
                session.set_exception(Unavailable(why))


@dataclass(slots=True, kw_only=True)
class Host:
    """``boot_id`` is this boot's; ``ready`` is set once recovery is over.

    ``planned`` holds the init of a container that is being created, None if none is to be prepared
    or could be written, ``configs`` what a pod that is being made was asked to be, ``plans`` its plan,
    ``started`` what has been started until that is stored, ``scopes`` the cgroups that systemd makes, which is not
    asked for others, ``users`` who an
    image's names are, ``readings`` what pods and containers use. ``offers`` is the streaming
    server, None until it listens; ``sockets`` makes sockets inside pods' networks. ``stopping``: RPCs that
    are cancelled are so by the daemon's end, not by their clients.
    """

    settings: Settings
    instance: str
    root: Path
    state: Path
    boot_id: str
    layout: Layout
    scopes: Scopes
    facts: HostFacts
    store: Store
    meta: Meta
    operations: Operations
    supervisor: Supervisor
    network: Mapping[str, Provider]
    bridge: BridgeProvider
    cni: CniProvider
    images: Images
    profiles: Profiles
    apparmor: AppArmorProfiles
    metrics: Metrics
    failpoints: Failpoints
    tasks: Tasks
    sweeper: Sweeper
    layers: Layers
    trash: Trash
    spares: Spares
    pool: Pool = field(init=False)
    mountpoints: Mountpoints = field(init=False)
    offers: Offers | None = None
    sockets: Sockets = field(default_factory=Sockets)
    readings: Readings = field(init=False)
    events: Events = field(init=False)
    dropped: Dropped = field(init=False)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: bool = False
    pods: dict[str, LivePod] = field(default_factory=dict)
    planned: dict[str, PlannedInit | None] = field(default_factory=dict)
    configs: dict[str, api.PodSandboxConfig] = field(default_factory=dict)
    plans: dict[str, SandboxPlan] = field(default_factory=dict)
    started: dict[str, Started] = field(default_factory=dict)
    users: dict[str, ResolvedUser] = field(default_factory=dict)
    encoded_sandboxes: EncodedList[SandboxRecord] = field(default_factory=lambda: EncodedList(pod_sandbox))
    encoded_containers: EncodedList[ContainerRecord] = field(default_factory=lambda: EncodedList(container))
    encoded_pod_statuses: EncodedList[SandboxRecord] = field(default_factory=lambda: EncodedList(pod_sandbox_status))
    encoded_statuses: EncodedList[ContainerRecord] = field(default_factory=lambda: EncodedList(status_of_container))
    stats_messages: StatsMessages = field(default_factory=StatsMessages)
    metric_messages: MetricMessages = field(init=False)
    _exits: dict[str, asyncio.Event] = field(default_factory=dict)
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)
    _execs: itertools.count[int] = field(default_factory=lambda: itertools.count(first_number()))

    def __post_init__(self) -> None:
        self.pool = Pool(self, self.settings.pool.size)
        self.mountpoints = Mountpoints(self)
        self.dropped = Dropped(self.metrics)
        self.events = Events(self.store, self.metrics.event_dropped)
        self.metric_messages = MetricMessages(str(self.root))
        self.readings = Readings(self.layout, self.sweeper, self.layers, self.tasks)

    def execution(self, operation: str, stages: list[Stage]) -> Execution[Host]:
        """What the step executor needs: stages go to ``stages`` and to the metrics."""

        def record(stage: Stage) -> None:
            stages.append(stage)
            self.metrics.stage(operation, stage.step, stage.took / 1e9)

        return Execution(host=self, failpoints=self.failpoints, record=record)

    @property
    def provider(self) -> str:
        """The network provider of pods that come."""
        asked = self.settings.network.provider
        return asked if asked != "auto" else CNI if self.cni.selection.configured else BRIDGE

    def pod_directory(self, sandbox_id: str) -> str:
        return f"{self.state}/pods/{sandbox_id}"

    def container_directory(self, container_id: str) -> str:
        return f"{self.root}/containers/{container_id}"

    def exited(self, container_id: str) -> asyncio.Event:
        """Set when the store tells the container's exit."""
        return self._exits.setdefault(container_id, asyncio.Event())

    def lock(self, id: str) -> asyncio.Lock:
        """The lock of a sandbox or container; a sandbox's is taken before a container's."""
        return self._locks.setdefault(id, asyncio.Lock())

    def next_exec(self) -> int:
        """For an exec or an attach."""
        return next(self._execs)

    def offer(self, ticket: Ticket) -> str:
        """The URL of a streaming session.

        Raises:
            Unavailable: the streaming server does not run.
            ResourceExhausted: too many sessions wait for their clients.
        """
        if self.offers is None:
            raise Unavailable("the streaming server does not run")
        return self.offers.offer(ticket)

    def forget(self, id: str) -> None:
        """The object is removed: nothing in memory refers to it any more."""
        for table in (self._exits, self._locks, self.started):
            table.pop(id, None)
        for each in (
            self.encoded_sandboxes,
            self.encoded_containers,
            self.encoded_pod_statuses,
            self.encoded_statuses,
            self.stats_messages,
            self.metric_messages,
            self.layers,
            self.readings,
            self.dropped,
        ):
            each.forget(id)


def first_number() -> int:
    """Above all that earlier daemons of this boot have given: their execs may run still, and a cgroup or a
    monitor must not take one for another. Nobody starts a thousand a second for long."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
