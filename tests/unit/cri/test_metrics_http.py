"""/metrics and /healthz on the loopback."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest

from cri.metrics import Metrics
from cri.metrics_http import MetricsServer, refusal
from runtime.errors import FailedPrecondition, HostFault


class Health:
    reason = ""


@pytest.fixture
async def server() -> AsyncIterator[MetricsServer]:
    Health.reason = ""
    metrics = Metrics("1.2.3")
    started = await MetricsServer.start(metrics, "127.0.0.1:0", lambda: Health.reason)
    yield started
    await started.close()


async def fetch(server: MetricsServer, path: str, method: str = "GET") -> tuple[int, str, str]:
    url = f"http://127.0.0.1:{server.port}{path}"
    async with aiohttp.ClientSession() as session, session.request(method, url) as answer:
        return answer.status, await answer.text(), answer.headers["Content-Type"]


async def test_prometheus_can_scrape(server: MetricsServer) -> None:
    status, text, kind = await fetch(server, "/metrics")
    assert status == 200
    assert 'crisp_build_info{version="1.2.3"} 1.0' in text
    assert kind.startswith("text/plain; version=0.0.4")


async def test_health_is_ok_or_says_why_not(server: MetricsServer) -> None:
    assert (await fetch(server, "/healthz"))[:2] == (200, "ok\n")
    Health.reason = "the zygote is gone"
    assert (await fetch(server, "/healthz"))[:2] == (503, "the zygote is gone\n")


async def test_nothing_else_is_there(server: MetricsServer) -> None:
    assert (await fetch(server, "/"))[0] == 404
    assert (await fetch(server, "/metrics", "POST"))[0] == 405


async def test_a_taken_port_is_refused_in_clear_words(server: MetricsServer) -> None:
    with pytest.raises(FailedPrecondition, match=f"127.0.0.1:{server.port}: cannot be served: EADDRINUSE"):
        await MetricsServer.start(Metrics(), f"127.0.0.1:{server.port}", lambda: "")


async def test_an_ipv6_address_is_understood() -> None:
    try:
        started = await MetricsServer.start(Metrics(), "[::1]:0", lambda: "")
    except FailedPrecondition:
        pytest.skip("no IPv6 on the loopback")
    assert started.port > 0
    await started.close()


def test_any_other_refusal_is_the_hosts() -> None:
    assert isinstance(refusal("127.0.0.1:1", OSError(errno.ENOMEM, "Cannot allocate memory")), HostFault)


def test_a_host_that_nobody_knows_is_told_in_words() -> None:
    error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    assert "cannot be served: name or service not known" in str(refusal("nosuch.invalid:1", error))
