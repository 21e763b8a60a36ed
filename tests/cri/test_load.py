"""Hundreds of RPCs at once: all are answered, and who asks for little is not kept waiting."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

from tests.cri.harness import DEMO_IMAGE, Crisp

TREE = Path(__file__).resolve().parents[2]
SLOWEST = 0.1
"""Seconds that Version may take, nineteen times of twenty. All that arrives at once has to be taken in
first: the few calls that meet that moment wait longer."""
HOPS = 4
"""How often a call waits for a CPU on its way (two processes, two threads of gRPC): on a machine that has
other things to do each takes as long as waking up does."""


async def python(*arguments: str) -> Process:
    command = [sys.executable, "-m", "tests.cri.flood", *arguments]
    return await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, cwd=TREE)


async def test_500_rpcs_at_once_are_answered_and_version_answers_meanwhile(crisp: Crisp) -> None:
    socket = crisp.host.settings.listen
    asking = await python(socket)
    assert asking.stdout is not None and await asyncio.wait_for(asking.stdout.readline(), 60) == b"asking\n"
    out, _ = await (await python(socket, DEMO_IMAGE, "500")).communicate()
    assert json.loads(out) == {"OK": 500}
    taken, _ = await asking.communicate(b"\n")
    calls = json.loads(taken)
    p95, late = (sorted(each)[int(len(calls) * 0.95)] for each in zip(*calls, strict=True))
    words = f"{len(calls)} calls of Version: p95 {p95 * 1e3:.1f} ms; p95 of waking up late {late * 1e3:.1f} ms"
    assert p95 < SLOWEST + HOPS * late, words
