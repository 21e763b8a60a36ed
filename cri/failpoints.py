"""Places where a test makes things go wrong: at each numbered step of an operation.

Implements ``runtime.steps.FailpointHook``. The daemon has failpoints only if it was
started with the variable ``CRISP_FAILPOINTS`` (it may be empty); it arms them as
``point=action[*count][;...]``, the admin socket one by one. The actions:

    fail             raise HostFault
    errno:ENOSPC     raise HostFault with that errno
    delay:0.2        sleep so many seconds
    hang             wait until the point is disarmed
    kill             SIGKILL this process
    kill-monitors    call what the daemon registered, then go on

``point`` may hold wildcards (``run/*:after``). The first that matches counts. With a
count (``fail*1``, once) the point disarms itself after so many hits.

Invariant: a daemon that was started without them does nothing in ``hit``.
"""

from __future__ import annotations

import asyncio
import errno
import fnmatch
import os
import signal
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from runtime.errors import FailedPrecondition, HostFault, InvalidArgument

VARIABLE = "CRISP_FAILPOINTS"

ACTIONS = ("fail", "errno", "delay", "hang", "kill", "kill-monitors")
STEP = "arm a failpoint"


@dataclass(slots=True)
class Armed:
    """``text`` is the action as it was given; ``left`` hits remain, 0 for any number.
    ``seconds`` for delay, ``errno`` for errno; ``released`` ends a hang."""

    text: str
    name: str
    seconds: float = 0.0
    errno: int = 0
    left: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class Point:
    """One line of ``crisp``'s list: how often it was passed, and how many hang there now."""

    point: str
    action: str
    hits: int
    waiting: int


def parse_action(text: str, count: int = 0) -> Armed:
    """Raises InvalidArgument for what is not an action."""
    name, _, argument = text.partition(":")
    if name not in ACTIONS or (bool(argument) != (name in ("errno", "delay"))):
        raise InvalidArgument(f"not an action: {text!r}; known are {', '.join(ACTIONS)}", step=STEP)
    armed = Armed(text, name, left=count)
    if name == "errno":
        armed.errno = next((number for number, known in errno.errorcode.items() if known == argument), 0)
        if not armed.errno:
            raise InvalidArgument(f"not an errno: {argument!r}", step=STEP)
    if name == "delay":
        try:
            armed.seconds = float(argument)
        except ValueError:
            raise InvalidArgument(f"not a number of seconds: {argument!r}", step=STEP) from None
    return armed


def parse(text: str) -> dict[str, Armed]:
    """The points and actions of the variable's value; raises InvalidArgument."""
    points = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        point, separator, action = part.partition("=")
        action, _, count = action.partition("*")
        if not separator or not point or not (count or "0").isdecimal():
            raise InvalidArgument(f"not point=action or point=action*count: {part!r}", step=STEP)
        points[point] = parse_action(action, int(count or "0"))
    return points


async def no_monitors() -> None:
    """What ``kill-monitors`` does until the daemon has registered its own."""


@dataclass(slots=True)
class Failpoints:
    """``kill_monitors`` is set by the daemon."""

    enabled: bool = False
    armed: dict[str, Armed] = field(default_factory=dict)
    hits: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)
    kill_monitors: Callable[[], Awaitable[None]] = no_monitors

    @classmethod
    def from_environment(cls) -> Failpoints:
        """Enabled if the variable is set; raises InvalidArgument for a wrong value."""
        text = os.environ.get(VARIABLE)
        return cls() if text is None else cls(enabled=True, armed=parse(text))

    def set(self, point: str, action: str, count: int = 0) -> None:
        """Arm ``point``, or with the action ``off`` disarm it (``*``: all of them).

        Raises:
            FailedPrecondition: the daemon was started without failpoints.
            InvalidArgument: no such action.
        """
        self._require()
        if action == "off":
            self._disarm(list(self.armed) if point == "*" else [point])
            return
        armed = parse_action(action, count)
        self._disarm([point])
        self.armed[point] = armed

    def points(self) -> list[Point]:
        """Every point that was passed or is armed; raises FailedPrecondition as ``set``."""
        self._require()
        names = sorted({*self.hits, *self.armed})
        return [
            Point(
                point,
                self.armed[point].text if point in self.armed else "",
                self.hits.get(point, 0),
                self.waiting.get(point, 0),
            )
            for point in names
        ]

    async def hit(self, point: str) -> None:
        """Called at every point. Raises HostFault where that is the action."""
        if not self.enabled:
            return
        self.hits[point] = self.hits.get(point, 0) + 1
        for pattern, armed in self.armed.items():
            if pattern == point or fnmatch.fnmatchcase(point, pattern):
                if armed.left:
                    armed.left -= 1
                    if not armed.left:
                        del self.armed[pattern]
                await self._act(point, armed)
                return

    async def _act(self, point: str, armed: Armed) -> None:
        match armed.name:
            case "fail" | "errno":
                raise HostFault("made to fail", step="failpoint", object=point, errno=armed.errno)
            case "delay":
                await asyncio.sleep(armed.seconds)
            case "hang":
                await self._hang(point, armed)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case _:
                await self.kill_monitors()

    async def _hang(self, point: str, armed: Armed) -> None:
        self.waiting[point] = self.waiting.get(point, 0) + 1
        try:
            await armed.released.wait()
        finally:
            self.waiting[point] -= 1

    def _disarm(self, points: Iterable[str]) -> None:
        for point in points:
            armed = self.armed.pop(point, None)
            if armed is not None:
                armed.released.set()

    def _require(self) -> None:
        if not self.enabled:
            raise FailedPrecondition(f"the daemon was started without {VARIABLE}", step=STEP)
