"""Whether packets of pods get through the tables of others, told in words and, where it is wanted, settled.

``network.foreign`` finds what is in the way and has the rules, ``network.wiring`` says when to look. What
cannot be found out or made is told, and keeps no pod from starting.

Invariant: blocking, of the thread and the namespace of the table that it is given; raises nothing but
bugs, ``remove`` apart.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection

from network.nft import Table
from runtime.errors import HostFault

NOTES_SECONDS = 30.0
"""Other programs' rules are many, and kubelet asks every few seconds."""

_LOG = logging.getLogger("crisp.network")


class ForwardRules:
    """Of pods on ``bridge``. ``wanted``: whether chains in their way get rules for them."""

    def __init__(self, bridge: str, *, wanted: bool) -> None:
        self._bridge = bridge
        self._wanted = wanted
        self._notes: tuple[float, tuple[str, ...]] = (-math.inf, ())

    def settle(self, table: Table, versions: Collection[int]) -> None:
        """Let pods of these IP versions through, or take that back. What refuses them is told by ``notes``."""
        others = table.others(self._bridge)
        try:
            if not self._wanted:
                others.remove_entries()
            elif obstacles := others.obstacles(versions):
                names = ", ".join(str(each.entry) for each in obstacles)
                table.run(others.plan_entries(obstacles), "let pods through", names)
                _LOG.info("rules that let %s through were added to %s", self._bridge, names)
        except HostFault as fault:
            _LOG.warning("%s", fault)
        self._notes = (-math.inf, ())

    def notes(self, table: Table, versions: Collection[int]) -> tuple[str, ...]:
        """What keeps pods from the outside, in words; not looked for anew in NOTES_SECONDS."""
        seen, said = self._notes
        if time.monotonic() - seen < NOTES_SECONDS:
            return said
        try:
            obstacles = table.others(self._bridge).obstacles(versions)
            if obstacles and self._wanted:  # who has made his rules anew has lost ours
                self.settle(table, versions)
                obstacles = table.others(self._bridge).obstacles(versions)
            said = tuple(obstacle.describe(self._bridge) for obstacle in obstacles)
        except HostFault as fault:  # of no consequence to pods
            said = (str(fault),)
        self._notes = (time.monotonic(), said)
        return said

    def remove(self, table: Table) -> None:
        """Remove our rules from tables of others. Raises HostFault."""
        table.others(self._bridge).remove_entries()
