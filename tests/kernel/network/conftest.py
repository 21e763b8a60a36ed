"""Network namespaces of the tests' own: one plays the host, others play pods and routers.

A thread that has entered a namespace sees its links and its /proc/sys/net; the
process itself stays where it is.
"""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from runtime.linux import namespaces
from tests.descriptors import open_descriptors
from tests.kernel.network.nodes import run_on

T = TypeVar("T")


class Netns:
    """A network namespace that lives as long as ``fd``."""

    def __init__(self) -> None:
        self.fd = -1

        def make() -> None:
            namespaces.unshare(namespaces.CLONE_NEWNET)
            self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

        _in_thread(make)

    def enter(self) -> None:
        """Move the calling thread."""
        namespaces.setns(self.fd, namespaces.CLONE_NEWNET)

    def do(self, job: Callable[[], T]) -> T:
        """What ``job`` returns inside."""

        def inside() -> T:
            self.enter()
            return job()

        return _in_thread(inside)

    def ip(self, *arguments: str) -> str:
        """``ip ARGUMENTS`` inside: its output."""
        done = self.do(lambda: subprocess.run(["ip", *arguments], capture_output=True, text=True))
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return self.do(lambda: subprocess.run(command, capture_output=True, text=True))

    def open_socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> socket.socket:
        return self.do(lambda: socket.socket(family, kind | socket.SOCK_CLOEXEC))

    def route_socket(self) -> socket.socket:
        """What a monitor hands over: a NETLINK_ROUTE socket opened inside."""
        return self.open_socket(socket.AF_NETLINK, socket.SOCK_RAW)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _in_thread(job: Callable[[], T]) -> T:
    results: list[T] = []
    failures: list[BaseException] = []

    def catching() -> None:
        try:
            results.append(job())
        except BaseException as error:  # noqa: BLE001 - it is raised again in the caller's thread
            failures.append(error)

    thread = threading.Thread(target=catching)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


@pytest.fixture(autouse=True)
def no_descriptor_leaks() -> Iterator[None]:
    before = open_descriptors()
    yield
    end = time.monotonic() + 30
    while left := open_descriptors() - before:  # a thread that answers somebody closes its own a moment later
        assert time.monotonic() < end, left
        time.sleep(0.01)


@pytest.fixture
def make_netns(no_descriptor_leaks: None) -> Iterator[Callable[[], Netns]]:
    """Makes namespaces that end with the test."""
    made: list[Netns] = []

    def make() -> Netns:
        made.append(Netns())
        return made[-1]

    yield make
    for netns in made:
        netns.close()


@pytest.fixture
def host(make_netns: Callable[[], Netns]) -> Netns:
    """The namespace that plays the host, its loopback up."""
    netns = make_netns()
    netns.ip("link", "set", "lo", "up")
    return netns


@pytest.fixture
def run_node(host: Netns, make_netns: Callable[[], Netns]) -> Callable[..., None]:
    """Runs a test's coroutine against a node of the built-in provider (``nodes.run_on``)."""
    return functools.partial(run_on, host, make_netns)
