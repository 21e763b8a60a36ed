"""What the bridge is made of, and what is left when a step of it fails."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from typing import Any

import pytest

from network.bandwidth import Bandwidth
from network.bridge_path import plan_expected, plan_path
from network.device import read_host
from network.elements import Pod, plan_elements
from network.holdings import Survey
from network.lease import Lease
from network.provider import PortMapping
from network.subnet import Pool
from network.sysctls import SysctlChange
from network.wiring import Prepared, Wiring
from runtime.errors import FailedPrecondition, HostFault, InvalidArgument
from tests.rates import LACKING

INSTANCE, OTHER = "0badcafe", "deadbeef"
POOL = Pool(IPv4Network("10.91.0.0/24"))
SANDBOX = "5a" * 32
ELEMENTS = plan_elements(Pod(SANDBOX, ("10.91.0.2",)))


class Daemon:
    """A Wiring in its own thread, which is in the host's namespace."""

    def __init__(self, host: Any, instance: str = INSTANCE, bridge: str = "crt0", **changes: Any) -> None:
        self.wiring = Wiring(instance, f"/var/lib/{instance}", bridge, **changes)
        self._executor = ThreadPoolExecutor(1, initializer=host.enter)

    def call(self, name: str, *arguments: Any) -> Any:
        return self._executor.submit(getattr(self.wiring, name), *arguments).result()

    def prepare(self, pool: Pool = POOL, *older: Pool, pods: tuple[Pod, ...] = ()) -> Prepared:
        prepared: Prepared = self.call("prepare", (pool,), older, pods)
        return prepared

    def close(self) -> None:
        self.call("close")
        self._executor.shutdown()


@pytest.fixture
def daemon(host: Any) -> Iterator[Daemon]:
    made = Daemon(host)
    yield made
    made.close()


@pytest.fixture
def other(host: Any) -> Iterator[Daemon]:
    made = Daemon(host, OTHER, "crt1")
    yield made
    made.close()


def _wire(daemon: Daemon, prepared: Prepared, pod: Any, sandbox: str = SANDBOX, address: str = "10.91.0.2") -> Any:
    with pod.route_socket() as inside:
        return daemon.call("wire", prepared, Pod(sandbox, (address,)), (pod.fd, inside.fileno()))


def test_a_prepared_host_forwards_and_says_what_it_changed(host: Any, daemon: Daemon) -> None:
    host.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=0")
    prepared = daemon.prepare()
    assert daemon.prepare() == prepared
    assert (prepared.pools, prepared.mtu) == ((POOL,), 1500)
    assert daemon.wiring.changes == (SysctlChange("net.ipv4.ip_forward", "0", "1"),)
    assert host.run("cat", "/proc/sys/net/ipv4/ip_forward").stdout == "1\n"
    assert daemon.call("problem", prepared) == ""


def test_the_uplinks_mtu_reaches_bridge_and_pod(host: Any, daemon: Daemon, make_netns: Any) -> None:
    host.ip("link", "add", "up0", "mtu", "1420", "type", "veth", "peer", "name", "up1")
    host.ip("address", "add", "172.20.0.5/24", "dev", "up0")
    host.ip("link", "set", "up1", "up")
    host.ip("link", "set", "up0", "up")
    host.ip("route", "add", "default", "via", "172.20.0.1")
    pod = make_netns()
    attachment = _wire(daemon, daemon.prepare(), pod)
    assert attachment.mtu == 1420
    assert "mtu 1420" in pod.ip("link", "show", "eth0") and "mtu 1420" in host.ip("link", "show", "crt0")


def test_a_wired_pod_is_in_the_survey_with_its_sandbox_id(daemon: Daemon, make_netns: Any) -> None:
    attachment = _wire(daemon, daemon.prepare(), make_netns())
    survey = daemon.call("survey")
    assert {owner: link.name for owner, link in survey.links} == {SANDBOX: attachment.host_interface}
    assert {element.identity for element in survey.elements} == {element.identity for element in ELEMENTS}
    assert {element.owner for element in survey.elements} == {SANDBOX}
    daemon.call("drop_orphan_element", "10.91.0.2", "6b" * 32)
    assert daemon.call("survey").elements == survey.elements
    for element in ELEMENTS:
        daemon.call("drop_orphan_element", element.describe(), SANDBOX)
    assert daemon.call("survey").elements == ()
    daemon.call("unwire", Pod(SANDBOX, ("10.91.0.2",)))
    daemon.call("drop_orphan_link", attachment.host_interface, "6b" * 32)
    assert [owner for owner, _ in daemon.call("survey").links] == [SANDBOX]
    daemon.call("drop_orphan_link", attachment.host_interface, SANDBOX)
    daemon.call("drop_orphan_link", attachment.host_interface, SANDBOX)
    assert daemon.call("survey") == Survey((), ())


@pytest.mark.skipif(bool(LACKING), reason=LACKING)
def test_a_limited_pod_has_a_second_link_until_it_is_unlimited(daemon: Daemon, make_netns: Any) -> None:
    _wire(daemon, daemon.prepare(), make_netns())
    daemon.call("limit", SANDBOX, Bandwidth(1000, 1000))
    found = daemon.call("survey").links
    assert [(owner, link.kind) for owner, link in found] == [(SANDBOX, "veth"), (SANDBOX, "ifb")]
    for _ in range(2):
        daemon.call("unlimit", SANDBOX)
        assert [link.kind for _, link in daemon.call("survey").links] == ["veth"]


def test_prepare_gives_running_pods_their_elements_and_older_gateways(host: Any, daemon: Daemon) -> None:
    older = Pool(IPv4Network("10.92.0.0/24"))
    daemon.prepare(POOL, older, pods=(Pod(SANDBOX, ("10.92.0.9",)),))
    assert {element.describe() for element in daemon.call("survey").elements} == {
        "10.92.0.9",
        "links crp5a5a5a5a5a5a",
        "senders crp5a5a5a5a5a5a",
        "sources_v4 crp5a5a5a5a5a5a 10.92.0.9",
    }
    shown = host.ip("address", "show", "dev", "crt0")
    assert "10.91.0.1/24" in shown and "10.92.0.1/24" in shown


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (("ip", "link", "delete", "crt0"), "the bridge crt0 was removed"),
        (("ip", "link", "set", "crt0", "down"), "the bridge crt0 is down"),
        (("nft", "flush", "ruleset"), f"the nftables table crisp_{INSTANCE} was removed"),
        (("nft", "delete", "table", "bridge", f"crisp_{INSTANCE}"), f"the nftables table crisp_{INSTANCE} was removed"),
        (("ip", "address", "flush", "dev", "crt0"), "the address 10.91.0.1/24 was taken from the bridge crt0"),
        (("sysctl", "-q", "-w", "net.ipv4.ip_forward=0"), "the sysctl net.ipv4.ip_forward is no longer 1"),
        (
            ("sysctl", "-q", "-w", "net.ipv4.conf.crt0.route_localnet=0"),
            "the sysctl net.ipv4.conf.crt0.route_localnet is no longer 1",
        ),
    ],
)
def test_damage_is_named_and_prepare_repairs_it(host: Any, daemon: Daemon, damage: tuple[str, ...], said: str) -> None:
    prepared = daemon.prepare()
    assert host.run(*damage).returncode == 0
    assert daemon.call("problem", prepared) == said
    assert daemon.call("problem", daemon.prepare()) == ""


def test_flows_are_led_to_pods_anew_only_where_the_table_was_gone(
    host: Any, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod, led = Pod(SANDBOX, ("10.91.0.2",), (PortMapping("udp", 8080, 80, ""),)), []
    monkeypatch.setattr("network.udp_flows.UdpFlows.port_came", lambda _, pod, route: led.append(pod))
    daemon.prepare()
    daemon.prepare(pods=(pod,))
    assert led == []
    assert host.run("nft", "flush", "ruleset").returncode == 0
    daemon.prepare(pods=(pod,))
    assert led == [pod]


def test_another_instances_bridge_is_refused_with_its_root(host: Any, daemon: Daemon) -> None:
    daemon.prepare()
    foreign = Daemon(host, OTHER, "crt0")
    try:
        with pytest.raises(
            FailedPrecondition, match=f"crt0: belongs to the crisp instance with the root /var/lib/{INSTANCE}"
        ):
            foreign.prepare(Pool(IPv4Network("10.99.0.0/24")))
        assert not foreign.call("survey").elements
    finally:
        foreign.close()
    assert f"crisp_{OTHER}" not in host.run("nft", "list", "tables").stdout


def test_another_instances_subnet_is_refused_with_its_root(daemon: Daemon, other: Daemon, host: Any) -> None:
    daemon.prepare()
    with pytest.raises(FailedPrecondition, match=f"subnet 10.91.0.128/25: overlaps.*crt0.*root /var/lib/{INSTANCE}"):
        other.prepare(Pool(IPv4Network("10.91.0.128/25")))
    assert "crt1" not in host.ip("link")
    other.prepare(Pool(IPv4Network("10.92.0.0/24")))


def test_a_strangers_interface_of_the_bridges_name_is_refused(host: Any, daemon: Daemon) -> None:
    host.ip("link", "add", "crt0", "type", "bridge")
    with pytest.raises(FailedPrecondition, match="crisp did not make it"):
        daemon.prepare()


def test_a_subnet_that_a_host_route_covers_is_refused_with_the_route(host: Any, daemon: Daemon) -> None:
    host.ip("link", "add", "up0", "type", "veth", "peer", "name", "up1")
    host.ip("address", "add", "172.20.0.5/24", "dev", "up0")
    host.ip("link", "set", "up1", "up")
    host.ip("link", "set", "up0", "up")
    host.ip("route", "add", "10.91.0.64/26", "via", "172.20.0.1")
    with pytest.raises(FailedPrecondition, match=r"overlaps with the route 10\.91\.0\.64/26 via 172\.20\.0\.1 of up0"):
        daemon.prepare()


def test_two_instances_that_start_at_once_never_both_get_the_subnet(
    host: Any, daemon: Daemon, other: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one makes its bridge between our look and our bridge."""
    looks: list[int] = []

    def look(route: Any) -> Any:
        seen = read_host(route)
        looks.append(1)
        if len(looks) == 1:
            other.prepare()
        return seen

    monkeypatch.setattr("network.device.read_host", look)
    with pytest.raises(FailedPrecondition, match=f"root /var/lib/{OTHER}"):
        daemon.prepare()
    assert "crt0" not in host.ip("link") and "crt1" in host.ip("link")


def test_without_nft_nothing_is_made(host: Any) -> None:
    daemon = Daemon(host, nft_path="/nonexistent")
    try:
        with pytest.raises(HostFault, match="no nft command"):
            daemon.prepare()
    finally:
        daemon.close()
    assert "crt0" not in host.ip("link")


WALL = "table inet wall { chain passing { type filter hook forward priority 10; policy drop; }; }"


@pytest.fixture
def opening(host: Any) -> Iterator[Daemon]:
    made = Daemon(host, forward_rule=True)
    yield made
    made.close()


def test_rules_in_tables_of_others_are_there_after_prepare_until_teardown(
    host: Any, opening: Daemon, daemon: Daemon
) -> None:
    assert host.run("nft", WALL).returncode == 0
    daemon.prepare()
    assert "inet wall passing" in daemon.call("notes")[0]
    opening.prepare()
    assert opening.call("notes") == ()
    assert 'comment "crisp 0badcafe"' in host.run("nft", "list", "table", "inet", "wall").stdout
    opening.call("teardown")
    assert "crisp 0badcafe" not in host.run("nft", "list", "table", "inet", "wall").stdout


def test_a_look_at_a_pods_path_finds_what_is_there_and_no_more(host: Any, daemon: Daemon, make_netns: Any) -> None:
    pod = make_netns()
    _wire(daemon, daemon.prepare(), pod)
    lease = Lease("10.91.0.0/24", "10.91.0.2", SANDBOX)
    expected = plan_expected(SANDBOX, (lease,), (), (INSTANCE, "crt0"), (), loopback=True)
    with pod.route_socket() as inside:
        seen = daemon.call("look", expected, (inside.fileno(),))
    assert seen.inside.link_named("eth0") is not None and seen.host.link_named("crt0") is not None
    assert set(seen.elements) == {element.identity for element in ELEMENTS}
    assert seen.sysctls == {"ipv4/ip_forward": "1", "ipv4/conf/crt0/route_localnet": "1"}
    assert not any(hop.missing for hop in plan_path(expected, seen))
    assert host.run("nft", "flush", "ruleset").returncode == 0
    assert (daemon.call("look", expected, ()).elements, daemon.call("look", expected, ()).inside) == ({}, None)


def test_a_failed_wiring_names_the_call(daemon: Daemon, make_netns: Any) -> None:
    prepared, pod = daemon.prepare(), make_netns()
    with pod.route_socket() as inside, pytest.raises(HostFault) as caught:
        daemon.call("wire", prepared, Pod(SANDBOX, ("10.91.0.2",)), (4711, inside.fileno()))
    assert (caught.value.step, caught.value.call) == ("create the veth pair", "RTM_NEWLINK")
    assert caught.value.errno == errno.EBADF


def test_a_lingering_link_is_deleted_and_a_failure_of_that_is_logged(
    daemon: Daemon, make_netns: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    _wire(daemon, daemon.prepare(), make_netns())
    daemon.call("drop_lingering_link", SANDBOX)
    assert "something keeps its namespace" in caplog.text
    assert not daemon.call("drop_link", SANDBOX)

    def refuse(*_: object) -> bool:
        raise HostFault(call="RTM_DELLINK", errno=errno.EPERM)

    monkeypatch.setattr("network.device.delete_pod_link", refuse)
    daemon.call("drop_lingering_link", SANDBOX)
    assert "stays: RTM_DELLINK" in caplog.text


def test_teardown_removes_bridge_and_table_and_may_be_repeated(host: Any, daemon: Daemon) -> None:
    daemon.prepare()
    for _ in range(2):
        daemon.call("teardown")
    assert "crt0" not in host.ip("link")
    assert host.run("nft", "list", "tables").stdout == ""


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        Wiring(INSTANCE, "/root", "a bridge too far")
