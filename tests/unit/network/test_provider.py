from __future__ import annotations

import pytest

from network.host import HostNetwork
from network.netthread import NetThread
from network.provider import Orphan, OrphanKind, Provider


@pytest.mark.parametrize(
    ("orphan", "said"),
    [
        (Orphan(OrphanKind.LINK, "crpabab", "ab" * 32), f"link crpabab of the unknown sandbox {'ab' * 32}"),
        (Orphan(OrphanKind.ELEMENT, "10.85.0.2", ""), "nft element 10.85.0.2 of the unknown sandbox (none named)"),
        (Orphan(OrphanKind.LEASE, "10.85.0.2", "x"), "lease 10.85.0.2 of the unknown sandbox x"),
    ],
)
def test_an_orphan_says_what_it_is(orphan: Orphan, said: str) -> None:
    assert orphan.describe() == said


def test_the_host_network_is_a_provider() -> None:
    thread = NetThread()
    try:
        provider: Provider = HostNetwork(thread)
        assert provider.name == "host"
    finally:
        thread.close()
