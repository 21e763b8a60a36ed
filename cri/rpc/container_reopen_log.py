"""ReopenContainerLog: after a rotation the monitor writes to a new file.

Invariant: the answer comes after the new file exists.
"""

from __future__ import annotations

from typing import Any

from cri.host import Host
from cri.state.records import ContainerState
from proto import api_pb2 as api
from runtime.errors import FailedPrecondition


async def reopen_container_log(
    host: Host, request: api.ReopenContainerLogRequest, _context: Any
) -> api.ReopenContainerLogResponse:
    record = host.store.containers.get(request.container_id)
    pod = host.pods.get(record.sandbox_id)
    if record.state is not ContainerState.RUNNING or pod is None:
        raise FailedPrecondition(f"is {record.state.value}, not running", object=f"container {record.id}")
    await pod.monitor.reopen_log(record.id)
    return api.ReopenContainerLogResponse()
