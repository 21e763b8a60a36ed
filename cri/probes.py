"""What this host can do, found out by doing it where nobody sees it.

``cri.check`` judges the result. Namespaces are made by a thread that then ends,
links and firewall rules inside such a network namespace, the overlay is a detached
mount: the kernel takes all of it back by itself.

Invariant: nothing that a probe makes outlives ``probe_host``.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from network import shaping
from network.bandwidth import LOWEST, Bandwidth
from network.device import open_route_socket
from network.foreign import Others
from network.names import Alias, host_link_name
from network.netlink import NETLINK_NETFILTER, NetlinkSocket
from runtime.cgroups.layout import Layout, detect
from runtime.errors import Fault, HostFault
from runtime.idmap import why_no_user_namespaces
from runtime.linux import capabilities, files, libseccomp, mount, namespaces
from runtime.lsm.apparmor import find_parser, is_loaded
from runtime.systemd.presence import find_obstacle

NAMESPACES = ("mount", "network", "ipc", "uts", "pid", "cgroup")
NFT_RULES = """
table inet crisp_check { chain out { type nat hook postrouting priority 100; masquerade; }; }
table bridge crisp_check { chain in { type filter hook prerouting priority -350; ether type arp accept; }; }
"""
NFT_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
NFT_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Probes:
    """What was found. A text that is an outcome is "" for success, else why not."""

    uid: int
    kernel: str
    machine: str
    python: tuple[int, int, int]
    namespaces: dict[str, str]
    user_namespaces: str
    filesystem: str
    overlay: str
    volatile: str
    xattr: str
    cgroups: Layout | None
    cgroup_error: str
    delegation: str
    systemd: str
    capabilities: frozenset[str]
    seccomp: bool
    libseccomp: str
    openat2: str
    bridge: str
    veth: str
    bandwidth: str
    nft: str
    forwarding: str
    forwarding6: str
    walls: str
    apparmor: bool
    apparmor_parser: str
    apparmor_list: str
    selinux: bool
    pressure: bool


def probe_host(root: str, bridge: str = "crisp0") -> Probes:
    """Everything, for a daemon whose root directory is ``root`` (it need not exist yet), and whose pods are
    on ``bridge``."""
    cgroups, cgroup_error = read_layout()
    overlay, volatile, xattr = probe_storage(existing_parent(root))
    links = in_thread(probe_links, namespaces.CLONE_NEWNET)
    return Probes(
        uid=os.geteuid(),
        kernel=os.uname().release,
        machine=os.uname().machine,
        python=sys.version_info[:3],
        namespaces={kind: in_thread(lambda: "", namespaces.FLAGS_BY_TYPE[kind]) for kind in NAMESPACES},
        user_namespaces=why_no_user_namespaces(existing_parent(root)),
        filesystem=existing_parent(root),
        overlay=overlay,
        volatile=volatile,
        xattr=xattr,
        cgroups=cgroups,
        cgroup_error=cgroup_error,
        delegation=probe_delegation(cgroups) if cgroups else "",
        systemd=find_obstacle(cgroups) if cgroups else "",
        capabilities=frozenset(capabilities.names(capabilities.capget()[0] & capabilities.bounding())),
        seccomp=os.path.exists("/proc/sys/kernel/seccomp/actions_avail"),
        libseccomp=read_libseccomp(),
        openat2=outcome(probe_openat2),
        bridge=links.partition("\n")[0],
        veth=links.partition("\n")[2],
        bandwidth=in_thread(probe_bandwidth, namespaces.CLONE_NEWNET),
        nft=in_thread(probe_nft, namespaces.CLONE_NEWNET),
        forwarding=probe_forwarding("ipv4/ip_forward"),
        forwarding6=probe_forwarding("ipv6/conf/all/forwarding"),
        walls=probe_walls(bridge),
        apparmor=read("/sys/module/apparmor/parameters/enabled") == "Y",
        apparmor_parser=find_parser() or "",
        apparmor_list=outcome(lambda: is_loaded("")),
        selinux=read("/sys/fs/selinux/enforce") == "1",
        pressure=os.path.exists("/proc/pressure/memory"),
    )


def read(path: str) -> str:
    """The stripped content of a kernel file, "" where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def outcome(action: Callable[[], object]) -> str:
    """ "" if ``action`` went well, else why not."""
    try:
        action()
    except Fault as fault:
        return str(fault)
    except OSError as error:
        call = f"{error.call}: " if hasattr(error, "call") else ""
        return f"{call}{(error.strerror or str(error)).lower()} ({errno.errorcode.get(error.errno or 0, error.errno)})"
    return ""


def in_thread(probe: Callable[[], str], flags: int) -> str:
    """What ``probe`` says in a thread with new namespaces, which end with it."""
    said: list[str] = []

    def work() -> None:
        refused = outcome(lambda: namespaces.unshare(flags))
        said.append(refused or probe())

    thread = threading.Thread(target=work, name="crisp-probe")
    thread.start()
    thread.join()
    return said[0] if said else "the probe ended unexpectedly"


def read_layout() -> tuple[Layout | None, str]:
    try:
        return detect(), ""
    except Fault as fault:
        return None, str(fault)


def probe_delegation(layout: Layout) -> str:
    """ "" when cgroups with limits can be made. In a container with a cgroup namespace of its own,
    what looks like the root is none, and has the container's processes (cgroups(7))."""
    mounts = [hierarchy.mount for hierarchy in layout.v1] + ([layout.v2] if layout.v2 else [])
    for path in mounts:
        if not os.access(path, os.W_OK):
            return f"{path} cannot be written"
    lacking = layout.v2_controllers - set(read(f"{layout.v2}/cgroup.subtree_control").split())
    inner = os.path.exists(f"{layout.v2}/cgroup.type")
    if lacking and inner and read(f"{layout.v2}/cgroup.procs"):
        return f"{layout.v2} has processes of its own and cannot hand down {', '.join(sorted(lacking))}"
    return ""


def existing_parent(path: str) -> str:
    """The nearest directory that exists: its file system is the one that will be used."""
    while not os.path.isdir(path):
        path = os.path.dirname(path) or "/"
    return path


def probe_storage(folder: str) -> tuple[str, str, str]:
    """An overlay on ``folder``'s file system, the same volatile, and a trusted xattr there."""
    try:
        scratch = tempfile.mkdtemp(prefix=".crisp-check-", dir=folder)
    except OSError as error:
        refused = f"{folder}: {(error.strerror or str(error)).lower()}"
        return refused, refused, refused
    try:
        return (
            outcome(lambda: mount_overlay(scratch, "plain")),
            outcome(lambda: mount_overlay(scratch, "volatile", "volatile")),
            outcome(lambda: os.setxattr(scratch, "trusted.overlay.crisp", b"y")),
        )
    finally:
        shutil.rmtree(scratch)


def mount_overlay(scratch: str, name: str, *options: str) -> None:
    """A detached overlay, gone when its descriptor is closed. Raises SyscallError."""
    folders = {key: f"{scratch}/{name}/{key}" for key in ("lowerdir", "upperdir", "workdir")}
    for folder in folders.values():
        os.makedirs(folder)
    context = mount.fsopen("overlay")
    try:
        for option in (*(f"{key}={folder}" for key, folder in folders.items()), *options):
            mount.fsconfig(context, option)
        os.close(mount.fsmount(context))
    finally:
        os.close(context)


def probe_openat2() -> None:
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(files.openat2(root, "proc", os.O_PATH, files.RESOLVE_IN_ROOT))
    finally:
        os.close(root)


def probe_links() -> str:
    """A bridge and a veth pair in this thread's network namespace: two outcomes, a line each."""
    from pyroute2 import IPRoute  # a fifth of a second to import, which nothing but this needs
    from pyroute2.netlink.exceptions import NetlinkError

    def make(**link: Any) -> None:
        try:
            with IPRoute() as route:
                route.link("add", **link)
        except NetlinkError as error:
            raise HostFault(call="RTM_NEWLINK", errno=error.code) from error

    bridge = outcome(lambda: make(ifname="crispcheck0", kind="bridge"))
    veth = outcome(lambda: make(ifname="crispcheck1", kind="veth", peer={"ifname": "crispcheck2"}))
    return f"{bridge}\n{veth}"


def probe_bandwidth() -> str:
    """A link limited in both directions in this thread's network namespace, as a pod's is."""

    def limit() -> None:
        pod = Alias("00000000", "crispcheck")
        with open_route_socket() as route:
            shaping.make_ifb(route, host_link_name(pod.subject), pod)
            shaping.limit(route, pod, Bandwidth(LOWEST, LOWEST))

    return outcome(limit)


def probe_nft() -> str:
    """Masquerade, and a look at bridged frames, by ``nft`` in this thread's network namespace."""
    nft = shutil.which("nft", path=NFT_PATH)
    if nft is None:
        return "there is no nft command; install the package nftables"
    try:
        done = subprocess.run([nft, "-f", "-"], input=NFT_RULES.encode(), capture_output=True, timeout=NFT_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error).lower()
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return (lines[0] if lines else f"nft ended with status {done.returncode}") if done.returncode else ""


def probe_walls(bridge: str) -> str:
    """The chains of other tables that drop the packets of pods; "" when there are none, or nobody can tell."""
    try:
        with NetlinkSocket.open(NETLINK_NETFILTER) as netfilter:
            found = Others(netfilter, "", bridge).obstacles((4, 6))
    except (Fault, OSError):  # what nftables cannot do is another row
        return ""
    return ", ".join(str(obstacle.chain) for obstacle in found)


def probe_forwarding(name: str) -> str:
    """ "" when forwarding is on or can be turned on."""
    path = f"/proc/sys/net/{name}"
    if read(path) == "1" or os.access(path, os.W_OK):
        return ""
    return f"{path} is {read(path) or 'not there'} and cannot be written"


def read_libseccomp() -> str:
    """The library's version, "" when it cannot be loaded."""
    try:
        return ".".join(map(str, libseccomp.version()))
    except (Fault, OSError):
        return ""
