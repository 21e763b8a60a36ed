"""ExecSync: a command in a running container, its output and its exit code.

``cri.execs`` has the monitor start the command and hand out the pipes; this module
reads them, bounds them, and waits. The monitor holds the timeout.

Invariant: at most ``OUTPUT_LIMIT`` bytes of both streams together are kept, so that the answer
fits in a message; what is above is read and dropped, and the command goes on. After the exit
whoever still holds the pipes is waited for ``DRAIN`` seconds.
"""

from __future__ import annotations

import asyncio
from typing import Any

from cri.execs import start_exec
from cri.host import Host
from cri.pipes import PipeReader
from cri.server import MESSAGE_LIMIT
from cri.validate.requests import validate_exec_sync
from proto import api_pb2 as api
from runtime.errors import DeadlineExceeded

OUTPUT_LIMIT = MESSAGE_LIMIT - 1024
"""Bytes of both streams; the rest is for the fields around them."""
DRAIN = 5.0


async def exec_sync(host: Host, request: api.ExecSyncRequest, _context: Any) -> api.ExecSyncResponse:
    """``timeout`` in seconds, 0 for none.

    Raises:
        DeadlineExceeded: the command was killed at its timeout.
    """
    validate_exec_sync(request)
    command = await start_exec(host, request.container_id, request.cmd, timeout=float(request.timeout))
    (code, timed_out), stdout, stderr = await collect(command.exited, *command.descriptors)
    if timed_out:
        raise DeadlineExceeded(f"was killed after {request.timeout} s", step="exec", object=repr(request.cmd[0]))
    return api.ExecSyncResponse(stdout=stdout, stderr=stderr, exit_code=code)


async def collect(
    exited: asyncio.Future[tuple[int, bool]], stdout_fd: int, stderr_fd: int
) -> tuple[tuple[int, bool], bytes, bytes]:
    """Wait for the exit, then for the end of the output; both descriptors are taken over."""
    stdout, stderr = PipeReader(stdout_fd, OUTPUT_LIMIT), PipeReader(stderr_fd, OUTPUT_LIMIT)
    try:
        end = await exited
        await asyncio.wait((stdout.ended, stderr.ended), timeout=DRAIN)
        return end, *fit(stdout.kept, stderr.kept, OUTPUT_LIMIT)
    finally:
        stdout.close()
        stderr.close()


def fit(stdout: bytes, stderr: bytes, limit: int) -> tuple[bytes, bytes]:
    """The beginnings of both that fit in ``limit`` together; each may have half of it at least."""
    for_stdout = max(limit // 2, limit - len(stderr))
    stdout = stdout[:for_stdout]
    return stdout, stderr[: limit - len(stdout)]
