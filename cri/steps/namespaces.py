"""The steps that give a pod its processes and namespaces: monitor, pause, and the pins that outlive both.

``cri.steps.sandbox`` puts them in order with the others. A blank pod has monitor and namespaces already;
its pause is born while files are written, and waited for as the last thing.

Invariant: as of ``cri.steps.sandbox``; and the descriptors of a pod's namespaces are open only while it is made.
"""

from __future__ import annotations

import os

import msgspec

from cri.exits import end_process
from cri.host import Host, LivePod
from cri.plan.sandbox import sandbox_request
from cri.steps.files import unmount_and_unlink
from runtime.cgroups import kill as cgroup_kill
from runtime.cgroups import layout as cgroup_layout
from runtime.errors import DeadlineExceeded, Unavailable
from runtime.linux import mount


class StartMonitor(msgspec.Struct, frozen=True, tag="start_monitor"):
    """The pod's monitor, forked from the zygote."""

    sandbox: str
    path: str
    name = "start_monitor"

    def describe(self) -> str:
        return "start the pod's monitor"

    async def apply(self, host: Host) -> None:
        monitor = await host.supervisor.fork_monitor(self.sandbox, self.path)
        host.pods[self.sandbox] = LivePod(monitor)

    async def undo(self, host: Host) -> None:
        pod = host.pods.pop(self.sandbox, None)
        if pod is None:
            return
        pod.close_descriptors()
        try:
            await pod.monitor.shutdown()
        except (DeadlineExceeded, Unavailable):  # it hangs, or only its connection is gone; its children go with it
            end_process(pod.monitor.pid, pod.monitor.start_time)
            pod.monitor.close()
        except BaseException:
            host.pods[self.sandbox] = pod  # not gone, so that the next try finds it
            raise
        finally:
            pod.end_sessions("the pod was stopped")


class CreateNamespaces(msgspec.Struct, frozen=True, tag="create_namespaces"):
    """Pause in new namespaces of ``kinds`` and in ``cgroup``; the monitor hands out their descriptors. All else is
    in the plan that ``Host.plans`` has meanwhile: what nobody needs to undo it would be most of the journal.

    That of an older crisp has the plan instead; its processes end with the cgroup (``MakePodCgroups``)."""

    sandbox: str
    kinds: tuple[str, ...] = ()
    cgroup: str = ""
    name = "create_namespaces"

    def describe(self) -> str:
        return f"start pause in new namespaces ({', '.join(self.kinds) or 'none'})"

    async def apply(self, host: Host) -> None:
        pod, plan = host.pods[self.sandbox], host.plans[self.sandbox]
        trees = host.layout if plan.pause_in_all_trees else cgroup_layout.of_waiting(host.layout)
        program = host.profiles.of_pause(plan.pause)
        cgroup = cgroup_layout.dirs(trees, self.cgroup)
        made = await pod.monitor.sandbox(sandbox_request(plan, cgroup, program.path, program.flags))
        pod.pause_pid = made.pause_pid
        pod.namespaces.update(made.namespaces)
        pod.netlink = pod.netlink if made.netlink is None else made.netlink

    async def undo(self, host: Host) -> None:
        pod = host.pods.get(self.sandbox)
        if pod is not None:
            pod.close_descriptors()
        if self.cgroup:
            cgroup_kill.kill(cgroup_layout.dirs(host.layout, self.cgroup))


class WaitForPause(msgspec.Struct, frozen=True, tag="wait_for_pause"):
    """That of a blank pod is born while the files are written; any other pod's is there by now."""

    sandbox: str
    name = "wait_for_pause"

    def describe(self) -> str:
        return "wait for pause"

    async def apply(self, host: Host) -> None:
        pod = host.pods[self.sandbox]
        if not pod.pause_pid:
            pod.pause_pid = await pod.monitor.wait_for_pause()

    async def undo(self, host: Host) -> None:
        """What it waits for is ``CreateNamespaces``'s."""


class MakeBlankNamespaces(msgspec.Struct, frozen=True, tag="make_blank_namespaces"):
    """The namespaces of a pod that has no name yet (``cri.pool``); they end with its monitor."""

    sandbox: str
    kinds: tuple[str, ...]
    name = "make_blank_namespaces"

    def describe(self) -> str:
        return f"make blank namespaces ({', '.join(self.kinds)})"

    async def apply(self, host: Host) -> None:
        pod = host.pods[self.sandbox]
        made = await pod.monitor.blank(self.kinds)
        pod.namespaces = made.namespaces
        pod.netlink = -1 if made.netlink is None else made.netlink

    async def undo(self, host: Host) -> None:
        pod = host.pods.get(self.sandbox)
        if pod is not None:
            pod.close_descriptors()


class PinNamespaces(msgspec.Struct, frozen=True, tag="pin_namespaces"):
    """Bind mounts that keep the namespaces and name them, never by pid."""

    sandbox: str
    path: str
    kinds: tuple[str, ...]
    name = "pin_namespaces"

    def describe(self) -> str:
        return f"pin the namespaces below {self.path}/ns"

    async def apply(self, host: Host) -> None:
        pod = host.pods[self.sandbox]
        for kind in self.kinds:
            pin = f"{self.path}/ns/{kind}"
            os.close(os.open(pin, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_EXCL, 0o600))
            mount.mount(f"/proc/self/fd/{pod.namespaces[kind]}", pin, "", mount.MS_BIND)

    async def undo(self, host: Host) -> None:
        for kind in self.kinds:
            unmount_and_unlink(f"{self.path}/ns/{kind}")


class PinProcesses(PinNamespaces, frozen=True, tag="pin_processes"):
    """The same for the PID namespace of a pod that shares one: a blank pod has none yet."""

    name = "pin_processes"
