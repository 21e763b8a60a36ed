"""One run of the published critest against a runtime that serves, and what became of each spec.

Go builds critest and ginkgo, which runs specs in parallel, from go.mod beside this file (``tests.golang``).
``critest`` says which runs there are, ``critest_report`` judges what they found.

Invariant: a run writes below its own folder only, and every process of it has ended when it returns. What
specs leave on the host is ``critest_host``'s matter.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import golang

HERE = Path(__file__).resolve().parent
CRITEST = "sigs.k8s.io/cri-tools/cmd/critest"
GINKGO = "github.com/onsi/ginkgo/v2/ginkgo"
REPORT = "report.json"
FAILED = ("failed", "panicked", "timedout", "interrupted", "aborted")
"""States of ginkgo (types.SpecState) in which a spec has not done what it should."""

STREAMS = "Streaming|Networking"
"""The specs that open a session and those on ports, by what ginkgo calls a focus."""


class RunFault(Exception):
    """critest has left no report."""


@dataclass(frozen=True, slots=True)
class Programs:
    critest: Path
    ginkgo: Path


@dataclass(frozen=True, slots=True)
class Run:
    """How critest is called. ``nodes`` processes share the specs, in random order; ``focus`` and ``skip`` are
    regular expressions of ginkgo over their names; ``seconds`` are what all may take."""

    title: str
    nodes: int = 1
    websocket: bool = False
    focus: str = ""
    skip: str = ""
    seconds: float = 900.0


@dataclass(frozen=True, slots=True)
class Spec:
    """One spec and its end; ``state`` is ginkgo's, ``message`` why it failed or skipped itself."""

    name: str
    state: str
    message: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Result:
    """``specs`` are those that were not filtered out; ``seed`` gives the same order again."""

    run: Run
    specs: tuple[Spec, ...]
    seconds: float
    seed: int


def build_programs() -> Programs:
    """Raises CalledProcessError: Go refused."""
    return Programs(golang.build(HERE, CRITEST, tests=True), golang.build(HERE, GINKGO))


def plan_command(programs: Programs, run: Run, endpoint: str, report: str, seed: int) -> list[str]:
    words = [str(programs.critest), f"-runtime-endpoint={endpoint}"]
    words += [f"-parallel={run.nodes}"] if run.nodes > 1 else []
    words += [f"-websocket-{kind}" for kind in ("exec", "attach", "portforward") if run.websocket]
    words += ["--ginkgo.randomize-all", f"--ginkgo.seed={seed}", f"--ginkgo.json-report={report}"]
    words += [f"--ginkgo.timeout={run.seconds:.0f}s", "--ginkgo.no-color"]
    words += [f"--ginkgo.focus={run.focus}"] if run.focus else []
    words += [f"--ginkgo.skip={run.skip}"] if run.skip else []
    return words


def carry_out(programs: Programs, run: Run, endpoint: str, folder: Path, seed: int = 0) -> Result:
    """Run critest in the empty ``folder``, where its output is ``output`` afterwards.

    Raises:
        RunFault: it ended without a report; the message has the end of its output.
    """
    seed = seed or random.randrange(1, 1 << 31)
    (folder / "bin").mkdir()
    (folder / "bin/ginkgo").symlink_to(programs.ginkgo)
    (folder / "tmp").mkdir()
    # In parallel ginkgo takes the report's name as one beside the program, of which critest makes a link below TMPDIR.
    report = REPORT if run.nodes > 1 else str(folder / REPORT)
    environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "PATH": f"{folder}/bin:{os.environ['PATH']}"}
    command = plan_command(programs, run, endpoint, report, seed)
    began = time.monotonic()
    with open(folder / "output", "wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(run.seconds + 60)
        except subprocess.TimeoutExpired:
            print(f"{run.title}: critest did not end in time", flush=True)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    seconds = time.monotonic() - began
    found = [file for file in (folder / REPORT, *folder.glob(f"tmp/*/{REPORT}")) if file.exists()]
    if len(found) != 1:
        raise RunFault(f"{run.title}: no report; {(folder / 'output').read_text(errors='replace')[-3000:]}")
    return Result(run, parse_report(json.loads(found[0].read_bytes())), seconds, seed)


def parse_report(suites: list[Any]) -> tuple[Spec, ...]:
    """The specs of ginkgo's JSON report (types.Report), by name. Skipped without a word are those that were
    filtered out; what runs around specs counts where it failed."""
    specs = []
    for report in (report for suite in suites for report in suite["SpecReports"] or ()):
        message = report.get("Failure", {}).get("Message", "")
        if report["LeafNodeType"] != "It" and report["State"] not in FAILED:
            continue
        if report["State"] in ("skipped", "pending") and not message:
            continue
        name = " ".join([*(report["ContainerHierarchyTexts"] or ()), report["LeafNodeText"] or report["LeafNodeType"]])
        specs.append(Spec(name.removeprefix("[k8s.io] "), report["State"], message, report["RunTime"] / 1e9))
    return tuple(sorted(specs, key=lambda spec: spec.name))
