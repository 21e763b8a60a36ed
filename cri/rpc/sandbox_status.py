"""PodSandboxStatus: what a pod is, and with ``verbose`` how it came to be.

The answer has no timestamp. It would tell a kubelet with the gate EventedPLEG to take the
containers' statuses from here instead of asking for each, and that of 1.37 then knows of none
that it is active: it runs init containers again for ever, and the pod never starts.

Invariant: reads memory only and takes no lock, so it answers while the pod is
being stopped; what has not changed costs no encoding.
"""

from __future__ import annotations

import json
from typing import Any

from cri.host import Host
from cri.state.records import SandboxRecord
from cri.timeline import Timeline, to_info
from proto import api_pb2 as api

_CONTAINERS = api.PodSandboxStatusResponse.DESCRIPTOR.fields_by_name["containers_statuses"].number


async def pod_sandbox_status_rpc(host: Host, request: api.PodSandboxStatusRequest, _context: Any) -> bytes:
    record = host.store.sandboxes.get(request.pod_sandbox_id)
    info = verbose_info(host, record) if request.verbose else {}
    rest = api.PodSandboxStatusResponse(info=info).SerializeToString()
    containers = host.encoded_statuses.elements(_CONTAINERS, host.store.containers_of(record.id))
    return host.encoded_pod_statuses.join([record]) + containers + rest


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
