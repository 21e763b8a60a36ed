"""A CNI network configuration: what a ``.conflist``, ``.conf`` or ``.json`` file says.

``directory`` finds the file, ``chain`` calls the plugins, ``cache`` keeps the text of a
network as long as a pod is attached to it.

Invariant: pure; a ``NetworkConf`` was checked as a whole, and a plugin's type, also that of
its address management, is a file's name and nothing more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from network.cni import versions

LIST_SUFFIX = ".conflist"
SUFFIXES = (".conf", LIST_SUFFIX, ".json")
"""What a configuration's name ends in (libcni, ConfFiles)."""

MAX_BYTES = 1 << 20
MAX_PLUGINS = 32

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,252}")
"""A network's name, as the specification has it."""
TYPE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,254}")
"""A file's name: no slash, and no dot in front, so that no plugin lies outside of its folder."""


class ConfError(ValueError):
    """What is wrong with a configuration; the words go after its file's name."""


@dataclass(frozen=True, slots=True)
class PluginConf:
    """``raw`` is what the file says of the plugin; ``capabilities`` those it declares as true."""

    type: str
    capabilities: frozenset[str]
    raw: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class NetworkConf:
    """A network: its plugins in the order of ADD, and the version that is spoken with them."""

    name: str
    version: str
    plugins: tuple[PluginConf, ...]
    disable_check: bool = False
    disable_gc: bool = False

    def to_document(self) -> dict[str, Any]:
        """As a ``.conflist`` would have it; ``parse_list`` reads it again."""
        return {
            "cniVersion": self.version,
            "name": self.name,
            "disableCheck": self.disable_check,
            "disableGC": self.disable_gc,
            "plugins": [dict(plugin.raw) for plugin in self.plugins],
        }


def is_configuration(name: str) -> bool:
    return name.endswith(SUFFIXES) and not name.startswith(".")


def parse_file(text: bytes, name: str) -> NetworkConf:
    """What the file ``name`` says.

    Raises:
        ConfError: it is malformed, or asks for what there is not.
    """
    document = _parse_object(text)
    if name.endswith(LIST_SUFFIX):
        return parse_list(document)
    if "plugins" in document and "type" not in document:
        raise ConfError("is a list of plugins; its name has to end in .conflist")
    return parse_list({**_network_keys(document), "plugins": [document]})


def parse_list(document: Mapping[str, Any]) -> NetworkConf:
    """Raises ConfError as ``parse_file``."""
    name = document.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfError("has no name" if name in (None, "") else f"has a name that is none: {_show(name)}")
    plugins = document.get("plugins")
    if not isinstance(plugins, list) or not plugins:
        raise ConfError("has no plugins")
    if len(plugins) > MAX_PLUGINS:
        raise ConfError(f"has {len(plugins)} plugins, more than {MAX_PLUGINS}")
    return NetworkConf(
        name=name,
        version=_parse_version(document),
        plugins=tuple(_parse_plugin(plugin, number) for number, plugin in enumerate(plugins)),
        disable_check=_parse_flag(document, "disableCheck"),
        disable_gc=_parse_flag(document, "disableGC"),
    )


def _network_keys(document: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("name", "cniVersion", "cniVersions", "disableCheck", "disableGC")
    return {key: document[key] for key in kept if key in document}


def _parse_object(text: bytes) -> dict[str, Any]:
    if len(text) > MAX_BYTES:
        raise ConfError(f"has more than {MAX_BYTES} bytes")
    try:
        document = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ConfError(f"is not JSON: {str(error)[:200].lower()}" if text.strip() else "is empty") from error
    if not isinstance(document, dict):
        raise ConfError("is no JSON object")
    return document


def _refuse(constant: str) -> None:
    """NaN and the like, which Python reads and no plugin would."""
    raise ValueError(f"{constant} is no value")


def _parse_version(document: Mapping[str, Any]) -> str:
    version, offered = document.get("cniVersion", ""), document.get("cniVersions", [])
    texts = isinstance(offered, list) and all(isinstance(each, str) for each in offered)
    if not isinstance(version, str) or not texts:
        raise ConfError("has a cniVersion or cniVersions that is no text")
    try:
        return versions.choose(version, offered)
    except ValueError as error:
        raise ConfError(str(error)) from None


def _parse_flag(document: Mapping[str, Any], key: str) -> bool:
    """Also as text, which the specification allows."""
    value = document.get(key, False)
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return bool(value == "true")
    raise ConfError(f"has a {key} that is neither true nor false")


def _parse_plugin(plugin: Any, number: int) -> PluginConf:
    where = f"plugins[{number}]"
    if not isinstance(plugin, dict):
        raise ConfError(f"{where} is no JSON object")
    kind = _parse_type(plugin.get("type"), where)
    ipam = plugin.get("ipam")
    if isinstance(ipam, dict) and ipam.get("type"):
        _parse_type(ipam["type"], f"{where}.ipam")
    capabilities = plugin.get("capabilities") or {}
    if not isinstance(capabilities, dict):
        raise ConfError(f"{where}.capabilities is no JSON object")
    return PluginConf(kind, frozenset(key for key, value in capabilities.items() if value is True), plugin)


def _parse_type(kind: Any, where: str) -> str:
    if not isinstance(kind, str) or not kind:
        raise ConfError(f"{where} has no type")
    if not TYPE.fullmatch(kind):
        raise ConfError(f"{where} has a type that is no plugin's name: {_show(kind)}")
    return kind


def _show(value: object) -> str:
    return repr(value)[:80]
