"""The script of a container's init: from a newborn process to the container's own program.

The process is born in the container's PID namespace and v2 cgroup. What is of the
host (control groups, mount sources) is opened first; then the namespaces are
entered, the root is put together below one held descriptor, entered, and the
identity given up. In a pod with a user namespace the overlay and /dev are made on the host's side,
too, because its root may not, and what the process does after it has entered that namespace it
does with that root's rights alone. ``runtime.rootfs`` has the parts, ``runtime.identity`` the end.

What the monitor hears of it (``runtime.newborn``): with a terminal the word
``console`` and its master; the call that failed; or the end of the report, which is
execve.

Invariant: the script is a pure function of the request, and no descriptor but 0, 1, 2
survives execve.
"""

from __future__ import annotations

import os

from runtime import identity, user_namespace
from runtime.child import STDIO, begin, enter_cwd, given_stdio, own_stdio, take_null, wait_released
from runtime.errors import StartRefused
from runtime.identity import Filter
from runtime.linux import mount, namespaces, trees
from runtime.linux.libc import AT_FDCWD
from runtime.linux.script import Script, Slot
from runtime.requests import StartRequest
from runtime.rootfs import compose, console, mounts, overlay, pivot, resolve
from runtime.spec import Namespace, Spec, mapping_of, to_host

JOINABLE = ("network", "ipc", "uts", "user")
"""The kinds of namespaces of a pod that a container's init enters."""

_ROOT_PROPAGATION = {
    "shared": mount.MS_SHARED,
    "rshared": mount.MS_SHARED,
    "unbindable": mount.MS_UNBINDABLE,
    "runbindable": mount.MS_UNBINDABLE,
}


def plan_init(request: StartRequest, seccomp: Filter | None, joined: frozenset[str], *, waits: bool = False) -> Script:
    """The script. Its given descriptors: ``child.STDIO``, then a namespace for each of ``joined``, in
    alphabetic order; a kind of the document that is neither in there nor has a path is made new.
    With a terminal, which is taken from the container's own devpts, the streams are not used.
    With ``waits`` it executes the entrypoint when it is released.

    Raises:
        StartRefused: the document asks for what cannot be.
        Fault: likewise.
    """
    script = Script([*STDIO, *sorted(joined)])
    spec = request["spec"]
    described, user = spec["process"], script.given.get("user")
    begin(script, described, request["cgroup"], None if described["terminal"] else given_stdio(script))
    if user is not None and not described["terminal"]:  # the namespace's root could not give away what is the host's
        _own_streams(script, request)
    with script.step("open the mount sources"):
        mounts.make_missing_sources(script, request["missing_sources"])
        opened = compose.open_mounts(script, request, user)
    enter = _enter_pod if user is None else _enter_user_namespace
    root = enter(script, request, opened, joined)
    compose.mount_all(script, root, spec, opened)
    if described["terminal"]:
        with script.step("open the terminal"):
            master, peer = console.open_terminal(script, root)
            console.bind_console(script, root, peer)
            console.take(script, master, peer)
    if not described["terminal"] and not request["stdin"]:
        with script.step("open the null device"):
            take_null(script, root)
    if user is None or described["terminal"]:
        _own_streams(script, request)
    with script.step("find the working directory", described["cwd"]):
        cwd = resolve.make_dirs_in_root(script, root, described["cwd"])
    with script.step("enter the root filesystem"):
        _enter_root(script, root, spec)
    with script.step("enter the working directory", described["cwd"]):
        enter_cwd(script, cwd)
    with script.step("set the resource limits"):
        identity.set_rlimits(script, described["rlimits"])
    with script.step("become the user"):
        identity.become(script, described, seccomp)
    if waits:
        with script.step("wait for the start"):
            wait_released(script)
    with script.step("execute the entrypoint"):
        identity.execute(script, described["args"], described["env"])
    return script


def _enter_pod(script: Script, request: StartRequest, opened: compose.HostSide, joined: frozenset[str]) -> Slot:
    """The root, made in the container's namespaces."""
    with script.step("enter the namespaces"):
        _enter_namespaces(script, request["spec"], joined)
    compose.open_images(script, request, opened)
    with script.step("mount the root filesystem"):
        return overlay.mount_root(script, request["rootfs"])


def _enter_user_namespace(
    script: Script, request: StartRequest, opened: compose.HostSide, joined: frozenset[str]
) -> Slot:
    """The root, made by the host's root, and attached by that of the user namespace."""
    user, ids = script.given["user"], mapping_of(request["spec"]["linux"])
    if ids is None:
        raise StartRefused("a user namespace without a mapping")
    with trees.in_mount_namespace_aside(script):
        compose.open_images(script, request, opened, user)
        compose.make_nodes(script, request, opened, ids)
        with script.step("mount the root filesystem"):
            root = overlay.make_detached(script, request["rootfs"], user)
    with script.step("enter the namespaces"):
        user_namespace.enter(script, user)
        if request["pid_mode"] == "container":
            user_namespace.be_reborn(script)
        _enter_namespaces(script, request["spec"], joined)
    with script.step("mount the root filesystem"):
        overlay.attach_root(script, root)
    return root


def _own_streams(script: Script, request: StartRequest) -> None:
    described, ids = request["spec"]["process"], mapping_of(request["spec"]["linux"])
    uid = described["user"]["uid"]
    if ids is not None and not described["terminal"]:
        uid = to_host(uid, ids)
    with script.step("own the standard streams"):
        own_stdio(script, uid, stdio_numbers(described["terminal"], request["stdin"]))


def stdio_numbers(terminal: bool, stdin: bool) -> tuple[int, ...]:
    """Those of 0, 1 and 2 that are pipes or a terminal, not the null device."""
    return (0, 1, 2) if terminal or stdin else (1, 2)


def _enter_namespaces(script: Script, spec: Spec, joined: frozenset[str]) -> None:
    new = namespaces.CLONE_NEWNS
    for entry in spec["linux"]["namespaces"]:
        if entry["type"] != "pid" and (entry["type"] != "user" or "user" not in joined):  # where it is already
            new |= _join_or_new(script, entry, joined)
    trees.own_mount_namespace(script, new)
    name = spec["hostname"].encode()
    if new & namespaces.CLONE_NEWUTS and name:
        script.call("sethostname", name, len(name), object=spec["hostname"])


def _join_or_new(script: Script, entry: Namespace, joined: frozenset[str]) -> int:
    """Join the namespace of ``entry``; the flag to unshare where there is none to join."""
    kind, path = entry["type"], entry.get("path")
    if kind not in namespaces.FLAGS_BY_TYPE or kind == "user" or (kind == "mount" and path):
        raise StartRefused(f"a {kind} namespace is not supported here", object=path or "")
    flag = namespaces.FLAGS_BY_TYPE[kind]
    if kind in joined:
        fd = script.given[kind]
    elif path:
        fd = script.opened("openat", AT_FDCWD, path, os.O_RDONLY | os.O_CLOEXEC, 0, object=path)
    else:
        return flag
    script.call("setns", fd, flag)
    script.close(fd)
    return 0


def _enter_root(script: Script, root: Slot, spec: Spec) -> None:
    """The mount is finished here: read-only last of all, propagation when pivot_root does not mind any more."""
    if spec["root"]["readonly"]:
        trees.set_attributes(script, root, mount.MOUNT_ATTR_RDONLY)
    pivot.enter_root(script, root)
    propagation = _ROOT_PROPAGATION.get(spec["linux"]["rootfsPropagation"], 0)
    if propagation:
        trees.set_attributes(script, root, propagation=propagation)
    script.close(root)
