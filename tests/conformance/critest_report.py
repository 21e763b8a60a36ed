"""What critest's runs come to: which specs have a reason not to pass, and ``docs/conformance.md``.

Pure but for ``look_at_host``. A spec is excused only where its state, its own words and the host say
the same; anything else that has not passed is a failure of crisp.

Invariant: the document has nothing of this machine but its kernel and cgroups, and each kind of host
(cgroup v1 and v2, cgroup v2 alone) has a section that only a run on such a host replaces.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cri.version import version
from runtime.cgroups.layout import detect
from tests.conformance.critest_run import FAILED, HERE, Result, Spec

MODULE = re.compile(r"sigs\.k8s\.io/cri-tools v(\S+)")
CGROUPS = {"v1": "cgroup v1", "hybrid": "cgroup v1 and v2", "v2": "cgroup v2 alone"}
TITLE = """\
# Conformance

What became of the specs of critest, the conformance suite of cri-tools, under crisp: written by `make conformance`,
and by `make guest` for the emulated machine. The images that critest names are local stand-ins
(`tests/conformance/stand_ins.py`).
"""


@dataclass(frozen=True, slots=True)
class Facts:
    """What of the host decides: release of the kernel, kind of cgroups, security modules that are on."""

    kernel: str
    cgroups: str
    apparmor: bool
    selinux: bool


@dataclass(frozen=True, slots=True)
class Excuse:
    """A reason not to pass: for specs whose name and message match, in that state, on hosts where ``holds``."""

    reason: str
    name: str
    message: str
    states: tuple[str, ...] = ("skipped",)
    without: str = ""
    """The field of ``Facts`` that has to be false; empty: on every host."""

    def covers(self, spec: Spec, facts: Facts) -> bool:
        absent = not self.without or not getattr(facts, self.without)
        matches = re.search(self.name, spec.name) and re.search(self.message, spec.message)
        return spec.state in self.states and absent and matches is not None


EXCUSES = (
    Excuse("the kernel has no AppArmor", r"^AppArmor", r"(?i)apparmor", without="apparmor"),
    Excuse("needs NRI, which crisp does not have yet", r"\bNRI\b", r"(?i)nri"),
    Excuse(
        "pulls a public image by a digest that is written in the suite: no stand-in can have it",
        r"^Image Manager public image with digest should be pulled and removed",
        r"test-image-digest@sha256:[0-9a-f]{64}",
        states=FAILED,
    ),
)


def look_at_host() -> Facts:
    apparmor = Path("/sys/module/apparmor/parameters/enabled")
    return Facts(
        platform.release().partition("-")[0],  # what follows is the distribution's, or the machine's
        CGROUPS[detect().kind],
        apparmor.exists() and apparmor.read_text().startswith("Y"),
        Path("/sys/fs/selinux/enforce").exists(),
    )


def reason(spec: Spec, facts: Facts) -> str:
    """Why the spec has not passed, if that is nothing to mend; else ""."""
    return next((excuse.reason for excuse in EXCUSES if excuse.covers(spec, facts)), "")


def unexcused(results: Sequence[Result], facts: Facts) -> list[tuple[Result, Spec]]:
    """The specs that have neither passed nor a reason, and a line for each run without specs."""
    return [
        (result, spec)
        for result in results
        for spec in result.specs or (Spec("(no spec)", "failed", "nothing was run"),)
        if spec.state != "passed" and not reason(spec, facts)
    ]


def count(specs: Sequence[Spec]) -> tuple[int, int, int]:
    """How many passed, failed, skipped themselves."""
    passed = sum(spec.state == "passed" for spec in specs)
    failed = sum(spec.state in FAILED for spec in specs)
    return passed, failed, len(specs) - passed - failed


def read_suite_version() -> str:
    found = MODULE.search((HERE / "go.mod").read_text())
    assert found, "go.mod names no cri-tools"
    return found[1]


def render_section(results: Sequence[Result], facts: Facts) -> str:
    """The section of the document about hosts of this kind."""
    lines = [
        f"## With {facts.cgroups}",
        "",
        f"crisp {version()}, critest {read_suite_version()}, Linux {facts.kernel}, {facts.cgroups}; "
        f"AppArmor {'on' if facts.apparmor else 'off'}, SELinux {'on' if facts.selinux else 'off'}"
        f"{'' if facts.selinux else ' (its specs are not registered)'}.",
        "",
        "| run | specs | passed | failed | skipped |",
        "|---|---|---|---|---|",
    ]
    lines += [
        "| {} | {} | {} | {} | {} |".format(result.run.title, len(result.specs), *count(result.specs))
        for result in results
    ]
    rest = {(spec.name, spec.state, reason(spec, facts)) for r in results for spec in r.specs if spec.state != "passed"}
    if not rest:
        return "\n".join([*lines, "", "All passed.", ""])
    lines += ["", "Not passed:", "", "| spec | end | reason |", "|---|---|---|"]
    lines += [f"| {name} | {state} | {why or '**none**'} |" for name, state, why in sorted(rest)]
    return "\n".join([*lines, ""])


def replace_section(document: str, section: str) -> str:
    """The document with ``section`` in the place of the one with the same heading, or at its end."""
    parts = re.split(r"(?m)^(?=## )", document)[1:]
    heading = section.partition("\n")[0]
    kept = [part.strip() + "\n" for part in parts if part.partition("\n")[0] != heading]
    return "\n".join([TITLE, *sorted([*kept, section])])
