"""What a test or a daemon left behind on the host.

``snapshot`` looks at everything that crisp makes outside its own directories;
``new_since`` names what is there now and was not there then. ``tests.conftest`` compares
around every test with real kernel objects, ``.ci/run`` around the whole run::

    python -m tests.leaks snapshot FILE      # before
    python -m tests.leaks compare FILE       # after; exit status 1 and a line for each leak

Other programs of the machine come and go meanwhile. Their processes are told from ours
by their ancestors, by ``CRISP_TEST_RUN`` in the environment, and by what they are called.

Invariant: looking changes nothing; waiting for leaks to go away reaps ended children.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import secrets
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tests import ruleset

MARK = "CRISP_TEST_RUN"
"""The environment variable that everything started by this run inherits."""

ROOT = Path(__file__).resolve().parent.parent
OUR_WORDS = ("crisp", "zygote", str(ROOT))
GRACE = float(os.environ.get("CRISP_LEAK_GRACE", "20"))
"""Seconds in which the kernel may finish what it does after a process or a namespace ends."""

KERNEL_THREAD = 0x00200000  # PF_KTHREAD, include/linux/sched.h

OTHERS_CGROUPS = re.compile(r"/(system|user|machine)\.slice(/|$)|\.(service|scope|mount|socket)(/|$)")
OTHERS_MOUNTS = re.compile(
    r"/run/(user|credentials|systemd|docker|containerd|snapd)/|/var/lib/(docker|containerd)/|/snap/"
)
"""Of the machine's service manager and of other runtimes, which begin and end things at any time."""

Snapshot = dict[str, list[str]]


def snapshot(*, descriptors: bool = True) -> Snapshot:
    """What exists now, by kind. ``descriptors``: those of this process, too."""
    found: Snapshot = {kind: sorted(look()) for kind, look in KINDS.items()}
    found["descriptor"] = sorted(list_descriptors()) if descriptors else []
    return found


def new_since(before: Snapshot, *, descriptors: bool = True, grace: float = GRACE, parent: int = 0) -> list[str]:
    """A line for each thing that is there now and was not ``before``.

    Waits up to ``grace`` seconds for them to go away. Processes count if they descend
    from ``parent`` (this process if 0), or are orphans that look like ours.
    """
    end = time.monotonic() + grace
    pause = 0.01
    while True:
        lines = compare(before, snapshot(descriptors=descriptors), parent or os.getpid())
        if not lines or time.monotonic() > end:
            return lines
        gc.collect()
        reap_children()
        time.sleep(pause)
        pause = min(pause * 2, 0.2)


def compare(before: Snapshot, after: Snapshot, parent: int) -> list[str]:
    """The lines of :func:`new_since` for two snapshots, without waiting."""
    lines = []
    for kind, now in after.items():
        for entry in sorted((Counter(now) - Counter(before.get(kind, []))).elements()):
            if kind == "process":
                described = describe_process(entry, before["process"], parent)
                lines += [f"process: {described}"] if described else []
            else:
                lines.append(f"{kind}: {entry}")
    return lines


# ---------------------------------------------------------------------------- processes


def list_processes() -> Iterator[str]:
    """``<pid> <start time>`` of every process but kernel threads and zombies."""
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := read_stat(name)) and not int(fields[6]) & KERNEL_THREAD and fields[0] != "Z":
            yield f"{name} {fields[19]}"


def read_stat(pid: str) -> list[str] | None:
    """The fields of /proc/PID/stat from the third (state) on; None if it is gone."""
    try:
        file = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)  # for all processes, twice a test: quickly
        try:
            return os.read(file, 4096).decode(errors="replace").rpartition(")")[2].split()
        finally:
            os.close(file)
    except OSError:
        return None


def describe_process(entry: str, before: Iterable[str], parent: int) -> str:
    """What to say of the new process ``entry``; empty if it is not ours."""
    pid = entry.split()[0]
    known = {old.split()[0] for old in before} | {str(os.getpid())}
    ancestor = pid
    while ancestor not in known and ancestor not in ("0", "1"):
        fields = read_stat(ancestor)
        if fields is None:
            return ""
        ancestor = fields[1]
    if ancestor == pid or pid == str(os.getpid()):
        return ""
    command = read_nulls(pid, "cmdline")
    if ancestor != str(parent) and not is_our_orphan(pid, ancestor, command):
        return ""
    return f"{pid} {' '.join(command) or '(no command line)'}"[:200]


def is_our_orphan(pid: str, ancestor: str, command: list[str]) -> bool:
    """Whether this run has started ``pid``, whose parent has gone: ``ancestor`` has taken it in, init or
    another process that does so (prctl(2), PR_SET_CHILD_SUBREAPER) and is no part of this run."""
    if ancestor in ("0", "1"):
        return looks_ours(pid, command)
    return our_mark() in read_nulls(pid, "environ") and our_mark() not in read_nulls(ancestor, "environ")


def our_mark() -> str:
    return f"{MARK}={os.environ.get(MARK, '')}"


def looks_ours(pid: str, command: list[str]) -> bool:
    """Whether an orphan was started by this run, as far as one can tell."""
    marks = [entry for entry in read_nulls(pid, "environ") if entry.startswith(f"{MARK}=")]
    if marks:
        return marks == [our_mark()]
    if any(word in argument for word in OUR_WORDS for argument in command):
        return True
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
    return False


def read_nulls(pid: str, name: str) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace").strip("\0").split("\0")
    return []


def reap_children() -> None:
    """Wait for children that have ended. Done only once something was left behind: whoever
    still holds one of them as a Popen has kept it for too long."""
    for name in os.listdir("/proc"):
        fields = read_stat(name) if name.isdigit() else None
        if fields and fields[0] == "Z" and fields[1] == str(os.getpid()):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(int(name), os.WNOHANG)


# ---------------------------------------------------------------------------- namespaces, mounts, links


def list_mounts() -> Iterator[str]:
    """``<mount point> <filesystem> <source>``, of this mount namespace."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        root, point = left.split()[3:5]
        kind, source = right.split()[:2]
        if not OTHERS_MOUNTS.match(point):
            yield f"{point} {kind} {root if kind == 'nsfs' else source}"


def list_network_namespaces() -> Iterator[str]:
    """Those that a thread of this process is in. A pinned one is a mount, and one that
    another process is in comes to light as that process."""
    seen = set()
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):
            seen.add(os.readlink(f"/proc/self/task/{task}/ns/net"))
    yield from seen


def list_links() -> Iterator[str]:
    """All but the two that the kernel makes by itself when ifb is asked for the first time."""
    yield from (name for _, name in socket.if_nameindex() if name not in ("ifb0", "ifb1"))


# ---------------------------------------------------------------------------- cgroups


def list_cgroups() -> Iterator[str]:
    """Directories of every hierarchy, but for the siblings of the cgroup that we are in:
    those are of whoever put us there."""
    own = dict(read_own_cgroups())
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(maxsplit=2)
        if kind not in ("cgroup", "cgroup2"):
            continue
        top = left.split()[4]
        mine = next((path for names, path in own.items() if is_hierarchy(kind, names, options)), "/")
        parent = top + str(Path(mine).parent) if mine != "/" else ""
        below = f"{top}{mine}/" if mine != "/" else "/dev/null"
        for path in walk_cgroups(top, skip=parent, keep=top + mine):
            if path.startswith(below) or not OTHERS_CGROUPS.search(path):
                yield path


def read_own_cgroups() -> Iterator[tuple[str, str]]:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        yield names, path


def is_hierarchy(kind: str, names: str, options: str) -> bool:
    return not names if kind == "cgroup2" else bool(names) and set(names.split(",")) <= set(options.split(","))


def walk_cgroups(directory: str, *, skip: str, keep: str) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError):
        if os.stat(directory).st_nlink == 2:  # no child directory
            return
        with os.scandir(directory) as entries:
            children = list(entries)
        for entry in children:
            if not entry.is_dir(follow_symlinks=False) or (directory == skip and entry.path != keep):
                continue
            yield entry.path
            yield from walk_cgroups(entry.path, skip=skip, keep=keep)


# ---------------------------------------------------------------------------- the rest


def list_segments() -> Iterator[str]:
    """System V shared memory, queues and semaphores of this IPC namespace."""
    for kind in ("shm", "msg", "sem"):
        for line in Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:]:
            key, number = line.split()[:2]
            yield f"{kind} id {number} key {key}"


def list_temporary() -> Iterator[str]:
    """What lies in the directory for temporary files: in the tests' own all of it, in the
    machine's what has our name."""
    directory = tempfile.gettempdir()
    ours = Path(directory).name.startswith("crisp")
    yield from (f"{directory}/{name}" for name in os.listdir(directory) if ours or name.startswith("crisp"))


def list_descriptors() -> Iterator[str]:
    """What this process has open, without the numbers that differ from one to the next."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            yield re.sub(r"^(socket|pipe):\[\d+\]$", r"\1", os.readlink(f"/proc/self/fd/{name}"))


KINDS: dict[str, Callable[[], Iterable[str]]] = {
    "process": list_processes,
    "mount": list_mounts,
    "network namespace": list_network_namespaces,
    "link": list_links,
    "nft": ruleset.list_rules,
    "cgroup": list_cgroups,
    "System V": list_segments,
    "temporary": list_temporary,
}


def new_mark() -> str:
    """Name this run, for all that inherits its environment; an outer run's name stays."""
    return os.environ.setdefault(MARK, secrets.token_hex(8))


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0] not in ("snapshot", "compare"):
        print(__doc__, file=sys.stderr)
        return 2
    verb, file = arguments[0], Path(arguments[1])
    if verb == "snapshot":
        file.write_text(json.dumps(snapshot(descriptors=False)))
        return 0
    leaks = new_since(json.loads(file.read_text()), descriptors=False, parent=os.getppid())
    for leak in leaks:
        print(f"left behind: {leak}", file=sys.stderr)
    return 1 if leaks else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
