"""Building the object graph of a daemon, in the order in which its parts need each other.

``cri.daemon`` calls ``build``; nothing else constructs these objects.

Invariant: the zygote runs before the first gRPC object exists, and everything that
was built is closed by the exit stack, in reverse.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import resource
import signal
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from ipaddress import ip_address, ip_network
from pathlib import Path

import msgspec

from cri.apparmor import AppArmorProfiles
from cri.facts import read_boot_id, read_host_facts
from cri.failpoints import Failpoints
from cri.host import Host
from cri.images import Images
from cri.layers import Layers
from cri.metrics import Metrics
from cri.metrics_http import MetricsServer
from cri.profiles import Profiles
from cri.root_lock import RootLock, StateLock
from cri.settings import NetworkSettings, Settings, instance
from cri.settings_values import SYSTEMD, port_of, seconds_of
from cri.spares import Spares
from cri.state.database import Database
from cri.state.images import ImageTable
from cri.state.journal import Operations
from cri.state.leases import LeaseTable
from cri.state.meta import POD_CIDR, Meta
from cri.state.ports import PortTable
from cri.state.records import ContainerRecord, ContainerState, SandboxRecord, SandboxState
from cri.state.routes import RouteRecord
from cri.state.store import Store
from cri.streaming.server import StreamingServer
from cri.tasks import Tasks
from cri.usage_metrics import UsageMetrics
from cri.version import version
from network.bridge import BridgeProvider, BridgeSettings
from network.cni import provider as cni_provider
from network.cni.provider import CniProvider
from network.host import HostNetwork
from network.netthread import NetThread
from network.routes import StaticRoute
from runtime.cgroups.layout import Layout, detect
from runtime.cgroups.stats import Sweeper
from runtime.errors import FailedPrecondition, Fault, HostFault
from runtime.idmap import why_no_user_namespaces
from runtime.images.trash import Trash
from runtime.supervisor import Supervisor
from runtime.systemd.presence import find_obstacle
from runtime.systemd.scopes import Scopes
from runtime.systemd.units import Units

LOG = logging.getLogger("crisp.daemon")

TRASH_DELAY = 2.0
"""Seconds after which the writable layers of removed containers are deleted."""

TASK_GRACE = 5.0
"""Seconds for background tasks to end when the daemon stops."""


async def build(settings: Settings, undo: contextlib.AsyncExitStack, *, looking: bool = False) -> Host:
    """Everything but the servers. ``looking``: to look at what is there, which stays as it is.

    Raises:
        FailedPrecondition: another daemon has the root or the state directory, or a setting asks for what is not there.
        HostFault: a directory, the database or the zygote cannot be had.
    """
    root, state = take_directories(settings, undo)
    host = await build_host(settings, root, state, undo)
    undo.callback(host.sockets.close)
    host.failpoints.kill_monitors = functools.partial(kill_monitors, host)
    undo.push_async_callback(let_go if looking else leave, host)
    if looking:
        return host
    await host.trash.open()
    host.spares.open()
    await host.mountpoints.open()
    await serve_metrics(host, undo)
    await serve_streams(host, undo)
    return host


def take_directories(settings: Settings, undo: contextlib.AsyncExitStack) -> tuple[Path, Path]:
    """Root and state directory with what lies in them, this daemon's alone from here on."""
    root, state = make_directory(settings.root), make_directory(settings.state)
    if os.path.samefile(root, state):
        raise FailedPrecondition("is the state directory, too; they must differ", object=settings.root)
    undo.callback(RootLock(root).release)
    undo.callback(StateLock(state, os.path.realpath(root)).release)
    for folder in (root / "containers", root / "trash", state / "pods"):
        make_directory(str(folder))
    return root, state


async def build_host(settings: Settings, root: Path, state: Path, undo: contextlib.AsyncExitStack) -> Host:
    name, layout, tasks, metrics = instance(os.path.realpath(root)), detect(), Tasks(), Metrics(version())
    scopes = await open_scopes(settings, layout, undo)
    supervisor = await start_supervisor(tasks, undo)
    facts = msgspec.structs.replace(
        read_host_facts(layout, systemd=settings.cgroup.driver == SYSTEMD),
        no_user_namespaces=await asyncio.to_thread(why_no_user_namespaces, str(root / "trash")),
    )
    database = await Database.open(root / "state.db")
    undo.push_async_callback(database.close)
    store = await Store.open(database)
    meta = await Meta.open(database)
    failpoints = Failpoints.from_environment()
    bridge, cni, host_network = build_network(settings, name, root, database, meta, tasks, undo)
    return Host(
        settings=settings,
        instance=name,
        root=root,
        state=state,
        boot_id=read_boot_id(),
        layout=layout,
        scopes=scopes,
        facts=facts,
        store=store,
        meta=meta,
        operations=Operations(store, tasks),
        supervisor=supervisor,
        network={each.name: each for each in (bridge, cni, host_network)},
        bridge=bridge,
        cni=cni,
        images=await Images.open(
            root, settings.registry, ImageTable(database), supervisor, store, tasks, metrics, failpoints
        ),
        profiles=Profiles(root / "cache" / "seccomp"),
        apparmor=AppArmorProfiles(facts.apparmor, tasks),
        metrics=metrics,
        failpoints=failpoints,
        tasks=tasks,
        sweeper=Sweeper(layout),
        layers=Layers(lambda id: root / "containers" / id, tasks),
        spares=Spares(root / "spares", tasks),
        trash=Trash(str(root / "trash"), supervisor, tasks.spawn, TRASH_DELAY),
    )


async def open_scopes(settings: Settings, layout: Layout, undo: contextlib.AsyncExitStack) -> Scopes:
    """systemd is asked where it is the driver, and later for what an earlier daemon had it make.

    Raises:
        FailedPrecondition: it is to be the driver, and cannot.
        Unavailable, DeadlineExceeded: it does not answer.
    """
    scopes = Scopes(layout, Units())
    undo.callback(scopes.close)
    if settings.cgroup.driver == SYSTEMD:
        obstacle = find_obstacle(layout)
        if obstacle:
            raise FailedPrecondition(obstacle, step='use [cgroup] driver = "systemd"')
        await scopes.units.open()
    return scopes


async def start_supervisor(tasks: Tasks, undo: contextlib.AsyncExitStack) -> Supervisor:
    """The zygote runs before the daemon has a thread."""
    supervisor = Supervisor(tasks.spawn, raise_descriptor_limit())
    await supervisor.start_zygote()
    undo.push_async_callback(supervisor.close)
    return supervisor


def build_network(
    settings: Settings,
    name: str,
    root: Path,
    database: Database,
    meta: Meta,
    tasks: Tasks,
    undo: contextlib.AsyncExitStack,
) -> tuple[BridgeProvider, CniProvider, HostNetwork]:
    """All providers; a PodCIDR that kubelet once sent wins over the settings."""
    thread = NetThread()
    undo.callback(thread.close)
    cidr = meta.get(POD_CIDR)
    bridge = BridgeSettings(
        instance=name,
        root=os.path.realpath(root),
        bridge=settings.network.bridge,
        subnets=tuple(cidr.split(",")) if cidr else settings.network.subnets,
        loopback_ports=settings.network.loopback_host_ports,
        host_ports=allowed_ports(settings.network),
        forward_rule=settings.network.forward_rule,
        routes=tuple(StaticRoute(ip_network(each.to), ip_address(each.via)) for each in settings.network.routes),
    )
    provider = BridgeProvider(bridge, LeaseTable(database), PortTable(database), RouteRecord(meta), thread)
    undo.push_async_callback(provider.close)
    cni = CniProvider(cni_settings(settings, root), thread, tasks.spawn, cidr.split(",") if cidr else ())
    undo.callback(cni.close)
    return provider, cni, HostNetwork(thread)


def cni_settings(settings: Settings, root: Path) -> cni_provider.CniSettings:
    asked = settings.cni
    return cni_provider.CniSettings(
        conf_dir=asked.conf_dir,
        bin_dir=asked.bin_dir,
        root=root,
        template=asked.conf_template,
        seconds=float(seconds_of(asked.timeout)),
        annotations=asked.annotations,
    )


def allowed_ports(settings: NetworkSettings) -> tuple[tuple[str, int], ...] | None:
    """What pods may use of the node beside DNS; None for everything."""
    return None if settings.pod_to_host == "allow" else tuple(map(port_of, settings.pod_to_host_ports))


def raise_descriptor_limit() -> tuple[int, int]:
    """As many descriptors as the host allows, for the daemon alone: each pod and each cgroup that
    is read costs some. Returns what was in force before, which is what containers get."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    return before


async def serve_metrics(host: Host, undo: contextlib.AsyncExitStack) -> None:
    """Raises FailedPrecondition when the address is taken."""
    host.metrics.watch(
        pods=lambda: count_states(SandboxState, host.store.sandboxes.values()),
        containers=lambda: count_states(ContainerState, host.store.containers.values()),
        usage=UsageMetrics(host.store.sandboxes, host.store.containers, host.readings).render,
    )
    if host.settings.metrics:
        server = await MetricsServer.start(
            host.metrics, host.settings.metrics, lambda: "" if host.ready.is_set() else "recovering"
        )
        undo.push_async_callback(server.close)


async def serve_streams(host: Host, undo: contextlib.AsyncExitStack) -> None:
    """Raises FailedPrecondition when the address is taken or the certificate cannot be used."""
    asked = host.settings.streaming
    idle = float(seconds_of(asked.idle_timeout))
    server = await StreamingServer.start(asked.address, idle, host.tasks.spawn, asked.tls_cert, asked.tls_key)
    undo.push_async_callback(server.close)
    host.offers = server


async def leave(host: Host) -> None:
    """The daemon stops: its tasks end; bridge, table and cgroups go when no pod is left."""
    await host.tasks.cancel_all(TASK_GRACE)
    await host.pool.flush()
    await let_go(host)
    if not len(host.store.sandboxes):
        for provider in host.network.values():
            try:
                await provider.teardown()
            except Fault as fault:  # the next daemon's: what a killed one left was not recovered yet
                LOG.warning("the network stays: %s", fault)


async def let_go(host: Host) -> None:
    """The tasks end and descriptors are closed; everything on the host stays."""
    await host.tasks.cancel_all(TASK_GRACE)
    for pod in host.pods.values():
        pod.close_descriptors()


async def kill_monitors(host: Host) -> None:
    """What the failpoint of that name does: the zygote and every monitor die, and it has been seen."""
    monitors = [pod.monitor for pod in host.pods.values()]
    for pid in filter(None, [host.supervisor.zygote_pid, *(monitor.pid for monitor in monitors)]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for monitor in monitors:
        await monitor.wait_closed()


def make_directory(path: str) -> Path:
    """``path``, private to root, made if absent. Raises HostFault."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        os.chmod(path, 0o700)
    except OSError as error:
        raise HostFault(step="make the directory", object=path, call="mkdir", errno=error.errno or 0) from error
    return Path(path)


def count_states(states: Iterable[StrEnum], records: Iterable[SandboxRecord | ContainerRecord]) -> dict[str, int]:
    """How many records are in each of ``states``; an alert needs the zeros, too."""
    found = Counter(record.state.value for record in records)
    return {state.value: found[state.value] for state in states}


def with_reloaded(old: Settings, new: Settings) -> Settings:
    """``old`` with those settings of ``new`` that SIGHUP applies."""
    return msgspec.structs.replace(old, log_level=new.log_level, registry=new.registry)
