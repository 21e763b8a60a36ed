"""Values of single settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cri import settings_values as values

GOOD: list[tuple[Callable[[Any], None], Any]] = [
    (values.check_listen, "unix:///run/x.sock"),
    (values.check_directory, "/var/lib/crisp"),
    (values.check_address, ""),
    (values.check_address, "127.0.0.1:0"),
    (values.check_address, "[::1]:9790"),
    (values.check_address, "localhost:65535"),
    (values.check_level, "warning"),
    (values.check_driver, "systemd"),
    (values.check_provider, "auto"),
    (values.check_capabilities, ("deviceID", "ipRanges")),
    (values.check_bridge, "crisp0"),
    (values.check_bridge, "a" * 15),
    (values.check_subnets, ()),
    (values.check_subnets, ("10.85.0.0/16", "fd00::/64")),
    (values.check_switch, False),
    (values.check_verdict, "deny"),
    (values.check_ports, ("tcp/443", "udp/65535", "sctp/1")),
    (values.check_route, "10.86.0.0/24"),
    (values.check_route, "fd00:86::/64"),
    (values.check_via, "192.0.2.2"),
    (values.check_via, "2001:db8::2"),
    (values.check_pool, 0),
    (values.check_pool, 256),
    (values.check_streaming, "127.0.0.1:0"),
    (values.check_file, ""),
    (values.check_file, "/etc/crisp/tls.crt"),
    (values.check_duration, "168h"),
    (values.check_duration, "90s"),
]

BAD: list[tuple[Callable[[Any], None], Any, str]] = [
    (values.check_streaming, "", "must be host:port"),
    (values.check_streaming, ":1", "must name the host"),
    (values.check_file, "tls.crt", 'did you mean "/tls.crt"'),
    (values.check_duration, "30", 'did you mean "30s"'),
    (values.check_duration, "4 hours", "s, m or h"),
    (values.check_duration, "0s", "s, m or h"),
    (values.check_duration, "169h", "at most 168h"),
    (values.check_listen, "/run/x.sock", 'did you mean "unix:///run/x.sock"'),
    (values.check_listen, "tcp://0.0.0.0:1", "must be unix://"),
    (values.check_listen, "unix://run/x", "must be unix://"),
    (values.check_listen, "unix:///" + "x" * 107, "longer than the 107"),
    (values.check_directory, "", "must be an absolute path"),
    (values.check_directory, "var", 'did you mean "/var"'),
    (values.check_directory, "/", "below /"),
    (values.check_directory, "/a/../b", "without"),
    (values.check_directory, "/a\nb", "printable"),
    (values.check_address, "9790", "must be host:port"),
    (values.check_address, ":9790", "127.0.0.1:9790"),
    (values.check_address, "host:99999", "must be host:port"),
    (values.check_address, "host:٣", "must be host:port"),
    (values.check_address, "::1:80", "[::1]:80"),
    (values.check_level, "WARNING", "did you mean 'warning'"),
    (values.check_level, "xyzzy", "must be one of"),
    (values.check_driver, "", "must be one of"),
    (values.check_provider, "CNI", "did you mean 'cni'"),
    (values.check_capabilities, ("ips",), "must be one of"),
    (values.check_bridge, "a" * 16, "at most 15"),
    (values.check_bridge, "a/b", "interface name"),
    (values.check_bridge, "..", "interface name"),
    (values.check_subnets, ("10.85.0.1/16",), 'did you mean "10.85.0.0/16"'),
    (values.check_verdict, "denied", "did you mean 'deny'"),
    (values.check_ports, ("443",), 'did you mean "tcp/443"'),
    (values.check_ports, ("tcp/443", "tcp/0"), "no port like"),
    (values.check_ports, ("udp/65536",), "no port like"),
    (values.check_ports, ("icmp/8",), "no port like"),
    (values.check_subnets, ("cluster",), "no network in CIDR form"),
    (values.check_subnets, ("10.0.0.0/31",), "leaves no address"),
    (values.check_subnets, ("10.0.0.0/16", "10.1.0.0/16"), "a pod has one IPv4 address"),
    (values.check_subnets, ("fd00::/64", "10.1.0.0/16", "fd01::/64"), "a pod has one IPv6 address"),
    (values.check_subnets, ("fd00::/127",), "leaves no address"),
    (values.check_route, "10.86.0.1/24", 'did you mean "10.86.0.0/24"'),
    (values.check_route, "cluster", "no network in CIDR form"),
    (values.check_route, "10.86.0.1", "have a subnet"),
    (values.check_route, "10.86.0.0/31", "have a subnet"),
    (values.check_route, "0.0.0.0/0", "the default route"),
    (values.check_route, "fe80::/64", "no pods can have"),
    (values.check_route, "224.0.0.0/8", "no pods can have"),
    (values.check_route, "127.1.0.0/16", "no pods can have"),
    (values.check_via, "node-b", "no IP address"),
    (values.check_via, "192.0.2.2/24", 'did you mean "192.0.2.2"'),
    (values.check_via, "fe80::2", "of one link alone"),
    (values.check_via, "::1", "no other node's"),
    (values.check_via, "0.0.0.0", "no other node's"),
    (values.check_via, "ff02::1", "no other node's"),
    (values.check_pool, 257, "between 0 and 256"),
]


@pytest.mark.parametrize(("check", "value"), GOOD)
def test_a_good_value_passes(check: Callable[[Any], None], value: Any) -> None:
    check(value)


@pytest.mark.parametrize(("check", "value", "words"), BAD)
def test_a_bad_value_is_refused_with_a_reason(check: Callable[[Any], None], value: Any, words: str) -> None:
    with pytest.raises(ValueError) as raised:
        check(value)
    assert words in str(raised.value)


def test_durations_are_counted_in_seconds() -> None:
    assert [values.seconds_of(each) for each in ("5s", "2m", "4h")] == [5, 120, 14400]


def test_places_that_do_not_go_together_are_named() -> None:
    assert values.check_places("unix:///s/crisp.sock", "/r", "/s") == ("", "")
    assert values.check_places("unix:///s/crisp.sock", "/s/", "/s")[0] == "state"
    assert values.check_places("unix:///s//admin.sock", "/r", "/s/") == (
        "listen",
        "listen is the socket of the crisp command, /s//admin.sock; choose another name",
    )
    name, words = values.check_places("unix:///s/crisp.sock", "/r", "/" + "s" * 96)
    assert name == "state" and "107 bytes" in words
    assert values.check_places("unix:///s/crisp.sock", "/r", "/" + "s" * 95) == ("", "")


ROUTES = [("10.86.0.0/24", "192.0.2.2"), ("fd00:86::/64", "2001:db8::2")]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("10.86.0.0/24", "192.0.2.3"), "overlaps with the route to 10.86.0.0/24"),
        (("10.86.0.0/16", "192.0.2.3"), "overlaps with the route to 10.86.0.0/24"),
        (("10.85.3.0/24", "192.0.2.3"), "overlaps with the pod subnet 10.85.0.0/16; set subnets, or to []"),
        (("10.87.0.0/24", "2001:db8::2"), "have to be of one IP version"),
        (("10.87.0.0/24", "10.87.0.1"), "which lies in it"),
        (("10.87.0.0/24", ""), "an entry without via"),
        (("", "192.0.2.2"), "an entry without to"),
    ],
)
def test_routes_that_do_not_go_together_are_named(more: tuple[str, str], words: str) -> None:
    number, wrong = values.check_routes([*ROUTES, more], ("10.85.0.0/16", "fd00:85::/64"))
    assert number == 2 and words in wrong


def test_routes_to_nodes_that_have_subnets_of_their_own_are_good() -> None:
    assert values.check_routes(ROUTES, ("10.85.0.0/16", "fd00:85::/64")) == (0, "")
