"""AppArmor on the host: which profiles the kernel has, and loading crisp's own.

``cri.apparmor`` decides with this what a container gets, ``exec_label`` applies it. Profiles
are compiled by ``apparmor_parser``, as there is nothing else that does it; that takes a tenth
of a second and happens when the daemon starts.

Invariant: no profile is changed but ``crisp-default``.
"""

from __future__ import annotations

import errno
import shutil
import subprocess

from runtime.errors import HostFault
from runtime.lsm.apparmor_profile import NAME, TEXT

PROFILES = "/sys/kernel/security/apparmor/profiles"
"""A line a profile that the kernel has: its name and, in parentheses, its mode."""

_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
_SECONDS = 120
_STEP = "load the AppArmor profile"


def find_parser(path: str = _PATH) -> str | None:
    """The program that compiles and loads profiles, looked for in ``path``, in the form of PATH."""
    return shutil.which("apparmor_parser", path=path)


def is_loaded(profile: str, listed: str = PROFILES) -> bool:
    """Whether the kernel has ``profile``, by the list ``listed``.

    Raises:
        HostFault: nobody can tell, because securityfs is not mounted.
    """
    try:
        with open(listed, encoding="utf-8", errors="replace") as file:
            return any(line.rstrip().rpartition(" (")[0] == profile for line in file)
    except OSError as error:
        step = "look for the AppArmor profile"
        raise HostFault(step=step, object=listed, call="open", errno=error.errno or 0) from error


def load_default(path: str = _PATH, listed: str = PROFILES) -> None:
    """Load ``crisp-default``, or replace the one that an earlier daemon has loaded. Blocking.

    Raises:
        HostFault: no parser, or what it says, or the kernel has not got the profile by it.
    """
    parser = find_parser(path)
    if parser is None:
        message = f"no apparmor_parser command in {path}; install the package apparmor"
        raise HostFault(message, step=_STEP, object=NAME, call="apparmor_parser", errno=errno.ENOENT)
    try:
        done = subprocess.run(
            [parser, "--replace", "--skip-cache"],
            input=TEXT.encode(),
            capture_output=True,
            timeout=_SECONDS,
            env={"PATH": path, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        message = f"no end within {_SECONDS} s"
        raise HostFault(message, step=_STEP, object=NAME, call="apparmor_parser", errno=errno.ETIMEDOUT) from None
    except OSError as error:
        raise HostFault(step=_STEP, object=NAME, call=parser, errno=error.errno or 0) from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        message = lines[0] if lines else f"apparmor_parser ended with status {done.returncode}"
        raise HostFault(message, step=_STEP, object=NAME, call="apparmor_parser")
    if not is_loaded(NAME, listed):
        raise HostFault("the kernel does not list it", step=_STEP, object=NAME)
