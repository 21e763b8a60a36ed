"""``make guest``: the tests of this folder, and others about cgroups, inside a machine of their own.

    python -m tests.guest                      all of them
    python -m tests.guest tests/guest/X.py     those that are named, as pytest takes them
    python -m tests.guest --command 'WORDS'    a command of the shell instead, to look around

The exit status is that of pytest. On a failure the journal of crisp's service is shown.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time

from tests.guest import image, recipe
from tests.guest.machine import Machine, MachineFault, booted

SECONDS = 1500.0
"""For all tests together."""

CHOSEN = ("tests/guest",)
PYTEST = ("-m", "pytest", "-p", "no:cacheprovider", "--timeout=600", "--durations=5")
ENVIRONMENT = {
    "CRISP_GUEST": "1",
    "PATH": "/opt/crisp/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
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
        with booted(disks, image.make_sources, say) as machine:
            say(f"image {made - began:.0f} s, boot {machine.boot_seconds:.1f} s")
            status = carry_out(machine, chosen.command, words)
    except MachineFault as fault:
        say(str(fault))
        return 1
    say(f"{time.monotonic() - began:.0f} s in all, status {status}")
    return status


def carry_out(machine: Machine, command: str | None, words: list[str]) -> int:
    if command is not None:
        return machine.run(["sh", "-c", f"cd {recipe.PLACES['sources']}; {command}"], SECONDS, hear, **ENVIRONMENT)
    tests = ["/opt/crisp/bin/python", *PYTEST, *(words or CHOSEN)]
    status = machine.run(["env", f"--chdir={recipe.PLACES['sources']}", *tests], SECONDS, hear, **ENVIRONMENT)
    if status:
        machine.run(["journalctl", "--no-pager", "--lines=200", "--unit=crisp"], 60, hear)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
