"""hosts.toml: containerd's layout, taken whole or refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.errors import InvalidArgument
from runtime.images.hosts import Host, is_loopback, load_hosts, parse_hosts

DOMAIN = "registry.example"


def parsed(text: str, domain: str = DOMAIN) -> tuple[Host, ...]:
    return parse_hosts(text.encode(), "/etc/crisp/hosts/x/hosts.toml", domain)


def urls(hosts: tuple[Host, ...]) -> list[str]:
    return [str(host.url) for host in hosts]


@pytest.mark.parametrize(
    ("domain", "url"),
    [
        ("docker.io", "https://registry-1.docker.io/v2"),
        ("registry.example", "https://registry.example/v2"),
        ("registry.example:5000", "https://registry.example:5000/v2"),
        ("localhost:5000", "http://localhost:5000/v2"),
        ("127.9.9.9", "http://127.9.9.9/v2"),
        ("[::1]:5000", "http://[::1]:5000/v2"),
        ("localhost.example", "https://localhost.example/v2"),
        ("128.0.0.1", "https://128.0.0.1/v2"),
        ("127.0.0.1.example", "https://127.0.0.1.example/v2"),
    ],
)
def test_without_files_the_registry_itself_is_asked(domain: str, url: str) -> None:
    [host] = load_hosts("", domain)
    assert (str(host.url), host.namespace, host.pull, host.resolve) == (url, "", True, True)


def test_only_literal_loopback_hosts_are_loopback() -> None:
    assert all(is_loopback(host) for host in ("localhost", "127.0.0.1", "127.255.0.3", "::1", "[::1]"))
    assert not any(is_loopback(host) for host in ("", "local", "0.0.0.0", "::2", "127.1", "LOCALHOST.example"))


def test_mirrors_come_first_and_the_server_last() -> None:
    hosts = parsed(
        """
        server = "https://upstream.example"
        skip_verify = true
        [host."http://mirror.example:5000"]
        capabilities = ["pull"]
        header = { X-Key = "a", X-More = ["b", "c"] }
        dial_timeout = "500ms"
        [host."https://other.example/path"]
        ca = "ca.pem"
        client = [["cert.pem", "key.pem"], "both.pem"]
        [host."https://third.example/exact/"]
        override_path = true
        ca = ["/abs.pem", "rel.pem"]
        """
    )
    assert urls(hosts) == [
        "http://mirror.example:5000/v2",
        "https://other.example/path/v2",
        "https://third.example/exact",
        "https://upstream.example/v2",
    ]
    mirror, other, third, server = hosts
    assert (mirror.pull, mirror.resolve, mirror.dial_timeout) == (True, False, 0.5)
    assert mirror.headers == (("X-Key", "a"), ("X-More", "b"), ("X-More", "c"))
    assert mirror.namespace == DOMAIN
    assert other.ca == ("/etc/crisp/hosts/x/ca.pem",)
    assert other.client == (
        ("/etc/crisp/hosts/x/cert.pem", "/etc/crisp/hosts/x/key.pem"),
        ("/etc/crisp/hosts/x/both.pem", ""),
    )
    assert third.ca == ("/abs.pem", "/etc/crisp/hosts/x/rel.pem")
    assert (server.skip_verify, third.skip_verify) == (True, False)


def test_without_a_server_the_registry_itself_is_last() -> None:
    assert urls(parsed('[host."mirror.example"]', "docker.io")) == [
        "https://mirror.example/v2",
        "https://registry-1.docker.io/v2",
    ]
    assert parsed("")[0].namespace == ""


def test_the_folder_of_the_registry_goes_before_the_default(tmp_path: Path) -> None:
    for folder, name in (("r.example_5000_", "one"), ("r.example", "two"), ("_default", "three")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "hosts.toml").write_text(f'[host."{name}.example"]')
    first = [
        str(load_hosts(str(tmp_path), domain)[0].url.host) for domain in ("r.example:5000", "r.example", "q.example")
    ]
    assert first == ["one.example", "two.example", "three.example"]
    assert len(load_hosts(str(tmp_path / "none"), "q.example")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "unknown = 1",
        "[host]\nx = 1",
        "host = 1",
        "server = 1",
        "server = 'ftp://x.example'",
        "server = 'https://user@x.example'",
        "server = 'https://x.example?q'",
        "server = 'https://'",
        "server = 'https://x.example:notaport'",
        "skip_verify = 'yes'",
        "[host.'m.example']\nskip_verfy = true",
        "[host.'m.example']\ncapabilities = 'pull'",
        "[host.'m.example']\ncapabilities = ['pul']",
        "[host.'m.example']\ncapabilities = [1]",
        "[host.'m.example']\nca = 1",
        "[host.'m.example']\nca = ['']",
        "[host.'m.example']\nclient = 1",
        "[host.'m.example']\nclient = [['a', 'b', 'c']]",
        "[host.'m.example']\nheader = 'x'",
        "[host.'m.example']\nheader = { x = 1 }",
        '[host."m.example"]\nheader = { x = "a\\r\\nb" }',
        "[host.'m.example']\ndial_timeout = 5",
        "[host.'m.example']\ndial_timeout = '0s'",
        "[host.'m.example']\ndial_timeout = '5h'",
        "[host.'m.example']\ndial_timeout = '-5s'",
        "[host.'m.example']\n[host.'m.example']",
        "=",
    ],
)
def test_what_is_not_understood_is_refused_with_its_file(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"hosts\.toml"):
        parsed(text)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "_default" / "hosts.toml").mkdir(parents=True)
    with pytest.raises(InvalidArgument, match="is a directory"):
        load_hosts(str(tmp_path), "x.example")
    os.rmdir(tmp_path / "_default/hosts.toml")
    (tmp_path / "_default/hosts.toml").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(InvalidArgument, match="larger"):
        load_hosts(str(tmp_path), "x.example")
    (tmp_path / "_default/hosts.toml").write_bytes(b"\xff")
    with pytest.raises(InvalidArgument, match="not TOML"):
        load_hosts(str(tmp_path), "x.example")
