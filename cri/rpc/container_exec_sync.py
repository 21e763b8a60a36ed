"""ExecSync: a command in a running container, its output and its exit code.

``cri.execs`` has the monitor start the command and hand out the pipes; this module
reads them, bounds them, and waits. The monitor holds the timeout.

Invariant: at most ``STREAM_LIMIT`` bytes of each stream are kept, and the answer fits in the one
message that kubelet takes: it has the exit code, which a refused answer would not. What is above is
read and dropped, and the command goes on. After the exit whoever still holds the pipes is waited for
``DRAIN`` seconds. A command whose client has gone is killed, for nobody can ever hear of its end.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from cri.execs import Exec, give_up, start_exec
from cri.host import Host
from cri.pipes import PipeReader
from cri.server import MESSAGE_LIMIT
from cri.validate.requests import validate_exec_sync
from proto import api_pb2 as api
from runtime.errors import DeadlineExceeded

LOG = logging.getLogger("crisp.exec")

STREAM_LIMIT = 16 * 1024 * 1024
"""Bytes of each stream, as with other runtimes."""
OUTPUT_LIMIT = MESSAGE_LIMIT - 32
"""Bytes of both in one answer; the rest is for the tags and lengths around them and the exit code."""
DRAIN = 5.0


async def exec_sync(host: Host, request: api.ExecSyncRequest, _context: Any) -> api.ExecSyncResponse:
    """``timeout`` in seconds, 0 for none.

    Raises:
        DeadlineExceeded: the command was killed at its timeout.
    """
    validate_exec_sync(request)
    command = await start_exec(host, request.container_id, request.cmd, timeout=float(request.timeout))
    try:
        (code, timed_out), stdout, stderr = await collect(command)
    except asyncio.CancelledError:
        if not command.exited.done():
            give_up(host, command.pod, command.name)
        raise
    if timed_out:
        raise DeadlineExceeded(f"was killed after {request.timeout} s", step="exec", object=repr(request.cmd[0]))
    return api.ExecSyncResponse(stdout=stdout, stderr=stderr, exit_code=code)


async def collect(command: Exec) -> tuple[tuple[int, bool], bytes, bytes]:
    """Wait for the exit, then for the end of the output; the command's descriptors are taken over."""
    stdout, stderr = (PipeReader(fd, STREAM_LIMIT) for fd in command.descriptors)
    try:
        end = await asyncio.shield(command.exited)
        await asyncio.wait((stdout.ended, stderr.ended), timeout=DRAIN)
        shares = plan_shares(stdout.size, stderr.size, OUTPUT_LIMIT)
        if sum(shares) < stdout.seen + stderr.seen:
            told = f"{shares[0]} of {stdout.seen} bytes of stdout, {shares[1]} of {stderr.seen} of stderr"
            LOG.info("the output of %s was cut off: %s fit in an answer", command.name, told)
        return end, stdout.first(shares[0]), stderr.first(shares[1])
    finally:
        stdout.close()
        stderr.close()


def plan_shares(stdout: int, stderr: int, room: int) -> tuple[int, int]:
    """How many bytes of each fit in ``room`` together; each may have half of it at least."""
    first = min(stdout, max(room // 2, room - stderr))
    return first, min(stderr, room - first)
