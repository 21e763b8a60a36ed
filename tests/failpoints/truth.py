"""Whether what a daemon says is what the kernel says, and whether anything is left of what was removed.

The daemon's own ``fsck`` is asked as well, but not believed alone: ``find_remains`` looks
at the host itself.

Invariant: looking changes nothing.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import sqlite3
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from network.names import egress_link_name, host_link_name, parse_alias, table_name
from proto import api_pb2 as api
from runtime.cgroups import kill
from runtime.cgroups.layout import detect, directory, dirs
from runtime.program import LAUNCH
from tests.failpoints.serving import Daemon

LAYOUT = detect()

SETTLING = 5.0
"""Seconds for what happens by itself: the kernel ends a namespace, a daemon notices the end of a monitor."""


def processes_in(cgroup: str) -> set[int]:
    """Those in ``cgroup`` and below, in every hierarchy; zombies are no processes any more."""
    found = dirs(LAYOUT, cgroup)
    listed = {pid for path in [*found["v1"], *filter(None, [found["v2"]])] for pid in kill.pids(path)}
    return {pid for pid in listed if is_alive(pid)}


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def mounts_below(folder: Path) -> set[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {point for line in lines if (point := line.split()[4]).startswith(f"{folder}/")}


def monitors_of(daemon: Daemon) -> dict[int, str]:
    """The sandbox of each monitor by its pid, as the directories that it has open tell, deleted or not."""
    found, place = {}, f"{daemon.state}/pods/"
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and Path(f"/proc/{name}/comm").read_text() == "crisp-monitor\n":
                opened = [os.readlink(f"/proc/{name}/fd/{fd}") for fd in os.listdir(f"/proc/{name}/fd")]
                ours = {path.removeprefix(place)[:64] for path in opened if path.startswith(place)}
                found.update({int(name): sandbox for sandbox in ours})
    return found


def settled(find: Callable[[Daemon], list[str]], daemon: Daemon, seconds: float = SETTLING) -> list[str]:
    """What ``find`` finds once it finds nothing any more, or in the end."""
    until = time.monotonic() + seconds
    while (found := find(daemon)) and time.monotonic() < until:
        time.sleep(0.005)
    return found


# ---------------------------------------------------------------------------- nothing is left


def find_remains(daemon: Daemon) -> list[str]:
    """What the host still has of a daemon that has no pods."""
    places = ((daemon.state / "pods", "pod directory"), (daemon.root / "containers", "container directory"))
    return [
        *(f"{what} {name}" for place, what in places for name in os.listdir(place)),
        *(f"mount {point}" for point in mounts_below(daemon.folder) if point != str(daemon.root)),
        *(f"monitor {pid} of {id}" for pid, id in monitors_of(daemon).items()),
        *(f"cgroup {path}" for path in cgroups_of(daemon)),
        *(f"link {name}" for name in links_of(daemon)),
        *(f"fsck: {line}" for line in daemon.fsck()),
    ]


def cgroups_of(daemon: Daemon) -> Iterator[str]:
    for mount in [*(each.mount for each in LAYOUT.v1), *filter(None, [LAYOUT.v2])]:
        for parent, _, _ in os.walk(f"{mount}/crisp-{daemon.instance}"):
            yield parent


def links_of(daemon: Daemon) -> Iterator[str]:
    """Those of pods; the bridge stays for the next one."""
    for link in Path("/sys/class/net").iterdir():
        with contextlib.suppress(OSError):
            alias = parse_alias((link / "ifalias").read_text().strip())
            if alias is not None and alias.instance == daemon.instance and not alias.is_bridge:
                yield link.name


def check_nothing_remains(daemon: Daemon) -> None:
    """Within ``SETTLING``."""
    remains = settled(find_remains, daemon)
    assert not remains, "remains:\n  " + "\n  ".join(remains)


# ---------------------------------------------------------------------------- what is said is true


def find_lies(daemon: Daemon) -> list[str]:
    """Where the lists differ from the kernel."""
    try:
        return list_lies(daemon)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        return [f"what was listed went before it was looked at: {error.details()}"]


def list_lies(daemon: Daemon) -> list[str]:
    seen = Seen(monitors_of(daemon), mounts_below(daemon.state), masqueraded(daemon))
    lies = [lie for pod in daemon.pods() for lie in lies_about_pod(daemon, pod, seen)]
    lies += [lie for container in daemon.containers() for lie in lies_about_container(daemon, container)]
    known = {pod.id for pod in daemon.pods()}
    return lies + [f"monitor {pid} of {id}" for pid, id in seen.monitors.items() if id not in known]


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look at the host shows of all pods: monitors by pid, mounts, addresses in nftables."""

    monitors: Mapping[int, str]
    mounts: Collection[str]
    addresses: Collection[str]


def lies_about_pod(daemon: Daemon, pod: api.PodSandbox, seen: Seen) -> Iterator[str]:
    answer = daemon.pod_status(pod.id)
    info: dict[str, Any] = json.loads(answer.info["info"])
    plan = info["plan"]
    linux = stored_config(daemon, pod.id).linux
    asked = linux.resources.memory_limit_in_bytes and (
        linux.resources.memory_limit_in_bytes + linux.overhead.memory_limit_in_bytes
    )
    limit = limits_of(plan["cgroup_parent"]).get("memory_limit_in_bytes")
    if plan["cgroup_owned"] and asked and limit not in (None, asked):
        yield f"pod {pod.id} was to have {asked} bytes, but has {limit}"
    pause = is_alive(info["pid"]) and info["pid"] in processes_in(plan["pause_cgroup"])
    if pod.state != api.SANDBOX_READY:  # and whether it was stopped already is nowhere said
        return
    if not pause:
        yield f"pod {pod.id} is ready, but pause does not run"
    if info["monitor"] not in seen.monitors:
        yield f"pod {pod.id} is ready, but its monitor {info['monitor']} does not run"
    pins = {f"{plan['directory']}/ns/{kind}" for kind in plan["namespaces"]}
    if not pins <= set(seen.mounts):
        yield f"pod {pod.id} is ready, but its namespaces are not pinned"
    if plan["provider"] == "cni":  # whose links and rules are the plugins'
        return
    if not Path(f"/sys/class/net/{host_link_name(pod.id)}").exists():
        yield f"pod {pod.id} is ready, but it has no link"
    rates = plan["bandwidth"] or {}
    made = Path(f"/sys/class/net/{egress_link_name(pod.id)}").exists()
    if made != bool(rates.get("egress")):
        yield f"pod {pod.id} was to have {rates or 'no rates'}, and {'has' if made else 'has not'} the link of one"
    address = answer.status.network.ip
    if not address or address not in seen.addresses:
        yield f"pod {pod.id} is ready, but its address {address} is not its own"


def check_stopped(daemon: Daemon) -> None:
    """Of all pods nothing is left but records, logs and cgroups."""
    assert all(pod.state == api.SANDBOX_NOTREADY for pod in daemon.pods())
    assert not settled(lambda each: [*map(str, monitors_of(each))], daemon)  # they answer before they end
    assert not mounts_below(daemon.state) and 'comment "pod ' not in list_table(daemon)
    assert not [path for path in cgroups_of(daemon) if kill.pids(path)]


def masqueraded(daemon: Daemon) -> set[str]:
    """The addresses that the daemon's table knows: each from its attachment until its detachment. A
    daemon whose pods CNI plugins connect has no table."""
    return set(re.findall(r"(\d+\.\d+\.\d+\.\d+) comment", list_table(daemon)))


def list_table(daemon: Daemon) -> str:
    """Elements of pods have a comment that begins with ``pod``. Empty where there is no table."""
    command = ["nft", "list", "table", "inet", table_name(daemon.instance)]
    listed = subprocess.run(command, capture_output=True, text=True)
    assert listed.returncode == 0 or "No such file" in listed.stderr, listed.stderr
    return listed.stdout


def lies_about_container(daemon: Daemon, container: api.Container) -> Iterator[str]:
    answer = daemon.runtime.ContainerStatus(api.ContainerStatusRequest(container_id=container.id, verbose=True))
    info: dict[str, Any] = json.loads(answer.info["info"])
    yield from lies_about_limits(answer.status, info["plan"]["cgroup"], info["pid"])
    found = processes_in(info["plan"]["cgroup"])
    wanted = {info["pid"]} if container.state == api.CONTAINER_RUNNING else set()
    if container.state == api.CONTAINER_CREATED and len(found) == 1 and waits_to_start(*found):
        return
    if found != wanted:
        name = api.ContainerState.Name(container.state)
        yield f"container {container.id} is {name} with the processes {sorted(wanted)}, but has {sorted(found)}"


def stored_config(daemon: Daemon, sandbox: str) -> api.PodSandboxConfig:
    """What is kept of the pod's configuration; empty where the pod has just gone."""
    with closing(sqlite3.connect(daemon.root / "state.db")) as connection:
        found = connection.execute("SELECT record FROM sandboxes WHERE id = ?", (sandbox,)).fetchone()
    return api.PodSandboxConfig.FromString(base64.b64decode(json.loads(found[0])["config"]) if found else b"")


def limits_of(cgroup: str) -> dict[str, int]:
    """What the kernel has, by field of the API; nothing where the cgroup is gone."""
    with contextlib.suppress(FileNotFoundError):
        if LAYOUT.is_v2("cpu"):
            quota, period = kernel_file("cpu", cgroup, "cpu.max").split()
            found = {"cpu_quota": -1 if quota == "max" else int(quota), "cpu_period": int(period)}
        else:
            files = {"cpu_shares": "cpu.shares", "cpu_quota": "cpu.cfs_quota_us", "cpu_period": "cpu.cfs_period_us"}
            found = {field: int(kernel_file("cpu", cgroup, file)) for field, file in files.items()}
        memory = kernel_file("memory", cgroup, "memory.max" if LAYOUT.is_v2("memory") else "memory.limit_in_bytes")
        return found | {"memory_limit_in_bytes": 0 if memory == "max" else int(memory)}
    return {}


def kernel_file(controller: str, cgroup: str, file: str) -> str:
    return Path(f"{directory(LAYOUT, controller, cgroup)}/{file}").read_text().strip()


def lies_about_limits(container: api.ContainerStatus, cgroup: str, pid: int) -> Iterator[str]:
    told, found = container.resources.linux, limits_of(cgroup)
    with contextlib.suppress(OSError):  # it does not run
        found["oom_score_adj"] = int(Path(f"/proc/{pid}/oom_score_adj").read_text()) if pid else told.oom_score_adj
    for field, value in found.items():
        if getattr(told, field) not in (0, value):
            yield f"container {container.id} has the {field} {value}, but is said to have {getattr(told, field)}"


def waits_to_start(pid: int) -> bool:
    """Whether it is what a creation prepares; one that has just ended may be, too."""
    try:
        return os.path.samefile(f"/proc/{pid}/exe", LAUNCH)
    except OSError:
        return not is_alive(pid)


def check_truth(daemon: Daemon) -> None:
    """Within ``SETTLING``."""
    lies = settled(find_lies, daemon)
    assert not lies, "said and not so:\n  " + "\n  ".join(lies)
