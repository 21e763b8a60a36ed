"""Token buckets on real links: what is there afterwards, and what is refused."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from ipaddress import IPv4Network
from typing import Any

import pytest

from network import device, rtnetlink, shaping, traffic_control
from network.bandwidth import Bandwidth, Bucket
from network.device import PodEnd
from network.names import Alias
from network.netlink import NetlinkSocket, text
from network.shaping_path import plan_limits
from network.subnet import Pool
from runtime.errors import FailedPrecondition, HostFault
from tests.rates import LACKING

pytestmark = pytest.mark.skipif(bool(LACKING), reason=LACKING)

POOL = Pool(IPv4Network("10.91.0.0/24"))
SANDBOX = "5a" * 32
POD, LINK, IFB = Alias("0badcafe", SANDBOX), "crp5a5a5a5a5a5a", "cre5a5a5a5a5a5a"
BOTH = Bandwidth(10_000_000, 20_000_000)


@pytest.fixture
def route(host: Any) -> Iterator[NetlinkSocket]:
    sock: NetlinkSocket = host.do(device.open_route_socket)
    with sock:
        yield sock


@pytest.fixture
def wired(host: Any, route: NetlinkSocket, make_netns: Any) -> NetlinkSocket:
    """A host whose pod has its link."""
    host.ip("link", "add", "crt0", "type", "bridge")
    end = PodEnd((POOL.interface("10.91.0.2"),), (POOL.gateway,), 1400)
    bridge = device.find_link(route, "crt0")
    assert bridge is not None
    device.create_pair(route, POD, make_netns().fd, bridge.index, end)
    return route


def _limit(host: Any, route: NetlinkSocket, bandwidth: Bandwidth) -> None:
    host.do(lambda: shaping.limit(route, POD, bandwidth))


def _disciplines(host: Any) -> dict[tuple[str, str], dict[str, Any]]:
    """Link and kind of each that somebody has made, and its options."""
    listed = json.loads(host.run("tc", "-j", "qdisc", "show").stdout)
    return {(each["dev"], each["kind"]): each["options"] for each in listed if each["kind"] in ("tbf", "ingress")}


def _redirected(host: Any) -> list[str]:
    """Where what comes from the pod goes."""
    filters = json.loads(host.run("tc", "-j", "filter", "show", "dev", LINK, "ingress").stdout)
    actions = [action for each in filters for action in each.get("options", {}).get("actions", ())]
    return [action["to_dev"] for action in actions]


def test_each_direction_has_a_bucket_of_its_rate(host: Any, wired: NetlinkSocket) -> None:
    _limit(host, wired, BOTH)
    found = _disciplines(host)
    assert set(found) == {(LINK, "tbf"), (LINK, "ingress"), (IFB, "tbf")}
    assert (found[LINK, "tbf"]["rate"], found[LINK, "tbf"]["burst"]) == (1_250_000, 62_500)
    assert (found[IFB, "tbf"]["rate"], found[IFB, "tbf"]["burst"]) == (2_500_000, 125_000)
    assert _redirected(host) == [IFB]
    ifb = device.find_link(wired, IFB)
    assert ifb is not None and (ifb.kind, ifb.alias, ifb.group, ifb.up) == ("ifb", str(POD), POD.group, True)
    assert json.loads(host.ip("-j", "address", "show", "dev", IFB))[0]["addr_info"] == []


def test_what_is_there_is_seen_and_what_is_not(host: Any, wired: NetlinkSocket) -> None:
    def told() -> dict[str, str]:
        return {
            hop.part: hop.missing for hop in plan_limits(SANDBOX, high, shaping.look(wired, SANDBOX)) if hop.missing
        }

    high = Bandwidth(10_000_000, 10**15)  # of the second the kernel has more than 32 bits
    absent = {"bandwidth", "egress link", "redirection"}
    assert set(told()) == absent
    _limit(host, wired, high)
    assert told() == {}
    host.run("tc", "qdisc", "replace", "dev", LINK, "root", "tbf", "rate", "8kbit", "burst", "4k", "limit", "8k")
    assert told() == {"bandwidth": "its rate is 8000 bit/s"}
    host.run("tc", "qdisc", "delete", "dev", LINK, "root")
    assert told() == {"bandwidth": f"no token bucket on {LINK}"}
    host.ip("link", "delete", IFB)
    assert told()["redirection"] == "it leads to a link that is gone: what the pod sends is dropped"
    host.run("tc", "qdisc", "delete", "dev", LINK, "ingress")
    assert told()["redirection"] == "there is none: what the pod sends is not limited"
    host.ip("link", "delete", LINK)
    assert set(told()) == absent


@pytest.mark.parametrize(
    ("bandwidth", "made"),
    [
        (Bandwidth(ingress=1000), {(LINK, "tbf")}),
        (Bandwidth(egress=1000), {(LINK, "ingress"), (IFB, "tbf")}),
        (Bandwidth(), set()),
    ],
)
def test_a_direction_without_a_rate_is_left_alone(
    host: Any, wired: NetlinkSocket, bandwidth: Bandwidth, made: set[tuple[str, str]]
) -> None:
    _limit(host, wired, bandwidth)
    assert set(_disciplines(host)) == made
    assert (device.find_link(wired, IFB) is not None) == bool(bandwidth.egress)


def test_the_highest_rate_is_taken_as_it_is(host: Any, wired: NetlinkSocket) -> None:
    _limit(host, wired, Bandwidth(10**15, 10**15))
    assert {each["rate"] for each in _disciplines(host).values() if each} == {125 * 10**12}


def test_limits_that_are_given_again_replace_those_of_before(host: Any, wired: NetlinkSocket) -> None:
    _limit(host, wired, BOTH)
    _limit(host, wired, Bandwidth(8000, 16000))
    assert {key: each.get("rate") for key, each in _disciplines(host).items()} == {
        (LINK, "tbf"): 1000,
        (LINK, "ingress"): None,
        (IFB, "tbf"): 2000,
    }
    assert _redirected(host) == [IFB]


def test_only_the_ifb_link_outlives_the_pods_and_is_removed_once(host: Any, wired: NetlinkSocket) -> None:
    _limit(host, wired, BOTH)
    assert device.delete_pod_link(wired, POD)
    assert set(_disciplines(host)) == {(IFB, "tbf")}
    assert not shaping.unlimit(wired, Alias("deadbeef", SANDBOX))
    assert shaping.unlimit(wired, POD)
    assert not shaping.unlimit(wired, POD)
    assert device.find_link(wired, IFB) is None


def test_an_ifb_link_that_a_kill_left_without_alias_is_replaced(host: Any, wired: NetlinkSocket) -> None:
    wired.transact([traffic_control.new_ifb(IFB, group=POD.group)], step="plant")
    _limit(host, wired, BOTH)
    ifb = device.find_link(wired, IFB)
    assert ifb is not None and ifb.alias == str(POD) and _redirected(host) == [IFB]


def test_an_interface_of_that_name_with_another_owner_is_refused_and_stays(host: Any, wired: NetlinkSocket) -> None:
    host.ip("link", "add", IFB, "type", "bridge")
    with pytest.raises(FailedPrecondition, match=f"{IFB}: the interface exists and is not this pod's"):
        _limit(host, wired, BOTH)
    assert not shaping.unlimit(wired, POD)
    ifb = device.find_link(wired, IFB)
    assert ifb is not None and ifb.kind == "bridge" and not _redirected(host)


def test_a_pod_without_its_link_cannot_be_limited(host: Any, route: NetlinkSocket) -> None:
    with pytest.raises(HostFault, match=f"limit the pod's bandwidth: {LINK}: RTM_GETLINK: is not there") as caught:
        _limit(host, route, BOTH)
    assert caught.value.errno == errno.ENODEV
    host.ip("link", "add", LINK, "type", "bridge")
    with pytest.raises(HostFault, match="is not there"):
        _limit(host, route, BOTH)


@pytest.mark.parametrize(
    ("kind", "module"),
    [
        ("ifb", "ifb"),
        ("tbf", "sch_tbf"),
        ("ingress", "sch_ingress"),
        ("u32", "cls_u32 or act_mirred"),
        ("mirred", "cls_u32 or act_mirred"),
    ],
)
def test_a_kernel_without_one_of_the_modules_is_told_by_its_name(
    host: Any, wired: NetlinkSocket, monkeypatch: pytest.MonkeyPatch, kind: str, module: str
) -> None:
    """The kernel is asked for a kind that it really does not know."""

    def misspelt(number: int, value: str) -> bytes:
        return text(number, "crispnone" if value == kind else value)

    monkeypatch.setattr(traffic_control, "text", misspelt)
    with pytest.raises(FailedPrecondition, match=f"limit the pod's bandwidth: cr.*: this kernel has no {module}, a"):
        _limit(host, wired, BOTH)
    assert not _redirected(host)
    shaping.unlimit(wired, POD)
    assert IFB not in host.ip("link")


def test_any_other_refusal_is_the_kernels_own(host: Any, wired: NetlinkSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shaping, "plan_bucket", lambda *_: Bucket(rate=1, burst=0, queue=1))
    with pytest.raises(HostFault, match=f"{LINK}: RTM_NEWQDISC: .*EINVAL"):
        _limit(host, wired, BOTH)


def test_a_bridge_that_was_made_again_takes_pods_links_and_no_others(host: Any, wired: NetlinkSocket) -> None:
    _limit(host, wired, BOTH)
    host.ip("link", "delete", "crt0")
    host.ip("link", "add", "crt0", "type", "bridge")
    bridge = device.find_link(wired, "crt0")
    assert bridge is not None
    device.restore_ports(wired, device.read_host(wired), Alias("0badcafe", "/var/lib/test"), bridge.index)
    masters = {
        link.name: link.master for link in map(rtnetlink.parse_link, wired.dump(rtnetlink.dump_links(), step=""))
    }
    assert (masters[LINK], masters[IFB]) == (bridge.index, 0)
