"""Programs that others publish as Go modules, built once by the Go client into the user's cache.

A suite that needs one has a folder with ``go.mod`` and ``go.sum``, which name the versions
and their hashes; the cache is keyed by them.

Invariant: the checkout is not written to.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crisp"


def is_missing() -> bool:
    return shutil.which("go") is None


def build(folder: Path, package: str, ldflags: str = "", *, tests: bool = False) -> Path:
    """The program of ``package`` as ``folder``'s go.mod has it, from the cache or built into it.

    A ``package`` that begins with ``./`` is a folder of our own beside go.mod. ``tests``: the program
    that runs the package's tests, which is what some suites are published as.

    Raises:
        subprocess.CalledProcessError: Go refused; it has said why.
    """
    name = package.rpartition("/")[2]
    own = sorted((folder / package).glob("*.go")) if package.startswith("./") else []
    files = [folder / "go.mod", folder / "go.sum", *own]
    inputs = b"".join(file.read_bytes() for file in files) + ldflags.encode()
    program = cache_folder() / f"{name}-{hashlib.sha256(inputs).hexdigest()[:16]}"
    if program.exists():
        return program
    print(f"building {name} (once) …", flush=True)
    program.parent.mkdir(parents=True, exist_ok=True)
    fresh = program.with_name(f".{program.name}.{os.getpid()}")
    with tempfile.TemporaryDirectory() as copy:
        for file in files:
            target = Path(copy) / file.relative_to(folder)
            target.parent.mkdir(exist_ok=True)
            shutil.copy(file, target)
        # Not read-only: of a module without a list of what it needs indirectly, Go makes one.
        environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod -trimpath -buildvcs=false"}
        verb = ["test", "-c"] if tests else ["build"]
        command = ["go", *verb, "-ldflags", f"-s -w {ldflags}", "-o", str(fresh), package]
        subprocess.run(command, cwd=copy, env=environment, check=True)
    fresh.rename(program)
    return program
