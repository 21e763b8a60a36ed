"""The built-in provider as the daemon uses it: what is there after what."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from network.errors import NetworkNotReady
from network.lease import MemoryLeaseStore
from network.provider import NetworkStatus, OrphanKind, PortMapping, Provider
from runtime.errors import FailedPrecondition, HostFault, InvalidArgument, ResourceExhausted
from tests.descriptors import open_descriptors
from tests.kernel.network.nodes import (
    DUAL,
    ONE,
    SETTINGS,
    TWO,
    Node,
    until,
)
from tests.kernel.network.talk import FAMILIES, ask, end, let_speak_at_once, listen, pick


def test_a_pod_gets_the_next_address_of_each_subnet_and_a_link_with_its_name(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        (_, first), (_, second) = await node.attach(ONE), await node.attach(TWO)
        assert first.addresses == ("10.91.0.2", "fd00:91::2") and second.addresses == ("10.91.0.3", "fd00:91::3")
        assert (first.gateway, first.interface, first.host_interface) == ("10.91.0.1", "eth0", "crp1a1a1a1a1a1a")

    run_node(test, DUAL)


def test_attaching_again_gives_the_same_address_and_detaching_again_is_no_fault(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        _, first = await node.attach(ONE)
        _, again = await node.attach(ONE)
        assert first == again and node.links() == 1
        await node.provider.detach(ONE)
        await node.provider.detach(ONE)
        await node.provider.detach(TWO, force=True)
        assert "10.91.0.2" not in node.elements()
        _, other = await node.attach(TWO)
        assert other.addresses == ("10.91.0.3",)

    run_node(test)


def test_a_link_goes_with_its_namespace_without_being_deleted(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        pod, _ = await node.attach(ONE)
        pod.close()
        await node.provider.detach(ONE)
        await until(lambda: node.links() == 0)

    run_node(test, replace(SETTINGS, linger=60))


def test_a_link_whose_namespace_somebody_holds_goes_soon_or_at_once_when_forced(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        held, _ = await node.attach(ONE)
        await node.attach(TWO)
        await node.provider.detach(TWO, force=True)
        assert node.links() == 1
        await node.provider.detach(ONE)
        assert node.links() == 1
        node.provider._settings = replace(SETTINGS, linger=0.01)
        await node.provider.detach(ONE)
        await until(lambda: node.links() == 0)
        assert "eth0" not in held.ip("link")

    run_node(test, replace(SETTINGS, linger=60))


def test_a_provider_that_closes_leaves_no_link_of_a_pod_that_has_just_gone(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        held, _ = await node.attach(ONE)
        await node.attach(TWO)
        await node.provider.detach(ONE)
        await node.provider.close()
        assert node.links() == 1 and "eth0" not in held.ip("link")

    run_node(test, replace(SETTINGS, linger=60))


def test_a_link_that_is_about_to_be_deleted_is_nobodys_orphan(run_node: Callable[..., None]) -> None:
    """Not even where its second ends while the links are looked at."""

    async def test(node: Node) -> None:
        held, _ = await node.attach(ONE)
        await node.provider.detach(ONE)
        thread: Any = node.provider._thread
        run = thread.run

        async def run_and_be_late(work: Any, *given: Any) -> Any:
            found = await run(work, *given)
            if work == node.provider._wiring.survey:
                assert found.links
                node.provider._departures.pop(ONE).cancel()
                node.provider._end_departure(ONE)
            return found

        thread.run = run_and_be_late
        assert await node.provider.orphans([]) == ()
        await until(lambda: node.links() == 0)
        assert "eth0" not in held.ip("link")

    run_node(test, replace(SETTINGS, linger=60))


def test_a_pod_attached_again_in_time_keeps_its_link(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        pod, _ = await node.attach(ONE)
        await node.provider.detach(ONE)
        assert list(node.provider._departures) == [ONE]
        await node.attach(ONE, node.make_netns())
        assert not node.provider._departures
        assert node.links() == 1 and "eth0" not in pod.ip("link")

    run_node(test, replace(SETTINGS, linger=60))


def test_a_hundred_pods_come_and_go_without_a_trace(run_node: Callable[..., None]) -> None:
    """Sixteen at a time; what was there before is there after, and nothing else."""

    async def test(node: Node) -> None:
        await node.provider.prepare()
        before = node.names(), node.elements(), len(open_descriptors())
        limit = asyncio.Semaphore(16)

        async def cycle(number: int) -> str:
            async with limit:
                sandbox_id = f"{number:064x}"[::-1]
                pod, attachment = await node.attach(sandbox_id)
                pod.close()
                await node.provider.detach(sandbox_id)
                return attachment.addresses[0]

        addresses = await asyncio.gather(*(cycle(number) for number in range(100)))
        assert len(set(addresses)) == 100
        await until(lambda: node.links() == 0)
        assert (node.names(), node.elements(), len(open_descriptors())) == before
        assert await node.provider.orphans([]) == ()

    run_node(test)


def test_a_planted_failure_is_undone_by_detach_and_the_retry_succeeds(
    run_node: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(node: Node) -> None:
        def fail(*_: object) -> None:
            raise HostFault(step="configure the pod's interface", call="RTM_NEWADDR", errno=errno.ENOBUFS)

        pod = node.make_netns()
        with monkeypatch.context() as planted:
            planted.setattr("network.device.configure_pod", fail)
            with pytest.raises(HostFault, match="RTM_NEWADDR"):
                await node.attach(ONE, pod)
        assert node.links() == 1
        await node.provider.detach(ONE, force=True)
        assert node.links() == 0 and await node.provider.orphans([]) == ()
        _, attachment = await node.attach(ONE, pod)
        assert attachment.addresses == ("10.91.0.3",)

    run_node(test)


def test_cancelled_attaches_are_undone_by_detach(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        await node.provider.prepare()
        for rounds in range(12):
            attach = asyncio.gather(node.attach(ONE))
            for _ in range(rounds):
                await asyncio.sleep(0)
            attach.cancel()
            with suppress(asyncio.CancelledError):
                await attach
            await node.provider.detach(ONE, force=True)
            assert await node.provider.orphans([]) == ()

    run_node(test, replace(SETTINGS, linger=60))


def test_what_belongs_to_nobody_is_found_and_removed(run_node: Callable[..., None]) -> None:
    store = MemoryLeaseStore()

    async def test(node: Node) -> None:
        _, kept = await node.attach(ONE)
        _, lost = await node.attach(TWO, None, PortMapping("udp", 53, 5353, "192.0.2.1"))
        assert await node.provider.orphans([ONE, TWO]) == ()
        found = await node.provider.orphans([ONE])
        assert {(orphan.kind, orphan.name, orphan.owner) for orphan in found} == {
            (OrphanKind.LINK, lost.host_interface, TWO),
            *((OrphanKind.ELEMENT, f"{name} {lost.host_interface}", TWO) for name in ("links", "senders")),
            *(
                (OrphanKind.ELEMENT, f"{name} {lost.host_interface} {address}", TWO)
                for name in ("sources_v6", "advertised")
                for address in ("fd00:91::3", "fe80::858:aff:fe5b:3")
            ),
            (OrphanKind.ELEMENT, f"sources_v4 {lost.host_interface} 10.91.0.3", TWO),
            (OrphanKind.ELEMENT, "10.91.0.3", TWO),
            (OrphanKind.ELEMENT, "fd00:91::3", TWO),
            (OrphanKind.ELEMENT, "udp 192.0.2.1:53", TWO),
            (OrphanKind.ELEMENT, "udp to 10.91.0.3:5353", TWO),
            (OrphanKind.HOST_PORT, "udp 192.0.2.1:53", TWO),
            (OrphanKind.LEASE, "10.91.0.3", TWO),
            (OrphanKind.LEASE, "fd00:91::3", TWO),
        }
        for _ in range(2):
            for orphan in found:
                await node.provider.remove_orphan(orphan)
        assert await node.provider.orphans([ONE]) == ()
        assert node.links() == 1 and kept.addresses[0] in node.elements()

    run_node(test, DUAL, store)


def test_somebody_removes_the_bridge_and_flushes_all_tables_and_pods_get_both_back(
    run_node: Callable[..., None],
) -> None:
    async def test(node: Node) -> None:
        one, _ = await node.attach(ONE)
        node.host.ip("link", "delete", "crt0")
        assert node.host.run("nft", "flush", "ruleset").returncode == 0
        await node.attach(TWO)
        assert "10.91.0.2" in node.elements() and "10.91.0.3" in node.elements()
        node.host.ip("link", "delete", "crt0")
        assert await node.provider.status() == NetworkStatus(True)
        server = listen(node.host)
        try:
            assert ask(one, "10.91.0.1", server) == "10.91.0.2"
        finally:
            end(server)

    run_node(test)


@FAMILIES
def test_new_subnets_are_for_new_pods_and_the_old_ones_keep_working(run_node: Callable[..., None], family: int) -> None:
    async def test(node: Node) -> None:
        let_speak_at_once(node.host)
        one, first = await node.attach(ONE)
        await node.provider.set_subnets(["fd00:92::/64", "10.92.0.0/24"])
        two, second = await node.attach(TWO)
        assert first.addresses == ("10.91.0.2", "fd00:91::2")
        assert (second.addresses, second.gateway) == (("fd00:92::2", "10.92.0.2"), "fd00:92::1")
        here, there = pick(first.addresses, family), pick(second.addresses, family)
        server = listen(two, family=family)
        try:
            assert ask(one, there, server) == here
        finally:
            end(server)
        await node.provider.detach(ONE)
        assert here not in node.elements() and there in node.elements()

    run_node(test, DUAL)


def test_pods_of_ipv6_alone_have_no_ipv4_and_leave_the_hosts_ipv4_as_it_is(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        node.host.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=0")
        pod, attachment = await node.attach(ONE)
        assert (attachment.addresses, attachment.gateway) == (("fd00:91::2",), "fd00:91::1")
        assert "inet " not in pod.ip("address", "show", "dev", "eth0")
        assert node.host.run("cat", "/proc/sys/net/ipv4/ip_forward").stdout == "0\n"
        assert [change.name for change in node.provider.sysctl_changes] == ["net.ipv6.conf.all.forwarding"]

    run_node(test, replace(SETTINGS, subnets=("fd00:91::/64",)))


def test_without_a_subnet_the_network_is_not_ready_until_one_comes(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        await node.provider.prepare()
        status = await node.provider.status()
        assert (status.ready, status.reason) == (False, "NoPodSubnet")
        with pytest.raises(NetworkNotReady, match="no pod subnet yet"):
            await node.attach(ONE)
        await node.provider.set_subnets(["10.91.0.0/24"])
        assert (await node.provider.status()).ready
        assert (await node.attach(ONE))[1].addresses == ("10.91.0.2",)
        await node.provider.set_subnets([])
        assert not (await node.provider.status()).ready

    run_node(test, replace(SETTINGS, subnets=()))


def test_a_subnet_that_is_wrong_or_taken_leaves_the_old_one_in_use(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        node.host.ip("link", "add", "br9", "type", "bridge")
        node.host.ip("address", "add", "10.99.0.1/16", "dev", "br9")
        node.host.ip("link", "set", "br9", "up")
        node.host.ip("route", "add", "10.98.0.0/16", "via", "10.99.0.9")
        with pytest.raises(InvalidArgument):
            await node.provider.set_subnets(["10.91.0.1/24"])
        with pytest.raises(FailedPrecondition, match=r"10\.98\.7\.0/24: overlaps with the route 10\.98\.0\.0/16 via"):
            await node.provider.set_subnets(["10.98.7.0/24"])
        with pytest.raises(FailedPrecondition, match=r"10\.99\.7\.0/24: overlaps with the address 10\.99\.0\.1/16"):
            await node.provider.set_subnets(["10.99.7.0/24"])
        assert (await node.attach(ONE))[1].addresses == ("10.91.0.2",)

    run_node(test)


def test_a_subnet_that_overlaps_that_of_pods_comes_once_they_are_gone(run_node: Callable[..., None]) -> None:
    store = MemoryLeaseStore()

    async def before(node: Node) -> None:
        await node.attach(ONE)
        with pytest.raises(NetworkNotReady, match=r"10\.91\.0\.0/16: overlaps with 10\.91\.0\.0/24"):
            await node.provider.set_subnets(["10.91.0.0/16"])
        assert (await node.attach(TWO))[1].addresses == ("10.91.0.3",)

    async def after(node: Node) -> None:
        status = await node.provider.status()
        assert not status.ready and "usable when they are gone" in status.message
        for sandbox_id in (ONE, TWO):
            await node.provider.detach(sandbox_id)
        assert await node.provider.status() == NetworkStatus(True)
        assert (await node.attach(ONE))[1].addresses == ("10.91.0.2",)

    run_node(before, store=store)
    run_node(after, replace(SETTINGS, subnets=("10.91.0.0/16",)), store)


def test_a_pool_that_is_used_up_is_named(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        await node.attach(ONE)
        with pytest.raises(ResourceExhausted, match=r"pool 10\.91\.0\.0/30"):
            await node.attach(TWO)

    run_node(test, replace(SETTINGS, subnets=("10.91.0.0/30",)))


def test_with_one_pool_used_up_nothing_is_held_of_the_other(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        for sandbox_id in (ONE, TWO):
            await node.attach(sandbox_id)
        three = "3c" * 32
        with pytest.raises(ResourceExhausted, match="pool fd00:91::/126: no free address: of 2 pods have 2"):
            await node.attach(three)
        await node.provider.detach(three)
        assert await node.provider.orphans([ONE, TWO]) == ()

    run_node(test, replace(SETTINGS, subnets=("10.91.0.0/24", "fd00:91::/126")))


def test_a_host_without_nft_is_not_ready_and_says_what_to_install(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        with pytest.raises(HostFault):
            await node.provider.prepare()
        status = await node.provider.status()
        assert (status.ready, status.reason) == (False, "NetworkNotPrepared")
        assert "install the package nftables" in status.message

    run_node(test, replace(SETTINGS, nft_path="/nonexistent"))


def test_another_instances_bridge_is_refused(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        await node.provider.prepare()

        async def second(other: Node) -> None:
            with pytest.raises(FailedPrecondition, match=r"crt0: belongs to .* the root /var/lib/test"):
                await other.provider.prepare()

        await asyncio.to_thread(run_node, second, replace(SETTINGS, instance="deadbeef", root="/srv/other"))

    run_node(test)


def test_teardown_is_for_when_no_pod_is_left(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        provider: Provider = node.provider
        await node.attach(ONE)
        with pytest.raises(FailedPrecondition, match="crt0: 1 pods still have addresses"):
            await provider.teardown()
        await provider.detach(ONE, force=True)
        for _ in range(2):
            await provider.teardown()
        assert "crt0" not in node.host.ip("link") and node.host.run("nft", "list", "tables").stdout == ""
        await node.attach(TWO)

    run_node(test)


def test_a_restart_finds_pods_addresses_and_bridge_as_they_were(run_node: Callable[..., None]) -> None:
    store = MemoryLeaseStore()
    kept: list[Any] = []

    async def before(node: Node) -> None:
        kept.append((await node.attach(ONE))[0])

    async def after(node: Node) -> None:
        index = node.host.ip("-o", "link", "show", "crt0").split(":")[0]
        await node.provider.prepare()
        assert node.host.ip("-o", "link", "show", "crt0").split(":")[0] == index
        _, attachment = await node.attach(TWO)
        assert attachment.addresses == ("10.91.0.3",)
        server = listen(node.host)
        try:
            assert ask(kept[0], "10.91.0.1", server) == "10.91.0.2"
        finally:
            end(server)

    run_node(before, store=store)
    run_node(after, store=store)


def test_the_path_of_a_pod_is_told_and_what_somebody_has_taken_from_it(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        async def missing(*fds: int) -> dict[str, str]:
            hops = await node.provider.explain(ONE, fds)
            return {f"{hop.part} {hop.name}": hop.missing for hop in hops if hop.missing}

        pod, _ = await node.attach(ONE, None, PortMapping("tcp", 8080, 80, ""))
        await node.attach(TWO)
        with pod.route_socket() as inside:
            fd = inside.fileno()
            assert await missing(fd) == {}
            hops = await node.provider.explain(ONE, (fd,))
            assert {hop.name for hop in hops if hop.part == "address"} == {"10.91.0.2/24", "fd00:91::2/64"}
            port = "element of inet crisp_0badcafe, leads to 10.91.0.2:80"
            assert [hop.found for hop in hops if hop.name == "any_ports_v4 tcp *:8080"] == [port]
            delete = ("nft", "delete", "element", "inet", "crisp_0badcafe", "pods_v4", "{ 10.91.0.2 }")
            assert node.host.run(*delete).returncode == 0
            assert await missing(fd) == {"masquerade pods_v4 10.91.0.2": "no such element in inet crisp_0badcafe"}
            pod.ip("address", "delete", "10.91.0.2/24", "dev", "eth0")
            node.host.ip("link", "set", "crp1a1a1a1a1a1a", "type", "bridge_slave", "hairpin", "off")
            assert node.host.run("nft", "delete", "table", "bridge", "crisp_0badcafe").returncode == 0
            told = await missing(fd)
            assert told["address 10.91.0.2/24"] == "not on eth0"
            assert told["bridge port crp1a1a1a1a1a1a on crt0"].startswith("hairpin is off")
            assert told["anti-spoofing links crp1a1a1a1a1a1a"] == "no such element in bridge crisp_0badcafe"
            node.host.ip("link", "delete", "crp1a1a1a1a1a1a")
            told = await missing(fd)
            assert told["interface eth0"] == told["host's end crp1a1a1a1a1a1a"] == "there is no such interface"
        assert (await missing())["interface lo"] == "the pod's network namespace is gone"
        await node.provider.detach(ONE)
        assert "address " in await missing()

    run_node(test, DUAL)
