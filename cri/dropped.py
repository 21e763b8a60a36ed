"""How many entries of containers' logs the disk has refused: counted by monitors, told here.

``runtime.crilog`` drops and counts, ``runtime.output`` tells the total now and then, ``cri.exits``
passes it on. The verbose ContainerStatus shows it by container, ``cri.metrics`` the sum.

Invariant: a total never goes down, and what was counted before this daemon came is in no metric.
"""

from __future__ import annotations

import logging

from cri.metrics import Metrics

LOG = logging.getLogger("crisp.logs")


class Dropped:
    """The totals of one daemon's containers."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._totals: dict[str, int] = {}

    def of(self, id: str) -> int:
        """Of one container, as far as it was told."""
        return self._totals.get(id, 0)

    def found(self, id: str, total: int) -> None:
        """What a monitor had counted before this daemon was there."""
        if total:
            self._totals[id] = max(total, self.of(id))

    def note(self, id: str, total: int) -> None:
        """A monitor has told the total of a container."""
        known = self.of(id)
        if total <= known:
            return
        if not known:
            LOG.warning("the disk refuses entries of the container's log", extra={"container_id": id})
        self._totals[id] = total
        self._metrics.log_dropped(total - known)

    def forget(self, id: str) -> None:
        self._totals.pop(id, None)
