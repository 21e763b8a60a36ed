"""ContainerStatus: what a container is, and with ``verbose`` its document, stages and lost log entries.

Kubelet asks for it more often than for anything else.

Invariant: reads memory only and takes no lock; an unchanged container costs no encoding.
"""

from __future__ import annotations

import json
from typing import Any

from cri.host import Host
from cri.state.records import ContainerRecord
from cri.timeline import Timeline, to_info
from proto import api_pb2 as api


async def container_status_rpc(host: Host, request: api.ContainerStatusRequest, _context: Any) -> bytes:
    record = host.store.containers.get(request.container_id)
    status = host.encoded_statuses.join([record])
    if not request.verbose:
        return status
    return status + api.ContainerStatusResponse(info=verbose_info(host, record)).SerializeToString()


def verbose_info(host: Host, record: ContainerRecord) -> dict[str, str]:
    """JSON: ``info`` with the pid, the log entries that the disk has refused, the plan, and ``runtimeSpec``,
    where other runtimes have config.json, too; ``timeline``."""
    dropped, plan = max(record.log_dropped, host.dropped.of(record.id)), json.loads(record.plan)
    info = {"sandboxID": record.sandbox_id, "pid": record.pid, "logDropped": dropped, "plan": plan}
    info["runtimeSpec"] = with_volumes(plan["spec"], plan["volumes"])
    timeline = Timeline(f"container {record.id[:12]} {record.name}", record.stages)
    return {"info": json.dumps(info), "timeline": to_info([timeline])}


def with_volumes(spec: dict[str, Any], volumes: list[dict[str, str]]) -> dict[str, Any]:
    """The OCI document with the image's VOLUMEs, which are filled before they are bound, among its mounts."""
    binds = [{**volume, "type": "bind", "options": ["rbind", "rw"]} for volume in volumes]
    return {**spec, "mounts": [*spec["mounts"], *binds]}
