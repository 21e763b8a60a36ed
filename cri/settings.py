"""The daemon's settings: frozen values out of a strict TOML file and the flags over it.

``cri.cli`` reads the file and hands its text in; everything that runs later takes
what it needs from a ``Settings``. ``docs/operating`` lists the keys.

Invariant: a ``Settings`` was checked as a whole, and nothing in the file was
skipped: an unknown key or a wrong type is an error with file, line and a suggestion.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import tomllib
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from cri.settings_lines import find_entry, find_line
from cri.settings_values import (
    check_address,
    check_bridge,
    check_capabilities,
    check_directory,
    check_driver,
    check_duration,
    check_file,
    check_level,
    check_listen,
    check_places,
    check_pool,
    check_ports,
    check_provider,
    check_route,
    check_routes,
    check_streaming,
    check_subnets,
    check_switch,
    check_verdict,
    check_via,
)
from runtime.errors import InvalidArgument

DEFAULT_FILE = "/etc/crisp/config.toml"
"""Read when ``--config`` names no other; only this one may be absent."""


class SettingsError(InvalidArgument):
    """A setting is wrong; ``object`` says where (``FILE:LINE`` or the flag)."""


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


FLAGS = {name: f"--{name.replace('_', '-')}" for name in ("listen", "root", "state", "metrics", "log_level")}
"""The settings that a flag of the command line overrides."""

RELOADABLE = frozenset({"log_level", "registry.config_path"})
"""What SIGHUP applies; anything else needs a restart."""

CHECKS: Mapping[str, Callable[[Any], None]] = {
    "listen": check_listen,
    "root": check_directory,
    "state": check_directory,
    "metrics": check_address,
    "log_level": check_level,
    "network.provider": check_provider,
    "network.bridge": check_bridge,
    "network.subnets": check_subnets,
    "network.loopback_host_ports": check_switch,
    "network.pod_to_host": check_verdict,
    "network.pod_to_host_ports": check_ports,
    "network.forward_rule": check_switch,
    "network.routes.to": check_route,
    "network.routes.via": check_via,
    "registry.config_path": check_directory,
    "cni.conf_dir": check_directory,
    "cni.bin_dir": check_directory,
    "cni.conf_template": check_file,
    "cni.timeout": check_duration,
    "cni.annotations": check_capabilities,
    "cgroup.driver": check_driver,
    "pool.size": check_pool,
    "streaming.address": check_streaming,
    "streaming.tls_cert": check_file,
    "streaming.tls_key": check_file,
    "streaming.idle_timeout": check_duration,
}

KIND_NAMES = {str: "a string", int: "an integer", bool: "true or false", tuple: "a list of strings"}

SectionT = TypeVar("SectionT", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Changes:
    """Dotted names of the settings that differ, by what it takes to apply them."""

    reload: tuple[str, ...]
    restart: tuple[str, ...]


def parse_settings(text: str, file: str, flags: Mapping[str, str | None] | None = None) -> Settings:
    """The settings in ``text``, which is the content of ``file``, with ``flags`` on top.

    ``flags`` maps a name of ``FLAGS`` to a value, None for not given.

    Raises:
        SettingsError: with the place of the first thing that is wrong.
    """
    settings = _read_section(_parse_toml(text, file), Settings, (), _Place(file, text))
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    for name, value in given.items():
        _check_value(name, value, FLAGS[name])
    settings = msgspec.structs.replace(settings, **given)
    name, wrong = check_places(settings.listen, settings.root, settings.state)
    if wrong:
        place = FLAGS[name] if name in given else _Place(file, text).of((name,))
        raise SettingsError(wrong, object=place)
    number, wrong = check_routes([(each.to, each.via) for each in settings.network.routes], settings.network.subnets)
    if wrong:
        raise SettingsError(
            f"network.routes {wrong}", object=_Place(file, text, number).of(("network", "routes", "to"))
        )
    if bool(settings.streaming.tls_cert) != bool(settings.streaming.tls_key):
        place = _Place(file, text).of(("streaming", "tls_cert" if settings.streaming.tls_cert else "tls_key"))
        raise SettingsError("tls_cert and tls_key belong together; one is missing", object=place)
    return settings


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


@dataclass(frozen=True, slots=True)
class _Place:
    """Turns the path of a key into ``FILE:LINE``; within the entry ``number`` of a list of tables, if it is one."""

    file: str
    text: str
    number: int | None = None

    def of(self, path: tuple[str, ...]) -> str:
        if self.number is not None:
            return f"{self.file}:{find_entry(self.text, path[:-1], self.number)}"
        return f"{self.file}:{find_line(self.text, path)}"


def _parse_toml(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", str(error), re.DOTALL)
        reason, line = (found[1], found[2]) if found else (str(error), None)
        line = line or str(max(1, len(text.splitlines())))
        raise SettingsError(f"is not TOML: {reason[:1].lower()}{reason[1:]}", object=f"{file}:{line}") from error


def _read_section(raw: dict[str, Any], section: type[SectionT], path: tuple[str, ...], place: _Place) -> SectionT:
    fields = {field.name: field.type for field in msgspec.structs.fields(section)}
    values: dict[str, Any] = {}
    for key, value in raw.items():
        here = (*path, key)
        if key not in fields:
            raise SettingsError(_unknown(key, path, fields), object=place.of(here))
        kind = fields[key]
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            if not isinstance(value, dict):
                raise SettingsError(f"{key} is a table: write [{key}]", object=place.of(here))
            values[key] = _read_section(value, kind, here, place)
            continue
        if entry := _entry_of(kind):
            values[key] = _read_tables(value, entry, here, place)
            continue
        values[key] = _typed(".".join(here), value, typing.get_origin(kind) or kind, place.of(here))
        _check_value(".".join(here), values[key], place.of(here))
    return section(**values)


def _entry_of(kind: Any) -> type[msgspec.Struct] | None:
    """What a list of tables has in it; None for any other kind of value."""
    first = next(iter(typing.get_args(kind)), None)
    return first if isinstance(first, type) and issubclass(first, msgspec.Struct) else None


def _read_tables(raw: Any, entry: type[SectionT], path: tuple[str, ...], place: _Place) -> tuple[SectionT, ...]:
    if not isinstance(raw, list) or not all(isinstance(each, dict) for each in raw):
        shown = ", ".join(f'{field.name} = "..."' for field in msgspec.structs.fields(entry))
        raise SettingsError(f"{'.'.join(path)} must be a list of tables like {{{shown}}}", object=place.of(path))
    inside = [_Place(place.file, place.text, number) for number in range(len(raw))]
    return tuple(_read_section(each, entry, path, where) for each, where in zip(raw, inside, strict=True))


def _typed(name: str, value: Any, kind: Any, place: str) -> Any:
    if kind is tuple and isinstance(value, list) and all(isinstance(each, str) for each in value):
        return tuple(value)
    if kind is not tuple and type(value) is kind:
        return value
    suggestion = f'; did you mean "{value}"?' if kind is str and type(value) in (int, float) else ""
    suggestion = f'; did you mean ["{value}"]?' if kind is tuple and isinstance(value, str) else suggestion
    raise SettingsError(f"{name} must be {KIND_NAMES[kind]}{suggestion}", object=place)


def _check_value(name: str, value: Any, place: str) -> None:
    try:
        CHECKS[name](value)
    except ValueError as reason:
        raise SettingsError(f"{name} {reason}", object=place) from None


def _unknown(key: str, path: tuple[str, ...], fields: Mapping[str, Any]) -> str:
    where = f" in [{'.'.join(path)}]" if path else ""
    elsewhere = [name for name in CHECKS if name.rpartition(".")[2] == key]
    close = difflib.get_close_matches(key, fields, n=1)
    if close:
        return f"unknown key {key!r}{where}; did you mean {close[0]!r}?"
    if elsewhere:
        section, _, name = elsewhere[0].rpartition(".")
        home = f"[{section}] {name}" if section else f"{name} before the first table"
        return f"unknown key {key!r}{where}; did you mean {home}?"
    return f"unknown key {key!r}{where}; known are {', '.join(sorted(fields))}"


def _leaves(section: msgspec.Struct, prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for field in msgspec.structs.fields(section):
        value = getattr(section, field.name)
        if isinstance(value, msgspec.Struct):
            found += _leaves(value, f"{prefix}{field.name}.")
        else:
            found.append((f"{prefix}{field.name}", value))
    return found
