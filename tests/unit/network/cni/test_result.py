"""Results of ADD in each version, and those that are none."""

from __future__ import annotations

from typing import Any

import pytest

from network.cni.result import MAX_ENTRIES, Result, ResultError, parse
from network.cni.versions import SUPPORTED

WHOLE: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "interfaces": [
        {"name": "veth0", "mac": "00:00:00:00:00:01", "mtu": 1450},
        {"name": "eth0", "sandbox": "/ns", "pciID": "0000:00:01.0", "socketPath": "/s"},
        {"name": "net1", "sandbox": "/ns"},
    ],
    "ips": [
        {"address": "10.1.0.9/24", "interface": 2},
        {"address": "10.1.0.2/24", "gateway": "10.1.0.1", "interface": 1},
        {"address": "fd00::2/64", "interface": 1},
        {"address": "192.0.2.1/32", "interface": 0},
    ],
    "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1400, "priority": 7}, {"dst": "10.1.0.7/24"}],
    "dns": {"nameservers": ["10.1.0.1"], "domain": "x", "search": ["x"], "options": ["ndots:5"]},
}


def test_a_result_in_the_newest_version_is_kept_as_it_is() -> None:
    assert parse(WHOLE, "1.1.0").to_document() == WHOLE


@pytest.mark.parametrize("version", SUPPORTED)
def test_a_result_survives_being_written_and_read_in_each_version(version: str) -> None:
    written = parse(WHOLE, "1.1.0").to_document(version)
    assert written["cniVersion"] == version
    assert parse(written, "1.1.0").to_document(version) == written
    assert [ip["address"] for ip in written["ips"]] == [ip["address"] for ip in WHOLE["ips"]]


def test_what_a_version_does_not_know_is_left_out_and_what_it_needs_is_added() -> None:
    result = parse(WHOLE, "1.1.0")
    old, middle = result.to_document("0.4.0"), result.to_document("1.0.0")
    assert [ip["version"] for ip in old["ips"]] == ["4", "4", "6", "4"]
    assert "version" not in middle["ips"][0]
    for written in (old, middle):
        assert written["interfaces"][0] == {"name": "veth0", "mac": "00:00:00:00:00:01"}
        assert written["routes"][0] == {"dst": "0.0.0.0/0", "gw": "10.1.0.1"}


def test_the_pods_addresses_are_those_of_its_first_interface_then_the_others() -> None:
    result = parse(WHOLE, "1.1.0")
    assert result.addresses("eth0") == ("10.1.0.2", "fd00::2", "10.1.0.9")
    assert (result.gateway(), result.host_interface()) == ("10.1.0.1", "veth0")
    assert (Result().addresses("eth0"), Result().gateway(), Result().host_interface()) == ((), "", "")


@pytest.mark.parametrize("at", [None, -1])
def test_an_address_without_interface_is_the_pods(at: int | None) -> None:
    assert parse({"ips": [{"address": "10.0.0.2/8", "interface": at}]}, "1.0.0").addresses("eth0") == ("10.0.0.2",)


def test_a_result_without_version_has_that_of_the_network() -> None:
    assert parse({"ips": [{"version": "4", "address": "10.0.0.2/8"}]}, "0.3.1").ips == ({"address": "10.0.0.2/8"},)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "is no JSON object"),
        ({"cniVersion": "0.2.0"}, "has the unknown cniVersion '0.2.0'"),
        ({"cniVersion": 3}, "has the unknown cniVersion '3'"),
        ({"ips": {}, "interfaces": "x"}, "has interfaces that are no list of objects"),
        ({"ips": ["10.0.0.1"]}, "has ips that are no list of objects"),
        ({"ips": [{}] * (MAX_ENTRIES + 1)}, "has 1025 ips, more than 1024"),
        ({"ips": [{}]}, r"has no address in ips\[0\]\.address: 'None'"),
        ({"ips": [{"address": "10.0.0.1/33"}]}, "has no address in"),
        ({"ips": [{"address": "10.0.0.1/8", "gateway": "x"}]}, r"ips\[0\]\.gateway"),
        ({"ips": [{"address": "10.0.0.1/8", "interface": 0}]}, "is not among its interfaces"),
        ({"ips": [{"address": "10.0.0.1/8", "interface": True}]}, "is not among its interfaces"),
        ({"interfaces": [{"mac": "x"}]}, r"has no name in interfaces\[0\]"),
        ({"interfaces": [{"name": 3}]}, "has a name of the wrong type"),
        ({"interfaces": [{"name": "x", "mtu": "9"}]}, "has a mtu of the wrong type"),
        ({"routes": [{"dst": "nowhere"}]}, r"routes\[0\]\.dst"),
        ({"routes": [{"dst": "10.0.0.0/8", "gw": "nobody"}]}, r"routes\[0\]\.gw"),
        ({"dns": []}, None),
        ({"dns": [1]}, "has dns that is no object"),
        ({"dns": {"search": [1]}}, "has dns.search that is no text"),
        ({"dns": {"domain": 1}}, "has dns.domain that is no text"),
    ],
)
def test_what_is_no_result_says_why(document: Any, words: str | None) -> None:
    if words is None:
        assert parse(document, "1.0.0") == Result(dns={})
        return
    with pytest.raises(ResultError, match=words):
        parse(document, "1.0.0")
