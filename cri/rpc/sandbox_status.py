"""PodSandboxStatus: what a pod is, and with ``verbose`` how it came to be.

Invariant: reads memory only and takes no lock, so it answers while the pod is
being stopped.
"""

from __future__ import annotations

import json
import time
from typing import Any

from cri.host import Host
from cri.rpc.messages import pod_sandbox_status, status_of_container
from cri.state.records import SandboxRecord
from cri.timeline import Timeline, to_info
from proto import api_pb2 as api


async def pod_sandbox_status_rpc(
    host: Host, request: api.PodSandboxStatusRequest, _context: Any
) -> api.PodSandboxStatusResponse:
    record = host.store.sandboxes.get(request.pod_sandbox_id)
    return api.PodSandboxStatusResponse(
        status=pod_sandbox_status(record),
        info=verbose_info(host, record) if request.verbose else {},
        containers_statuses=[status_of_container(each) for each in host.store.containers_of(record.id)],
        timestamp=time.time_ns(),
    )


def timelines(host: Host, record: SandboxRecord) -> list[Timeline]:
    """The pod's timeline and, after it, those of its containers."""
    found = [Timeline(f"sandbox {record.id[:12]} {record.namespace}/{record.name}", record.stages)]
    for container in host.store.containers_of(record.id):
        found.append(Timeline(f"container {container.id[:12]} {container.name}", container.stages))
    return found


def verbose_info(host: Host, record: SandboxRecord) -> dict[str, str]:
    """JSON by subject: ``info`` (plan, processes, why NotReady) and ``timeline``."""
    info = {
        "sandboxID": record.id,
        "pid": record.pause_pid,
        "monitor": record.monitor.pid if record.monitor else 0,
        "state": record.state.value,
        "reason": record.reason,
        "plan": json.loads(record.plan),
    }
    return {"info": json.dumps(info), "timeline": to_info(timelines(host, record))}
