"""ListContainers and StreamContainers: joined from cached encodings.

Invariant: an unchanged container costs no encoding (``cri.rpc.encoded``).
"""

from __future__ import annotations

from typing import Any

from cri.host import Host
from cri.rpc.batches import write_batches
from cri.rpc.filters import select_containers
from proto import api_pb2 as api


async def list_containers(host: Host, request: api.ListContainersRequest, _context: Any) -> bytes:
    return b"".join(container_items(host, request.filter))


def container_items(host: Host, wanted: api.ContainerFilter) -> list[bytes]:
    """The elements of the list, each once."""
    known = host.encoded_containers
    return known.items(select_containers(host.store.containers.values(), wanted, known.labels))


async def stream_containers(host: Host, request: api.StreamContainersRequest, context: Any) -> None:
    await write_batches(context, container_items(host, request.filter))
