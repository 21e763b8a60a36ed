"""HTTP to registries: it ends, and it tells nobody what is another's."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from runtime.errors import InvalidArgument
from runtime.images.hosts import Host
from runtime.images.tokens import AccessRefused
from runtime.images.transport import Patience, RegistryUnavailable, Transport, reason_of
from tests.unit.runtime.images.registries import FakeRegistry

QUICK = Patience(attempts=3, first_delay=0.001, max_delay=0.01, stall=0.3)
PATH = "team/app/manifests/v1"


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as started:
        started.add_manifest("team/app", "v1", b"{}")
        yield started


@pytest.fixture
async def other() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as started:
        yield started


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    async with Transport(QUICK) as opened:
        yield opened


def host_of(registry: FakeRegistry) -> Host:
    return Host(URL(f"{registry.url}/v2"))


async def get(transport: Transport, host: Host, path: str = PATH) -> tuple[int, bytes]:
    async with transport.get(host, path, "team/app", {"Accept": "x/y"}) as response:
        return response.status, await response.read()


async def test_an_answer_arrives(registry: FakeRegistry, transport: Transport) -> None:
    assert await get(transport, host_of(registry)) == (200, b"{}")
    assert registry.seen[0].path == "/v2/team/app/manifests/v1"
    assert registry.seen[0].headers["Accept"] == "x/y"
    assert registry.seen[0].headers["Accept-Encoding"] == "identity"
    assert (await get(transport, host_of(registry), "team/app/blobs/sha256:x"))[0] == 404


async def test_a_mirror_is_told_for_whom_and_gets_its_headers(registry: FakeRegistry, transport: Transport) -> None:
    host = replace(host_of(registry), namespace="registry.example:5000", headers=(("X-Key", "k"),))
    await get(transport, host)
    assert registry.seen[0].query["ns"] == "registry.example:5000"
    assert registry.seen[0].headers["X-Key"] == "k"


async def test_a_token_is_fetched_once_and_kept(registry: FakeRegistry, transport: Transport) -> None:
    registry.token = "secret"
    assert (await get(transport, host_of(registry)))[0] == 200
    assert (await get(transport, host_of(registry)))[0] == 200
    assert [request.path for request in registry.seen].count("/token") == 1


async def test_an_expired_token_is_fetched_anew(registry: FakeRegistry, transport: Transport) -> None:
    registry.token = "first"
    await get(transport, host_of(registry))
    registry.token = "second"
    assert (await get(transport, host_of(registry)))[0] == 200


async def test_a_token_that_does_not_help_is_not_fetched_forever(registry: FakeRegistry, transport: Transport) -> None:
    challenge = {"WWW-Authenticate": f'Bearer realm="{registry.url}/token"'}
    registry.token = "secret"
    registry.intercept = lambda request: (
        None if request.path == "/token" else web.Response(status=401, headers=challenge)
    )
    assert (await get(transport, host_of(registry)))[0] == 401
    assert len(registry.seen) == 3


async def test_a_registry_that_wants_a_password_is_refused(registry: FakeRegistry, transport: Transport) -> None:
    registry.intercept = lambda request: web.Response(status=401, headers={"WWW-Authenticate": "Basic realm=x"})
    with pytest.raises(AccessRefused):
        await get(transport, host_of(registry))


async def test_a_redirect_carries_nothing_to_another_origin(
    registry: FakeRegistry, other: FakeRegistry, transport: Transport
) -> None:
    registry.token = "secret"
    await get(transport, host_of(registry))
    signed = f"{other.url}/v2/team/app/manifests/v1?sig=a%2Fb%3D"
    other.add_manifest("team/app", "v1", b"moved")
    registry.intercept = lambda request: web.Response(status=307, headers={"Location": signed})
    host = replace(host_of(registry), headers=(("X-Key", "k"),))
    assert await get(transport, host) == (200, b"moved")
    assert registry.seen[-1].headers["Authorization"] == "Bearer secret"
    assert "Authorization" not in other.seen[0].headers
    assert "X-Key" not in other.seen[0].headers
    assert other.seen[0].raw_path.endswith("?sig=a%2Fb%3D")


async def test_a_foreign_host_gets_no_token_by_asking(
    registry: FakeRegistry, other: FakeRegistry, transport: Transport
) -> None:
    other.token = "wants one"
    registry.intercept = lambda request: web.Response(status=302, headers={"Location": f"{other.url}/x"})
    assert (await get(transport, host_of(registry)))[0] == 401
    assert [request.path for request in other.seen] == ["/x"]


async def test_a_circle_of_redirects_ends(registry: FakeRegistry, transport: Transport) -> None:
    registry.intercept = lambda request: web.Response(status=302, headers={"Location": request.path})
    with pytest.raises(RegistryUnavailable, match="more than 10 redirects"):
        await get(transport, host_of(registry))
    assert len(registry.seen) == 11


@pytest.mark.parametrize("location", ["", "ftp://x.example/", "http://", "http://u:p@x.example/", "http://[bad"])
async def test_a_redirect_to_nowhere_is_refused(location: str, registry: FakeRegistry, transport: Transport) -> None:
    registry.intercept = lambda request: web.Response(status=302, headers={"Location": location})
    with pytest.raises(RegistryUnavailable):
        await get(transport, host_of(registry))


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_an_overloaded_registry_is_asked_again(status: int, registry: FakeRegistry, transport: Transport) -> None:
    answers = [web.Response(status=status, headers={"Retry-After": "0"}), web.Response(status=status), None]
    registry.intercept = lambda request: answers.pop(0)
    assert (await get(transport, host_of(registry)))[0] == 200
    answers = [web.Response(status=status) for _ in range(9)]
    with pytest.raises(RegistryUnavailable, match=f"it answered {status}") as raised:
        await get(transport, host_of(registry))
    assert str(raised.value).startswith("RegistryUnavailable: ")
    assert len(answers) == 6


async def test_a_registry_that_is_not_there_is_unavailable(transport: Transport) -> None:
    async with FakeRegistry() as gone:
        host = host_of(gone)
    with pytest.raises(RegistryUnavailable, match=r"unavailable: cannot connect: Connection refused \(3 attempts\)"):
        await get(transport, host)


def test_a_name_that_does_not_resolve_is_told_in_words() -> None:
    cause = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    error = aiohttp.ClientConnectorDNSError(cast(Any, None), cause)
    assert reason_of(error) == "cannot connect: Temporary failure in name resolution"


async def test_plain_answers_to_tls_are_hopeless(registry: FakeRegistry, transport: Transport) -> None:
    host = Host(URL(f"https://{registry.domain}/v2"))
    with pytest.raises(RegistryUnavailable, match=r"TLS failed: cannot connect: \[SSL: "):
        await get(transport, host)
    assert transport.requests == 1


async def test_certificates_that_cannot_be_read_are_told(registry: FakeRegistry, transport: Transport) -> None:
    with pytest.raises(InvalidArgument, match="certificates"):
        await get(transport, replace(host_of(registry), ca=("/nonexistent.pem",)))
    with pytest.raises(InvalidArgument):
        await get(transport, replace(host_of(registry), client=(("/nonexistent.pem", ""),)))


async def test_only_skip_verify_skips_it(registry: FakeRegistry, transport: Transport, tmp_path: Path) -> None:
    strict = await transport._context(host_of(registry))
    lax = await transport._context(replace(host_of(registry), skip_verify=True))
    assert (strict.verify_mode, strict.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert lax.verify_mode == ssl.CERT_NONE
    assert await transport._context(host_of(registry)) is strict


def test_waiting_is_bounded() -> None:
    patience = Patience(first_delay=1, max_delay=10)
    assert [patience.delay(attempt) for attempt in range(5)] == [1, 2, 4, 8, 10]
    assert patience.delay(0, "5") == 5
    assert patience.delay(0, "99999999999999") == 10
    assert patience.delay(0, "Wed, 21 Oct 2015 07:28:00 GMT") == 1
