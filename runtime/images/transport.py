"""HTTP to registries: redirects, tokens, bounded retries. Knows nothing of images.

``registry`` asks through here. The library's own redirects are not used: ours are
counted, never go from https to http, and carry no token or header to another origin.

Invariant: every request ends: each wait has a timeout, each loop a bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
from yarl import URL

from runtime.errors import Fault, InvalidArgument, Unavailable
from runtime.images.hosts import Host
from runtime.images.tokens import TokenCache

MAX_REDIRECTS = 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
LOST = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError)
"""What a connection that broke or stalled raises."""
_HOPELESS = (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError)


class RegistryUnavailable(Unavailable):
    """A registry cannot be reached or does not serve; kubelet knows this case by its first word."""

    def __str__(self) -> str:
        return f"RegistryUnavailable: {super().__str__()}"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to try. ``stall`` is the longest silence in seconds, ``first_delay`` the wait
    after the first failure (doubled each time, up to ``max_delay``)."""

    attempts: int = 5
    first_delay: float = 0.5
    max_delay: float = 30.0
    stall: float = 30.0

    def delay(self, attempt: int, asked: str = "") -> float:
        """Seconds before the try after number ``attempt`` (from 0); ``asked`` is a Retry-After header."""
        seconds = self.first_delay * 2.0**attempt
        if asked.isascii() and asked.isdigit():
            seconds = max(seconds, float(asked[:9]))
        return min(seconds, self.max_delay)


class Transport:
    """One HTTP session; use it as an async context manager."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._contexts: dict[Host, ssl.SSLContext] = {}
        self.requests = 0

    async def __aenter__(self) -> Transport:
        timeout = aiohttp.ClientTimeout(total=None, sock_read=self._patience.stall)
        self._session = aiohttp.ClientSession(
            timeout=timeout,
            auto_decompress=False,  # digests are of what was sent
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=1 << 18,
            headers={"User-Agent": "crisp", "Accept-Encoding": "identity"},
        )
        self._tokens = TokenCache(self._session)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._session.close()

    @contextlib.asynccontextmanager
    async def get(
        self, host: Host, path: str, repository: str, headers: dict[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to GET ``path`` (below the host's API root) with any status but those retried.

        Raises:
            RegistryUnavailable: not reached, or 429 and 5xx to the end.
            AccessRefused: the host wants credentials.
        """
        url = host.url.joinpath(*path.split("/"), encoded=True)
        if host.namespace:
            url = url.update_query(ns=host.namespace)
        response = await self._persist(host, url, repository, headers)
        try:
            yield response
        finally:
            response.release() if response.content.at_eof() else response.close()

    async def _persist(self, host: Host, url: URL, repository: str, headers: dict[str, str]) -> aiohttp.ClientResponse:
        reason = ""
        for attempt in range(self._patience.attempts):
            asked = ""
            try:
                response = await self._follow(host, url, repository, headers)
            except _HOPELESS as error:
                raise unavailable(host, f"TLS failed: {reason_of(error)}") from error
            except (*LOST, aiohttp.ClientResponseError) as error:
                reason = reason_of(error)
            except aiohttp.ClientError as error:
                raise unavailable(host, reason_of(error)) from error
            else:
                if response.status not in _RETRIED:
                    return response
                reason, asked = f"it answered {response.status}", response.headers.get("Retry-After", "")
                response.close()
            if attempt + 1 < self._patience.attempts:
                await asyncio.sleep(self._patience.delay(attempt, asked))
        raise unavailable(host, f"{reason} ({self._patience.attempts} attempts)")

    async def _follow(self, host: Host, url: URL, repository: str, headers: dict[str, str]) -> aiohttp.ClientResponse:
        origin = host.url.origin()
        context = await self._context(host)
        asked_for_token = False
        redirects = 0
        while True:
            own = url.origin() == origin
            response = await self._request(host, url, context, self._headers(host, repository, headers, own))
            if response.status == 401 and own and not asked_for_token:
                challenges = response.headers.getall("WWW-Authenticate", [])
                response.close()
                asked_for_token = True
                await self._tokens.fetch(challenges, origin, repository, ssl=context)
                continue
            if response.status not in _REDIRECTS:
                return response
            location = response.headers.get("Location", "")
            response.close()
            redirects += 1
            if redirects > MAX_REDIRECTS:
                raise unavailable(host, f"more than {MAX_REDIRECTS} redirects")
            url = _redirected(host, url, location)

    async def _request(
        self, host: Host, url: URL, context: ssl.SSLContext, headers: dict[str, str]
    ) -> aiohttp.ClientResponse:
        self.requests += 1
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=host.dial_timeout, sock_read=self._patience.stall)
        return await self._session.get(url, headers=headers, allow_redirects=False, ssl=context, timeout=timeout)

    def _headers(self, host: Host, repository: str, headers: dict[str, str], own: bool) -> dict[str, str]:
        if not own:
            return headers
        token = self._tokens.get(host.url.origin(), repository)
        authorization = {"Authorization": f"Bearer {token}"} if token else {}
        return dict(host.headers) | headers | authorization

    async def _context(self, host: Host) -> ssl.SSLContext:
        context = self._contexts.get(host)
        if context is None:
            try:
                context = await asyncio.to_thread(_make_context, host)
            except OSError as error:
                if isinstance(error, Fault):
                    raise
                raise InvalidArgument(f"cannot use its certificates: {error}", object=str(host.url)) from error
            self._contexts[host] = context
        return context


def unavailable(host: Host, reason: str) -> RegistryUnavailable:
    """The fault for a host that does not serve."""
    return RegistryUnavailable(f"registry unavailable: {reason}", step="ask registry", object=host.url.authority)


def reason_of(error: BaseException) -> str:
    """In words: aiohttp's own text for a lost connection shows objects of this program."""
    cause: BaseException = error
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
    elif isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
    words = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    if isinstance(cause, ConnectionError) and cause.errno:
        words = os.strerror(cause.errno)  # asyncio's words are "Connect call failed" and the address
    return f"cannot connect: {words}" if cause is not error else words


def _make_context(host: Host) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for path in host.ca:
        context.load_verify_locations(path)
    for certificate, key in host.client:
        context.load_cert_chain(certificate, key or None)
    if host.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _redirected(host: Host, url: URL, location: str) -> URL:
    try:
        target = url.join(URL(location, encoded=True))
    except ValueError:
        target = URL()
    if not location or target.scheme not in ("http", "https") or not target.host or target.user:
        raise unavailable(host, "it redirects to no address")
    if url.scheme == "https" and target.scheme != "https":
        raise unavailable(host, "it redirects from https to http")
    return target
