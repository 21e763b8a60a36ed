"""Each kind of leak is planted and seen, by the functions, the command and the fixture."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import leaks, ruleset

NAME = f"leak{secrets.token_hex(3)}"
SHORT = {**os.environ, "CRISP_LEAK_GRACE": "0.2"}
Plant = Callable[[ExitStack, Path], str]
"""Plants a leak, registers how it goes away, and returns what the report has to say."""


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def plant_process(stack: ExitStack, _tmp: Path) -> str:
    process = subprocess.Popen(["sleep", "60"])
    stack.callback(process.wait)
    stack.callback(process.kill)
    return rf"process: {process.pid} sleep 60"


def plant_orphan(stack: ExitStack, _tmp: Path) -> str:
    """A process whose parent has gone, as a monitor's is when its daemon was killed."""
    pid = int(run("sh", "-c", "setsid sleep 61 >/dev/null 2>&1 & echo $!"))
    stack.callback(os.kill, pid, signal.SIGKILL)
    wait_until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
    return rf"process: {pid} sleep 61"


def plant_mount(stack: ExitStack, tmp: Path) -> str:
    run("mount", "-t", "tmpfs", NAME, str(tmp))
    stack.callback(run, "umount", str(tmp))
    return rf"mount: {tmp} tmpfs {NAME}"


def plant_pinned_namespace(stack: ExitStack, tmp: Path) -> str:
    pin = tmp / "net"
    pin.touch()
    run("unshare", f"--net={pin}", "true")
    stack.callback(run, "umount", str(pin))
    return rf"mount: {pin} nsfs net:\[\d+\]"


def plant_thread_in_namespace(stack: ExitStack, _tmp: Path) -> str:
    """A thread that entered a network namespace and never came back."""
    entered, done = threading.Event(), threading.Event()

    def stay() -> None:
        # Python 3.11 has no os.unshare; the thread ends with its namespace.
        import ctypes

        if ctypes.CDLL(None, use_errno=True).unshare(0x40000000) == 0:  # CLONE_NEWNET
            entered.set()
        done.wait(60)

    thread = threading.Thread(target=stay)
    thread.start()
    stack.callback(thread.join)
    stack.callback(done.set)
    assert entered.wait(30)
    return r"network namespace: net:\[\d+\]"


def plant_link(stack: ExitStack, _tmp: Path) -> str:
    run("ip", "link", "add", NAME, "type", "bridge")
    stack.callback(run, "ip", "link", "del", NAME)
    return rf"link: {NAME}"


def plant_table(stack: ExitStack, _tmp: Path) -> str:
    run("nft", f"add table inet {NAME}")
    stack.callback(run, "nft", f"delete table inet {NAME}")
    return rf"nft: table inet {NAME}"


def plant_element(stack: ExitStack, _tmp: Path) -> str:
    run("nft", f"add table inet {NAME}; add set inet {NAME} pods {{ type ipv4_addr; }}")
    stack.callback(run, "nft", f"delete table inet {NAME}")
    run("nft", f"add element inet {NAME} pods {{ 192.0.2.1 }}")
    return rf"nft: table inet {NAME} set pods element 192\.0\.2\.1"


def plant_cgroup(stack: ExitStack, _tmp: Path) -> str:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    hierarchy = next(Path(fields[1]) for fields in mounts if fields[2] in ("cgroup2", "cgroup"))
    directory = hierarchy / NAME / "child"
    directory.parent.mkdir()
    stack.callback(directory.parent.rmdir)
    directory.mkdir()
    stack.callback(directory.rmdir)
    return rf"cgroup: {directory}"


def plant_segment(stack: ExitStack, _tmp: Path) -> str:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    number = libc.shmget(0, 4096, 0o1600)  # IPC_PRIVATE, IPC_CREAT
    assert number >= 0
    stack.callback(libc.shmctl, number, 0, None)  # IPC_RMID
    return rf"System V: shm id {number} key 0"


def plant_descriptor(stack: ExitStack, _tmp: Path) -> str:
    held = stack.enter_context(socket.socket(socket.AF_UNIX))
    assert held.fileno() > 2
    return "descriptor: socket"


def plant_directory(stack: ExitStack, _tmp: Path) -> str:
    directory = tempfile.mkdtemp(prefix="crisp-")
    stack.callback(os.rmdir, directory)
    return f"temporary: {directory}"


PLANTS: list[Plant] = [
    plant_process,
    plant_orphan,
    plant_mount,
    plant_pinned_namespace,
    plant_thread_in_namespace,
    plant_link,
    plant_table,
    plant_element,
    plant_cgroup,
    plant_segment,
    plant_descriptor,
    plant_directory,
]
ids = [plant.__name__.removeprefix("plant_") for plant in PLANTS]


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("plant", PLANTS, ids=ids)
def test_a_planted_leak_is_reported_until_it_is_gone(plant: Plant, stack: ExitStack, tmp_path: Path) -> None:
    before = leaks.snapshot()
    expected = plant(stack, tmp_path)
    found = leaks.new_since(before, grace=0)
    assert any(re.fullmatch(f"{expected}.*", line) for line in found), found
    stack.close()
    assert leaks.new_since(before) == []


def test_what_goes_away_by_itself_is_no_leak() -> None:
    before = leaks.snapshot()
    with subprocess.Popen(["sleep", "60"]) as process:
        assert leaks.new_since(before, grace=0)
        threading.Timer(0.1, process.kill).start()
        assert leaks.new_since(before) == []


def test_another_run_is_told_from_ours(stack: ExitStack) -> None:
    before = leaks.snapshot()
    pid = int(run("env", f"{leaks.MARK}=other", "sh", "-c", "setsid sleep 62 >/dev/null 2>&1 & echo $!"))
    stack.callback(os.kill, pid, signal.SIGKILL)
    wait_until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
    assert leaks.new_since(before, grace=0) == []


RULESET = """
table ip crisp_1 { # handle 7
	set pods { # handle 1
		type ipv4_addr
		elements = { 10.0.0.2 comment "pod {a}, b" counter packets 3 bytes 99,
			10.0.0.3 timeout 1h expires 59m12s }
	}
	map ports { # handle 2
		elements = { 80 : 10.0.0.2 . 8080, 81 : 10.0.0.3 . 8081 }
	}
	chain out { # handle 3
		ip saddr @pods counter packets 1 bytes 2 masquerade comment "{ out }" # handle 4
		tcp dport { 80, 443 } accept # handle 5
	}
}
"""


def test_a_ruleset_is_a_line_for_each_object_and_element_without_counters() -> None:
    assert list(ruleset.flatten(RULESET)) == [
        "table ip crisp_1 # handle 7",
        "table ip crisp_1 set pods # handle 1",
        "table ip crisp_1 set pods type ipv4_addr",
        'table ip crisp_1 set pods element 10.0.0.2 comment "pod {a}, b" counter packets 0 bytes 0',
        "table ip crisp_1 set pods element 10.0.0.3 timeout 1h expires 0",
        "table ip crisp_1 map ports # handle 2",
        "table ip crisp_1 map ports element 80 : 10.0.0.2 . 8080",
        "table ip crisp_1 map ports element 81 : 10.0.0.3 . 8081",
        "table ip crisp_1 chain out # handle 3",
        'table ip crisp_1 chain out ip saddr @pods counter packets 0 bytes 0 masquerade comment "{ out }" # handle 4',
        "table ip crisp_1 chain out tcp dport { 80, 443 } accept # handle 5",
    ]


def test_siblings_of_our_own_cgroup_are_not_ours(tmp_path: Path) -> None:
    for name in ("jobs/us/deeper", "jobs/them", "crisp-1/pod"):
        (tmp_path / name).mkdir(parents=True)
    found = leaks.walk_cgroups(str(tmp_path), skip=f"{tmp_path}/jobs", keep=f"{tmp_path}/jobs/us")
    assert sorted(found) == [
        f"{tmp_path}/{name}" for name in ("crisp-1", "crisp-1/pod", "jobs", "jobs/us", "jobs/us/deeper")
    ]


def test_what_a_service_manager_begins_is_not_ours() -> None:
    for path in ("/system.slice/apt-daily.service", "/user.slice/user-0.slice", "/init.scope", "/a/session-1.scope/x"):
        assert leaks.OTHERS_CGROUPS.search(path)
    for path in ("/kubepods.slice/pod1", "/crisp-1/service", "/slice/a"):
        assert not leaks.OTHERS_CGROUPS.search(path)
    assert leaks.OTHERS_MOUNTS.match("/run/user/0") and not leaks.OTHERS_MOUNTS.match("/run/crisp/pods/x/shm")


def test_a_snapshot_of_what_has_not_changed_runs_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    before = leaks.snapshot()
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program is run"))
    assert leaks.snapshot()["nft"] == before["nft"]


SUBREAPER = """
import ctypes, os, signal, sys
sys.path.insert(0, {root!r})
from tests import leaks
os.environ[leaks.MARK] = "of this test"
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: as a shell of the user's session may be
reads, writes = os.pipe()
if os.fork() == 0:
    before = leaks.snapshot()
    if os.fork() == 0:
        orphan = os.posix_spawn("/bin/sleep", ["sleep", "63"], {{leaks.MARK: "{mark}"}})
        os.write(writes, b"%d" % orphan)
        os._exit(0)
    os.wait()
    orphan = int(os.read(reads, 100))
    while leaks.read_nulls(str(orphan), "cmdline") != ["sleep", "63"]:
        pass
    print(*leaks.new_since(before, grace=0))
    os.kill(orphan, signal.SIGKILL)
    sys.stdout.flush()
    os._exit(0)
for _ in range(2):
    os.wait()
"""


@pytest.mark.parametrize(("mark", "found"), [("of this test", True), ("another", False)])
def test_an_orphan_that_a_subreaper_has_taken_in_is_known_by_its_mark(mark: str, found: bool) -> None:
    said = run("env", "-u", leaks.MARK, sys.executable, "-c", SUBREAPER.format(root=str(leaks.ROOT), mark=mark))
    assert re.fullmatch(r"process: \d+ sleep 63\n", said) if found else said == "\n"


def test_the_command_compares_with_a_file(stack: ExitStack, tmp_path: Path) -> None:
    file = str(tmp_path / "before.json")

    def command(verb: str) -> tuple[int, str]:
        environment = {**SHORT, "TMPDIR": str(tmp_path)}  # in the machine's others may have begun something
        words = [sys.executable, "-m", "tests.leaks", verb, file]
        done = subprocess.run(words, cwd=leaks.ROOT, capture_output=True, text=True, env=environment)
        return done.returncode, done.stderr

    assert command("snapshot") == (0, "")
    assert command("compare") == (0, "")
    expected = plant_link(stack, tmp_path)
    assert command("compare") == (1, f"left behind: {expected}\n")
    assert command("forget")[0] == 2


PLANTED_TEST = """
import subprocess, pytest
{mark}
def test_that_leaves_a_link(): subprocess.run(["ip", "link", "add", "{name}", "type", "bridge"], check=True)
"""


def test_the_fixtures_fail_a_test_or_its_module_that_leaves_a_link(stack: ExitStack, tmp_path: Path) -> None:
    folder = tmp_path / "tests" / "kernel"
    folder.mkdir(parents=True)
    shutil.copy(leaks.ROOT / "tests" / "conftest.py", tmp_path / "tests")
    links = [f"{NAME}{letter}" for letter in "tm"]
    for name, mark in zip(links, ("", 'pytestmark = pytest.mark.leaks("module")'), strict=True):
        (folder / f"test_{name}.py").write_text(PLANTED_TEST.format(mark=mark, name=name))
        stack.callback(run, "ip", "link", "del", name)
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(leaks.ROOT / "pyproject.toml"), "-p", "no:cacheprovider"]
    done = subprocess.run([*command, str(folder)], cwd=leaks.ROOT, capture_output=True, text=True, env=SHORT)
    assert done.returncode == 1, done.stdout + done.stderr
    assert all(f"left behind:\n  link: {name}" in done.stdout for name in links)
    assert "2 passed, 2 errors" in done.stdout
