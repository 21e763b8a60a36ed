"""The CNI's reference plugins, as Debian has them or as ``tests/conformance/cni_programs.py`` built them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PLUGINS = os.environ.get("CRISP_CNI_PLUGINS", "/usr/lib/cni")
VERSION = os.environ.get("CRISP_CNI_VERSION", "1.0.0")
"""``tests/conformance/cni_programs.py`` names plugins that know a newer one."""

NEEDED = ("bridge", "host-local", "portmap", "tuning")


def missing() -> str:
    """What this machine lacks for ``conflist``, in words; '' if nothing."""
    lacking = [name for name in NEEDED if not os.path.exists(f"{PLUGINS}/{name}")]
    if lacking:
        return f"needs the Debian package containernetworking-plugins: no {', '.join(lacking)} in {PLUGINS}"
    tables = [name for name in ("iptables", "ip6tables") if shutil.which(name) is None]
    return f"portmap needs the Debian package iptables: no {', '.join(tables)}" if tables else ""


def conflist(folder: Path, subnets: Sequence[str] = ("10.219.0.0/24", "fd00:219::/64")) -> dict[str, Any]:
    """The network ``ref``: a bridge with addresses of ``subnets``, host ports, and a plugin that changes
    nothing. Leases are below ``folder``."""
    ipam = {
        "type": "host-local",
        "dataDir": f"{folder}/leases",
        "ranges": [[{"subnet": subnet}] for subnet in subnets],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    }
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True, "ipam": ipam}
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}
    return {"cniVersion": VERSION, "name": "ref", "plugins": [bridge, portmap, {"type": "tuning"}]}


def leases(folder: Path) -> list[str]:
    """The addresses that are leased of the network of ``conflist``."""
    found = folder / "leases" / "ref"
    return sorted(name for name in os.listdir(found) if name[0].isdigit() or ":" in name) if found.exists() else []
