"""Does each test module, run all by itself, cover its source module?

    python tests/coverage_alone.py [--minimum 80] [--no-cache] [MODULE.py ...]

A test that covers a module by accident, three layers up, does not say what the module is
for. So each source module is measured with its own test module (``tests.tree``) and nothing
else. Two test modules run at a time, in processes forked from this one once pytest is
imported; those with real kernel objects run one after the other, since they look at the
whole host for leaks. What passed is remembered by content in ``.coverage_alone``.

A test that fails here is shown, but not judged: `make test` runs it again and does that. What
counts is that the module was covered all the same.

Invariant: exit status 0 only if every module was measured, or its tier named as skipped.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests import leaks, tree  # noqa: E402 - after the path to it

CACHE = ROOT / ".coverage_alone"
CONFIG = """\
[run]
include = {source}
data_file = {folder}/data
parallel = true
patch =
    subprocess
    _exit
    fork
sigterm = true
disable_warnings = no-data-collected,module-not-imported,module-not-measured,no-sysmon
[report]
exclude_also =
    if TYPE_CHECKING:
    @overload
    ^\\s*\\.\\.\\.$
    class .*\\(Protocol.*\\):
"""


PRELOADED = (
    *("aiohttp", "asyncio", "coverage", "hypothesis.strategies", "msgspec", "prometheus_client"),
    *("proto.api_pb2", "pyroute2", "pytest", "pytest_asyncio.plugin", "pytest_timeout"),
)
PYTEST = (
    *("-q", "-p", "no:cacheprovider", "--no-header", "--tb=short", "--hypothesis-profile=quick"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # plugins among PRELOADED
)


@dataclass(frozen=True)
class Job:
    source: Path
    test: Path

    @property
    def needs_root(self) -> bool:
        return self.test.parts[1] != "unit"


@dataclass(frozen=True)
class Result:
    """``percent`` of the statements; ``trouble`` is what pytest said if it did not pass; ``took`` seconds."""

    job: Job
    percent: float
    missing: str
    trouble: str = ""
    took: float = 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description="measure each module with its own test module alone")
    parser.add_argument("--minimum", type=float, default=80)
    parser.add_argument("--no-cache", action="store_true")
    parser.add_argument("modules", nargs="*", type=Path)
    options = parser.parse_args()

    wanted = [path.resolve().relative_to(ROOT) for path in options.modules] or tree.list_sources()
    jobs = [Job(source, test) for source in wanted for test in tree.tests_of(source)[:1]]
    untested = [source for source in wanted if not tree.tests_of(source)]
    skipped = [job for job in jobs if job.needs_root and os.geteuid() != 0]
    support = digest_support()
    CACHE.mkdir(exist_ok=True)
    todo = [job for job in jobs if job not in skipped and (options.no_cache or not remembered(job, support).exists())]

    began = time.monotonic()
    results = run_all(todo)
    bad = [result for result in results if result.percent < options.minimum]
    shown = [result for result in results if result.trouble or result in bad]
    for result in results:
        if result not in shown:
            remembered(result.job, support).touch()
    report(shown, untested, skipped)
    lowest = min((result.percent for result in results), default=100.0)
    took = f"{time.monotonic() - began:.0f} s"
    measured = f"{len(jobs) - len(skipped)} modules, {len(todo)} measured in {took}"
    for result in sorted(results, key=lambda result: -result.took)[: 5 if len(results) > 20 else 0]:
        print(f"slow: {result.took:.1f} s for {result.job.test}")
    print(f"{measured}, lowest {lowest:.0f} %, {len(bad)} below {options.minimum:.0f} %")
    return 1 if bad or untested else 0


def report(shown: list[Result], untested: list[Path], skipped: list[Job]) -> None:
    for result in shown:
        print(
            f"{result.job.source}: {result.percent:.0f} % by {result.job.test}; not run: {result.missing or 'nothing'}"
        )
        if result.trouble:
            print("  " + result.trouble.replace("\n", "\n  "))
    for source in untested:
        print(f"{source}: no test module")
    if skipped:
        print(f"{len(skipped)} modules skipped: their tests need root")


# ---------------------------------------------------------------------------- the cache


def digest_support() -> str:
    """Of what all tests stand on: the files below ``tests`` that are no test modules, and the tools."""
    files = [path for path in tree.list_tests() if not path.match("test_*.py")]
    files += [Path("pyproject.toml"), Path("deploy/requirements-dev.lock"), Path("tests/coverage_alone.py")]
    return hashlib.sha256(b"".join((ROOT / path).read_bytes() for path in files)).hexdigest()


def remembered(job: Job, support: str) -> Path:
    """The file that exists if this pair, as it is, has passed on this Python."""
    parts = [sys.version, support, str(job.source), (ROOT / job.source).read_text(), (ROOT / job.test).read_text()]
    return CACHE / hashlib.sha256("\0".join(parts).encode()).hexdigest()


# ---------------------------------------------------------------------------- running


def run_all(jobs: list[Job]) -> list[Result]:
    """Two at a time, at most one of them with real kernel objects."""
    preload()
    leaks.new_mark()
    waiting = sorted(jobs, key=lambda job: not job.needs_root)
    running: dict[int, tuple[Job, Path, float]] = {}
    results: list[Result] = []
    while waiting or running:
        busy_kernel = any(job.needs_root for job, _, _ in running.values())
        ready = [job for job in waiting if not (busy_kernel and job.needs_root)]
        if ready and len(running) < 2:
            waiting.remove(ready[0])
            folder = Path(tempfile.mkdtemp(prefix="crisp-coverage-"))
            running[start(ready[0], folder)] = ready[0], folder, time.monotonic()
            continue
        pid, _ = os.waitpid(-1, 0)
        if pid in running:
            results.append(collect(*running.pop(pid)))
            if sys.stderr.isatty():
                print(f"{len(results)} of {len(jobs)}", end="\r", file=sys.stderr, flush=True)
    return sorted(results, key=lambda result: result.job.source)


def preload() -> None:
    """Import once what takes long to import; nothing of ours, whose import has to be measured."""
    for name in PRELOADED:
        importlib.import_module(name)


def start(job: Job, folder: Path) -> int:
    """Fork a process that measures ``job``; its pid. It writes below ``folder``."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        with open(folder / "output", "wb") as output, open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        os.chdir(ROOT)
        code = measure(job, folder)
    except BaseException:  # noqa: BLE001 - this process ends here; the output is what the parent reports
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def measure(job: Job, folder: Path) -> int:
    """Run the test module under coverage, combine what its processes wrote, write the report."""
    import coverage
    import pytest

    (folder / "rc").write_text(CONFIG.format(source=ROOT / job.source, folder=folder))
    measured = coverage.Coverage(config_file=str(folder / "rc"))
    measured.start()
    code = int(pytest.main([*PYTEST, f"--basetemp={folder / 't'}", str(job.test)]))
    measured.stop()
    measured.save()
    combined = coverage.Coverage(config_file=str(folder / "rc"))
    combined.combine([str(folder)])
    combined.save()
    _, statements, _, missing, formatted = combined.analysis2(str(ROOT / job.source))
    percent = 100 * (1 - len(missing) / len(statements)) if statements else 100.0
    (folder / "result.json").write_text(json.dumps([percent, formatted]))
    return code


def collect(job: Job, folder: Path, began: float) -> Result:
    """What the process that measured ``job`` has written."""
    output = (folder / "output").read_text(errors="replace")
    try:
        percent, missing = json.loads((folder / "result.json").read_text())
    except FileNotFoundError:
        return Result(job, 0.0, "", "ended before it wrote a result\n" + output[-2000:])
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)  # some trees are deeper than rmtree goes
    last = output.strip().splitlines()[-1] if output.strip() else ""
    passed = "passed" in last and "failed" not in last and "error" not in last
    return Result(job, percent, missing, "" if passed else output[-3000:], time.monotonic() - began)


if __name__ == "__main__":
    sys.exit(main())
