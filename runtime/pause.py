"""The scripts of a pod's first processes: the namespaces, and ``pause.c``, which stands for the pod.

Invariant: pause has no capability, no mount and no descriptor of the host, and what
/proc/PID/exe of it names cannot be written.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from runtime import identity, pod_namespaces
from runtime.child import block_signals, join_cgroups, leave_monitor, set_oom_score_adj, take_stdio
from runtime.identity import Filter
from runtime.linux import mount, namespaces, trees
from runtime.linux.libc import AT_EMPTY_PATH, AT_FDCWD
from runtime.linux.script import Script, Slot
from runtime.lsm.exec_label import set_exec_label
from runtime.program import ATTRIBUTES
from runtime.requests import PAUSE_ROOT, SandboxRequest
from runtime.rootfs.pivot import enter_root
from runtime.spec import Process

PAUSE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pause")
"""The binary, compiled from ``pause.c`` when crisp is installed."""

_SEALED = mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV | mount.MOUNT_ATTR_NOEXEC
_PR_SET_PDEATHSIG = 1


def plan_blank(kinds: Sequence[str]) -> Script:
    """Make namespaces for a pod that has no name yet, hand them to the monitor, and end.

    What is handed over is what ``pod_namespaces.create`` returns and, as the last, ``PAUSE_ROOT``.
    """
    script = Script()
    with script.step("leave the monitor"):
        leave_monitor(script)
        take_stdio(script)
    with script.step("make blank namespaces"):
        made = pod_namespaces.create(script, kinds, "", {})
    with script.step("empty the root of pause"):
        script.call("unshare", namespaces.CLONE_NEWNS)
        path = "/proc/self/ns/mnt"
        made.append(script.opened("openat", AT_FDCWD, path, os.O_RDONLY | os.O_CLOEXEC, 0, object=path))
        _empty_root(script)
        _hand_over(script, made)
        script.call("exit_group", 0)
    return script


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
    with script.step("join the control groups"):
        join_cgroups(script, request["cgroup"])
    with script.step("set the oom score"):
        set_oom_score_adj(script, request["oom_score_adj"])
    described = _pause_process(request)
    set_exec_label(script, described)
    with script.step("make the pod's namespaces"):
        _enter_namespaces(script, request, held)
    with script.step("empty the root of pause"):
        _enter_empty_root(script, made=bool(held))
    with script.step("become the user of pause"):
        identity.become(script, described, seccomp)
        script.call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL.value)  # once more: a change of credentials clears it
    with script.step("execute pause"):
        for number in range(3):  # the host's null device, of no use to pause
            script.call("close", number)
        # Before pause.c can do so itself: the first signal may arrive right after the execve.
        block_signals(script, (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD))
        script.call("execveat", program, "", script.vector(["/pause"]), script.vector([]), AT_EMPTY_PATH)
    return script


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


def _hand_over(script: Script, made: list[Slot]) -> None:
    if made:
        script.hand_over(b"namespaces", made)
    script.close(*made)


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
