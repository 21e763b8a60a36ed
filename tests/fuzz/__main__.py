"""``make fuzz``: parsers of what comes from outside, fed with mutated and random bytes.

    python -m tests.fuzz all --seconds 20
    python -m tests.fuzz spdy --seed 7 --case 1234      one case again, as the report of a failure says

A case is made from the seed and its number alone. It passes if the parser takes it or refuses it
as it says it does, within its bounds (``parsers``, ``content``).

Invariant: exit status 0 only if no case of any parser failed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import time
import traceback

from tests.fuzz.content import CONTENT
from tests.fuzz.mutation import mutate
from tests.fuzz.parsers import PARSERS, Parser

EVERY = {**PARSERS, **CONTENT}

SLOW = 2.0
"""Seconds that no case may take; each is a few kilobytes."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.fuzz", description="feed parsers with mutated bytes")
    parser.add_argument("parser", choices=["all", *EVERY])
    parser.add_argument("--seconds", type=float, default=20, help="for each parser (default 20)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--case", type=int, help="this one alone")
    options = parser.parse_args()
    names = list(EVERY) if options.parser == "all" else [options.parser]
    failed = sum(not run(name, options.seed, options.seconds, options.case) for name in names)
    print(f"{len(names) - failed} passed, {failed} failed")
    return 1 if failed else 0


def run(name: str, seed: int, seconds: float, case: int | None) -> bool:
    """Cases of one parser until the time is over; whether all passed."""
    parser = EVERY[name]()
    began = time.monotonic()
    number = case or 0
    with contextlib.closing(parser), asyncio.Runner() as runner:
        while True:
            data, chance = make_case(parser, seed, number)
            started = time.monotonic()
            try:
                runner.run(parser.take(data, chance)) if parser.needs_loop else parser.take_now(data, chance)
                if time.monotonic() - started > SLOW:
                    raise AssertionError(f"took {time.monotonic() - started:.1f} s")
            except Exception:  # noqa: BLE001 - whatever it is that the parser did not say is what is looked for
                print(f"FAILED {name}: python -m tests.fuzz {name} --seed {seed} --case {number}", file=sys.stderr)
                print(f"input: {data[:2000].hex()}", file=sys.stderr)
                traceback.print_exc()
                return False
            number += 1
            if case is not None or time.monotonic() - began > seconds:
                print(f"ok     {name}: {number - (case or 0)} cases, seed {seed}", flush=True)
                return True


def make_case(parser: Parser, seed: int, number: int) -> tuple[bytes, random.Random]:
    """The input with that number, and the chance that decides how it is cut."""
    chance = random.Random(f"{seed}/{number}")
    return mutate(parser.seeds, chance), chance


if __name__ == "__main__":
    sys.exit(main())
