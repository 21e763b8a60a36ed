"""The steps of an update: new limits for the cgroup of a container or a pod that exists.

``cri.rpc.container_update`` and ``sandbox_update`` plan and apply them; recovery undoes those of
a killed daemon. A step takes along what the kernel had before, since nobody can tell later.

Invariant: whatever happens, kernel and record agree in the end. Undone, both have the old
values; where what is used by now forbids the old ones, both have the new.
"""

from __future__ import annotations

import contextlib
import logging

import msgspec

from cri.host import Host
from cri.plan.container import ContainerPlan
from cri.plan.document import decode, encode
from cri.plan.resources import plan_update, told_resources
from cri.state.records import ContainerRecord, ContainerState, SandboxRecord
from cri.steps.cgroups import change_unit
from cri.steps.container import discard_prepared
from proto import api_pb2 as api
from runtime.cgroups import tree
from runtime.cgroups.in_force import read_in_force
from runtime.cgroups.limits import (
    apply_oom_score_adj,
    apply_writes,
    put_back,
    read_before,
    read_oom_score_adj,
    refuse_below_use,
)
from runtime.cgroups.resources import LimitPlan, Write
from runtime.errors import Fault, NotFound

LOG = logging.getLogger("crisp.resources")


class Change(msgspec.Struct, frozen=True):
    """What is written to a ``cgroup``, and ``before``, what is written to put it back."""

    cgroup: str
    limits: LimitPlan
    before: tuple[Write, ...]


class SetContainerLimits(msgspec.Struct, frozen=True, tag="set_container_limits"):
    """``resources`` is the message of what the container may use then, all in all."""

    sandbox: str
    container: str
    change: Change
    resources: bytes
    name = "set_container_limits"

    def describe(self) -> str:
        return describe(self.change)

    async def apply(self, host: Host) -> None:
        record = host.store.containers.get(self.container)
        if record.state is ContainerState.CREATED:  # what is prepared has the old values
            await discard_prepared(host, self.sandbox, self.container)
        await apply_change(host, self.change, container_id=self.container)

    async def undo(self, host: Host) -> None:
        if await take_back(host, self.change, container_id=self.container):
            return
        told = read_told(host, self.change.cgroup, api.LinuxContainerResources.FromString(self.resources))
        with contextlib.suppress(NotFound):
            await host.store.update_container(self.container, lambda now: with_resources(now, told))


class SetOomScore(msgspec.Struct, frozen=True, tag="set_oom_score"):
    """The processes of a container that runs; undone, they have again what its record says."""

    container: str
    cgroup: str
    value: int
    name = "set_oom_score"

    def describe(self) -> str:
        return f"give the processes in {self.cgroup} the OOM score {self.value}"

    async def apply(self, host: Host) -> None:
        self.give(host, self.value)

    async def undo(self, host: Host) -> None:
        record = host.store.container(self.container)
        if record is not None:
            self.give(host, api.LinuxContainerResources.FromString(record.resources).oom_score_adj)

    def give(self, host: Host, value: int) -> None:
        note = apply_oom_score_adj(tree.procs(host.layout, self.cgroup), value)
        if note:
            LOG.info("%s", note, extra={"container_id": self.container})


class SetPodLimits(msgspec.Struct, frozen=True, tag="set_pod_limits"):
    """``request`` is the message of the request, of which the pod's configuration keeps what it says."""

    sandbox: str
    change: Change
    request: bytes
    name = "set_pod_limits"

    def describe(self) -> str:
        return describe(self.change)

    async def apply(self, host: Host) -> None:
        await apply_change(host, self.change, sandbox_id=self.sandbox)

    async def undo(self, host: Host) -> None:
        if await take_back(host, self.change, sandbox_id=self.sandbox):
            return
        request = api.UpdatePodSandboxResourcesRequest.FromString(self.request)
        with contextlib.suppress(NotFound):
            await host.store.update_sandbox(self.sandbox, lambda now: with_pod_resources(now, request))


LimitStep = SetContainerLimits | SetOomScore | SetPodLimits


def plan_change(host: Host, cgroup: str, limits: LimitPlan) -> Change:
    return Change(cgroup, limits, read_before(limits, host.layout, cgroup))


def describe(change: Change) -> str:
    values = ", ".join(f"{write.file} {write.value}" for write in change.limits.writes)
    return f"set the limits of {change.cgroup}: {values or 'none'}"


async def apply_change(host: Host, change: Change, **ids: str) -> None:
    """The files first: it is the kernel that refuses.

    Raises:
        FailedPrecondition, InvalidArgument, HostFault: as ``apply_writes`` and ``change_unit``.
    """
    refuse_below_use(change.limits.writes, host.layout, change.cgroup)
    tree.hand_down(host.layout, change.cgroup, {write.controller for write in change.limits.writes})
    for note in apply_writes(change.limits, host.layout, change.cgroup):
        LOG.info("%s", note, extra=ids)
    await change_unit(host, change.cgroup, change.limits.writes)


async def take_back(host: Host, change: Change, **ids: str) -> bool:
    """Whether the old limits are in force. Where what is used by now forbids one of them, the new ones are,
    for the two must not be mixed."""
    refused = put_back(change.before, host.layout, change.cgroup)
    if not refused:
        await change_unit(host, change.cgroup, change.before)
        return True
    LOG.warning("new limits stay, since the old ones are refused: %s", ", ".join(refused), extra=ids)
    with contextlib.suppress(Fault):  # then it is told, at least
        await apply_change(host, change, **ids)
    return False


def read_told(host: Host, cgroup: str, asked: api.LinuxContainerResources) -> api.LinuxContainerResources:
    """What ContainerStatus is to tell where ``asked`` was asked for: the kernel's own values.

    Raises:
        HostFault: the cgroup does not exist.
    """
    return told_resources(asked, read_in_force(plan_update(asked), host.layout, cgroup))


def read_told_score(host: Host, record: ContainerRecord, cgroup: str, asked: int) -> int:
    """The OOM score that a container's first process has where ``asked`` was asked for.

    One that has ended keeps the score that it had until it is waited for: it is not asked.
    """
    alive = record.pid in tree.procs(host.layout, cgroup)
    score = read_oom_score_adj(record.pid) if alive else None
    return asked if score is None else score


def with_resources(record: ContainerRecord, told: api.LinuxContainerResources) -> ContainerRecord:
    """The record with what is in force now; also for what is started or executed later."""
    plan = decode(record.plan, ContainerPlan)
    plan.spec["process"]["oomScoreAdj"] = told.oom_score_adj
    return msgspec.structs.replace(record, resources=told.SerializeToString(), plan=encode(plan))


def with_pod_resources(record: SandboxRecord, request: api.UpdatePodSandboxResourcesRequest) -> SandboxRecord:
    config = api.PodSandboxConfig.FromString(record.config)
    for field in ("overhead", "resources"):
        if request.HasField(field):
            getattr(config.linux, field).CopyFrom(getattr(request, field))
    return msgspec.structs.replace(record, config=config.SerializeToString())
