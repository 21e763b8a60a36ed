"""One program, run and bounded."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from network.cni import plugin
from network.cni.plugin import MAX_OUTPUT, MAX_WORDS, run
from runtime.errors import DeadlineExceeded, HostFault, ResourceExhausted
from tests.descriptors import open_descriptors

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def script(text: str) -> str:
        (tmp_path / "program").write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "program").chmod(0o755)
        return os.fspath(tmp_path / "program")

    return script


def is_gone(pid: int) -> bool:
    """A zombie of somebody else's is gone, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def wait_for_file(path: Path) -> str:
    while not path.exists() or not path.read_text().endswith("\n"):
        await asyncio.sleep(0.01)
    return path.read_text()


async def test_it_gets_its_input_and_environment_and_nothing_else(write: Write) -> None:
    os.environ["CRISP_SECRET"] = "x"
    with open("/dev/null") as inherited:
        os.set_inheritable(inherited.fileno(), True)
        try:
            program = write(
                'cat; echo; env; pwd; ls -l /proc/self/fd | wc -l; cut -d" " -f5 /proc/$$/stat; echo $$; echo hm >&2'
            )
            ended = await run(program, {"PATH": "/bin:/usr/bin", "A": "b"}, b'{"x": 1}', 20)
        finally:
            del os.environ["CRISP_SECRET"]
    text, *lines = ended.output.decode().splitlines()
    assert (ended.code, ended.words, text) == (0, "hm", '{"x": 1}')
    assert set(lines[:-4]) == {"PATH=/bin:/usr/bin", "A=b", "PWD=/"}
    assert lines[-4] == "/"
    assert int(lines[-3]) == 5  # "total", 0, 1, 2, and the one that ls reads
    assert lines[-2] == lines[-1]  # it leads its process group


async def test_a_large_input_and_a_status_are_no_trouble(write: Write) -> None:
    ended = await run(write("wc -c; exit 3"), {"PATH": "/bin:/usr/bin"}, b"x" * 1_000_000, 20)
    assert (ended.code, ended.output.strip()) == (3, b"1000000")


class Deadline:
    """That of a program, which is over when a test says so."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._made: list[asyncio.Timeout] = []
        self._real = asyncio.timeout
        patch.setattr(asyncio, "timeout", self._make)

    def _make(self, seconds: float) -> asyncio.Timeout:
        self._made.append(self._real(seconds))
        return self._made[-1]

    async def over_with(self, path: Path, program: str) -> None:
        """Run ``program`` until there is a line in ``path``, and no longer."""
        running = asyncio.get_running_loop().create_task(run(program, {"PATH": "/bin:/usr/bin"}, b"", 60))
        await wait_for_file(path)
        self._made[0].reschedule(asyncio.get_running_loop().time())
        await running


@pytest.fixture
def deadline(monkeypatch: pytest.MonkeyPatch) -> Deadline:
    return Deadline(monkeypatch)


async def test_what_hangs_is_killed_with_its_group_and_its_last_words_are_told(
    write: Write, tmp_path: Path, deadline: Deadline
) -> None:
    before, path = open_descriptors(), tmp_path / "child"
    program = write(f"echo waiting >&2; sleep 1000 & echo $! >{path}; wait")
    with pytest.raises(DeadlineExceeded, match=r"did not end within 60 s; it wrote: waiting"):
        await deadline.over_with(path, program)
    child = int(path.read_text())
    while not is_gone(child):
        await asyncio.sleep(0.01)
    assert open_descriptors() == before


async def test_a_caller_that_leaves_ends_it(write: Write, tmp_path: Path) -> None:
    program = write(f"echo $$ >{tmp_path}/pid; sleep 1000")
    task = asyncio.get_running_loop().create_task(run(program, {"PATH": "/bin:/usr/bin"}, b"", 100))
    pid = int(await wait_for_file(tmp_path / "pid"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert is_gone(pid)


async def test_what_writes_too_much_is_killed_at_once(write: Write) -> None:
    with pytest.raises(ResourceExhausted, match=f"wrote more than {MAX_OUTPUT} bytes"):
        await run(write("cat /dev/zero"), {"PATH": "/bin:/usr/bin"}, b"", 60)


async def test_of_its_words_the_last_are_kept(write: Write) -> None:
    ended = await run(
        write("yes word | head -c 100000 >&2; printf 'the\\t\\033end\\n' >&2"), {"PATH": "/bin:/usr/bin"}, b"", 20
    )
    assert len(ended.words) <= MAX_WORDS
    assert ended.words.endswith("word the end")


async def test_a_child_that_keeps_its_pipes_does_not_keep_us(write: Write, tmp_path: Path) -> None:
    began = time.monotonic()
    program = write(f"sleep 1000 & echo $! >{tmp_path}/child; echo done")
    ended = await run(program, {"PATH": "/bin:/usr/bin"}, b"", 500)
    assert ended.output == b"done\n" and time.monotonic() - began < 100
    os.kill(int((tmp_path / "child").read_text()), 9)


async def test_a_death_by_a_signal_is_a_code_below_zero(write: Write) -> None:
    assert (await run(write("kill -9 $$"), {}, b"", 20)).code == -9


@pytest.mark.parametrize(("text", "mode", "name"), [("x", 0o644, "EACCES"), ("\0\0", 0o755, "ENOEXEC")])
async def test_what_cannot_be_executed_is_the_hosts_fault(tmp_path: Path, text: str, mode: int, name: str) -> None:
    (tmp_path / "program").write_text(text)
    (tmp_path / "program").chmod(mode)
    before = open_descriptors()
    with pytest.raises(HostFault, match=f"program: execve: .*{name}"):
        await run(f"{tmp_path}/program", {}, b"", 20)
    assert open_descriptors() == before


async def test_what_the_kernel_does_not_let_go_is_left_and_reaped_later(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deadline: Deadline
) -> None:
    """As if SIGKILL had no effect yet: a program that waits for a device."""
    before = open_descriptors()
    monkeypatch.setattr(plugin, "KILL_SECONDS", 0.01)
    monkeypatch.setattr(os, "killpg", lambda *_: None)
    path = tmp_path / "pid"
    with pytest.raises(DeadlineExceeded):
        await deadline.over_with(path, write(f"echo $$ >{path}; exec sleep 1000"))
    pid = int(path.read_text())
    os.kill(pid, 9)
    while Path(f"/proc/{pid}").exists():
        await asyncio.sleep(0.01)
    assert open_descriptors() == before
