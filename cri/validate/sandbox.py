"""RunPodSandbox: everything that can be wrong with the request, before anything is done.

``cri.rpc.sandbox_run`` calls ``validate_run_pod_sandbox`` first; ``cri.plan.sandbox``
relies on what it lets through.

Invariant: no side effect, and a request that passes can be planned.
"""

from __future__ import annotations

import ipaddress
import re

from cri.plan.facts import HostFacts
from cri.plan.sandbox import plan_ids
from cri.validate.identity import check_ids
from cri.validate.namespaces import check_pod_namespaces
from cri.validate.profiles import check_profiles
from cri.validate.resources import check_update
from cri.validate.sysctls import check_sysctls
from cri.validate.text import (
    check_handler,
    check_map,
    check_name,
    check_path,
    check_range,
    check_text,
    check_word,
    not_yet,
    refuse,
    show,
)
from network.bandwidth import EGRESS, INGRESS, plan_bandwidth
from proto import api_pb2 as api
from runtime.errors import FailedPrecondition, InvalidArgument
from runtime.systemd.names import is_slice, slice_path

MAX_HOSTNAME = 64
"""Bytes, sethostname(2)."""
HOSTNAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?)*")
"""RFC 1123, with the underscore that many hosts have all the same."""
MAX_CGROUP_DEPTH = 64
"""Levels of a cgroup parent; kubelet makes three or four, and each is a directory in each tree."""

MAX_DNS = 64
"""Entries of each kind; resolvers read 3 servers, and 6 or 32 search domains."""

ANY_ADDRESS = ("0.0.0.0", "::")
"""What a host port without an address listens on."""

PROTOCOLS = {int(api.TCP): "TCP", int(api.UDP): "UDP", int(api.SCTP): "SCTP"}


def validate_run_pod_sandbox(request: api.RunPodSandboxRequest, host: HostFacts) -> None:
    """
    Raises:
        InvalidArgument: the request can never be right; the field is named.
        NotFound: no such runtime handler.
        FailedPrecondition: what crisp or this host does not have; the feature is named.
    """
    if not request.HasField("config"):
        raise refuse("config", "is missing")
    config = request.config
    check_metadata(config)
    check_handler(request.runtime_handler, "runtime_handler")
    check_map(config.labels, "config.labels")
    check_map(config.annotations, "config.annotations")
    check_hostname(config.hostname, "config.hostname")
    if config.log_directory:
        check_path(config.log_directory, "config.log_directory")
    check_dns(config.dns_config, "config.dns_config")
    check_linux(config.linux, host, "config.linux")
    check_ports(config, "config.port_mappings")
    check_bandwidth(config)
    if config.HasField("windows"):
        raise not_yet("config.windows", "Windows pods")


def check_metadata(config: api.PodSandboxConfig) -> None:
    if not config.HasField("metadata"):
        raise refuse("config.metadata", "is missing")
    for name in ("name", "namespace", "uid"):
        check_name(getattr(config.metadata, name), f"config.metadata.{name}")


def check_hostname(hostname: str, field: str) -> None:
    if not hostname:
        return
    if len(hostname.encode()) > MAX_HOSTNAME:
        raise refuse(field, f"is longer than {MAX_HOSTNAME} bytes")
    if not HOSTNAME.fullmatch(hostname):
        raise refuse(field, f"is no hostname: {show(hostname)}")


def check_dns(dns: api.DNSConfig, field: str) -> None:
    """Each entry is one word, for they are joined into lines of resolv.conf."""
    for name, entries in (("servers", dns.servers), ("searches", dns.searches), ("options", dns.options)):
        where = f"{field}.{name}"
        if len(entries) > MAX_DNS:
            raise refuse(where, f"has {len(entries)} entries, more than {MAX_DNS}")
        for entry in entries:
            check_word(entry, where)


def check_linux(linux: api.LinuxPodSandboxConfig, host: HostFacts, field: str) -> None:
    context, where = linux.security_context, f"{field}.security_context"
    check_cgroup_parent(linux.cgroup_parent, host, f"{field}.cgroup_parent")
    check_pod_namespaces(context.namespace_options, host, f"{where}.namespace_options")
    check_ids(context, where, plan_ids(context.namespace_options))
    check_profiles(context, host, where)
    options = context.namespace_options
    shared = {
        "network": options.network == api.NODE,
        "ipc": options.ipc == api.NODE,
        "uts": options.network == api.NODE,
    }
    check_sysctls(linux.sysctls, frozenset(kind for kind, node in shared.items() if node), f"{field}.sysctls")
    check_update(linux.overhead, host, f"{field}.overhead")
    check_update(linux.resources, host, f"{field}.resources")


def check_cgroup_parent(parent: str, host: HostFacts, field: str) -> None:
    """Empty, or what the cgroup driver takes: a slice's name or path for systemd, else a path with or without a
    leading slash; not the root.

    Raises:
        FailedPrecondition: it is for the other driver, so kubelet's differs from crisp's.
    """
    if not parent:
        return
    check_path("/" + parent.lstrip("/"), field)
    parts = [part for part in parent.split("/") if part not in ("", ".")]
    if not parts:
        raise refuse(field, "must not be the root cgroup")
    if len(parts) > MAX_CGROUP_DEPTH:
        raise refuse(field, f"has {len(parts)} levels, more than {MAX_CGROUP_DEPTH}")
    if host.systemd:
        check_slice(parts, field)
    elif is_slice(parts[-1]):
        message = 'a slice needs [cgroup] driver = "systemd", and the driver is cgroupfs'
        raise FailedPrecondition(message, object=field)


def check_slice(parts: list[str], field: str) -> None:
    """``parts`` are the components of a cgroup path; one alone is a name."""
    if not is_slice(parts[-1]):
        message = "is no slice such as kubepods-pod1.slice, which the systemd cgroup driver needs"
        raise FailedPrecondition(message, object=field)
    try:
        path = slice_path(parts[-1])
    except InvalidArgument as fault:
        raise refuse(field, fault.message) from fault
    if len(parts) > 1 and "/" + "/".join(parts) != path:
        raise refuse(field, f"is not where systemd has that slice, which is {path}")


def check_ports(config: api.PodSandboxConfig, field: str) -> None:
    """
    Raises:
        InvalidArgument: a number out of range, no address, or a host port given twice.
    """
    taken: set[tuple[int, str, int]] = set()
    for n, port in enumerate(config.port_mappings):
        where = f"{field}[{n}]"
        if port.protocol not in PROTOCOLS:
            raise refuse(f"{where}.protocol", f"has no such protocol: {port.protocol}")
        check_range(port.container_port, f"{where}.container_port", 1, 65535)
        check_range(port.host_port, f"{where}.host_port", 0, 65535)
        check_text(port.host_ip, f"{where}.host_ip")
        keys = {(port.protocol, address, port.host_port) for address in addresses_of(port.host_ip, f"{where}.host_ip")}
        if port.host_port and not taken.isdisjoint(keys):
            raise refuse(f"{where}.host_port", f"is given twice: {port.host_port}")
        taken |= keys


def addresses_of(host_ip: str, field: str) -> tuple[str, ...]:
    """The addresses of a host port as everybody writes them.

    Raises:
        InvalidArgument: it is none, or one that no packet is sent to: of a zone, or an IPv4 address in IPv6's form.
    """
    if not host_ip:
        return ANY_ADDRESS
    try:
        address = ipaddress.ip_address(host_ip)
    except ValueError:
        raise refuse(field, f"is no address: {show(host_ip)}") from None
    if address.version == 6 and (address.scope_id is not None or address.ipv4_mapped):
        raise refuse(field, f"is no address that a host port can have: {show(host_ip)}")
    return (str(address),)


def check_bandwidth(config: api.PodSandboxConfig) -> None:
    """
    Raises:
        InvalidArgument: an annotation is no rate.
        FailedPrecondition: the pod has no link of its own that could be limited.
    """
    asked = plan_bandwidth(config.annotations)
    if asked and config.linux.security_context.namespace_options.network == api.NODE:
        key = INGRESS if asked.ingress else EGRESS
        raise FailedPrecondition("a pod in the node's network has no link to limit", object=f"annotation {key}")
