"""Exec: a URL that runs a command in a container and carries its streams.

The command starts when the client has come to the URL. What ``cri.execs`` starts,
``cri.streaming.command`` carries.

Invariant: nothing kills the command, neither its normal end (what it left running) nor the
client's or the daemon's going: then its stdin ends, its terminal hangs up, and nobody
reads its pipes any more, as when a terminal's line is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cri.execs import Exec, find_running, start_exec
from cri.host import Host
from cri.streaming.command import Carried, carry
from cri.streaming.descriptor import Descriptor
from cri.streaming.session import CommandStreams, CommandTicket, Outcome, Size, Wanted
from cri.validate.requests import validate_exec
from proto import api_pb2 as api
from runtime.errors import Fault


async def exec_command(host: Host, request: api.ExecRequest, _context: Any) -> api.ExecResponse:
    """Raises as ``find_running`` and ``Host.offer``."""
    validate_exec(request)
    record, _ = find_running(host, request.container_id)
    wanted = Wanted(stdin=request.stdin, stdout=request.stdout, stderr=request.stderr, tty=request.tty)
    cmd = tuple(request.cmd)

    async def serve(streams: CommandStreams) -> Outcome:
        return await serve_exec(host, record.id, cmd, wanted, streams)

    return api.ExecResponse(url=host.offer(CommandTicket("exec", wanted, serve)))


async def serve_exec(
    host: Host, container: str, cmd: Sequence[str], wanted: Wanted, streams: CommandStreams
) -> Outcome:
    """Run the command with ``streams``: its code, or why it could not be run."""
    try:
        command = await start_exec(host, container, cmd, tty=wanted.tty, stdin=wanted.stdin)
        carried, held = plan_carried(command, wanted, streams)
        try:
            ended = await carry(streams, carried, command.exited)
        finally:
            for descriptor in held:
                descriptor.close()
    except (Fault, OSError) as fault:
        return Outcome(error=str(fault))
    return Outcome(error="the client has gone") if ended is None else Outcome(code=ended[0])


def plan_carried(command: Exec, wanted: Wanted, streams: CommandStreams) -> tuple[Carried, list[Descriptor]]:
    """What goes where, and all the descriptors, which are to be closed afterwards."""
    held = [Descriptor(fd) for fd in command.descriptors]
    if wanted.tty:
        (master,) = held

        async def resize(size: Size) -> None:
            master.resize(size)

        typed = master if wanted.stdin else None
        return Carried([(master, streams.stdout)], typed, nothing, resize), held
    stdin = held[2] if wanted.stdin else None

    async def end_input() -> None:
        if stdin is not None:
            stdin.close()

    return Carried([(held[0], streams.stdout), (held[1], streams.stderr)], stdin, end_input), held


async def nothing() -> None:
    """A terminal has no end of input: its client has to type it (^D), or to leave."""
