"""Sockets in network namespaces that talk to each other, and links between such namespaces."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from typing import Any

import pytest

FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
KINDS = pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
SECONDS = 30


def listen(netns: Any, kind: int = socket.SOCK_STREAM, family: int = socket.AF_INET) -> socket.socket:
    """A socket in ``netns`` that answers each peer with the address it sees, until it is closed."""
    server: socket.socket = netns.open_socket(family, kind)
    server.bind(("", 0))
    server.settimeout(SECONDS)

    def answer_stream() -> None:
        server.listen()
        while True:
            try:
                peer, where = server.accept()
            except OSError:
                return
            with peer:
                peer.sendall(str(where[0]).encode())

    def answer_datagram() -> None:
        while True:
            try:
                data, where = server.recvfrom(64)
            except OSError:
                return
            if not data:
                return
            with suppress(OSError):  # no way back to an address that was not masqueraded
                server.sendto(where[0].encode(), where)

    if kind == socket.SOCK_STREAM:
        server.listen()
    threading.Thread(target=answer_stream if kind == socket.SOCK_STREAM else answer_datagram, daemon=True).start()
    return server


def ask(netns: Any, address: str, server: socket.socket, kind: int = socket.SOCK_STREAM, port: int = 0) -> str:
    """Which address ``server`` sees when ``netns`` talks to it at ``address``, its own port or ``port``."""
    with netns.open_socket(server.family, kind) as client:
        client.settimeout(SECONDS)
        client.connect((address, port or server.getsockname()[1]))
        if kind == socket.SOCK_DGRAM:
            client.send(b"?")
        return str(client.recv(64).decode())


def end(server: socket.socket) -> None:
    with suppress(OSError):  # ENOTCONN: a datagram socket; its reader wakes all the same
        server.shutdown(socket.SHUT_RDWR)
    server.close()


def pick(addresses: tuple[str, ...], family: int) -> str:
    (found,) = (address for address in addresses if (":" in address) == (family == socket.AF_INET6))
    return found


def connect(here: Any, name: str, address: str, there: Any, other: str, far: str) -> None:
    fd = f"/proc/{os.getpid()}/fd/{there.fd}"
    here.ip("link", "add", name, "type", "veth", "peer", "name", other, "netns", fd)
    for netns, link, text in ((here, name, address), (there, other, far)):
        let_speak_at_once(netns, link)
        netns.ip("address", "add", text, "dev", link)
        netns.ip("link", "set", link, "up")


def let_speak_at_once(netns: Any, link: str = "default") -> None:
    """``link`` stands for one that has been there for long: for two seconds a new one looks for others that
    have its own address (RFC 4862), and sends nothing by it."""
    assert netns.run("sysctl", "-q", "-w", f"net.ipv6.conf.{link}.accept_dad=0").returncode == 0
