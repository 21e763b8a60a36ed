"""Whether systemd could give this host's pods their cgroups.

``cri.assembly`` asks before it uses the driver, ``cri.probes`` for ``crisp check``.

Invariant: looks only.
"""

from __future__ import annotations

import os

from runtime.cgroups.layout import Kind, Layout

BUS, PRIVATE = "/run/dbus/system_bus_socket", "/run/systemd/private"


def find_obstacle(layout: Layout, root: str = "") -> str:
    """Why not; "" if it could. ``root`` is before each path that is looked at."""
    if not os.path.isdir(f"{root}/run/systemd/system"):  # sd_booted(3)
        return "systemd does not run this host: there is no /run/systemd/system"
    if layout.kind is not Kind.V2:
        return f"it needs cgroup v2 alone, and this host has {layout.kind.value}"
    if not any(os.path.exists(f"{root}{path}") for path in (BUS, PRIVATE)):
        return f"there is neither {BUS} nor {PRIVATE}"
    return ""
