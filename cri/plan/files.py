"""The content of a pod's /etc/hostname, /etc/hosts and /etc/resolv.conf.

``cri.steps.sandbox`` writes them into the pod's directory; ``cri.plan.mounts``
binds them into containers.

Invariant: pure; None means a copy of the host's file. Source: resolv.conf(5), hosts(5).
"""

from __future__ import annotations

from collections.abc import Iterable

from proto import api_pb2 as api

NAMES = ("hostname", "hosts", "resolv.conf")

LOCAL_HOSTS = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
"""


def plan_files(config: api.PodSandboxConfig, hostname: str, *, own_network: bool) -> dict[str, str | None]:
    """By name; a pod in the node's network has the node's hosts file."""
    return {
        "hostname": f"{hostname}\n",
        "hosts": LOCAL_HOSTS if own_network else None,
        "resolv.conf": resolv_conf(config.dns_config) if config.HasField("dns_config") else None,
    }


def resolv_conf(dns: api.DNSConfig) -> str:
    """An empty ``dns`` gives an empty file, which means the local name server."""
    lines = [f"search {' '.join(dns.searches)}"] if dns.searches else []
    lines += [f"nameserver {server}" for server in dns.servers]
    lines += [f"options {' '.join(dns.options)}"] if dns.options else []
    return "".join(f"{line}\n" for line in lines)


def hosts_with_addresses(hosts: str, addresses: Iterable[str], hostname: str) -> str:
    """``hosts`` with a line for each address of the pod, known once its network is attached."""
    return hosts + "".join(f"{address}\t{hostname}\n" for address in addresses)
