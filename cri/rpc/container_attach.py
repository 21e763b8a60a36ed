"""Attach: a URL that carries the streams of a container's main process.

The pod's monitor fans the output out to all who are attached (``runtime.attach``); what
they type goes to the container directly, by a descriptor of its stdin or terminal.

Invariant: detaching leaves the container alone, but for ``stdin_once``: then its stdin ends
for good with the first client that has ended its input or left. The daemon's end ends
the session only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from cri.execs import find_running
from cri.host import Attached, Host, LivePod
from cri.plan.container import ContainerPlan
from cri.plan.document import decode
from cri.state.permitted import Action
from cri.streaming.command import Carried, carry
from cri.streaming.descriptor import Descriptor
from cri.streaming.session import CommandStreams, CommandTicket, Outcome, Size, Wanted
from cri.validate.requests import validate_attach
from proto import api_pb2 as api
from runtime.errors import Fault, NotSupported

LOG = logging.getLogger("crisp.attach")


async def attach(host: Host, request: api.AttachRequest, _context: Any) -> api.AttachResponse:
    """Raises as ``find_running`` and ``Host.offer``."""
    validate_attach(request)
    record, _ = find_running(host, request.container_id, Action.ATTACH)
    wanted = Wanted(stdin=request.stdin, stdout=request.stdout, stderr=request.stderr, tty=request.tty)

    async def serve(streams: CommandStreams) -> Outcome:
        return await serve_attach(host, record.id, wanted, streams)

    return api.AttachResponse(url=host.offer(CommandTicket("attach", wanted, serve)))


async def serve_attach(host: Host, container: str, wanted: Wanted, streams: CommandStreams) -> Outcome:
    """Until the container has ended or the client has gone; the container's own code is told by its status."""
    name = f"attach-{host.next_exec()}"
    try:
        record, pod = find_running(host, container, Action.ATTACH)
        plan = decode(record.plan, ContainerPlan)
        attached = pod.attached[name] = Attached(record.id, asyncio.get_running_loop().create_future())
        try:
            return await carry_attached(pod, name, plan, wanted, streams)
        finally:
            del pod.attached[name]
            if attached.ended.done():
                attached.ended.exception()  # of a monitor that ended before anybody waited
    except NotSupported as fault:
        return Outcome(error=f"the pod was started by an older crisp, whose monitor cannot attach: {fault}")
    except (Fault, OSError) as fault:
        return Outcome(error=str(fault))


async def carry_attached(
    pod: LivePod, name: str, plan: ContainerPlan, wanted: Wanted, streams: CommandStreams
) -> Outcome:
    attached = pod.attached[name]
    # Without any output wanted one is listened to all the same: its end is the container's.
    listened = {"stdout": streams.stdout} if wanted.stdout or plan.tty or not wanted.stderr else {}
    if wanted.stderr and not plan.tty:
        listened["stderr"] = streams.stderr
    near, typed = await pod.monitor.attach(plan.id, name, list(listened), stdin=wanted.stdin)
    outputs = [Descriptor(fd) for fd in near]
    attached.input = None if typed is None else Descriptor(typed)
    if attached.input is not None and attached.input_ended:
        attached.input.close()

    async def end_input() -> None:
        await end_typing(pod, attached, once=plan.stdin_once)

    async def resize(size: Size) -> None:
        with contextlib.suppress(Fault):  # it may have ended
            await pod.monitor.resize(plan.id, size.width, size.height)

    to = list(zip(outputs, listened.values(), strict=True))
    carried = Carried(to, attached.input, end_input, resize if plan.tty else None, watched=True)
    try:
        error = await carry(streams, carried, attached.ended, whole=False)
        if error:
            LOG.warning("let go of an attached client: %s", error, extra={"container_id": plan.id})
        if error is None or error:
            await end_input()
        return Outcome(error="the client has gone" if error is None else error)
    finally:
        for descriptor in (*outputs, *filter(None, [attached.input])):
            descriptor.close()


async def end_typing(pod: LivePod, attached: Attached, *, once: bool) -> None:
    """The client types no more; with ``once`` nobody does, and the container's stdin ends."""
    if attached.input is None or attached.input.closed:
        return
    typing = [attached]
    if once:
        typing = [other for other in pod.attached.values() if other.container == attached.container]
        with contextlib.suppress(Fault):  # it may have ended
            await pod.monitor.close_stdin(attached.container)
    for each in typing:
        each.input_ended = True
        if each.input is not None:
            each.input.close()
