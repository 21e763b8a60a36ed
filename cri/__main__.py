"""The command line: ``crisp <subcommand>``, one module a subcommand in ``cri.cli``.

Invariant: only what the subcommand needs is imported; a fault is one line on
stderr and the exit status: 2 for wrong usage or settings, 1 for the rest.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from runtime.errors import Fault, InvalidArgument

SUBCOMMANDS = ("serve", "demo", "check", "version", "images", "explain", "fsck")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="crisp", description="A Kubernetes container runtime (CRI v1).")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in SUBCOMMANDS:
        import_module(f"cri.cli.{name}").add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: of this process); the exit status."""
    args = build_parser().parse_args(argv)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except Fault as fault:
        print(f"crisp: {fault}", file=sys.stderr)
        return 2 if isinstance(fault, InvalidArgument) else 1
    except BrokenPipeError:
        # The reader of our output is gone (`crisp images list | head`); keep the
        # interpreter from complaining once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)
        return 141
    except KeyboardInterrupt:
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
