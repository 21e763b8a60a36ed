"""RemovePodSandbox: the pod is forgotten, with everything that was made for it.

Stops what runs, removes its containers, then undoes the remaining steps.

Invariant: the record is deleted last, so a removal that was interrupted is found
and finished; an unknown sandbox is removed already.
"""

from __future__ import annotations

from typing import Any

from cri import intent
from cri.host import Host
from cri.plan.document import decode
from cri.plan.sandbox import SandboxPlan
from cri.rpc.container_remove import remove_container_now
from cri.rpc.sandbox_stop import stop_sandbox
from cri.steps.sandbox import plan_steps
from proto import api_pb2 as api
from runtime.errors import NotFound


async def remove_pod_sandbox(
    host: Host, request: api.RemovePodSandboxRequest, _context: Any
) -> api.RemovePodSandboxResponse:
    try:
        record = host.store.sandboxes.get(request.pod_sandbox_id)
    except NotFound:
        return api.RemovePodSandboxResponse()
    await host.operations.join(f"remove sandbox {record.id}", lambda: remove_sandbox(host, record.id))
    return api.RemovePodSandboxResponse()


async def remove_sandbox(host: Host, id: str) -> None:
    await stop_sandbox(host, id)
    async with host.lock(id):
        record = host.store.sandbox(id)
        if record is None:
            return
        for container in host.store.containers_of(id):
            await remove_container_now(host, container.id)
        plan = decode(record.plan, SandboxPlan)
        await intent.undo_all(host, "RemovePodSandbox", plan_steps(plan), [])
        await host.store.delete_sandbox(record)
    host.forget(id)
