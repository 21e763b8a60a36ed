"""RemoveContainer: its places are taken away and it is forgotten; a running one is killed.

Invariant: the record goes last, so an interrupted removal is found and finished;
an unknown container is removed already.
"""

from __future__ import annotations

from typing import Any

from cri import intent
from cri.host import Host
from cri.plan.container import ContainerPlan
from cri.plan.document import decode
from cri.rpc.container_stop import kill_container
from cri.steps.container import forget_container, plan_create_steps
from proto import api_pb2 as api
from runtime.errors import NotFound


async def remove_container(
    host: Host, request: api.RemoveContainerRequest, _context: Any
) -> api.RemoveContainerResponse:
    try:
        record = host.store.containers.get(request.container_id)
    except NotFound:
        return api.RemoveContainerResponse()

    async def work() -> None:
        async with host.lock(record.sandbox_id):
            await remove_container_now(host, record.id)

    await host.operations.join(f"remove container {record.id}", work)
    return api.RemoveContainerResponse()


async def remove_container_now(host: Host, id: str) -> None:
    """With the pod's lock held."""
    await kill_container(host, id)
    record = host.store.container(id)
    if record is None:
        return
    plan = decode(record.plan, ContainerPlan)
    await intent.undo_all(host, "RemoveContainer", plan_create_steps(plan), [])
    await host.store.delete_container(record)
    pod = host.pods.get(record.sandbox_id)
    if pod is not None:
        await forget_container(pod.monitor, id)
    host.forget(id)
    await host.images.collect()
    if record.mountpoints:
        host.mountpoints.collect()
