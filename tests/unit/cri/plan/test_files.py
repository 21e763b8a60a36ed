"""The pod's files."""

from __future__ import annotations

from cri.plan.files import LOCAL_HOSTS, NAMES, hosts_with_addresses, plan_files, resolv_conf
from proto import api_pb2 as api


def test_a_pod_with_its_own_network_has_its_own_hosts() -> None:
    dns = api.DNSConfig(servers=["10.0.0.10", "fd00::a"], searches=["a.local", "local"], options=["ndots:5", "edns0"])
    files = plan_files(api.PodSandboxConfig(dns_config=dns), "web", own_network=True)
    assert tuple(files) == NAMES
    assert files["hostname"] == "web\n"
    assert files["hosts"] == LOCAL_HOSTS
    assert files["resolv.conf"] == (
        "search a.local local\nnameserver 10.0.0.10\nnameserver fd00::a\noptions ndots:5 edns0\n"
    )


def test_without_a_dns_configuration_the_nodes_is_copied() -> None:
    assert plan_files(api.PodSandboxConfig(), "n", own_network=False)["resolv.conf"] is None
    assert plan_files(api.PodSandboxConfig(), "n", own_network=False)["hosts"] is None


def test_an_empty_dns_configuration_is_an_empty_file() -> None:
    config = api.PodSandboxConfig(dns_config=api.DNSConfig())
    assert plan_files(config, "n", own_network=True)["resolv.conf"] == ""
    assert resolv_conf(api.DNSConfig(options=["x"])) == "options x\n"


def test_each_address_gets_a_line() -> None:
    assert hosts_with_addresses("a\n", ["10.0.0.2", "fd00::2"], "web") == "a\n10.0.0.2\tweb\nfd00::2\tweb\n"
