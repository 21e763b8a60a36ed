"""Anonymous tokens: whom to ask, what to accept."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from runtime.images.tokens import AccessRefused, TokenCache, parse_challenge
from tests.unit.runtime.images.registries import FakeRegistry

ORIGIN = URL("https://registry.example")


def test_realm_and_service_are_read() -> None:
    challenges = ["Basic realm=x", 'bearer realm="https://auth.example/token?a=b", service="s e", scope="x"']
    assert parse_challenge(challenges, ORIGIN) == (URL("https://auth.example/token?a=b"), "s e")
    assert parse_challenge(['Bearer realm="http://a/"'], URL("http://localhost:5000"))[0] == URL("http://a/")


@pytest.mark.parametrize(
    "challenges",
    [
        [],
        ['Basic realm="https://auth.example"'],
        ["Bearer"],
        ['Bearer realm="http://auth.example/token"'],
        ['Bearer realm="file:///etc/passwd"'],
        ['Bearer realm="//auth.example"'],
        ['Bearer realm="https://user:pw@auth.example"'],
        ['Bearer realm="https://[bad"'],
        ['Bearer realm="https://auth.example",' + "x" * 5000],
    ],
)
def test_what_cannot_be_asked_anonymously_is_refused(challenges: list[str]) -> None:
    with pytest.raises(AccessRefused):
        parse_challenge(challenges, ORIGIN)


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as started:
        yield started


@pytest.fixture
async def cache() -> AsyncIterator[TokenCache]:
    async with aiohttp.ClientSession() as session:
        yield TokenCache(session)


async def test_a_token_is_kept_for_its_origin_and_repository(registry: FakeRegistry, cache: TokenCache) -> None:
    registry.token = "abc.DEF-123="
    origin = URL(registry.url)
    challenge = [f'Bearer realm="{registry.url}/token",service="tests"']
    assert await cache.fetch(challenge, origin, "team/app") == "abc.DEF-123="
    assert dict(registry.seen[0].query) == {"service": "tests", "scope": "repository:team/app:pull"}
    assert cache.get(origin, "team/app") == "abc.DEF-123="
    assert cache.get(origin, "team/other") == ""
    assert cache.get(origin.with_scheme("https"), "team/app") == ""
    assert cache.get(origin.with_port(1), "team/app") == ""


@pytest.mark.parametrize(
    "answer",
    [
        web.json_response({}),
        web.json_response({"token": ""}),
        web.json_response({"token": 5}),
        web.json_response({"token": "a\nb"}),
        web.json_response({"token": "a b"}),
        web.json_response({"token": "x" * 70_000}),
        web.Response(body=b"not json"),
        web.Response(body=b"x" * (2 << 20)),
        web.Response(status=403),
    ],
    ids=str,
)
async def test_a_malformed_answer_is_no_token(answer: web.Response, registry: FakeRegistry, cache: TokenCache) -> None:
    registry.intercept = lambda request: answer
    with pytest.raises(AccessRefused):
        await cache.fetch([f'Bearer realm="{registry.url}/token"'], URL(registry.url), "x")
    assert cache.get(URL(registry.url), "x") == ""


async def test_an_access_token_is_a_token_and_a_failing_server_may_be_asked_again(
    registry: FakeRegistry, cache: TokenCache
) -> None:
    challenge = [f'Bearer realm="{registry.url}/token"']
    registry.intercept = lambda request: web.json_response({"access_token": "t"})
    assert await cache.fetch(challenge, URL(registry.url), "x") == "t"
    registry.intercept = lambda request: web.Response(status=503)
    with pytest.raises(aiohttp.ClientResponseError):
        await cache.fetch(challenge, URL(registry.url), "x")
    assert cache.get(URL(registry.url), "x") == ""
