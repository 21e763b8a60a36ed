"""The record of the routes that are ours."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from cri.state.database import Database
from cri.state.meta import Meta
from cri.state.routes import RouteRecord
from network.routes import RouteStore, StaticRoute


async def test_routes_outlive_the_daemon(database: Database) -> None:
    routes = (
        StaticRoute(ip_network("10.86.0.0/24"), ip_address("192.0.2.2")),
        StaticRoute(ip_network("fd00:86::/64"), ip_address("2001:db8::2")),
    )
    record: RouteStore = RouteRecord(await Meta.open(database))
    assert await record.load() == ()
    await record.save(routes)
    again = RouteRecord(await Meta.open(database))
    assert await again.load() == routes
    await again.save(())
    assert await RouteRecord(await Meta.open(database)).load() == ()
