"""The provider that has pods connected by CNI plugins.

Beside ``network.bridge`` behind ``network.provider``. ``selection`` knows which network is in
force, ``cache`` what each pod was attached with, ``chain`` calls the plugins, ``debts`` goes on
with what could not be taken back.

Invariant: before ADD stands a file that says with what, and it goes only after DEL has
succeeded; so what was attached is detached, by whichever daemon, with the configuration and
the result that it was attached with.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from network import rtnetlink
from network.cni.cache import Cache, Entry
from network.cni.capabilities import BANDWIDTH, PORT_MAPPINGS, plan_capabilities
from network.cni.chain import STEPS, Chain
from network.cni.conf import NetworkConf
from network.cni.debts import Debts
from network.cni.environment import INTERFACE, plan_arguments
from network.cni.gate import Gate, Locks
from network.cni.path import plan_path
from network.cni.selection import Selection
from network.cni.stragglers import end_stragglers
from network.device import open_route_socket, read_host
from network.errors import NetworkNotReady
from network.hostnet import HostNetworks
from network.netlink import NetlinkSocket
from network.netthread import NetThread
from network.path_view import read_inside
from network.provider import Attachment, AttachRequest, Hop, NetworkStatus, Orphan, OrphanKind, PortMapping
from runtime.errors import Fault, HostFault

_LOG = logging.getLogger("crisp.network")

NOT_READY = "NetworkPluginNotReady"
STATUS_SECONDS = 10.0
"""For STATUS: kubelet waits for the answer, and asks again soon."""
STRAGGLER_SECONDS = 10.0
_LOOPBACK = 1

Spawn = Callable[[str, Coroutine[Any, Any, None]], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class CniSettings:
    """``root`` is the daemon's, ``template`` a path or ''; ``seconds`` is for one operation on one
    pod; ``annotations`` are the capabilities that annotations of pods may give."""

    conf_dir: str
    bin_dir: str
    root: Path
    template: str = ""
    seconds: float = 60.0
    annotations: tuple[str, ...] = ()


class CniProvider:
    """A ``network.provider.Provider``; of one event loop."""

    name = "cni"

    def __init__(self, settings: CniSettings, thread: NetThread, spawn: Spawn, cidrs: Sequence[str] = ()) -> None:
        """Touches nothing on the host. ``cidrs`` are the pod subnets that kubelet sent last."""
        self._settings = settings
        self._thread = thread
        self._cidrs = tuple(cidrs)
        self.selection = Selection(settings.conf_dir, settings.template)
        self._cache = Cache(settings.root / "cni")
        self._chain = Chain(settings.bin_dir)
        self._debts = Debts(spawn, self._detach_now)
        self._gate = Gate()
        self._locks = Locks()
        self._alone = asyncio.Lock()
        self._asking, self._asked = asyncio.Lock(), 0
        self._answer = NetworkStatus(False)
        self._inherited: tuple[str, ...] | None = self._cache.ids()

    async def prepare(self) -> None:
        """Write the configuration that the settings have a template for, if it is not there yet."""
        await asyncio.to_thread(self.selection.write_template, self._cidrs)

    async def set_subnets(self, subnets: Sequence[str]) -> None:
        """Those of ``ipRanges``, and of the template.

        Raises:
            InvalidArgument: the template is wrong.
            HostFault: it cannot be read, or its configuration not be written.
        """
        self._cidrs = tuple(subnets)
        await asyncio.to_thread(self.selection.write_template, self._cidrs)

    def reserve(
        self, sandbox_id: str, port_mappings: Sequence[PortMapping]
    ) -> contextlib.AbstractAsyncContextManager[None]:
        """Which pod has which port of the host, plugins know alone."""
        return contextlib.nullcontext()

    async def attach(self, request: AttachRequest) -> Attachment:
        """See ``Provider``. What an earlier attempt has left is detached first.

        Raises:
            NetworkNotReady: there is no network.
            InvalidArgument: the pod asks in an annotation for what it cannot have.
            Fault: with the plugin's own words, see ``network.cni.chain``.
        """
        conf = self._conf()
        entry = Entry(
            sandbox_id=request.sandbox_id,
            conf=conf,
            netns=request.netns_path,
            arguments=plan_arguments(request),
            capabilities=plan_capabilities(request, self._cidrs, self._settings.annotations),
        )
        for capability in left_out(entry):
            _LOG.warning("the network %s has no plugin for %s of the pod", conf.name, capability, extra=_about(entry))
        await self._detach_now(request.sandbox_id)
        self._chain.find_all(conf, "ADD")  # or the DEL that is owed could not succeed either
        async with self._locks.of(request.sandbox_id), self._gate.together():
            await self._thread.run_with_fds((request.netlink_fd,), _raise_loopback)
            await asyncio.to_thread(self._cache.write, entry)
            result = await self._chain.add(entry, self._settings.seconds)
            await asyncio.to_thread(self._cache.write, replace(entry, result=result))
        addresses = result.addresses(INTERFACE)
        if not addresses:
            raise HostFault("the result has no address of the pod", step=STEPS["ADD"], object=f"network {conf.name}")
        return Attachment(
            provider=self.name,
            addresses=addresses,
            gateway=result.gateway(),
            interface=INTERFACE,
            host_interface=result.host_interface(),
        )

    def _conf(self) -> NetworkConf:
        reading = self.selection.reading
        if reading.conf is None:
            raise NetworkNotReady(reading.problem, reason=NOT_READY, step=STEPS["ADD"])
        return reading.conf

    async def detach(self, sandbox_id: str, *, force: bool = False) -> None:
        """See ``Provider``. A pod that cannot be detached for long is a debt, and no longer the caller's.

        Raises:
            Fault: with the plugin's own words; the next call tries again.
        """
        if sandbox_id not in self._debts:
            try:
                await self._detach_now(sandbox_id)
            except Fault as fault:
                if not self._debts.take_over(sandbox_id, fault):
                    raise

    async def _detach_now(self, sandbox_id: str) -> None:
        """DEL, and forget the pod. Nothing to do if it was never attached, or is detached."""
        await self._end_stragglers()
        async with self._locks.of(sandbox_id), self._gate.together():
            entry = await asyncio.to_thread(self._read, sandbox_id)
            if entry is not None:
                await self._chain.delete(entry, self._settings.seconds)
                await asyncio.to_thread(self._cache.remove, sandbox_id)
        self._debts.forget(sandbox_id)

    def _read(self, sandbox_id: str) -> Entry | None:
        """Where its file cannot be understood, the network of now is the best guess."""
        try:
            return self._cache.read(sandbox_id)
        except HostFault as fault:
            conf = self.selection.reading.conf
            if conf is None:
                raise
            _LOG.warning("%s; detached by the configuration of now", fault, extra={"object_id": sandbox_id})
            return Entry(sandbox_id=sandbox_id, conf=conf, netns="")

    async def _end_stragglers(self) -> None:
        """Once, before anything is written: what an earlier daemon ran and wrote when it was killed."""
        async with self._alone:
            if self._inherited is not None:
                await asyncio.to_thread(self._cache.discard_partial)
                await asyncio.to_thread(end_stragglers, self._inherited, STRAGGLER_SECONDS)
            self._inherited = None

    async def status(self) -> NetworkStatus:
        """Who asks while the plugins are being asked gets the answer to that."""
        asked = self._asked
        async with self._asking:
            if self._asked == asked:
                self._answer = await self._status()
                self._asked += 1
            return self._answer

    async def _status(self) -> NetworkStatus:
        reading = self.selection.refresh()
        if reading.conf is None:
            return NetworkStatus(False, NOT_READY, reading.problem)
        try:
            await self._chain.status(reading.conf, min(STATUS_SECONDS, self._settings.seconds))
        except Fault as fault:
            return NetworkStatus(False, NOT_READY, f"{reading.file}: {fault}")
        return NetworkStatus(True, message="; ".join(reading.notes))

    async def check(self, sandbox_id: str) -> str:
        """What is not as it was made of the pod's network, in words; '' if nothing is, or none is known."""
        async with self._locks.of(sandbox_id), self._gate.together():
            try:
                entry = await asyncio.to_thread(self._cache.read, sandbox_id)
                if entry is not None:
                    await self._chain.check(entry, self._settings.seconds)
            except Fault as fault:
                return str(fault)
        return ""

    async def explain(self, sandbox_id: str, fds: Sequence[int]) -> tuple[Hop, ...]:
        try:
            entry = await asyncio.to_thread(self._cache.read, sandbox_id)
        except HostFault as fault:
            return (Hop("network", "CNI", missing=str(fault)),)
        reading = self.selection.reading
        file = reading.file if entry and reading.conf == entry.conf else ""
        inside, host = await self._thread.run_with_fds(fds, _look)
        return plan_path(entry, file, inside, host)

    async def collect(self) -> None:
        """GC, after what belongs to no pod was detached: whatever attachments are left are valid.
        Who never attached a pod has no garbage, and others' pods may be in that network."""
        conf = self.selection.refresh().conf
        if conf is None or not self._cache.is_used():
            return
        await self._end_stragglers()
        async with self._gate.alone():
            valid = await asyncio.to_thread(self._attached_to, conf.name)
            try:
                await self._chain.collect(conf, valid, self._settings.seconds)
            except Fault as fault:
                _LOG.warning("%s", fault)

    def _attached_to(self, network: str) -> list[str]:
        """The ids of all that may be attached to it; what cannot be read may be."""
        found = []
        for sandbox_id in self._cache.ids():
            try:
                entry = self._cache.read(sandbox_id)
            except HostFault:
                found.append(sandbox_id)
                continue
            if entry is not None and entry.conf.name == network:
                found.append(sandbox_id)
        return found

    def attached(self) -> bool:
        """Whether any pod is, or may be."""
        return bool(self._cache.ids())

    async def orphans(self, known: Collection[str]) -> tuple[Orphan, ...]:
        ids = await asyncio.to_thread(self._cache.ids)
        return tuple(Orphan(OrphanKind.ATTACHMENT, each, each) for each in ids if each not in known)

    async def remove_orphan(self, orphan: Orphan) -> None:
        """DEL; if that fails, it goes on in the background. Raises Fault."""
        try:
            await self._detach_now(orphan.owner)
        except Fault as fault:
            self._debts.take_over(orphan.owner, fault, at_once=True)
            raise

    async def teardown(self) -> None:
        """Nothing is shared: the plugins' bridges and tables are theirs."""

    def close(self) -> None:
        self.selection.close()


def left_out(entry: Entry) -> list[str]:
    """What the pod asks for and no plugin declares. Some networks see to it by other ways, so it is no error."""
    declared = {name for plugin in entry.conf.plugins for name in plugin.capabilities}
    return [name for name in (PORT_MAPPINGS, BANDWIDTH) if name in entry.capabilities and name not in declared]


def _about(entry: Entry) -> dict[str, str]:
    return {"sandbox_id": entry.sandbox_id}


def _look(fds: Sequence[int]) -> tuple[HostNetworks | None, HostNetworks]:
    with open_route_socket() as route:
        return read_inside(fds), read_host(route)


def _raise_loopback(fds: Sequence[int]) -> None:
    with NetlinkSocket.adopt(os.dup(fds[0])) as pod:
        pod.transact([rtnetlink.set_link("lo", index=_LOOPBACK, up=True)], step="raise the pod's loopback")
