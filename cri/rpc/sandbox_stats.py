"""PodSandboxStats, ListPodSandboxStats and StreamPodSandboxStats: pods with their containers, by one sweep.

Invariant: the list has the ready pods; the figures of one that is not are zero or what its
cgroup still says, and never an error.
"""

from __future__ import annotations

from typing import Any

from cri.host import Host
from cri.rpc.batches import write_batches
from cri.rpc.encoded import element
from cri.rpc.filters import select_sandboxes
from cri.state.records import SandboxRecord, SandboxState
from proto import api_pb2 as api
from runtime.errors import NotFound


async def pod_sandbox_stats(host: Host, request: api.PodSandboxStatsRequest, _context: Any) -> bytes:
    """
    Raises:
        NotFound: also for the empty id, which kubelet asks for to learn whether the RPC is there.
    """
    if not request.pod_sandbox_id:
        raise NotFound("the id is empty", object="sandbox")
    return items_of(host, [host.store.sandboxes.get(request.pod_sandbox_id)])[0]


async def list_pod_sandbox_stats(host: Host, request: api.ListPodSandboxStatsRequest, _context: Any) -> bytes:
    return b"".join(sandbox_stats_items(host, request.filter))


def sandbox_stats_items(host: Host, wanted: api.PodSandboxStatsFilter) -> list[bytes]:
    """The elements of the list: ready pods, each once."""
    chosen = select_sandboxes(host.store.sandboxes.values(), wanted, host.encoded_sandboxes.labels)
    return items_of(host, [record for record in chosen if record.state is SandboxState.READY])


def items_of(host: Host, records: list[SandboxRecord]) -> list[bytes]:
    readings, mountpoint = host.readings.pods(records, host.store.containers_of), str(host.root)
    return [element(1, host.stats_messages.pod(each, mountpoint)) for each in readings]


async def stream_pod_sandbox_stats(host: Host, request: api.StreamPodSandboxStatsRequest, context: Any) -> None:
    await write_batches(context, sandbox_stats_items(host, request.filter))
