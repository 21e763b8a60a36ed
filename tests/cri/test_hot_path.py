"""No subprocess, no start of an interpreter and no RTM_DELLINK from RunPodSandbox to RemovePodSandbox.

A pod goes through its whole life with a daemon that is a process of its own, once from the pool and once
with the pool drained. What happens meanwhile is counted by what the kernel says:

- Each execve of the daemon, its zygote, its monitors and all that descends from them (``programs``). The
  list has to be exactly the expected one: ``launch`` for each process that crisp has born, ``pause``, the
  container's entrypoint and the command of the exec. And the daemon itself forks nothing.
- The links that disappear from the host's namespace, as RTNLGRP_LINK tells. The kernel's message is the
  same whoever ends a link, so the test holds the pod's namespace open until RemovePodSandbox has been
  answered. As long as it is held, nothing ends its link but somebody's RTM_DELLINK, of either end; once it
  is let go, the kernel ends the link with it, and no other one.
- The netlink messages that the daemon sends, by a counter around ``socket.socket.send`` in it, through
  which all of them go; also one that asks for nothing that exists. What a program sent shows as that program.

What the daemon does a second after a pod has gone, if something holds its namespace open, is not on
these paths: that second is made long here. The pool makes no new item meanwhile, for the same reason,
and no layer of mountpoints is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.mountpoints import MAKE
from network.names import host_link_name
from network.netlink import NETLINK_ROUTE, iterate_attributes
from network.rtnetlink import RTM_DELLINK, RTM_NEWLINK
from proto import api_pb2 as api
from runtime.pause import PAUSE
from runtime.program import LAUNCH
from tests.cri.programs import Recorder, Seen, family_of
from tests.failpoints.serving import Daemon, in_folder, wait_for

FIRST, LAST = "pool/make_pod_directory:before", "pool/attach_network:after"

EXPECTED = Counter({"launch": 3, "pause": 1, "sleep": 1, "echo": 1})
"""pause, the container's init and the exec are born by ``launch``; then come the entrypoint and the command."""

COUNTER = """
import socket, struct
from network import bridge
bridge.BridgeSettings.__init__.__kwdefaults__["linger"] = 600.0

def send(self, data, *args):
    if self.family == socket.AF_NETLINK and self.proto == 0:
        with open({path!r}, "a") as file:
            at = 0
            while at < len(data):
                length, kind = struct.unpack_from("=IH", data, at)
                print(kind, file=file)
                at += length + 3 & ~3
    return plain(self, data, *args)

plain, socket.socket.send = socket.socket.send, send
"""

RTMGRP_LINK, IFLA_IFNAME, SO_RCVBUFFORCE = 1, 3, 33

PLANTED = {
    "a program": (
        "import subprocess\nfrom cri.steps.sandbox import MakePodCgroups as step\nplain_apply = step.apply\n"
        "async def apply(self, host):\n    subprocess.run(['ip', 'link'], capture_output=True)\n"
        "    await plain_apply(self, host)\nstep.apply = apply",
        [r"executed {'ip': 1}, and not {}", "the daemon forked 1 processes"],
    ),
    "an interpreter": (
        "import subprocess, sys\nfrom cri.steps.container import MakeContainerCgroup as step\nplain_undo = step.undo\n"
        "async def undo(self, host):\n    subprocess.run([sys.executable, '-c', ''])\n"
        "    await plain_undo(self, host)\nstep.undo = undo",
        [r"executed {'python[\d.]*': 1}, and not {}", "the daemon forked 1 processes"],
    ),
    "a link that is deleted": (
        "from network.bridge import BridgeProvider as provider\nplain_detach = provider.detach\n"
        "async def detach(self, id, *, force=False): await plain_detach(self, id, force=True)\n"
        "provider.detach = detach",
        ["the daemon sent RTM_DELLINK", "the link went while its namespace was there"],
    ),
}


@pytest.fixture(autouse=True)
def perf() -> None:
    """Skips where the kernel keeps no such records, or not for us."""
    try:
        Recorder().close()
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EACCES, errno.EPERM):
            raise
        pytest.skip(f"perf_event_open: {error.strerror}")


@pytest.mark.parametrize("pool", [1, 0], ids=["warm", "drained"])
async def test_a_pods_life_executes_its_own_programs_only_and_deletes_no_link(pool: int) -> None:
    assert await asyncio.to_thread(complaints, pool) == []


@pytest.mark.parametrize(("plant", "said"), PLANTED.values(), ids=PLANTED)
async def test_what_is_planted_on_the_path_is_complained_of(plant: str, said: list[str]) -> None:
    found = await asyncio.to_thread(complaints, 1, plant)
    assert len(found) == len(said)
    assert all(re.search(pattern, line) for pattern, line in zip(said, found, strict=True)), found


def complaints(pool: int, plant: str = "") -> list[str]:
    """What one pod's life has done that it must not."""
    with counting(pool, plant) as (daemon, sent), LinkMonitor() as links:
        assert daemon.process is not None
        pid = daemon.process.pid
        family = family_of(pid)
        with contextlib.closing(Recorder(LAUNCH, PAUSE)) as recorder:
            link, held = live(daemon)
            assert (daemon.hits("RunPodSandbox/make_pod_directory:mid") == 0) == bool(pool)
            too_early = links.gone()
            os.close(held)
            wait_for(lambda: link in links.gone(), "the pod's link to be gone")
            seen = recorder.seen(family)
        kinds = set(map(int, sent.read_text().split()))
        assert RTM_NEWLINK in kinds, "the counter sees nothing"
        ours = [name for name in links.gone() if name in (link, f"crf{daemon.number}")]
        assert ours == [link]
        return [*about_programs(seen, pid), *about_links(link in too_early, kinds)]


def about_programs(seen: Seen, daemon: int) -> Iterator[str]:
    programs = Counter(seen.programs)
    if programs != EXPECTED:
        yield f"executed {dict(programs - EXPECTED)}, and not {dict(EXPECTED - programs)}"
    forked = [child for child, parent in seen.forks if parent == daemon]
    if forked:
        yield f"the daemon forked {len(forked)} processes"


def about_links(too_early: bool, kinds: set[int]) -> Iterator[str]:
    if RTM_DELLINK in kinds:
        yield "the daemon sent RTM_DELLINK"
    if too_early:
        yield "the link went while its namespace was there"


@contextlib.contextmanager
def counting(pool: int, plant: str) -> Iterator[tuple[Daemon, Path]]:
    """A daemon with ``pool`` blank pods that makes no more, and the file of the netlink messages that it sends."""
    with in_folder(pool=pool, failpoints=f"{FIRST}=hang;{MAKE}:before=hang") as daemon:
        sent = daemon.folder / "sent"
        daemon.plant = COUNTER.format(path=str(sent)) + plant
        daemon.start()
        daemon.import_demo_image()
        if pool:
            daemon.arm(FIRST, "off")
            wait_for(lambda: daemon.hits(LAST), "a blank pod")
            daemon.arm(FIRST, "hang")
        yield daemon, sent


def live(daemon: Daemon) -> tuple[str, int]:
    """The whole life of a pod: the name of its link, and a descriptor that keeps its network namespace."""
    pod = daemon.pod()
    sandbox = daemon.run_pod(pod)
    container = daemon.run(sandbox, pod)
    asked = api.ExecSyncRequest(container_id=container, cmd=["echo", "here"], timeout=20)
    assert daemon.runtime.ExecSync(asked).stdout == b"here\n"
    held = os.open(daemon.state / "pods" / sandbox / "ns" / "network", os.O_RDONLY | os.O_CLOEXEC)
    daemon.runtime.StopContainer(api.StopContainerRequest(container_id=container, timeout=0))
    daemon.stop_pod(sandbox)
    daemon.runtime.RemoveContainer(api.RemoveContainerRequest(container_id=container))
    daemon.remove_pod(sandbox)
    return host_link_name(sandbox), held


class LinkMonitor:
    """Hears which links disappear from this network namespace."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
        self._socket.bind((0, RTMGRP_LINK))
        self._socket.setblocking(False)
        self._gone: list[str] = []

    def __enter__(self) -> LinkMonitor:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def gone(self) -> list[str]:
        """The names of those that have gone so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._hear(self._socket.recv(1 << 16))
        return list(self._gone)

    def _hear(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            length, kind = struct.unpack_from("=IH", data, at)
            if kind == RTM_DELLINK and data[at + 16] == socket.AF_UNSPEC:  # AF_BRIDGE: it leaves its bridge
                name = dict(iterate_attributes(data[at + 32 : at + length]))[IFLA_IFNAME]
                self._gone.append(name.rstrip(b"\0").decode())
            at += length + 3 & ~3
