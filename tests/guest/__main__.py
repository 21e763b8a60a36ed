"""``make guest``: the tests of this folder, and others about cgroups, inside a machine of their own.

    python -m tests.guest                      all of them
    python -m tests.guest tests/guest/X.py     those that are named, as pytest takes them
    python -m tests.guest --critest            critest's specs on what differs there, and nothing else
    python -m tests.guest --command 'WORDS'    what the shell makes of them instead, to look around

The exit status is that of pytest. On a failure the journal is shown: what systemd says of crisp's service,
then what that says itself.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests import golang
from tests.conformance import critest
from tests.conformance.critest_report import replace_section
from tests.guest import image, recipe
from tests.guest.machine import Machine, MachineFault, booted

SECONDS = 1500.0
"""For all tests together."""

SERVICE = ("tests/guest",)
ALONE = (
    *("tests/kernel/runtime/cgroups", "tests/kernel/runtime/linux/test_bpf.py"),
    *("tests/cri/rpc/test_container_update.py", "tests/cri/rpc/test_sandbox_update.py"),
    # This one asks the kernel nothing, and takes long; the other compares what two ways cost, which emulation changes.
    "--deselect=tests/kernel/runtime/linux/test_bpf.py::test_a_program_decides_as_its_rules_mean",
    "--deselect=tests/kernel/runtime/cgroups/test_stats.py::"
    "test_a_sweep_of_two_hundred_cgroups_costs_less_than_to_open_their_files",
)
"""Tests of other tiers whose other half needs cgroup v2. They look for leaks, so the service is stopped for them."""

SPECS = "Container OOM|AppArmor|NamespaceOption|UserNamespaces|metrics operations|stats"
"""Of critest, as ginkgo takes them: resources, security and figures, which depend on cgroups and AppArmor. One by
one, for those on AppArmor load and unload the same profiles. Under each of ``DRIVERS``."""

DOCUMENT = recipe.ROOT / "docs/conformance.md"

DRIVERS = ("systemd", "cgroupfs")
USE_DRIVER = (
    "mkdir -p /etc/crisp && printf '[cgroup]\\ndriver = \"{}\"\\n' >/etc/crisp/config.toml && systemctl restart crisp"
)

PYTEST = ("-m", "pytest", "-p", "no:cacheprovider", "--timeout=600", "--durations=5")
ENVIRONMENT = {
    "CRISP_GUEST": "1",
    "PATH": "/opt/crisp/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    "CRISP_TEST_PATIENCE": "300",
    "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",
}


def say(text: str) -> None:
    print(f"guest: {text}", flush=True)


def hear(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tests.guest")
    parser.add_argument("--command", help="a shell's command instead of pytest")
    parser.add_argument("--critest", action="store_true", help="critest's specs alone")
    chosen, words = parser.parse_known_args(arguments)
    missing = [name for name in ("mmdebstrap", "qemu-system-x86_64", "mke2fs") if shutil.which(name) is None]
    obstacle = recipe.find_obstacle() or (
        f"not installed: {', '.join(missing)} (deploy/install-deps --guest)" if missing else ""
    )
    if obstacle:
        say(obstacle)
        return 1
    began = time.monotonic()
    disks = image.open_image(say)
    made = time.monotonic()
    try:
        with prepared(chosen, words) as programs:
            make_sources = functools.partial(image.make_sources, beside=programs)
            with booted(disks, make_sources, say) as machine:
                say(f"image {made - began:.0f} s, boot {machine.boot_seconds:.1f} s")
                status = carry_out(machine, chosen, words, programs)
    except MachineFault as fault:
        say(str(fault))
        return 1
    say(f"{time.monotonic() - began:.0f} s in all, status {status}")
    return status


@contextlib.contextmanager
def prepared(chosen: argparse.Namespace, words: list[str]) -> Iterator[Path | None]:
    """A folder with critest and its images, None where it is not wanted or there is no Go to build it."""
    if chosen.command is not None or words:
        yield None
    elif golang.is_missing():
        say("without critest, for there is no Go that could build it")
        yield None
    else:
        with tempfile.TemporaryDirectory(prefix="crisp-guest-") as folder:
            critest.prepare(Path(folder) / "critest")
            yield Path(folder) / "critest"


def carry_out(machine: Machine, chosen: argparse.Namespace, words: list[str], programs: Path | None) -> int:
    if chosen.command is not None:
        return run_shell(machine, f"cd {recipe.PLACES['sources']}; {chosen.command}")
    if words:
        return run_tests(machine, words)
    if chosen.critest:
        return run_critest(machine, programs)
    status = run_tests(machine, SERVICE) | run_critest(machine, programs)
    if status:
        for wanted in (["UNIT=crisp.service"], ["_SYSTEMD_UNIT=crisp.service", "--lines=150"]):
            machine.run(["journalctl", "--no-pager", *wanted], 120, hear)
    machine.run(["systemctl", "stop", "crisp"], 120, hear)
    return run_tests(machine, ALONE) or status


def run_shell(machine: Machine, command: str) -> int:
    return machine.run(["sh", "-c", command], SECONDS, hear, **ENVIRONMENT)


def run_critest(machine: Machine, programs: Path | None) -> int:
    """The specs under each driver, if there is ``programs``."""
    if programs is None:
        return 0
    return max(run_shell(machine, USE_DRIVER.format(each)) or run_specs(machine, programs, each) for each in DRIVERS)


def run_specs(machine: Machine, programs: Path, driver: str) -> int:
    """What became of the specs stands in ``DOCUMENT`` afterwards, beside what other hosts have found."""
    began, told = time.monotonic(), list[str]()
    options = {
        "from": f"{recipe.PLACES['sources']}/{programs.name}",
        "endpoint": "unix:///run/crisp/crisp.sock",
        "focus": f"'{SPECS}'",
        "nodes": "1",
        "seconds": f"{SECONDS:.0f}",
        "document": "/run/conformance.md",
    }
    words = " ".join(f"--{name} {value}" for name, value in options.items())
    status = run_shell(machine, f"cd {recipe.PLACES['sources']} && python -m tests.conformance.critest {words}")
    if machine.run(["cat", options["document"]], 60, told.append) == 0:
        _, heading, section = "".join(told).replace(SPECS, SPECS.replace("|", r"\|")).partition("## ")  # of a table
        title, _, rest = section.partition("\n")
        section = f"{heading}{title}, driver {driver}\n{rest}"
        DOCUMENT.write_text(replace_section(DOCUMENT.read_text() if DOCUMENT.exists() else "", section))
    say(f"critest under {driver}: {time.monotonic() - began:.0f} s, status {status}")
    return status


def run_tests(machine: Machine, words: Sequence[str]) -> int:
    began = time.monotonic()
    tests = ["env", f"--chdir={recipe.PLACES['sources']}", "/opt/crisp/bin/python", *PYTEST, *words]
    status = machine.run(tests, SECONDS, hear, **ENVIRONMENT)
    say(f"{' '.join(words)}: {time.monotonic() - began:.0f} s, status {status}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
