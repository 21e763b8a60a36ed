"""Facts about the daemon that outlive it."""

from __future__ import annotations

from cri.state.database import Database
from cri.state.meta import BOOT_ID, POD_CIDR, Meta


async def test_a_value_outlives_the_daemon(database: Database) -> None:
    meta = await Meta.open(database)
    assert meta.get(POD_CIDR) == ""
    await meta.set(POD_CIDR, "10.85.0.0/16")
    await meta.set(POD_CIDR, "10.86.0.0/16")
    await meta.set(BOOT_ID, "b")
    assert meta.get(POD_CIDR) == "10.86.0.0/16"
    again = await Meta.open(database)
    assert (again.get(POD_CIDR), again.get(BOOT_ID)) == ("10.86.0.0/16", "b")
