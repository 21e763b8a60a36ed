"""Children of the test's own process, followed as a monitor does."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from runtime.children import Children
from runtime.linux.script import Script
from runtime.loop import Loop
from runtime.newborn import Birth, Child
from runtime.program import LAUNCH, open_program
from tests.kernel.runtime.launched import executing


class Nursery:
    """Children of the test's own process, and what was told of them, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        self.given: list[int] = []
        self.loop = Loop(lambda error: self.told.append(("fault", error)))
        self.loop.open()
        self.children = Children(self.loop, lambda: self.told.append(("last", None)))
        self.children.open()

    def fork(self, run: Callable[[int], NoReturn], **where: Any) -> Child:
        return self.children.fork(self.birth(**where), run)

    def spawn(self, *args: str, given: Sequence[int] = (), **where: Any) -> Child:
        """A process that has the streams ``given`` and executes ``args``."""
        return self.carry_out(executing(args, len(given)), given, **where)

    def carry_out(self, script: Script, given: Sequence[int] = (), **where: Any) -> Child:
        launch, memfd = open_program(LAUNCH), os.memfd_create("script", os.MFD_CLOEXEC)
        os.write(memfd, script.bytes())
        try:
            return self.children.spawn(self.birth(**where), launch, memfd, given)
        finally:
            os.close(launch)
            os.close(memfd)

    def on_word(self, child: Child) -> None:
        """For births that hand something over long before they are ready."""
        self.told.append(("word", None))
        self.given += child.given
        child.given.clear()

    def birth(self, **where: Any) -> Birth:
        return Birth(
            "a child",
            on_ready=self.on_ready,
            on_failed=lambda fault: self.told.append(("failed", fault)),
            on_exit=lambda status: self.told.append(("exit", os.waitstatus_to_exitcode(status))),
            **where,
        )

    def on_ready(self, child: Child) -> None:
        self.told.append(("ready", child.answer))
        self.given += child.given
        child.given.clear()

    def wait(self, *kinds: str) -> list[Any]:
        """Turn until exactly these have been told; their details."""
        end = time.monotonic() + 30
        while [kind for kind, _ in self.told] != list(kinds):
            assert time.monotonic() < end, self.told
            self.loop.turn(0.05)
        return [detail for _, detail in self.told]

    def close(self) -> None:
        for child in list(self.children._children.values()):
            child.signal(signal.SIGKILL)
        end = time.monotonic() + 30
        while len(self.children) and time.monotonic() < end:
            self.loop.turn(0.05)
        self.children.close()
        self.loop.close()


def leave(code: int) -> Callable[[int], NoReturn]:
    def run(report: int) -> NoReturn:
        os._exit(code)

    return run
