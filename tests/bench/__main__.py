"""``make bench``: how fast a CRI endpoint is, alone or beside another one.

    python -m tests.bench                                     a daemon of its own
    python -m tests.bench --endpoint unix:///run/crisp/crisp.sock --vs unix:///run/containerd/containerd.sock

All get the same requests, in turns. The image (``--image``) has to be there; a daemon of
its own gets the demo image, which ``--export`` writes for the other one to import.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from cri.demo_image import REFERENCE, build_demo_image
from tests.bench import measures
from tests.bench.endpoint import Endpoint
from tests.bench.processes import file_system_type
from tests.bench.report import markdown, summary
from tests.bench.streams import streams
from tests.bench.workload import Workload

CRISP = Path(sys.executable).with_name("crisp")
GROUPS = ("calls", "parallel", "burst", "log", "memory")
BY_REQUEST = ("streams",)
"""Needs Go, and minutes."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.bench", description="how fast a CRI endpoint is")
    parser.add_argument("--endpoint", help="a CRI socket (unix://...); default: a daemon that is started for the run")
    parser.add_argument("--vs", help="another endpoint to compare with")
    parser.add_argument("--image", default=REFERENCE, help=f"the image of all containers (default {REFERENCE})")
    parser.add_argument("--export", type=Path, metavar="FILE", help="write the demo image there, and end")
    parser.add_argument("--rounds", type=int, default=30, help="of the single calls (default 30)")
    parser.add_argument("--pods", type=int, default=100, help="of the burst (default 100)")
    parser.add_argument("--folder", default="/var/tmp", help="on a disk, for logs and state (default %(default)s)")
    parser.add_argument("--json", type=Path, help="write all values there")
    groups = "groups of measures; there is streams, too (default %(default)s)"
    parser.add_argument("--only", default=",".join(GROUPS), help=groups)
    args = parser.parse_args(arguments)
    args.only = args.only.split(",")
    if unknown := set(args.only) - set(GROUPS) - set(BY_REQUEST):
        parser.error(f"--only: no {', '.join(sorted(unknown))}; there are {', '.join((*GROUPS, *BY_REQUEST))}")
    return args


def settings(folder: Path, number: int) -> str:
    """Defaults, but for a bridge and a subnet (RFC 2544: for benchmarks) that hardly another run has."""
    subnet = f"198.{18 + number // 16 % 2}.{number % 16 * 16}.0/20"
    return f'[network]\nbridge = "crb{number}"\nsubnets = ["{subnet}"]\n[cni]\nconf_dir = "{folder}/cni"\n'


@contextlib.contextmanager
def own_daemon(folder: Path) -> Iterator[str]:
    """The address of a crisp daemon with default settings and the demo image, below ``folder``."""
    socket = folder / "crisp.sock"
    config = folder / "config.toml"
    config.write_text(settings(folder, os.getpid()))
    places = ["--config", str(config), "--root", str(folder / "root"), "--state", str(folder / "state")]
    with (folder / "daemon.log").open("wb") as log:
        command = [str(CRISP), "serve", *places, "--listen", f"unix://{socket}", "--metrics", ""]
        daemon = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 30
        while not socket.exists():
            if daemon.poll() is not None or time.monotonic() > until:
                raise RuntimeError((folder / "daemon.log").read_text())
            time.sleep(0.05)
        build_demo_image(folder / "demo.tar")
        command = [str(CRISP), "images", "import", *places, str(folder / "demo.tar")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        yield f"unix://{socket}"
    finally:
        daemon.terminate()
        daemon.wait(20)


@contextlib.contextmanager
def connected(address: str) -> Iterator[Endpoint]:
    """An endpoint that keeps its state on a disk; what a failed run has left there goes."""
    end = Endpoint(address)
    try:
        state = end.state_directory()
        if file_system_type(state) in ("tmpfs", "ramfs"):
            raise SystemExit(f"{end.name} keeps its state in memory ({state}): that would compare with nothing")
        yield end
    finally:
        end.discard_all()
        end.close()


def measure(ends: Sequence[Endpoint], work: Workload, args: argparse.Namespace) -> None:
    """All groups that are asked for."""
    repeated = max(1, min(3, args.rounds // 10))
    if "calls" in args.only:
        measures.calls(ends, work, args.rounds)
    if "parallel" in args.only:
        measures.parallel(ends, work, repeated)
    if "burst" in args.only:
        measures.burst(ends, work, args.pods, min(2, repeated))
    if "log" in args.only:
        measures.log_speed(ends, work, repeated)
    if "memory" in args.only:
        measures.memory(ends, work)
    if "streams" in args.only:
        streams(ends, work, repeated)


def columns(ends: Sequence[Endpoint]) -> dict[str, Endpoint]:
    """By the name in the report; two of the same version are told apart by their sockets."""
    names = [end.name for end in ends]
    return {end.name if names.count(end.name) == 1 else f"{end.name} {end.address}": end for end in ends}


def conditions(rounds: int) -> str:
    load = os.getloadavg()[0]
    return (
        f"{date.today().isoformat()}, Linux {platform.release()}, {os.cpu_count()} CPUs, "
        f"load {load:.1f} at the start, {rounds} rounds"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    if args.export:
        build_demo_image(args.export)
        return 0
    said = conditions(args.rounds)
    with tempfile.TemporaryDirectory(prefix="crisp-bench-", dir=args.folder) as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        addresses = [args.endpoint or stack.enter_context(own_daemon(folder))] + ([args.vs] if args.vs else [])
        ends = [stack.enter_context(connected(address)) for address in addresses]
        measure(ends, Workload(args.image, folder), args)
        named = columns(ends)
        tables = {name: summary(end.samples) for name, end in named.items()}
        print(f"{said}\n\n{markdown(tables)}")
        if args.json:
            args.json.write_text(json.dumps(report(said, named, tables), indent=2))
    return 0


def report(said: str, named: dict[str, Endpoint], tables: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Everything, for programs: the table, and the values that it is made of."""
    series = {
        name: {measure: found.values for measure, found in end.samples.series.items() if measure in tables[name]}
        for name, end in named.items()
    }
    return {"conditions": said, "endpoints": tables, "values": series}


if __name__ == "__main__":
    sys.exit(main())
