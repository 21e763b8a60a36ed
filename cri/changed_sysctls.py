"""The host's settings that pod networking has changed, kept for as long as the root directory.

``cri.daemon`` and ``cri.rpc.runtime`` record after the bridge was prepared; Status shows it,
and ``docs/operating`` says why each is changed.

Invariant: of each setting the value is kept that it had before the first change.
"""

from __future__ import annotations

import json
import logging

from cri.host import Host
from cri.state.meta import SYSCTLS, Meta
from network.bridge import BridgeProvider
from runtime.errors import Fault

LOG = logging.getLogger("crisp.network")


def recorded(meta: Meta) -> dict[str, str]:
    """Each setting with what it was and became, as in ``0 -> 1``."""
    found: dict[str, str] = json.loads(meta.get(SYSCTLS) or "{}")
    return found


async def record_sysctls(host: Host) -> None:
    """A disk that is full stops nothing; it is tried again the next time."""
    bridge = host.network["bridge"]
    changes = bridge.sysctl_changes if isinstance(bridge, BridgeProvider) else ()
    known = recorded(host.meta)
    now = {**{change.name: f"{change.before} -> {change.after}" for change in changes}, **known}
    if now != known:
        try:
            await host.meta.set(SYSCTLS, json.dumps(now))
        except Fault as fault:
            LOG.warning("what sysctls were before cannot be stored: %s", fault)
