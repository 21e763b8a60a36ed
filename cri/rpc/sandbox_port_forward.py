"""PortForward: a URL that carries connections to ports inside a pod's network.

``cri.streaming.forward`` carries them.

Invariant: a session ends with its pod: no connection keeps the network of a stopped pod.
"""

from __future__ import annotations

import socket
from typing import Any

from cri.host import Host
from cri.plan.document import decode
from cri.plan.sandbox import SandboxPlan
from cri.state.records import SandboxRecord, SandboxState
from cri.streaming.forward import forward
from cri.streaming.session import ForwardSession, ForwardTicket
from cri.validate.requests import validate_port_forward
from proto import api_pb2 as api
from runtime.errors import FailedPrecondition


async def port_forward(host: Host, request: api.PortForwardRequest, _context: Any) -> api.PortForwardResponse:
    """
    Raises:
        NotFound: there is no such sandbox.
        FailedPrecondition: it is not ready, or has lost its monitor.
        Fault: as ``Host.offer``.
    """
    validate_port_forward(request)
    record = find_ready(host, request.pod_sandbox_id)

    async def serve(session: ForwardSession) -> None:
        await serve_forward(host, record.id, session)

    ticket = ForwardTicket(frozenset(request.port), serve)
    return api.PortForwardResponse(url=host.offer(ticket))


async def serve_forward(host: Host, sandbox: str, session: ForwardSession) -> None:
    """Until the client or the pod has gone.

    Raises: as ``find_ready``.
    """
    record = find_ready(host, sandbox)
    plan = decode(record.plan, SandboxPlan)
    namespace = plan.namespace_path("network") if "network" in plan.namespaces else None

    async def open_socket(family: int) -> socket.socket:
        return await host.sockets.open(family, namespace)

    await forward(session, open_socket, host.pods[record.id].monitor.wait_closed())


def find_ready(host: Host, id: str) -> SandboxRecord:
    """
    Raises:
        NotFound: there is no such sandbox.
        FailedPrecondition: it is not ready, or has lost its monitor.
    """
    record = host.store.sandboxes.get(id)
    what = f"sandbox {record.id}"
    if record.state is not SandboxState.READY:
        only = "only a ready pod can be forwarded to"
        raise FailedPrecondition(f"is {record.state.value}; {only}", step="port-forward", object=what)
    if record.id not in host.pods:
        raise FailedPrecondition("has no monitor", step="port-forward", object=what)
    return record
