"""What is on a pod's path, looked at in real namespaces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from network.device import open_route_socket
from network.path_view import read_inside, read_ports
from runtime.errors import HostFault


def test_the_inside_is_read_through_a_socket_that_stays_open(make_netns: Callable[[], Any]) -> None:
    pod = make_netns()
    pod.ip("address", "add", "10.9.8.7/24", "dev", "lo")
    with pod.route_socket() as inside:
        for _ in range(2):
            found = read_inside((inside.fileno(),))
            assert found is not None
            assert [str(each.interface) for each in found.addresses] == ["10.9.8.7/24"]
    assert read_inside(()) is None
    with pod.open_socket() as wrong, pytest.raises((HostFault, OSError)):
        read_inside((wrong.fileno(),))


def test_ports_know_their_bridge_and_the_other_end(host: Any, make_netns: Callable[[], Any]) -> None:
    pod = make_netns()
    host.ip("link", "add", "crt0", "type", "bridge")
    host.ip("link", "add", "v0", "master", "crt0", "type", "veth", "peer", "name", "v1")
    host.ip("link", "set", "v0", "type", "bridge_slave", "hairpin", "on")

    def look() -> Any:
        with open_route_socket() as route:
            return read_ports(route)

    ((index, port),) = host.do(look).items()
    assert host.ip("-o", "link", "show", "v0").startswith(f"{index}: v0@")
    assert host.ip("-o", "link", "show", "v1").startswith(f"{port.peer}: v1@")
    assert port.index == index and port.describe() == "disabled, hairpin on"
    assert pod.do(look) == {}
