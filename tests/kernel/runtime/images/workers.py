"""Workers as plain child processes: what the supervisor does with the zygote, for tests."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import isal

from runtime.errors import HostFault, from_wire

SOURCE = str(Path(__file__).parents[4])
SITE_PACKAGES = str(Path(isal.__file__).parents[1])

_CHILD = """
import importlib, json, os, sys
sys.path.append(sys.argv[1])
from runtime.errors import to_wire
entry, args, fds, result = sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4]), int(sys.argv[5])
module, function = entry.split(":")
try:
    answer = {"ok": getattr(importlib.import_module(module), function)(args, fds)}
except Exception as error:
    answer = {"error": to_wire(error)}
os.write(result, json.dumps(answer).encode())
os._exit(0)
"""


class SubprocessRunner:
    """A ``WorkerRunner``. ``calls`` are the entries that were run."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def run_worker(self, entry: str, args: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
        self.calls.append(entry)
        answers, result = os.pipe()
        given = [*fds, result]
        arguments = [SOURCE, entry, json.dumps(args), json.dumps(list(fds)), str(result)]
        try:
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", "-B", "-c", _CHILD, *arguments, pass_fds=given, env={}
            )
        finally:
            os.close(result)
        try:
            code = await child.wait()
            answer = await asyncio.to_thread(_read_all, answers)
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
            os.close(answers)
        if not answer:
            raise HostFault(f"the worker ended with {code}", step="run worker", object=entry)
        decoded = json.loads(answer)
        if "error" in decoded:
            raise from_wire(decoded["error"])
        return dict(decoded["ok"])


def _read_all(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, 1 << 16):
        parts.append(part)
    return b"".join(parts)
