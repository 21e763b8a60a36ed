"""ContainerStats, ListContainerStats and StreamContainerStats: one sweep of the cgroups they ask for.

Invariant: a container whose cgroup is gone is listed with zero usage, as the field
does, and never fails the list.
"""

from __future__ import annotations

from typing import Any

from cri.host import Host
from cri.rpc.batches import write_batches
from cri.rpc.encoded import element
from cri.rpc.filters import select_containers
from cri.sweep import running_of
from proto import api_pb2 as api


async def container_stats(host: Host, request: api.ContainerStatsRequest, _context: Any) -> bytes:
    """The figures of one container, whatever its state."""
    record = host.store.containers.get(request.container_id)
    await host.readings.layers_measured([record])
    (reading,) = host.readings.containers([record])
    return element(1, host.stats_messages.container(reading, str(host.root)))


async def list_container_stats(host: Host, request: api.ListContainerStatsRequest, _context: Any) -> bytes:
    return b"".join(await container_stats_items(host, request.filter))


async def container_stats_items(host: Host, wanted: api.ContainerStatsFilter) -> list[bytes]:
    """The elements of the list: running containers, each once."""
    chosen = select_containers(host.store.containers.values(), wanted, host.encoded_containers.labels)
    running = running_of(chosen)
    await host.readings.layers_measured(running)
    readings, mountpoint = host.readings.containers(running), str(host.root)
    return [element(1, host.stats_messages.container(each, mountpoint)) for each in readings]


async def stream_container_stats(host: Host, request: api.StreamContainerStatsRequest, context: Any) -> None:
    await write_batches(context, await container_stats_items(host, request.filter))
