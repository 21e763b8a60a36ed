"""Where images of a registry are fetched from: ``hosts.toml``, or the registry itself.

The folder layout and the keys are containerd's (``<config_path>/<registry>/hosts.toml``,
``_default``). ``registry`` asks the hosts in order.

Invariant: what the file says is taken whole or refused: a key that is not known, or a
value of a wrong type, is an error and never ignored. Plain HTTP is used only for the
loopback hosts and where a file says ``http://``.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from yarl import URL

from runtime.errors import InvalidArgument
from runtime.images.reference import DEFAULT_DOMAIN

DEFAULT_SERVER = "registry-1.docker.io"
DEFAULT_FOLDER = "_default"
FILE = "hosts.toml"
MAX_FILE = 1 << 20
_CAPABILITIES = frozenset({"pull", "resolve", "push"})
_HOST_KEYS = frozenset({"capabilities", "ca", "client", "skip_verify", "header", "override_path", "dial_timeout"})


@dataclass(frozen=True, slots=True)
class Host:
    """One place to ask. ``url`` ends in the API's root (``/v2``); ``pull`` allows asking by
    digest, ``resolve`` by tag; ``ca`` are files of trusted certificates beside the system's,
    ``client`` pairs of certificate and key files (key empty: in the same file); ``namespace`` is
    the registry that a mirror stands in for, empty for the registry itself; ``dial_timeout`` in seconds."""

    url: URL
    pull: bool = True
    resolve: bool = True
    ca: tuple[str, ...] = ()
    client: tuple[tuple[str, str], ...] = ()
    skip_verify: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    dial_timeout: float = 30.0
    namespace: str = ""


def load_hosts(config_path: str, domain: str) -> tuple[Host, ...]:
    """The hosts for the registry ``domain`` in the order to ask them, itself last.

    ``config_path`` may be empty: no files. Blocking.

    Raises:
        InvalidArgument: a file is not acceptable; the message has its path.
    """
    for folder in _folders(domain) if config_path else ():
        path = os.path.join(config_path, folder, FILE)
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_FILE + 1)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise InvalidArgument(str(error.strerror).lower(), step="read hosts", object=path) from error
        return parse_hosts(data, path, domain)
    return (Host(_url(_server(domain), override_path=False)),)


def parse_hosts(data: bytes, path: str, domain: str) -> tuple[Host, ...]:
    """The hosts that the TOML ``data`` of the file ``path`` names for ``domain``; files in it
    are relative to its folder.

    Raises:
        InvalidArgument: malformed, an unknown key, a value of a wrong type.
    """
    if len(data) > MAX_FILE:
        raise _refused(path, f"is larger than {MAX_FILE} bytes")
    try:
        document = tomllib.loads(data.decode())
    except ValueError as error:
        raise _refused(path, f"is not TOML: {error}") from error
    server = {key: value for key, value in document.items() if key not in ("server", "host")}
    tables = document.get("host", {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise _refused(path, "host is not a table of tables")
    hosts = [_parse_host(name, table, path, domain) for name, table in tables.items()]
    name = document.get("server", "")
    if not isinstance(name, str):
        raise _refused(path, "server is not a string")
    hosts.append(_parse_host(name or _server(domain), server, path, "" if not name else domain))
    return tuple(hosts)


def is_loopback(host: str) -> bool:
    """Whether the literal ``host`` (no port, brackets allowed) is this machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def _folders(domain: str) -> list[str]:
    host, colon, port = domain.rpartition(":")
    with_port = [f"{host}_{port}_"] if colon and port.isdigit() else []
    return [*with_port, domain, DEFAULT_FOLDER]


def _server(domain: str) -> str:
    return DEFAULT_SERVER if domain == DEFAULT_DOMAIN else domain


def _parse_host(name: str, table: Mapping[str, Any], path: str, domain: str) -> Host:
    unknown = table.keys() - _HOST_KEYS
    if unknown:
        raise _refused(path, f"unknown key {min(unknown)!r}")
    capabilities = table.get("capabilities", sorted(_CAPABILITIES))
    if not isinstance(capabilities, list) or not all(each in _CAPABILITIES for each in capabilities):
        raise _refused(path, "capabilities is a list of pull, resolve and push")
    flags = {key: table.get(key, False) for key in ("skip_verify", "override_path")}
    for key, value in flags.items():
        if not isinstance(value, bool):
            raise _refused(path, f"{key} is not true or false")
    try:
        url = _url(name, flags["override_path"])
    except ValueError as error:
        raise _refused(path, f"{name!r} is not a host: {error}") from error
    return Host(
        url=url,
        pull="pull" in capabilities,
        resolve="resolve" in capabilities,
        ca=tuple(_files(table.get("ca", []), path, "ca")),
        client=_client(table.get("client", []), path),
        skip_verify=flags["skip_verify"],
        headers=_headers(table.get("header", {}), path),
        dial_timeout=_seconds(table.get("dial_timeout", "30s"), path),
        namespace="" if url.authority == _server(domain) else domain,
    )


def _url(name: str, override_path: bool) -> URL:
    if "://" not in name:
        name = f"{'http' if is_loopback(URL(f'https://{name}').host or '') else 'https'}://{name}"
    url = URL(name)
    if url.scheme not in ("http", "https") or not url.host or url.query_string or url.fragment or url.user:
        raise ValueError("it needs http:// or https://, a host, at most a path")
    root = url.path.rstrip("/")
    if not override_path and not root.endswith("/v2"):
        root += "/v2"
    return url.with_path(root)


def _files(value: Any, path: str, key: str) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(each, str) and each for each in values):
        raise _refused(path, f"{key} is not a file or a list of files")
    return [os.path.join(os.path.dirname(path), each) for each in values]


def _client(value: Any, path: str) -> tuple[tuple[str, str], ...]:
    entries = [value] if isinstance(value, str) else value
    pairs = []
    for entry in entries if isinstance(entries, list) else [None]:
        names = _files(entry, path, "client")
        if not 1 <= len(names) <= 2:
            raise _refused(path, "client is a file, or a list of files and pairs of files")
        pairs.append((names[0], names[1] if len(names) == 2 else ""))
    return tuple(pairs)


def _headers(value: Any, path: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict):
        raise _refused(path, "header is not a table")
    headers = []
    for name, content in value.items():
        for each in content if isinstance(content, list) else [content]:
            if not isinstance(each, str) or any(ord(character) < 32 for character in name + each):
                raise _refused(path, f"header {name!r} is not text on one line")
            headers.append((name, each))
    return tuple(headers)


def _seconds(value: Any, path: str) -> float:
    units = {"ms": 0.001, "s": 1.0, "m": 60.0}
    for unit, factor in units.items():
        digits = value.removesuffix(unit) if isinstance(value, str) else ""
        if digits != value and digits.isascii() and digits.isdigit() and 0 < int(digits[:9]) * factor <= 3600:
            return int(digits[:9]) * factor
    raise _refused(path, "dial_timeout is not a time like 30s")


def _refused(path: str, reason: str) -> InvalidArgument:
    return InvalidArgument(reason, step="read hosts", object=path)
