"""The published critest against crisp: all of its specs, and ``docs/conformance.md`` of what became of them.

    python -m tests.conformance.critest                 what `make conformance` runs
    python -m tests.conformance.critest --full          serial and parallel, SPDY and WebSocket, three times
    python -m tests.conformance.critest --focus 'OOM'   one run of some specs (regular expressions of ginkgo)

On a machine without Go and a compiler, or against a runtime that serves already:

    python -m tests.conformance.critest --prepare FOLDER            where both are
    python -m tests.conformance.critest --from FOLDER --endpoint unix:///run/crisp/crisp.sock --certs /etc/crisp/certs.d

The exit status is 1 if a spec has not passed and has no reason that ``critest_report`` knows. Without Go or
without root it says so and ends with status 0.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests import golang
from tests.conformance import critest_host, stand_ins
from tests.conformance.critest_report import (
    count,
    look_at_host,
    reason,
    render_section,
    replace_section,
    unexcused,
)
from tests.conformance.critest_run import STREAMS, Programs, Result, Run, RunFault, build_programs, carry_out

NODES = 4
EACH = (
    Run("SPDY, in parallel", NODES),
    Run("WebSocket, streaming and networking, in parallel", NODES, websocket=True, focus=STREAMS),
)
FULL = (
    *(Run("SPDY, in parallel", NODES), Run("SPDY, one by one")),
    *(Run("WebSocket, in parallel", NODES, websocket=True), Run("WebSocket, one by one", websocket=True)),
)
ROUNDS = 3


def main(words: Sequence[str]) -> int:
    arguments = parse(words)
    if arguments.prepare:
        prepare(arguments.prepare)
        return 0
    lacking = "root" if os.geteuid() else "Go, which builds it" if golang.is_missing() and not arguments.folder else ""
    if lacking:
        print(f"critest: skipped: needs {lacking}\n0 passed, 0 failed, 1 skipped")
        return 0
    results = []
    with critest_host.scratch() as folder, serving(arguments, folder) as (programs, endpoint):
        for number, run in enumerate(plan_runs(arguments)):
            place = folder / f"run-{number}"
            place.mkdir()
            try:
                results.append(carry_out(programs, run, endpoint, place, arguments.seed))
            except RunFault as fault:
                print(f"FAILED {fault}")
                return 1
            tell(results[-1])
    return conclude(results, arguments.document)


def parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.conformance.critest")
    parser.add_argument("--full", action="store_true", help="the whole matrix, three times")
    parser.add_argument("--focus", default="", help="one run of the specs that match")
    parser.add_argument("--skip", default="", help="without those that match")
    parser.add_argument("--nodes", type=int, default=NODES, help="processes of that one run")
    parser.add_argument("--websocket", action="store_true", help="that one run over WebSocket")
    parser.add_argument("--seconds", type=float, default=Run("").seconds, help="that it may take")
    parser.add_argument("--seed", type=int, default=0, help="of the random order")
    parser.add_argument("--document", type=Path, help="write what became of the specs into this file")
    parser.add_argument("--prepare", type=Path, metavar="FOLDER", help="put programs and images there, and run nothing")
    parser.add_argument("--from", dest="folder", type=Path, metavar="FOLDER", help="take them from there")
    parser.add_argument("--endpoint", default="", help="of a runtime that serves already")
    parser.add_argument(
        "--certs", type=Path, help="the folder of hosts.toml that it reads", default="/etc/crisp/certs.d"
    )
    return parser.parse_args(words)


def plan_runs(arguments: argparse.Namespace) -> Sequence[Run]:
    if arguments.full:
        return FULL * ROUNDS
    if arguments.focus or arguments.skip or arguments.websocket:
        title = f"{'WebSocket' if arguments.websocket else 'SPDY'}, {arguments.focus or 'all'}"
        chosen = (arguments.nodes, arguments.websocket, arguments.focus, arguments.skip, arguments.seconds)
        return (Run(title, *chosen),)
    return EACH


def prepare(folder: Path) -> None:
    """What a run needs, in the empty ``folder``: critest, ginkgo, and the images as an OCI layout."""
    programs = build_programs()
    (folder / "images").mkdir(parents=True)
    shutil.copy(programs.critest, folder / "critest")
    shutil.copy(programs.ginkgo, folder / "ginkgo")
    stand_ins.write_layout(folder / "images")


@contextlib.contextmanager
def serving(arguments: argparse.Namespace, scratch: Path) -> Iterator[tuple[Programs, str]]:
    """The programs, and the endpoint of a runtime that can pull the images."""
    if arguments.folder:
        programs, layout = (
            Programs(arguments.folder / "critest", arguments.folder / "ginkgo"),
            arguments.folder / "images",
        )
    else:
        programs, layout = build_programs(), scratch / "images"
        layout.mkdir()
        stand_ins.write_layout(layout)
    (scratch / "runtime").mkdir()
    lent = arguments.endpoint and critest_host.lend(arguments.endpoint, arguments.certs, layout)
    with lent or critest_host.runtime(scratch / "runtime", layout) as endpoint:
        yield programs, endpoint


def tell(result: Result) -> None:
    """A line for the run, one for each reason not to pass, and one for each spec that has none."""
    facts = look_at_host()
    passed, failed, skipped = count(result.specs)
    print(
        f"critest over {result.run.title}: {len(result.specs)} specs, {passed} passed, {failed} failed, "
        f"{skipped} skipped, {result.seconds:.0f} s, seed {result.seed}"
    )
    rest = [spec for spec in result.specs if spec.state != "passed"]
    reasons = Counter((spec.state, reason(spec, facts)) for spec in rest)
    for (state, why), number in reasons.items():
        if why:
            print(f"--     {number} {state}: {why}")
    for spec in rest:
        if not reason(spec, facts):
            print(f"FAILED {spec.name}: {spec.state}: {shorten(spec.message)}")
    sys.stdout.flush()


def shorten(message: str) -> str:
    """One line: what gRPC says, where that is what gomega has printed as a value."""
    said = re.search(r"rpc error: .*", message)
    return " ".join((said[0] if said else message).split())[:500]


def conclude(results: Sequence[Result], document: Path | None) -> int:
    facts = look_at_host()
    if document:
        known = document.read_text() if document.exists() else ""
        document.write_text(replace_section(known, render_section(results, facts)))
    bad = len(unexcused(results, facts))
    passed = sum(count(result.specs)[0] for result in results)
    excused = sum(len(result.specs) for result in results) - passed - bad
    print(f"{passed} passed, {bad} failed, {excused} skipped")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
