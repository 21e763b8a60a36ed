"""Manifests and blobs from a registry or its mirrors, verified while they arrive.

``pull`` asks here; ``transport`` carries the requests, ``hosts`` says whom to ask.
Source: OCI distribution-spec v1.1, "Pull".

Invariant: no byte leaves this module as an image's without its digest having been
checked, but for blob data that is written while it streams: there the caller
learns of a mismatch by the exception at the end and must throw away what it has.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import aiohttp

from runtime.errors import FailedPrecondition, Fault, NotFound, ResourceExhausted
from runtime.images.hosts import Host, load_hosts
from runtime.images.manifest import ACCEPTED, Descriptor
from runtime.images.reference import Reference, is_digest
from runtime.images.strictjson import MAX_BYTES
from runtime.images.tokens import AccessRefused
from runtime.images.transport import LOST, Patience, RegistryUnavailable, Transport, unavailable

MAX_RESUMES = 100

Result = TypeVar("Result")
Write = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class FetchedManifest:
    """``digest`` is that of ``content``, computed here; ``media_type`` what the registry called it."""

    content: bytes
    media_type: str
    digest: str


class Registry:
    """A client of all registries. ``config_path`` is the folder of ``hosts.toml`` folders, or empty;
    it may be changed at any time. Use it as an async context manager."""

    def __init__(self, config_path: str = "", patience: Patience | None = None) -> None:
        self.config_path = config_path
        self.bytes_received = 0
        self._patience = patience or Patience()
        self._transport = Transport(self._patience)

    async def __aenter__(self) -> Registry:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._transport.__aexit__(*exception)

    async def fetch_manifest(self, reference: Reference) -> FetchedManifest:
        """The manifest or index that ``reference`` names, by digest or tag.

        Raises:
            NotFound: no host has it.
            RegistryUnavailable: none could be asked.
            FailedPrecondition: it is not what the digest says.
            ResourceExhausted: larger than 4 MiB.
        """
        hosts = await self._hosts(reference)
        usable = [host for host in hosts if (host.pull if reference.digest else host.resolve)]
        return await _first(usable, reference, lambda host: self._manifest_from(host, reference))

    async def fetch_blob(self, reference: Reference, blob: Descriptor, write: Write) -> None:
        """Write the blob's bytes as they arrive; a broken connection is resumed where it broke.

        Raises:
            FailedPrecondition: digest or size is not the descriptor's.
            NotFound, RegistryUnavailable: as :meth:`fetch_manifest`.
        """
        hosts = [host for host in await self._hosts(reference) if host.pull]
        stream = _BlobStream(blob, write)
        try:
            await _first(hosts, reference, lambda host: self._blob_from(host, reference, stream))
        finally:
            self.bytes_received += stream.received
        stream.verify()

    async def fetch_bytes(self, reference: Reference, blob: Descriptor) -> bytes:
        """A small blob in memory, at most 4 MiB. Raises as :meth:`fetch_blob`, and ResourceExhausted."""
        if blob.size > MAX_BYTES:
            raise ResourceExhausted(f"is larger than {MAX_BYTES} bytes", step="fetch blob", object=blob.digest)
        data = bytearray()

        async def keep(chunk: bytes) -> None:
            data.extend(chunk)

        await self.fetch_blob(reference, blob, keep)
        return bytes(data)

    async def _hosts(self, reference: Reference) -> tuple[Host, ...]:
        return await asyncio.to_thread(load_hosts, self.config_path, reference.domain)

    async def _manifest_from(self, host: Host, reference: Reference) -> FetchedManifest:
        path = f"{reference.path}/manifests/{reference.selector}"
        headers, reason = {"Accept": ", ".join(ACCEPTED)}, ""
        for attempt in range(self._patience.attempts):
            async with self._transport.get(host, path, reference.path, headers) as response:
                _check_status(response, host, str(reference))
                try:
                    content = await _read_bounded(response, str(reference))
                except LOST as error:
                    reason = str(error) or "no progress"
                else:
                    return _verified(content, response, reference)
            await asyncio.sleep(self._patience.delay(attempt))
        raise unavailable(host, f"the connection broke {self._patience.attempts} times: {reason}")

    async def _blob_from(self, host: Host, reference: Reference, stream: _BlobStream) -> None:
        path = f"{reference.path}/blobs/{stream.blob.digest}"
        failures = resumes = 0
        while not stream.complete:
            before = stream.received
            headers = {"Range": f"bytes={before}-"} if before else {}
            async with self._transport.get(host, path, reference.path, headers) as response:
                _check_status(response, host, stream.blob.digest)
                lost = await stream.read(response)
            if not lost:
                return
            failures = failures + 1 if stream.received == before else 1
            resumes += 1
            if failures >= self._patience.attempts or resumes >= MAX_RESUMES:
                raise unavailable(host, f"the connection broke {resumes} times: {lost}")
            await asyncio.sleep(self._patience.delay(failures - 1))


class _BlobStream:
    """A blob on its way: how far it is, and the hash so far."""

    def __init__(self, blob: Descriptor, write: Write) -> None:
        self.blob = blob
        self.received = 0
        self._write = write
        self._hash = hashlib.sha256()
        self._begun = False

    @property
    def complete(self) -> bool:
        return self._begun and self.received >= self.blob.size

    async def read(self, response: aiohttp.ClientResponse) -> str:
        """Take over the body from where we are; why it ended early, empty if it did not."""
        self._begun = True
        passed = 0 if response.status == 206 else self.received
        self._check_length(response)
        while True:
            try:
                chunk = await response.content.readany()
            except LOST as error:
                return str(error) or "no progress"
            if not chunk:
                return "" if self.received == self.blob.size else "the answer ended early"
            if passed:  # the server does not resume: what we have is passed over
                chunk, passed = chunk[passed:], max(0, passed - len(chunk))
            if self.received + len(chunk) > self.blob.size:
                raise self._refused(f"it has more than {self.blob.size} bytes")
            self._hash.update(chunk)
            await self._write(chunk)
            self.received += len(chunk)

    def verify(self) -> None:
        """Raises FailedPrecondition unless size and digest are the descriptor's."""
        digest = f"sha256:{self._hash.hexdigest()}"
        if self.received != self.blob.size or digest != self.blob.digest:
            raise self._refused(f"the content is {digest}, {self.received} bytes")

    def _check_length(self, response: aiohttp.ClientResponse) -> None:
        size, length = self.blob.size, response.content_length
        if response.status == 206:
            if response.headers.get("Content-Range", "") != f"bytes {self.received}-{size - 1}/{size}":
                raise self._refused("the registry resumes at another place")
        elif length is not None and length != size:
            raise self._refused(f"it has {length} bytes, the manifest says {size}")

    def _refused(self, reason: str) -> FailedPrecondition:
        return FailedPrecondition(reason, step="verify blob", object=self.blob.digest)


async def _first(hosts: Sequence[Host], reference: Reference, ask: Callable[[Host], Awaitable[Result]]) -> Result:
    """What the first host gives that has it. Wrong content ends the search: what was written is written."""
    last: Fault = FailedPrecondition("no host may be asked for it", step="ask registry", object=str(reference))
    for host in hosts:
        try:
            return await ask(host)
        except (NotFound, RegistryUnavailable, AccessRefused) as fault:
            last = fault
    raise last


def _check_status(response: aiohttp.ClientResponse, host: Host, what: str) -> None:
    status = response.status
    if status in (200, 206):
        return
    asked = {"step": "ask registry", "object": f"{host.url.authority}: {what}"}
    if status == 404:
        raise NotFound("the registry does not have it", **asked)
    if status in (401, 403):
        raise AccessRefused(f"anonymous access is refused ({status})", **asked)
    raise AccessRefused(f"the registry answered {status}", **asked)


async def _read_bounded(response: aiohttp.ClientResponse, what: str) -> bytes:
    data = bytearray()
    while chunk := await response.content.readany():
        data += chunk
        if len(data) > MAX_BYTES:
            raise ResourceExhausted(f"is larger than {MAX_BYTES} bytes", step="fetch manifest", object=what)
    return bytes(data)


def _verified(content: bytes, response: aiohttp.ClientResponse, reference: Reference) -> FetchedManifest:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    said = response.headers.get("Docker-Content-Digest", "")
    for expected in (reference.digest, said if is_digest(said) else None):
        if expected is not None and expected != digest:
            raise FailedPrecondition(f"the content is {digest}", step="verify manifest", object=expected)
    return FetchedManifest(content, response.headers.get("Content-Type", "").partition(";")[0].strip(), digest)
