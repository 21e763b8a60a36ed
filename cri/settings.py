"""The daemon's settings: frozen values, each with its default.

``cri.settings_file`` makes them of a file and the flags over it; everything that runs later takes
what it needs from a ``Settings``. ``docs/operating`` lists the keys: they are the names here.

Invariant: pure, and nothing here knows how a setting is written down.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec


class RouteSettings(msgspec.Struct, frozen=True):
    """The pods of another node: their subnet, and the node's address."""

    to: str = ""
    via: str = ""


class NetworkSettings(msgspec.Struct, frozen=True):
    """``subnets`` are where pod addresses come from until a PodCIDR is known, one of each IP family at most.
    ``loopback_host_ports``: whether host ports are reached through 127.0.0.1, too. ``pod_to_host`` is allow,
    or deny but for DNS and ``pod_to_host_ports``, each like tcp/443. ``forward_rule``: whether chains of others
    that drop forwarded packets get rules for pods. ``provider`` is bridge, cni, or auto: CNI where it is
    configured. ``routes`` lead to the pods of other nodes."""

    bridge: str = "crisp0"
    subnets: tuple[str, ...] = ("10.85.0.0/16",)
    loopback_host_ports: bool = True
    pod_to_host: str = "allow"
    pod_to_host_ports: tuple[str, ...] = ()
    forward_rule: bool = False
    provider: str = "auto"
    routes: tuple[RouteSettings, ...] = ()


class RegistrySettings(msgspec.Struct, frozen=True):
    """``config_path`` is a folder with one folder a registry host, each with a ``hosts.toml``."""

    config_path: str = "/etc/crisp/certs.d"


class CniSettings(msgspec.Struct, frozen=True):
    """``conf_template`` is a file, ``timeout`` for one operation on one pod; ``annotations`` are the
    capabilities that annotations of pods may give."""

    conf_dir: str = "/etc/cni/net.d"
    bin_dir: str = "/opt/cni/bin"
    conf_template: str = ""
    timeout: str = "60s"
    annotations: tuple[str, ...] = ()


class CgroupSettings(msgspec.Struct, frozen=True):
    """``driver`` is cgroupfs, systemd, or auto, which is cgroupfs."""

    driver: str = "auto"


class PoolSettings(msgspec.Struct, frozen=True):
    """``size`` is how many blank pods are kept ready; 0 keeps none."""

    size: int = 4


class StreamingSettings(msgspec.Struct, frozen=True):
    """``address`` is ``host:port``, port 0 for any; ``idle_timeout`` ends sessions on which nothing moves.
    The certificate is read again when its files change."""

    address: str = "127.0.0.1:0"
    tls_cert: str = ""
    tls_key: str = ""
    idle_timeout: str = "4h"


class Settings(msgspec.Struct, frozen=True):
    """``listen`` is ``unix://<path>``; ``metrics`` is ``host:port`` or empty for none."""

    listen: str = "unix:///run/crisp/crisp.sock"
    root: str = "/var/lib/crisp"
    state: str = "/run/crisp"
    metrics: str = "127.0.0.1:9790"
    log_level: str = "info"
    network: NetworkSettings = NetworkSettings()
    registry: RegistrySettings = RegistrySettings()
    cni: CniSettings = CniSettings()
    cgroup: CgroupSettings = CgroupSettings()
    pool: PoolSettings = PoolSettings()
    streaming: StreamingSettings = StreamingSettings()


RELOADABLE = frozenset({"log_level", "registry.config_path"})
"""What SIGHUP applies; anything else needs a restart."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Dotted names of the settings that differ, by what it takes to apply them."""

    reload: tuple[str, ...]
    restart: tuple[str, ...]


def instance(real_root: str) -> str:
    """The name of the daemon that owns ``real_root`` (a path without links): 8 hex digits.

    It is part of everything that crisp makes outside its own directories.
    """
    return hashlib.sha256(real_root.encode(errors="surrogateescape")).hexdigest()[:8]


def compare(old: Settings, new: Settings) -> Changes:
    """What a reload from ``old`` to ``new`` applies, and what it cannot."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    changed = [name for name, value in after.items() if before[name] != value]
    return Changes(
        reload=tuple(name for name in changed if name in RELOADABLE),
        restart=tuple(name for name in changed if name not in RELOADABLE),
    )


def _leaves(section: msgspec.Struct, prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for field in msgspec.structs.fields(section):
        value = getattr(section, field.name)
        if isinstance(value, msgspec.Struct):
            found += _leaves(value, f"{prefix}{field.name}.")
        else:
            found.append((f"{prefix}{field.name}", value))
    return found
