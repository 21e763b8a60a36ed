"""The scripts of a pod's first processes: the namespaces, and ``pause.c``, which stands for the pod.

Invariant: pause has no capability, no mount and no descriptor of the host, and what
/proc/PID/exe of it names cannot be written.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Sequence

from runtime import identity, pod_namespaces
from runtime.child import block_signals, join_cgroups, leave_monitor, set_oom_score_adj, take_stdio
from runtime.identity import Filter
from runtime.linux import mount, namespaces, trees
from runtime.linux.libc import AT_EMPTY_PATH, AT_FDCWD
from runtime.linux.passing import hand_over, take_over
from runtime.linux.script import Label, Script, Slot
from runtime.linux.spawn import REBORN
from runtime.lsm.exec_label import set_exec_label
from runtime.program import ATTRIBUTES
from runtime.requests import PAUSE_ROOT, SandboxRequest
from runtime.rootfs.pivot import enter_root
from runtime.spec import Process

PAUSE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pause")
"""The binary, compiled from ``pause.c`` when crisp is installed."""

_SEALED = mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV | mount.MOUNT_ATTR_NOEXEC
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_NAME = "crisp-blank"
"""What ps shows of a process that waits."""


DAEMON, MONITOR, PROGRAM = "daemon", "monitor", "program"
"""Given descriptors: the sockets of the two that are talked to, and pause's program."""


def plan_blank(kinds: Sequence[str]) -> Script:
    """Make namespaces for a pod that has no name yet, hand them to the monitor, and wait for the script of pause.

    What is handed over is what ``pod_namespaces.create`` returns and, as the last, ``PAUSE_ROOT``. On the given
    socket ``DAEMON`` comes the script (``plan_named``) with pause's v2 cgroup (``runtime.blank_init``); this
    process cannot move there, so it ends by having one born there, a child of the monitor like itself.
    """
    script = Script([DAEMON])
    with script.step("leave the monitor"):
        leave_monitor(script)
        script.call("prctl", _PR_SET_NAME, _NAME)
        take_stdio(script)
        program = _open_program(script)
        identity.limit_bounding(script, ())  # as what it bears wants it, and has then
    with script.step("make blank namespaces"):
        made = pod_namespaces.create(script, kinds, "", {})
    with script.step("empty the root of pause"), trees.in_mount_namespace_aside(script):
        path = "/proc/self/ns/mnt"
        root = script.opened("openat", AT_FDCWD, path, os.O_RDONLY | os.O_CLOEXEC, 0, object=path)
        _empty_root(script)
    _hand_over(script, [*made, root], keep=(root,))
    with script.step("wait for the pod's name"):
        wait_for_name(script, root, program)
    return script


def plan_named(request: SandboxRequest, kinds: Sequence[str], seccomp: Filter | None) -> Script:
    """Become pause, as what is born of a blank pod's process, in its namespaces ``kinds``.

    The report is the daemon's socket. From there it takes a descriptor of which it alone has a copy then, and
    which its execve or its end closes; the other process has the socket open, too, and ends after that.

    Raises:
        InvalidArgument: a sysctl is not the pod's.
    """
    script, ended = Script([MONITOR, PAUSE_ROOT, PROGRAM]), Label()
    with script.step("leave the monitor"):
        take_place(script, ended)
        script.call("setsid")
    described = _join(script, request)
    with script.step("make the pod's namespaces"):
        pod_namespaces.set_up(script, kinds, request["hostname"], request["sysctls"])
    _become_pause(script, described, seccomp, script.given[PROGRAM], of_blank=True)
    script.here(ended)
    script.call("exit_group", 0)
    return script


def wait_for_name(script: Script, *given: Slot, cgroup: bool = True) -> None:
    """Wait for a script of the daemon's, and have it carried out by a child that is given its socket, the monitor's
    and ``given``."""
    ended = Label()
    taken = take_over(script, script.given[DAEMON], 1 + cgroup, ended)
    where = taken[1] if cgroup else -1
    script.call("BEAR", taken[0], where, script.given[DAEMON], script.given["report"], *given)
    script.here(ended)
    script.call("exit_group", 0)


def take_place(script: Script, ended: Label) -> None:
    """Be the one whom the monitor follows from here on, and the only one with the descriptor that the daemon sends;
    ``ended`` if it does not, or if the monitor listens no more: it has seen the other process end."""
    pid = script.slot()
    script.call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL.value)
    script.call("getpid", to=pid)
    pidfd = script.opened("pidfd_open", pid, 0)
    hand_over(script, REBORN, [pidfd], pid, to=script.given[MONITOR], ended=ended)
    script.close(pidfd)
    take_over(script, script.given["report"], 1, ended)


def plan_pause(request: SandboxRequest, held: Sequence[str], seccomp: Filter | None) -> Script:
    """Be in the pod's namespaces, hand those that are new to the monitor, become pause.

    The process is born in the new PID namespace if one is asked for, and no user namespace. Its given
    descriptors are the namespaces ``held``, in order, that a blank pod has already, and its ``PAUSE_ROOT``;
    the others of ``request["namespaces"]`` are made, and the first word to the monitor carries what
    ``pod_namespaces.create`` returns.

    Raises:
        InvalidArgument: a sysctl is not the pod's.
    """
    script = Script([*held, PAUSE_ROOT] if held else [])
    with script.step("leave the monitor"):
        leave_monitor(script)
        take_stdio(script)
        program = _open_program(script)
    described = _join(script, request)
    with script.step("make the pod's namespaces"):
        _enter_namespaces(script, request, held)
    _become_pause(script, described, seccomp, program, root_made=bool(held))
    return script


def _join(script: Script, request: SandboxRequest) -> Process:
    """Where pause is to be seen from outside, and what it is."""
    with script.step("join the control groups"):
        join_cgroups(script, request["cgroup"])
    with script.step("set the oom score"):
        set_oom_score_adj(script, request["oom_score_adj"])
    described = _pause_process(request)
    set_exec_label(script, described)
    return described


def _become_pause(
    script: Script,
    described: Process,
    seccomp: Filter | None,
    program: Slot,
    *,
    root_made: bool = True,
    of_blank: bool = False,
) -> None:
    with script.step("empty the root of pause"):
        _enter_empty_root(script, made=root_made)
    with script.step("become the user of pause"):
        identity.become(script, described, seccomp, bounded=of_blank)
        script.call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL.value)  # once more: a change of credentials clears it
    with script.step("execute pause"):
        for number in range(3):  # the host's null device, of no use to pause
            script.call("close", number)
        # Before pause.c can do so itself: the first signal may arrive right after the execve.
        block_signals(script, (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD))
        script.call("execveat", program, "", script.vector(["/pause"]), script.vector([]), AT_EMPTY_PATH)


def _open_program(script: Script) -> Slot:
    """Pause on a read-only mount of its own (``runtime.program``)."""
    program = trees.open_tree(script, AT_FDCWD, PAUSE, mount.OPEN_TREE_CLONE)
    trees.set_attributes(script, program, ATTRIBUTES, name=PAUSE)
    return program


def _enter_namespaces(script: Script, request: SandboxRequest, held: Sequence[str]) -> None:
    hostname, sysctls = request["hostname"], request["sysctls"]
    if held:
        pod_namespaces.enter(script, held, hostname, sysctls)
    new = [kind for kind in request["namespaces"] if kind not in held]
    # What a blank pod has is set up by now, and what is new here then is that of processes.
    name, settings = ("", {}) if held else (hostname, sysctls)
    _hand_over(script, pod_namespaces.create(script, new, name, settings, request.get("ids")))


def _hand_over(script: Script, made: Sequence[Slot], keep: Collection[Slot] = ()) -> None:
    if made:
        hand_over(script, b"namespaces", made)
    script.close(*(slot for slot in made if slot not in keep))


def _enter_empty_root(script: Script, *, made: bool) -> None:
    """A root with nothing in it, so that /proc/PID/root of pause leads nowhere: that of the blank pod, if it is
    ``made``, which takes a twentieth of the time, else one that is made now."""
    if made:
        script.call("setns", script.given[PAUSE_ROOT], namespaces.CLONE_NEWNS, object=PAUSE_ROOT)
        script.close(script.given[PAUSE_ROOT])
    else:
        script.call("unshare", namespaces.CLONE_NEWNS)
        _empty_root(script)


def _empty_root(script: Script) -> None:
    """Leave nothing in the mount namespace, which is the process's own, but an empty directory."""
    trees.mount_at(script, "", "/", "", mount.MS_REC | mount.MS_PRIVATE)
    root = trees.create(script, "tmpfs", ("mode=0555", "nr_inodes=1"), _SEALED)
    # Any directory will do, it is in a mount namespace that ends with enter_root; /proc is always there.
    directory = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    target = script.opened("openat", AT_FDCWD, "/proc", directory, 0, object="/proc")
    trees.move_mount(script, root, target, "/proc")
    enter_root(script, root)
    script.close(target, root)


def _pause_process(request: SandboxRequest) -> Process:
    return {
        "terminal": False,
        "user": request["user"],
        "args": ["/pause"],
        "env": [],
        "cwd": "/",
        "capabilities": {"bounding": [], "effective": [], "permitted": [], "inheritable": [], "ambient": []},
        "rlimits": [],
        "noNewPrivileges": request["no_new_privileges"],
        "apparmorProfile": request.get("apparmor", ""),
        "selinuxLabel": request.get("selinux", ""),
    }
