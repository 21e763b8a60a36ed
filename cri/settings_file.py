"""Reads the settings: a strict TOML file, and the flags over it.

``cri.cli`` hands the file's text in, ``cri.settings`` has what comes out. ``cri.settings_values`` has
the checks of single values, ``cri.settings_lines`` finds where in the text one is.

Invariant: a ``Settings`` was checked as a whole, and nothing in the file was
skipped: an unknown key or a wrong type is an error with file, line and a suggestion.
"""

from __future__ import annotations

import difflib
import re
import tomllib
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from cri.settings import Settings
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

FLAGS = {name: f"--{name.replace('_', '-')}" for name in ("listen", "root", "state", "metrics", "log_level")}
"""The settings that a flag of the command line overrides."""

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


class SettingsError(InvalidArgument):
    """A setting is wrong; ``object`` says where (``FILE:LINE`` or the flag)."""


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
