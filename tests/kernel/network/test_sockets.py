"""A socket is made inside another network namespace, and its thread comes back."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from network.device import find_link
from network.netlink import NetlinkSocket
from network.sockets import Sockets, Stranded
from runtime.errors import FailedPrecondition
from runtime.linux import namespaces
from runtime.linux.libc import SyscallError
from tests.kernel.network.conftest import Netns


def path_of(netns: Netns) -> str:
    return f"/proc/self/fd/{netns.fd}"


async def test_a_socket_reaches_what_listens_inside_and_there_only(make_netns: Callable[[], Netns]) -> None:
    inside = make_netns()
    inside.ip("link", "set", "lo", "up")
    silent = socket.socket()  # the same port outside, on which nobody listens
    silent.bind(("127.0.0.1", 0))
    server = inside.open_socket()
    server.bind(silent.getsockname())
    server.listen()
    made = Sockets()
    loop = asyncio.get_running_loop()
    try:
        sock = await made.open(socket.AF_INET, path_of(inside))
        await loop.sock_connect(sock, server.getsockname())
        sock.close()
        outside = await made.open(socket.AF_INET, None)
        with pytest.raises(ConnectionRefusedError):
            await loop.sock_connect(outside, server.getsockname())
        outside.close()
        thread = await loop.run_in_executor(made._executor, os.readlink, "/proc/thread-self/ns/net")
        assert thread == os.readlink("/proc/self/ns/net")
    finally:
        made.close()
        server.close()
        silent.close()


async def test_a_socket_of_another_kind_is_of_the_namespace_as_well(make_netns: Callable[[], Netns]) -> None:
    inside, made = make_netns(), Sockets()
    inside.ip("link", "add", "only0", "type", "bridge")
    opened = await made.open(socket.AF_NETLINK, path_of(inside), socket.SOCK_RAW, socket.NETLINK_ROUTE)
    with NetlinkSocket.adopt(opened.detach()) as route:
        assert find_link(route, "only0") is not None
    made.close()


async def test_a_hundred_are_made_at_once(make_netns: Callable[[], Netns]) -> None:
    inside, made = make_netns(), Sockets()
    opened = await asyncio.gather(*(made.open(socket.AF_INET, path_of(inside)) for _ in range(100)))
    assert not any(sock.getblocking() or sock.get_inheritable() for sock in opened)
    for sock in opened:
        sock.close()
    made.close()


async def test_a_namespace_that_has_gone_or_is_none_is_refused(tmp_path: Path) -> None:
    made = Sockets()
    with pytest.raises(FailedPrecondition, match="has gone"):
        await made.open(socket.AF_INET, str(tmp_path / "absent"))
    (tmp_path / "file").touch()
    with pytest.raises(SyscallError, match="setns"):
        await made.open(socket.AF_INET, str(tmp_path / "file"))
    made.close()
    made.close()


async def test_one_that_nobody_waits_for_any_more_is_closed(make_netns: Callable[[], Netns]) -> None:
    inside, made = make_netns(), Sockets()
    waiting = asyncio.gather(made.open(socket.AF_INET, path_of(inside)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    made.close()  # and the fixture counts descriptors


async def test_a_thread_that_cannot_go_back_makes_no_more_sockets(
    make_netns: Callable[[], Netns], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, made, really = make_netns(), Sockets(), namespaces.setns
    calls = iter([True, False])

    def strand(fd: int, kind: int) -> None:
        if not next(calls, True):
            raise SyscallError("setns", 1)
        really(fd, kind)

    monkeypatch.setattr("network.sockets.namespaces.setns", strand)
    with pytest.raises(Stranded, match="cannot go back"):
        await made.open(socket.AF_INET, path_of(inside))
    assert made._executor is None
    (await made.open(socket.AF_INET, path_of(inside))).close()
    made.close()
