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
"""Seconds that Version may take, nineteen times of twenty, and thrice as long at worst 99 times of a hundred
(two cores to themselves give 0.06). All that arrives at once has to be taken in first: a call that meets
that moment waits for it."""
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
    taken_by, late_by = (sorted(each) for each in zip(*calls, strict=True))
    for share, bound in ((0.95, SLOWEST), (0.99, 3 * SLOWEST)):
        spent, late = taken_by[int(len(calls) * share)], late_by[int(len(calls) * share)]
        words = f"{share:.0%} of {len(calls)} calls of Version: {spent * 1e3:.1f} ms, woken {late * 1e3:.1f} ms late"
        assert spent < bound + HOPS * late, words
