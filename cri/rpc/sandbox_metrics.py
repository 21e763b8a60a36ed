"""ListMetricDescriptors, ListPodSandboxMetrics and StreamPodSandboxMetrics: kubelet's /metrics/cadvisor.

Invariant: the same sweep as the statistics, with more files of each cgroup.
"""

from __future__ import annotations

from typing import Any

from cri.host import Host
from cri.rpc.batches import write_batches
from cri.rpc.encoded import element
from cri.rpc.metric_messages import descriptors
from cri.state.records import SandboxState
from cri.sweep import running_of
from proto import api_pb2 as api


async def list_metric_descriptors(
    _host: Host, _request: api.ListMetricDescriptorsRequest, _context: Any
) -> api.ListMetricDescriptorsResponse:
    return api.ListMetricDescriptorsResponse(descriptors=descriptors())


async def list_pod_sandbox_metrics(host: Host, _request: api.ListPodSandboxMetricsRequest, _context: Any) -> bytes:
    return b"".join(await sandbox_metrics_items(host))


async def sandbox_metrics_items(host: Host) -> list[bytes]:
    """The elements of the list: ready pods with their running containers."""
    await host.readings.measured(running_of(host.store.containers.values()))
    ready = [record for record in host.store.sandboxes.values() if record.state is SandboxState.READY]
    readings = host.readings.pods(ready, host.store.containers_of, detailed=True)
    return [element(1, each) for each in host.metric_messages.pods(readings)]


async def stream_pod_sandbox_metrics(host: Host, _request: api.StreamPodSandboxMetricsRequest, context: Any) -> None:
    await write_batches(context, await sandbox_metrics_items(host))
