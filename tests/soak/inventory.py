"""Everything that a daemon has on its host and in its records, counted by kind.

``tests.failpoints.truth`` looks for what belongs to nobody; here nothing is believed about whom
something belongs to: after as many pods went as came, there is as much of everything as before.

Invariant: looking changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator

from network.names import table_name
from tests import ruleset
from tests.failpoints.serving import Daemon
from tests.failpoints.truth import cgroups_of, links_of, monitors_of, mounts_below

SETTLING = 60.0
"""Seconds for the kernel to end namespaces, for the pool to be filled again, and for what a daemon tries again
after 1, 2, 4, 8 and 16 seconds."""

DESCRIPTOR, FEW = "descriptor of the daemon", 6

Inventory = dict[str, list[str]]


def take_inventory(daemon: Daemon) -> Inventory:
    assert daemon.process is not None
    return {
        "link": sorted(links_of(daemon)),
        "mount": sorted(mounts_below(daemon.folder)),
        "cgroup": sorted(cgroups_of(daemon)),
        "monitor": sorted(f"{pid} of {id}" for pid, id in monitors_of(daemon).items()),
        "pod directory": os.listdir(daemon.state / "pods"),
        "container directory": os.listdir(daemon.root / "containers"),
        "CNI attachment": os.listdir(daemon.root / "cni") if (daemon.root / "cni").exists() else [],
        DESCRIPTOR: sorted(list_descriptors(daemon.process.pid)),
        **{kind: sorted(lines) for kind, lines in list_nft(daemon).items()},
        **{kind: sorted(lines) for kind, lines in list_records(daemon)},
    }


def list_nft(daemon: Daemon) -> Inventory:
    found: Inventory = {"rule": [], "set element": []}
    for line in ruleset.list_rules():
        if table_name(daemon.instance) in line:
            found["set element" if " element " in line else "rule"].append(line)
    return found


def list_records(daemon: Daemon) -> Iterator[tuple[str, list[str]]]:
    queries = {
        "lease": "SELECT address, owner FROM leases WHERE released_at IS NULL",
        "host port": "SELECT protocol, host_port, owner FROM host_ports",
        "operation": "SELECT key FROM operations",
        "sandbox": "SELECT id FROM sandboxes",
        "container": "SELECT id FROM containers",
        "record in quarantine": "SELECT kind, id FROM quarantine",
    }
    with contextlib.closing(sqlite3.connect(f"file:{daemon.root}/state.db?mode=ro", uri=True)) as connection:
        for kind, query in queries.items():
            yield kind, [" ".join(map(str, row)) for row in connection.execute(query)]


def list_descriptors(pid: int) -> Iterator[str]:
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            yield os.readlink(f"/proc/{pid}/fd/{name}").partition(":[")[0]


def differences(before: Inventory, now: Inventory) -> list[str]:
    """A line for each kind of which there is not as much as before. A daemon that was started again has
    a few descriptors more or less."""
    lines = []
    for kind, things in now.items():
        change = abs(len(things) - len(before[kind]))
        if change > (FEW if kind == DESCRIPTOR else 0):
            new = ", ".join(sorted(set(things) - set(before[kind]))[:8])
            lines.append(f"{kind}: {len(before[kind])} before, now {len(things)}: {new}")
    return lines


def wait_for_the_same(daemon: Daemon, before: Inventory) -> None:
    """Within ``SETTLING``. Raises AssertionError with what there is more or less of."""
    until = time.monotonic() + SETTLING
    while lines := differences(before, take_inventory(daemon)):
        assert time.monotonic() < until, "not as before:\n  " + "\n  ".join(lines)
        time.sleep(0.05)
