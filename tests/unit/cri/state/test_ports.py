"""The table of host ports does what the reference in memory does."""

from __future__ import annotations

from cri.state.database import Database
from cri.state.ports import PortTable
from network.ports import HostPorts, MemoryPortStore
from network.provider import PortMapping

WEB, DNS = PortMapping("tcp", 8080, 80, ""), PortMapping("udp", 53, 5353, "192.0.2.1")


async def test_it_remembers_who_has_what_as_the_memory_does(database: Database) -> None:
    table, memory = PortTable(database), MemoryPortStore()
    for store in (table, memory):
        await store.add("a", [WEB, DNS])
        await store.add("a", [WEB])
        await store.add("b", [PortMapping("sctp", 1, 2, "")])
        await store.add("c", [])
        await store.remove("b")
        await store.remove("nobody")
    assert await table.all_claims() == {"a": (WEB, DNS)}
    assert {owner: held for owner, held in (await memory.all_claims()).items() if held} == {"a": (WEB, DNS)}


async def test_claims_outlive_the_daemon(database: Database) -> None:
    await HostPorts(PortTable(database)).claim("a", [WEB])
    later = HostPorts(PortTable(database))
    assert await later.claims() == {"a": (WEB,)}
    await later.release("a")
    assert await PortTable(database).all_claims() == {}
