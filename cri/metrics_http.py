"""``/metrics`` and ``/healthz`` over HTTP, on the address of the setting ``metrics``.

``cri.daemon`` starts and closes it; ``cri.metrics`` has the numbers.

Invariant: it answers GET only, tells of pods nothing but names and figures, and an address
that is taken keeps the daemon from starting.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from runtime.errors import FailedPrecondition, HostFault

if TYPE_CHECKING:
    from aiohttp import web

    from cri.metrics import Metrics

TAKEN = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES})


class MetricsServer:
    """Use ``await MetricsServer.start(...)``; end with ``await close()``."""

    def __init__(self, runner: web.AppRunner) -> None:
        self._runner = runner

    @classmethod
    async def start(cls, metrics: Metrics, address: str, unhealthy: Callable[[], str]) -> MetricsServer:
        """Serve on ``address`` (``host:port``, ``[::1]:port``). ``unhealthy()`` says why the
        daemon is not well, "" when it is.

        Raises:
            FailedPrecondition: the address is taken or not one of this host.
            HostFault: it cannot be served for another reason.
        """
        from aiohttp import web  # a quarter of a second to import: only the daemon pays it

        async def scrape(_: web.Request) -> web.Response:
            headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
            return web.Response(body=metrics.render(), headers=headers)

        async def health(_: web.Request) -> web.Response:
            reason = unhealthy()
            return web.Response(status=503 if reason else 200, text=f"{reason or 'ok'}\n")

        application = web.Application()
        application.router.add_get("/metrics", scrape)
        application.router.add_get("/healthz", health)
        runner = web.AppRunner(application, access_log=None, handle_signals=False)
        await runner.setup()
        host, _, port = address.rpartition(":")
        try:
            await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        except OSError as error:
            await runner.cleanup()
            raise refusal(address, error) from error
        return cls(runner)

    @property
    def port(self) -> int:
        """The port in use; it differs from the asked one when that was 0."""
        return int(self._runner.addresses[0][1])

    async def close(self) -> None:
        await self._runner.cleanup()


def refusal(address: str, error: OSError) -> FailedPrecondition | HostFault:
    reason = errno.errorcode[error.errno] if error.errno in TAKEN else ""
    if isinstance(error, socket.gaierror):
        reason = str(error.strerror).lower()
    if reason:
        words = f'cannot be served: {reason}; choose another address or set metrics = ""'
        return FailedPrecondition(words, step="serve metrics", object=address)
    return HostFault(step="serve metrics", object=address, call="bind", errno=error.errno or errno.EINVAL)
