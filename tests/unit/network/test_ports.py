from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from network.ports import (
    HostPorts,
    MemoryPortStore,
    describe,
    is_any,
    normalize,
    overlap,
    refuse_loopback,
    refuse_versions,
    versions_of,
)
from network.provider import PortMapping
from runtime.errors import FailedPrecondition

WEB = PortMapping("tcp", 8080, 80, "")


def _on(address: str, port: int = 8080, protocol: str = "tcp") -> PortMapping:
    return PortMapping(protocol, port, 80, address)


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (WEB, WEB, True),
        (WEB, _on("127.0.0.1"), True),
        (_on("0.0.0.0"), _on("192.0.2.1"), True),
        (_on("0.0.0.0"), _on("::"), False),
        (_on("::"), _on("2001:db8::1"), True),
        (_on("::"), WEB, True),
        (_on("2001:db8::1"), _on("2001:DB8:0::1"), True),
        (_on("192.0.2.1"), _on("192.0.2.2"), False),
        (WEB, _on("", 8081), False),
        (WEB, _on("", 8080, "udp"), False),
    ],
)
def test_two_mappings_overlap_where_a_packet_could_be_meant_for_both(
    one: PortMapping, other: PortMapping, both: bool
) -> None:
    assert overlap(one, other) == overlap(other, one) == both


@given(st.sampled_from(["", "0.0.0.0", "::", "192.0.2.1", "::1"]))
def test_every_mapping_overlaps_itself(address: str) -> None:
    assert overlap(_on(address), _on(address))


def test_an_address_says_for_what_a_mapping_is() -> None:
    assert [versions_of(_on(address)) for address in ("", "0.0.0.0", "::1")] == [(4, 6), (4,), (6,)]
    assert [is_any(_on(address)) for address in ("", "0.0.0.0", "::", "::1")] == [True, True, True, False]
    assert normalize(_on("0:0::1")) == _on("::1") and normalize(WEB) is WEB
    assert [describe(_on(address)) for address in ("", "192.0.2.1", "::1")] == [
        "tcp *:8080",
        "tcp 192.0.2.1:8080",
        "tcp [::1]:8080",
    ]


def test_what_one_has_another_does_not_get_until_it_is_released() -> None:
    async def cycle() -> None:
        ports = HostPorts(MemoryPortStore())
        assert await ports.claim("a", [WEB]) == (WEB,)
        assert await ports.claim("a", [WEB]) == (WEB,)
        for attempt in (ports.claim("b", [_on("::1")]), ports.reserve("b", [_on("::1")]).__aenter__()):
            with pytest.raises(FailedPrecondition, match=r"claim the host port: tcp \[::1\]:8080: sandbox a has it"):
                await attempt
        await ports.release("a")
        await ports.release("a")
        assert await ports.claim("b", [_on("::1")]) == (_on("::1"),)
        assert await ports.claims() == {"b": (_on("::1"),)}
        assert await ports.claim("c", []) == () and "c" not in await ports.claims()

    asyncio.run(cycle())


def test_a_reservation_ends_whether_or_not_it_becomes_a_claim() -> None:
    async def cycle() -> None:
        ports = HostPorts(MemoryPortStore())
        with pytest.raises(ZeroDivisionError):
            async with ports.reserve("a", [WEB]):
                with pytest.raises(FailedPrecondition, match="sandbox a has it"):
                    await ports.reserve("b", [WEB]).__aenter__()
                raise ZeroDivisionError
        async with ports.reserve("b", [WEB]):
            await ports.claim("b", [WEB])
        with pytest.raises(FailedPrecondition, match="sandbox b has it"):
            await ports.reserve("a", [WEB]).__aenter__()

    asyncio.run(cycle())


def test_of_two_that_look_at_once_both_see_the_same_claims() -> None:
    async def cycle() -> None:
        store = MemoryPortStore()
        await store.add("old", [WEB])
        ports = HostPorts(store)
        first, second = await asyncio.gather(ports.claims(), ports.claims())
        assert first is second and first == {"old": (WEB,)}

    asyncio.run(cycle())


def test_a_port_for_addresses_that_pods_have_none_of_is_refused() -> None:
    refuse_versions([WEB, _on("0.0.0.0")], {4})
    refuse_versions([WEB, _on("::1")], {6})
    with pytest.raises(FailedPrecondition, match=r"tcp \[::1\]:8080: pods have no IPv6 address"):
        refuse_versions([WEB, _on("::1")], {4})


def test_a_port_on_the_loopback_is_refused_where_the_loopback_leads_nowhere() -> None:
    refuse_loopback([WEB, _on("192.0.2.1")], allowed=False)
    refuse_loopback([WEB, _on("127.0.0.5")], allowed=True)
    with pytest.raises(FailedPrecondition, match="loopback_host_ports is off"):
        refuse_loopback([_on("127.0.0.5")], allowed=False)
    with pytest.raises(FailedPrecondition, match=r"tcp \[::1\]:8080: the kernel sends nothing from ::1"):
        refuse_loopback([_on("::1")], allowed=True)
