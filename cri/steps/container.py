"""The steps of a container's birth: its directories and cgroup, its init prepared, then started.

``cri.rpc.container_create`` applies the first three, ``container_start`` the last;
``container_remove`` undoes the first three, recovery whatever a killed daemon left.

Invariant: as in ``cri.steps.sandbox``, a step is plain data and its undo needs
neither the process that applied it nor anything but ``Host``.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import time

import msgspec

from cri.host import Host, LivePod, PlannedInit, Started
from cri.plan.container import ContainerPlan, plan_in_force, start_request
from cri.plan.document import decode
from cri.plan.resources import plan_resources
from cri.spares import FOLDERS
from cri.state.records import ContainerRecord, ContainerState
from cri.steps.cgroups import make_cgroup, remove_cgroup
from cri.steps.files import make_directory
from cri.steps.relabel import RelabelVolumes
from proto import api_pb2 as api
from runtime.cgroups import kill as cgroup_kill
from runtime.cgroups import layout as cgroup_layout
from runtime.cgroups import tree
from runtime.cgroups.limits import apply_writes, note_clamped, read_oom_score_adj
from runtime.cgroups.resources import Resources, plan_writes
from runtime.errors import DeadlineExceeded, FailedPrecondition, Fault, NotFound, Unavailable
from runtime.monitor_client import MonitorClient
from runtime.requests import ImageMount, StartRequest
from runtime.rootfs.overlay import take_over_attributes
from runtime.spec import mapping_of
from runtime.written import write_init

LOG = logging.getLogger("crisp.steps")

START_WAIT = 120.0
"""Seconds for a start from the beginning, twice that with volumes to fill: a server that has its files may be slow.
Nobody waits for longer, kubelet least; and all of its pod's requests wait for it."""


class MakeContainerDirectories(msgspec.Struct, frozen=True, tag="make_container_directories"):
    """The writable layer (``path``, below root), and the directories of the image's volumes in it."""

    container: str
    path: str
    volumes: tuple[str, ...]
    name = "make_container_directories"

    def describe(self) -> str:
        return f"make the writable layer {self.path}"

    async def apply(self, host: Host) -> None:
        if not host.spares.take(self.path):
            os.mkdir(self.path, 0o700)
            for folder in FOLDERS:
                make_directory(f"{self.path}/{folder}")
        for folder in self.volumes:
            make_directory(folder)

    async def undo(self, host: Host) -> None:
        await host.trash.throw(self.path)


class MakeContainerCgroup(msgspec.Struct, frozen=True, tag="make_container_cgroup"):
    """The container's cgroup with its limits, before any process is in it.

    ``owner`` is the user, as the host counts, who may divide it further; None for nobody."""

    container: str
    path: str
    resources: Resources
    owner: int | None = None
    name = "make_container_cgroup"

    def describe(self) -> str:
        return f"make the cgroup {self.path}"

    async def apply(self, host: Host) -> None:
        limits = plan_writes(self.resources, host.layout)
        await make_cgroup(host, self.path, self.container, limits.writes)
        for note in apply_writes(limits, host.layout, self.path):
            LOG.info("%s", note, extra={"container_id": self.container})
        if self.owner is not None:
            tree.delegate(host.layout, self.path, self.owner)

    async def undo(self, host: Host) -> None:
        await remove_cgroup(host, self.path)


class PrepareInit(msgspec.Struct, frozen=True, tag="prepare_init"):
    """The container's first process, born to wait for the start, which need not find it: what stops
    it, the start will meet and tell."""

    sandbox: str
    container: str
    name = "prepare_init"

    def describe(self) -> str:
        return "prepare the container's first process"

    async def apply(self, host: Host) -> None:
        pod, planned = host.pods.get(self.sandbox), host.planned[self.container]
        if pod is None or planned is None:
            return
        try:
            take_over_attributes(planned.rootfs["lowerdirs"][0], planned.rootfs["upperdir"], planned.ids)
            if pod.monitor.prepare(planned.init):
                pod.prepared.add(self.container)
        except (Fault, OSError) as error:
            LOG.info("not prepared: %s", error, extra={"container_id": self.container})

    async def undo(self, host: Host) -> None:
        record = host.store.container(self.container)
        if record is None or record.state is ContainerState.CREATED:
            with contextlib.suppress(Unavailable, DeadlineExceeded):  # its cgroup's removal ends it
                await discard_prepared(host, self.sandbox, self.container)


class StartInit(msgspec.Struct, frozen=True, tag="start_init"):
    """The container's first process, as the stored plan of the container says."""

    sandbox: str
    container: str
    cgroup: str
    name = "start_init"

    def describe(self) -> str:
        return "start the container's first process"

    async def apply(self, host: Host) -> None:
        pod = host.pods.get(self.sandbox)
        if pod is None:
            raise FailedPrecondition("the pod has no monitor", step="start", object=self.container)
        record = host.store.containers.get(self.container)
        resources = api.LinuxContainerResources.FromString(record.resources)
        pid, began = await start_init(host, pod, record, resources)
        host.started[self.container] = Started(pid, began)
        if "CAP_SYS_RESOURCE" not in host.facts.bounding:
            score = read_oom_score_adj(pid)
            if score is not None and score > resources.oom_score_adj:
                host.started[self.container] = Started(pid, began, score)
                LOG.info("%s", note_clamped(resources.oom_score_adj, score), extra={"container_id": self.container})

    async def undo(self, host: Host) -> None:
        host.started.pop(self.container, None)
        cgroup_kill.kill(cgroup_layout.dirs(host.layout, self.cgroup))
        pod = host.pods.get(self.sandbox)
        if pod is not None:
            await forget_container(pod.monitor, self.container)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{host.pod_directory(self.sandbox)}/exits/{self.container}.json")
        record = host.store.container(self.container)
        if record is not None and record.state is ContainerState.CREATED:
            await renew_cgroup(host, record)


ContainerStep = MakeContainerDirectories | MakeContainerCgroup | PrepareInit | StartInit


def plan_init(host: Host, plan: ContainerPlan, layers: tuple[str, ...], mountpoints: str) -> PlannedInit | None:
    """What ``PrepareInit`` will have born; None if it cannot be written, which the start will find out, and tell."""
    try:
        request = request_of(host, plan, layers, mountpoints)
        return PlannedInit(write_init(request, waits=True), request["rootfs"], mapping_of(plan.spec["linux"]))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the start's
        LOG.info("not prepared: %s", error, extra={"container_id": plan.id})
        return None


async def discard_prepared(host: Host, sandbox: str, container: str) -> None:
    """Nothing that was prepared for a container is there any more; fine if nothing was.

    Raises:
        DeadlineExceeded: it does not end.
        Unavailable: the monitor ends; all of its pod end with it.
    """
    pod = host.pods.get(sandbox)
    if pod is not None:
        pod.prepared.discard(container)
        try:
            await pod.monitor.discard(container)
        except DeadlineExceeded as late:
            raise DeadlineExceeded("what was prepared for its start does not end", object=container) from late


def request_of(host: Host, plan: ContainerPlan, layers: tuple[str, ...], mountpoints: str) -> StartRequest:
    """What the monitor is asked for; ``mountpoints`` is the key of a layer over ``layers``, or empty."""
    program = host.profiles.of_container(plan)
    return start_request(
        plan,
        [*host.mountpoints.lowerdirs(mountpoints), *host.images.lowerdirs(layers)],
        [
            ImageMount(
                destination=volume.destination,
                lowerdirs=host.images.lowerdirs(volume.layers),
                sub_path=volume.sub_path,
            )
            for volume in plan.image_volumes
        ],
        cgroup_layout.dirs(host.layout, plan.cgroup),
        program.path,
        cgroup_layout.memory_events(host.layout, plan.cgroup),
        program.flags,
    )


def mountable_request(host: Host, plan: ContainerPlan, layers: tuple[str, ...]) -> StartRequest:
    """As ``request_of``; the writable layer's root is as the image's.

    For the second try it makes its mountpoints itself: no fault of a layer is ever the container's.
    """
    request = request_of(host, plan, layers, "")
    rootfs, ids = request["rootfs"], mapping_of(plan.spec["linux"])
    take_over_attributes(rootfs["lowerdirs"][0], rootfs["upperdir"], ids)
    return request


async def start_init(
    host: Host, pod: LivePod, record: ContainerRecord, resources: api.LinuxContainerResources
) -> tuple[int, int]:
    """Release what is prepared or, if that has come to nothing, start it from the beginning.

    Raises:
        DeadlineExceeded: a file that it needs is not answered for.
        Fault: as ``MonitorClient.start``.
    """

    def plan() -> ContainerPlan:
        return plan_in_force(decode(record.plan, ContainerPlan), resources)

    if record.id in pod.prepared:
        pod.prepared.discard(record.id)
        with contextlib.suppress(NotFound):
            return await pod.monitor.release(
                record.id, lambda: request_of(host, plan(), record.layers, record.mountpoints)
            )
    await discard_prepared(host, record.sandbox_id, record.id)
    return await pod.monitor.start(mountable_request(host, plan(), record.layers), START_WAIT)


async def renew_cgroup(host: Host, record: ContainerRecord) -> None:
    """The container's cgroup made anew, with the limits in force, for the next try to start it.

    Since 6.15 Linux kills at its birth whatever is cloned into a cgroup that was killed
    before: clone3(CLONE_INTO_CGROUP) compares the kill_seq of two different cgroups.
    """
    plan = decode(record.plan, ContainerPlan)
    asked = api.LinuxContainerResources.FromString(record.resources)
    resources = plan_resources(asked, (), swap=host.layout.swap)
    await remove_cgroup(host, plan.cgroup)
    renewed = dataclasses.replace(resources, devices=plan.resources.devices)
    await MakeContainerCgroup(record.id, plan.cgroup, renewed, plan.cgroup_owner).apply(host)


async def forget_container(monitor: MonitorClient, container: str, seconds: float = 10.0) -> None:
    """Have the monitor kill and forget a container; one that it does not know is fine.

    Raises:
        FailedPrecondition: it did not end within ``seconds``.
    """
    until = time.monotonic() + seconds
    with contextlib.suppress(NotFound, Unavailable):
        await monitor.kill(container)
        while True:
            try:
                return await monitor.forget(container)
            except FailedPrecondition:
                if time.monotonic() > until:
                    raise
            await asyncio.sleep(0.005)


def plan_create_steps(plan: ContainerPlan) -> tuple[ContainerStep | RelabelVolumes, ...]:
    """What CreateContainer makes; undone in reverse it is the container's removal."""
    volumes = tuple(volume["source"] for volume in plan.volumes)
    places: tuple[ContainerStep | RelabelVolumes, ...] = (
        MakeContainerDirectories(plan.id, plan.directory, volumes),
        MakeContainerCgroup(plan.id, plan.cgroup, plan.resources, plan.cgroup_owner),
    )
    if plan.relabel:
        places += (RelabelVolumes(plan.id, tuple(plan.relabel), plan.spec["linux"].get("mountLabel", "")),)
    # Filling volumes takes as long as all else together, and a target may have ended before the start.
    if plan.volumes or plan.target is not None:
        return places
    return (*places, PrepareInit(plan.sandbox_id, plan.id))
