"""Where bad requests are sent to, and the look for what they have made.

``conftest`` has the fixture. ``expect`` sends one request to a place; ``made`` is everything of
crisp that a request could have changed, on the host and in the records.

Invariant: looking changes nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import text_format
from google.protobuf.message import Message

from proto import api_pb2 as api
from tests.security.attacks import Attacked, Code, refused


@dataclass
class Place:
    """Where the requests are sent to: a daemon with a pod and its containers."""

    crisp: Attacked
    pod: str
    running: str
    created: str
    stopped_pod: str

    def made(self) -> object:
        """All that a request could have made."""
        host = self.crisp.host
        roots = [hierarchy.mount for hierarchy in host.layout.v1] or [str(host.layout.v2)]
        cgroups = [sorted(os.walk(f"{root}/crisp-{host.instance}")) for root in roots]
        records = sorted(record.id for record in (*host.store.sandboxes, *host.store.containers))
        images = sorted(record.id for record in host.images.all())
        folders = [sorted(os.listdir(place)) for place in (host.state / "pods", host.root / "containers")]
        layers = sorted(name for name in os.listdir(host.root / "layers") if name != ".trash")
        return [cgroups, records, images, folders, layers, sorted(os.listdir(host.root)), sorted(socket.if_nameindex())]

    def pod_with(self, text: str) -> api.PodSandboxConfig:
        """A new pod's configuration, into which ``text`` (protobuf's text format) is merged; a part of the
        metadata that is empty in it is left out, which would be merged as nothing."""
        config = self.crisp.pod()
        for field in ("name", "namespace", "uid"):
            if f"{field}: ''" in text:
                config.metadata.ClearField(field)
        config.MergeFrom(text_format.Parse(text, api.PodSandboxConfig()))
        return config

    def container_with(self, text: str) -> api.ContainerConfig:
        """As ``pod_with``, for a container."""
        config = self.crisp.attacker("sleep", "1")
        if "name: ''" in text:
            config.metadata.ClearField("name")
        config.MergeFrom(text_format.Parse(text, api.ContainerConfig()))
        return config


async def expect(
    place: Place, code: grpc.StatusCode, words: str, method: Callable[[Any], Any], request: Message
) -> None:
    """``request`` gets exactly ``code``, and a message with ``words``; nothing was made."""
    before = place.made()
    if code is Code.OK:
        await method(request)
    else:
        await refused(method(request), code, words)
    assert place.made() == before
