"""The build hook: protoc's output beside the .proto files, and the programs launch and pause.

hatchling calls it for wheels and for editable installs alike. What it makes is
ignored by git and listed as artifacts in ``pyproject.toml``. It can be run by
itself as well: ``python hatch_build.py``.

Invariant: an output is replaced as a whole and only if its bytes differ, so a build
never disturbs a daemon or a test that is running from the same checkout.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROTOS = ("proto/api.proto", "proto/admin.proto")
PROGRAMS = ("runtime/launch", "runtime/pause")
PROGRAM_FLAGS = [
    *("-Os", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-static", "-nostdlib", "-nostartfiles", "-ffreestanding"),
    *("-fno-builtin", "-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fcf-protection=none", "-fno-pie"),
    *("-no-pie", "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,-z,norelro", "-s"),
]
PROGRAM_MACHINES = ("x86_64", "aarch64")


class CrispBuildHook(BuildHookInterface[Any]):
    """Runs before hatchling collects the files of a wheel or an editable install."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        del version
        if self.target_name != "wheel":
            return
        generate(Path(self.root))
        # No extension module, so any CPython; but launch and pause are programs of this machine.
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def generate(root: Path) -> None:
    """Make every generated file below ``root``.

    Raises:
        RuntimeError: protoc or the compiler failed; the message has its output.
    """
    with tempfile.TemporaryDirectory(prefix="crisp-build-") as scratch:
        out = Path(scratch)
        generate_proto(root, out)
        for program in PROGRAMS:
            compile_program(root, f"{program}.c", out / program)
        for made in sorted(path for path in out.rglob("*") if path.is_file()):
            replace_if_different(made, root / made.relative_to(out))


def generate_proto(root: Path, out: Path) -> None:
    """Run protoc from the root, so that the modules import each other as ``proto.…``."""
    include = importlib.util.find_spec("grpc_tools")
    if include is None or include.origin is None:
        raise RuntimeError("grpcio-tools is needed to build crisp and is not installed")
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"-I{Path(include.origin).parent / '_proto'}"]
    command += [f"--{plugin}_out={out}" for plugin in ("python", "grpc_python", "mypy", "mypy_grpc")]
    for plugin in ("protoc-gen-mypy", "protoc-gen-mypy_grpc"):
        command.append(f"--plugin={plugin}={find_program(plugin)}")
    run([*command, *PROTOS], cwd=root)


def find_program(name: str) -> str:
    """Where ``name`` is: beside this interpreter first (its venv need not be active)."""
    places = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    found = shutil.which(name, path=places)
    if found is None:
        raise RuntimeError(f"{name} is needed to build crisp and is not installed")
    return found


def compile_program(root: Path, source: str, target: Path) -> None:
    """Compile one of the freestanding programs that stand between crisp and its containers."""
    if platform.machine() not in PROGRAM_MACHINES:
        known = " and ".join(PROGRAM_MACHINES)
        raise RuntimeError(f"{source} is written for {known}, not for {platform.machine()}")
    target.parent.mkdir(parents=True, exist_ok=True)
    flags = [flag for flag in PROGRAM_FLAGS if platform.machine() == "x86_64" or not flag.startswith("-fcf-")]
    run([find_program(os.environ.get("CC", "gcc")), *flags, "-o", str(target), source], cwd=root)
    target.chmod(0o755)


def run(command: list[str], *, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")


def replace_if_different(made: Path, target: Path) -> None:
    content, mode = made.read_bytes(), made.stat().st_mode & 0o777
    if target.is_file() and target.read_bytes() == content and target.stat().st_mode & 0o777 == mode:
        return
    fresh = target.with_name(f".{target.name}.new")
    fresh.write_bytes(content)
    fresh.chmod(mode)
    fresh.replace(target)


if __name__ == "__main__":
    generate(Path(__file__).resolve().parent)
