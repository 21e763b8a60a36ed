"""The published streaming clients against the streaming server, with commands that are made up here.

    make conformance          (or: python tests/conformance/streaming.py)

Go builds ``streamclient`` beside this file, once, into the user's cache: the executors and dialers of
client-go, which kubectl, crictl and kubelet use, and moby/spdystream by itself, an implementation
of SPDY that has nothing to do with ours. No daemon and no root are needed. A line a step, and a
closing line with the counts. Without Go it says so and ends with status 0.
"""

from __future__ import annotations

import asyncio
import json
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from cri.streaming.server import StreamingServer
from cri.streaming.session import (
    CommandStreams,
    CommandTicket,
    Forward,
    ForwardSession,
    ForwardTicket,
    Outcome,
    Size,
    StreamReset,
    Ticket,
    Wanted,
)
from cri.tasks import Tasks
from tests import golang

HERE = Path(__file__).resolve().parent
TRANSPORTS = ("spdy", "websocket")
VERSIONS = tuple(f"{version}channel.k8s.io" for version in ("v5.", "v4.", "v3.", "v2.", ""))
PLAIN = Wanted(stdin=True, stdout=True, stderr=False, tty=False)
OUTPUT = Wanted(stdin=False, stdout=True, stderr=False, tty=False)
BULK = 256 * 1024 * 1024
GROWTH = 48 * 1024
"""Kilobytes that the server's process may grow by through all of it."""


def main() -> int:
    if shutil.which("go") is None:
        print("streaming clients: skipped: needs Go, which builds them\n0 passed, 0 failed, 1 skipped")
        return 0
    client = build_client()
    with tempfile.TemporaryDirectory(prefix="crisp-streaming-") as folder:
        return asyncio.run(run_all(client, Path(folder)))


def build_client() -> Path:
    return golang.build(HERE, "./streamclient")


@dataclass
class Session:
    """The client with a server, and what the commands saw."""

    client: Path
    server: StreamingServer
    sizes: list[Size | None] = field(default_factory=list)

    async def __call__(self, ticket: Ticket, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        """Exit status, stdout and stderr of the client."""
        command = [str(self.client), *arguments, self.server.offer(ticket)]
        pipe = subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
        async with asyncio.timeout(120):
            out, err = await process.communicate(stdin)
        return process.returncode or 0, out.decode(), err.decode()

    def command(self, wanted: Wanted, code: int = 0, error: str = "") -> CommandTicket:
        """Echoes its stdin, if it has one; with a terminal it looks at two sizes."""

        async def serve(streams: CommandStreams) -> Outcome:
            assert streams.stdout is not None
            await streams.stdout.write(b"" if streams.stdin else b"output")
            while streams.stdin and (piece := await streams.stdin.read()):
                await streams.stdout.write(piece)
            if streams.stderr:
                await streams.stderr.write(b"trouble")
            if wanted.tty:
                self.sizes.append(await streams.next_size())
            return Outcome(code, error)

        return CommandTicket("exec", wanted, serve)


async def echo_each(session: ForwardSession) -> None:
    async def one(forward: Forward) -> None:
        try:
            if forward.port == 81:
                await forward.error.write(b"nobody listens on port 81")
            while forward.port != 81 and (piece := await forward.data.read()):
                await forward.data.write(piece)
        except StreamReset:
            return
        await forward.data.finish()
        await forward.error.finish()

    async with asyncio.TaskGroup() as group:
        while forward := await session.accept():
            group.create_task(one(forward))


FORWARD = ForwardTicket(frozenset(), echo_each)


async def step_stdin_comes_back_and_the_exit_code_arrives(session: Session) -> None:
    for transport in TRANSPORTS:
        got = await session(session.command(PLAIN, 7), "exec", "-transport", transport, stdin=b"hello")
        assert got == (7, "hello", ""), got


async def step_a_command_without_stdin_or_with_stderr(session: Session) -> None:
    both = Wanted(stdin=False, stdout=True, stderr=True, tty=False)
    for transport in TRANSPORTS:
        got = await session(session.command(OUTPUT), "exec", "-transport", transport, "-no-stdin")
        assert got == (0, "output", ""), got
        got = await session(session.command(both), "exec", "-transport", transport, "-no-stdin", "-stderr")
        assert got == (0, "output", "trouble"), got


async def step_a_terminal_has_sizes(session: Session) -> None:
    terminal = Wanted(stdin=True, stdout=True, stderr=True, tty=True)
    for transport in TRANSPORTS:
        session.sizes.clear()
        got = await session(session.command(terminal), "exec", "-transport", transport, "-tty", stdin=b"x")
        assert got == (0, "x", "") and session.sizes[0] in (Size(80, 24), Size(132, 50)), (got, session.sizes)


async def step_every_version_over_spdy(session: Session) -> None:
    for version in VERSIONS:
        code, out, err = await session(session.command(OUTPUT, 7), "exec", "-no-stdin", "-protocols", version)
        if version == VERSIONS[-1]:  # a client of the first waits for one of the two, whichever comes first
            assert out == "output" or "exit code 7" in err, (version, code, out, err)
            continue
        assert out == "output", (version, out, err)
        if version.startswith(("v4", "v5")):
            assert code == 7, (version, code, err)
        else:
            assert code == 125 and "exit code 7" in err, (version, code, err)


async def step_version_4_over_a_websocket(session: Session) -> None:
    arguments = ("exec", "-transport", "websocket", "-no-stdin", "-protocols", VERSIONS[1])
    got = await session(session.command(OUTPUT, 7), *arguments)
    assert got == (7, "output", ""), got


async def step_a_fault_of_the_runtime_is_shown(session: Session) -> None:
    for transport in TRANSPORTS:
        ticket = session.command(OUTPUT, error="the container is gone")
        code, _, err = await session(ticket, "exec", "-no-stdin", "-transport", transport)
        assert code == 125 and "the container is gone" in err, (code, err)


async def step_an_old_url_is_refused(session: Session) -> None:
    for transport in TRANSPORTS:
        ticket = session.command(OUTPUT)
        session.server._tokens.redeem(session.server.offer(ticket).rpartition("/")[2])
        process = [
            str(session.client),
            "exec",
            "-transport",
            transport,
            "-no-stdin",
            session.server._base + "/exec/old",
        ]
        done = await asyncio.create_subprocess_exec(*process, stderr=subprocess.PIPE)
        _, err = await done.communicate()
        assert done.returncode == 125 and b"good once" in err, err


async def step_spdystream_by_itself(session: Session) -> None:
    for early in ((), ("-early",)):
        code, _, err = await session(FORWARD, "raw", "-bytes", "3000000", *early)
        assert code == 0, err


async def step_a_hundred_connections_and_resets_among_them(session: Session) -> None:
    for transport in TRANSPORTS:
        arguments = ("-connections", "100", "-reset", "-bytes", "64000000")
        code, _, err = await session(FORWARD, "forward", "-transport", transport, *arguments)
        assert code == 0, err


async def step_nobody_listens(session: Session) -> None:
    for transport in TRANSPORTS:
        code, _, err = await session(FORWARD, "forward", "-transport", transport, "-port", "81", "-bytes", "10")
        assert code == 125 and "nobody listens on port 81" in err, (code, err)


async def step_much_through_exec_and_port_forward(session: Session) -> str:
    said = []
    for transport in TRANSPORTS:
        for kind, ticket in (("echo", session.command(PLAIN)), ("forward", FORWARD)):
            code, out, err = await session(ticket, kind, "-transport", transport, "-bytes", str(BULK))
            assert code == 0, err
            said.append(f"{kind} {transport} {json.loads(out)['MBps']:.0f} MB/s")
    return "both ways: " + ", ".join(said)


async def step_a_client_that_reads_late_costs_no_memory(session: Session) -> None:
    code, _, err = await session(FORWARD, "raw", "-bytes", str(BULK), "-hold")
    assert code == 0, err


Step = Callable[[Session], Awaitable[str | None]]
STEPS: tuple[Step, ...] = (
    step_stdin_comes_back_and_the_exit_code_arrives,
    step_a_command_without_stdin_or_with_stderr,
    step_a_terminal_has_sizes,
    step_every_version_over_spdy,
    step_version_4_over_a_websocket,
    step_a_fault_of_the_runtime_is_shown,
    step_an_old_url_is_refused,
    step_spdystream_by_itself,
    step_a_hundred_connections_and_resets_among_them,
    step_nobody_listens,
    step_much_through_exec_and_port_forward,
    step_a_client_that_reads_late_costs_no_memory,
)


async def run_all(client: Path, folder: Path) -> int:
    """All steps on plain connections, the small ones also with TLS; then what it cost."""
    passed = failed = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tasks = Tasks()
    for secure in (False, True):
        cert, key = make_certificate(folder) if secure else ("", "")
        if secure and not cert:
            print("--     TLS skipped: needs openssl, which makes certificates")
            continue
        server = await StreamingServer.start("127.0.0.1:0", 60, tasks.spawn, cert, key)
        for step in STEPS:
            if secure and step is step_spdystream_by_itself:
                break  # it knows no TLS, and what follows is long enough once
            good = await run_step(step, Session(client, server), " with TLS" if secure else "")
            passed, failed = passed + good, failed + (not good)
        await server.close()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    good = grown < GROWTH and not tasks.names()
    print(f"{'ok    ' if good else 'FAILED'} memory grew by {grown} kB, tasks left: {tasks.names()}")
    passed, failed = passed + good, failed + (not good)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


async def run_step(step: Step, session: Session, suffix: str) -> bool:
    name = step.__name__.removeprefix("step_") + suffix
    try:
        said = await step(session)
    except (AssertionError, OSError, TimeoutError, ValueError) as error:
        print(f"FAILED {name}: {type(error).__name__}: {error}", flush=True)
        return False
    print(f"ok     {name}{f': {said}' if said else ''}", flush=True)
    return True


def make_certificate(folder: Path) -> tuple[str, str]:
    """Files for a certificate of this run; empty names without openssl."""
    if shutil.which("openssl") is None:
        return "", ""
    cert, key = str(folder / "tls.crt"), str(folder / "tls.key")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run([*command, "-subj", "/CN=x", "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


if __name__ == "__main__":
    sys.exit(main())
