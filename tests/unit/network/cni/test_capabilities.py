"""What plugins are told of a pod."""

from __future__ import annotations

from typing import Any

import pytest

from network.bandwidth import EGRESS, INGRESS
from network.cni.capabilities import BURST, BY_ANNOTATION, POD_ANNOTATIONS, inject, plan_capabilities
from network.provider import AttachRequest, Dns, PortMapping
from runtime.errors import InvalidArgument


def pod(**changes: Any) -> AttachRequest:
    return AttachRequest(sandbox_id="ab", netns_fd=-1, netlink_fd=-1, **changes)


def test_a_plain_pod_has_nothing_to_tell() -> None:
    assert plan_capabilities(pod(), (), ()) == {}


def test_all_of_the_pods_wishes_become_arguments() -> None:
    annotations = {
        INGRESS: "1M",
        "cni.crisp/deviceID": "0000:03:00.1",
        "cni.crisp/infinibandGUID": "24:8a:07:03:00:8d:ae:2e",
    }
    ports = (PortMapping("tcp", 80, 8080, "127.0.0.1"), PortMapping("udp", 0, 53, ""))
    dns = Dns(("10.0.0.10",), ("svc",), ("ndots:5",))
    request = pod(annotations=annotations, port_mappings=ports, dns=dns)
    found = plan_capabilities(request, ("10.1.0.0/24", "fd01::/64"), BY_ANNOTATION)
    assert found["portMappings"] == [{"hostPort": 80, "containerPort": 8080, "protocol": "tcp", "hostIP": "127.0.0.1"}]
    assert found["bandwidth"]["ingressRate"] == 10**6
    assert found["dns"] == {"servers": ["10.0.0.10"], "searches": ["svc"], "options": ["ndots:5"]}
    assert found["ipRanges"] == [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd01::/64"}]]
    assert (found["deviceID"], found["infinibandGUID"]) == ("0000:03:00.1", "24:8a:07:03:00:8d:ae:2e")
    assert found[POD_ANNOTATIONS] == annotations


@pytest.mark.parametrize(
    ("annotations", "told"),
    [
        ({INGRESS: "1.5M", "other": "x"}, {"ingressRate": 1_500_000, "ingressBurst": BURST}),
        ({EGRESS: "2M"}, {"egressRate": 2 * 10**6, "egressBurst": BURST}),
        (
            {EGRESS: "1k", INGRESS: "1P"},
            {"ingressRate": 10**15, "ingressBurst": BURST, "egressRate": 1000, "egressBurst": BURST},
        ),
    ],
)
def test_each_rate_is_told_with_a_burst_for_its_direction_alone(
    annotations: dict[str, str], told: dict[str, int]
) -> None:
    assert plan_capabilities(pod(annotations=annotations), (), ())["bandwidth"] == told


def test_a_pods_own_ranges_win_over_the_nodes() -> None:
    text = '[[{"subnet": "10.9.0.0/24", "rangeStart": "10.9.0.7", "rangeEnd": "10.9.0.9", "gateway": "10.9.0.1"}]]'
    found = plan_capabilities(pod(annotations={"cni.crisp/ipRanges": text}), ("10.1.0.0/24",), ("ipRanges",))
    assert found["ipRanges"][0][0]["rangeStart"] == "10.9.0.7"


@pytest.mark.parametrize("capability", BY_ANNOTATION)
def test_an_annotation_gives_nothing_that_the_settings_do_not_name(capability: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"annotation cni.crisp/{capability}: is not allowed on this node"):
        plan_capabilities(pod(annotations={f"cni.crisp/{capability}": "x"}), (), ())


@pytest.mark.parametrize(
    ("capability", "text"),
    [
        ("deviceID", ""),
        ("deviceID", "../sda"),
        ("deviceID", "a b"),
        ("infinibandGUID", "24:8a"),
        ("ipRanges", "["),
        ("ipRanges", "[]"),
        ("ipRanges", "[[]]"),
        ("ipRanges", "[[1]]"),
        ("ipRanges", '[[{"gateway": "10.0.0.1"}]]'),
        ("ipRanges", '[[{"subnet": "10.0.0.1/8"}]]'),
        ("ipRanges", '[[{"subnet": 3}]]'),
        ("ipRanges", '[[{"subnet": "10.0.0.0/8", "routes": []}]]'),
    ],
)
def test_an_annotation_that_is_no_such_thing_is_refused(capability: str, text: str) -> None:
    with pytest.raises(InvalidArgument, match=f"is no {capability}"):
        plan_capabilities(pod(annotations={f"cni.crisp/{capability}": text}), (), BY_ANNOTATION)


def test_a_plugin_is_told_what_it_declares_and_no_more() -> None:
    assert inject({"dns", "aliases"}, {"dns": {"servers": ["x"]}, "bandwidth": {}}) == {"dns": {"servers": ["x"]}}
