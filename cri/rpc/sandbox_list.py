"""ListPodSandbox and StreamPodSandboxes: joined from cached encodings.

Invariant: an unchanged sandbox costs no encoding (``cri.rpc.encoded``).
"""

from __future__ import annotations

from typing import Any

from cri.host import Host
from cri.rpc.batches import write_batches
from cri.rpc.filters import select_sandboxes
from proto import api_pb2 as api


async def list_pod_sandbox(host: Host, request: api.ListPodSandboxRequest, _context: Any) -> bytes:
    return b"".join(sandbox_items(host, request.filter))


def sandbox_items(host: Host, wanted: api.PodSandboxFilter) -> list[bytes]:
    """The elements of the list, each once."""
    known = host.encoded_sandboxes
    return known.items(select_sandboxes(host.store.sandboxes.values(), wanted, known.labels))


async def stream_pod_sandboxes(host: Host, request: api.StreamPodSandboxesRequest, context: Any) -> None:
    await write_batches(context, sandbox_items(host, request.filter))
